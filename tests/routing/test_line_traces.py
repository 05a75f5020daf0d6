"""Why work waits is written once for all that waits for the same agents, and told at each piece of it."""

from __future__ import annotations

from typing import Any

from sqlmodel import select

from crm_core.db import Tx
from routing import desk, explain
from routing.engine import LINES_KEPT
from routing.queues import EntryTrace, LineTrace
from tests.routing.floor import ANA, BEN, Floor

CAROL = "+12025550103"


async def stored(floor: Floor) -> tuple[dict[str, EntryTrace], dict[str, LineTrace]]:
    async with floor.db.reading() as tx:
        traces = {row.entry_id: row for row in await tx.all(select(EntryTrace))}
        return traces, {row.key: row for row in await tx.all(select(LineTrace))}


async def told(floor: Floor, entry_id: str) -> dict[str, Any]:
    async with floor.db.reading() as tx:
        why = await explain.why_waiting(tx, entry_id)
    assert why is not None
    return why


async def waiting(floor: Floor) -> list[str]:
    return [entry.id for entry in await floor.entries() if entry.state == "waiting"]


async def three_wait(floor: Floor) -> list[str]:
    """One agent who is offered a call, and two calls behind it."""
    await floor.open("kim")
    for number in (ANA, BEN, CAROL):
        await floor.call(number)
    await floor.tick()
    return await waiting(floor)


async def test_a_line_is_written_once_and_told_at_each_piece_of_work(floor: Floor) -> None:
    second, third = await three_wait(floor)
    traces, lines = await stored(floor)
    assert set(traces) == {second, third}
    [line] = lines.values()
    assert {trace.trace["line"] for trace in traces.values()} == {line.key}
    for place, entry_id in enumerate((second, third), 1):
        why = await told(floor, entry_id)
        assert (why["why"], why["position"]) == ("nobody is free for it", place)
        assert why["agents"]["by_agent"] == {"kim": "busy with live work"}
        assert "line" not in why


async def test_another_reason_is_written_at_the_line_alone(floor: Floor) -> None:
    second, third = await three_wait(floor)
    before, _ = await stored(floor)
    floor.clock.tick(1)
    await floor.do(lambda tx: desk.heartbeat(tx, "kim", voice_ready=False, now=floor.now))
    await floor.tick()
    traces, lines = await stored(floor)
    assert traces == before, "what is told of each piece of work has not changed"
    assert [line.at for line in lines.values()] == [floor.now]
    for entry_id in (second, third):
        assert (await told(floor, entry_id))["agents"]["by_agent"] == {"kim": "phone not registered"}


async def test_what_was_refused_stands_for_itself(floor: Floor) -> None:
    await three_wait(floor)
    (offer,) = await floor.live_offers()
    await floor.do(lambda tx: desk.refuse(tx, offer.id, agent_id="kim", now=floor.now))
    await floor.tick()
    traces, lines = await stored(floor)
    assert traces[offer.entry_id].trace["line"] == offer.entry_id
    assert lines[offer.entry_id].agents["by_agent"] == {"kim": "refused or missed it just now"}
    others = {trace.trace["line"] for entry_id, trace in traces.items() if entry_id != offer.entry_id}
    assert len(others) == 1
    assert offer.entry_id not in others


async def test_a_line_in_which_nothing_waits_is_forgotten(floor: Floor) -> None:
    await floor.open("kim")
    callers = [(await floor.call(number))[0] for number in (ANA, BEN, CAROL)]
    await floor.tick()
    for call_id in callers:
        await floor.status(call_id, "completed")
    await floor.later(LINES_KEPT.total_seconds())
    traces, lines = await stored(floor)
    assert (traces, len(lines)) == ({}, 1), "the next work may need it"
    await floor.later(1)
    assert await stored(floor) == ({}, {})


async def test_a_trace_from_before_lines_and_one_without_its_line_are_still_told(floor: Floor) -> None:
    second, third = await three_wait(floor)

    async def as_before(tx: Tx) -> None:
        row = EntryTrace(entry_id=second, trace={"why": "nobody is free for it", "agents": {"by_agent": {"kim": "paused"}}},
                         at=floor.now)  # fmt: skip
        await tx.put(row, unique=["entry_id"], update=["trace", "at"])
        bare = EntryTrace(entry_id=third, trace={"why": "nobody is free for it", "line": "gone"}, at=floor.now)
        await tx.put(bare, unique=["entry_id"], update=["trace", "at"])

    await floor.do(as_before)
    assert (await told(floor, second))["agents"]["by_agent"] == {"kim": "paused"}
    assert "agents" not in await told(floor, third)
    await floor.tick()  # the next pass mends both
    for entry_id in (second, third):
        assert (await told(floor, entry_id))["agents"]["by_agent"] == {"kim": "busy with live work"}
