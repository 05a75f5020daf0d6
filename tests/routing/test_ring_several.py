"""Several agents rung at once: the first who accepts has it, the others' offers end in that commit; nobody is blamed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from crm_core.clock import FixedClock
from crm_core.errors import Conflict
from routing import core, desk
from routing.agents import Activity, shown
from routing.core import Rules, Snapshot, Work, Worker
from routing.queues import Lane
from tests.databases import START
from tests.routing.floor import ANA, BEN, Floor, caller


async def test_the_first_who_accepts_has_it_and_the_others_stop_ringing(floor: Floor) -> None:
    await floor.open("kim", "lee", "max", ring_count=3)
    customer, _ = await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.tick()
    rung = await floor.live_offers()
    assert {offer.agent_id for offer in rung} == {"kim", "lee", "max"}
    assert {shown(await floor.agent(name))[0] for name in ("kim", "lee", "max")} == {"ringing"}
    await floor.check()

    taken = next(offer for offer in rung if offer.agent_id == "max")
    await floor.accept("max")
    assert [offer.agent_id for offer in await floor.live_offers()] == ["max"]
    entry = await floor.entry()
    assert (entry.agent_id, entry.offer_id) == ("max", taken.id)
    lost = [offer for offer in await floor.offers() if offer.id != taken.id]
    assert {(offer.state, offer.reason) for offer in lost} == {("withdrawn", "somebody else was quicker")}
    assert shown(await floor.agent("max"))[0] == "joining", "accepted is not ringing any more"
    for name in ("kim", "lee"):
        agent = await floor.agent(name)
        assert (shown(agent)[0], agent.misses, agent.live_load) == ("available", 0, 0)
    await floor.check()

    with pytest.raises(Conflict, match="quicker"):
        await floor.accept("kim", next(offer.id for offer in lost if offer.agent_id == "kim"))
    leg, steps = await floor.connect("max", offer=taken.id, nonce=(await floor.live_offers())[0].nonce)
    await floor.room(interaction.id, "join", leg, steps[0].label)  # type: ignore[union-attr]
    await floor.step(interaction.id, "join", 1)
    await floor.room(interaction.id, "join", customer, "customer")
    assert shown(await floor.agent("max"))[0] == "busy"
    await floor.check()


async def test_two_accepts_in_the_same_instant_have_one_winner(floor: Floor) -> None:
    await floor.open("kim", "lee", ring_count=2)
    await floor.call(ANA)
    await floor.tick()
    rung = await floor.live_offers()
    results = await asyncio.gather(*(floor.accept(offer.agent_id, offer.id) for offer in rung), return_exceptions=True)
    assert sorted(isinstance(result, Conflict) for result in results) == [False, True], results
    assert len(await floor.live_offers()) == 1
    await floor.check()


async def test_one_says_no_and_it_rings_on_at_the_others(floor: Floor) -> None:
    await floor.open("kim", "lee", ring_count=2, offer_timeout_s=20)
    await floor.call(ANA)
    await floor.tick()
    first = (await floor.live_offers("kim"))[0]
    await floor.do(lambda tx: desk.refuse(tx, first.id, agent_id="kim", now=floor.now))
    entry = await floor.entry()
    assert (entry.state, entry.agent_id) == ("offered", "lee")
    await floor.check()
    await floor.later(21, beats=("kim", "lee"))
    assert (await floor.entry()).state == "waiting", "nobody took it, and both are remembered"
    assert ((await floor.agent("kim")).misses, (await floor.agent("lee")).misses) == (0, 1)
    await floor.check()


async def test_the_caller_hangs_up_while_several_are_rung(floor: Floor) -> None:
    await floor.open("kim", "lee", "max", ring_count=3)
    customer, _ = await floor.call(ANA)
    await floor.tick()
    await floor.status(customer, "completed")
    assert await floor.live_offers() == []
    assert (await floor.entry()).outcome == "abandoned"
    assert {(await floor.agent(name)).misses for name in ("kim", "lee", "max")} == {0}
    await floor.check()


async def test_an_agent_who_pauses_stops_ringing_and_the_others_ring_on(floor: Floor) -> None:
    await floor.open("kim", "lee", ring_count=2)
    await floor.call(ANA)
    await floor.tick()
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", reason="lunch", now=floor.now))
    assert [offer.agent_id for offer in await floor.live_offers()] == ["lee"]
    assert (await floor.entry()).agent_id == "lee"
    await floor.check()


async def test_work_behind_it_gets_its_share_of_the_agents(floor: Floor) -> None:
    await floor.open("kim", "lee", "max", ring_count=3)
    for each in range(3):
        await floor.call(caller(each))
    await floor.tick()
    rung = await floor.live_offers()
    assert len({offer.entry_id for offer in rung}) == 3, "three callers, three agents: each caller rings one"
    await floor.check()


async def test_written_work_rings_several_too(floor: Floor) -> None:
    await floor.open("kim", "lee", ring_count=2)
    await floor.text("Hello")
    await floor.tick()
    assert len(await floor.live_offers()) == 2
    await floor.accept("lee")
    assert (await floor.agent("kim")).text_load == 0
    assert (await floor.agent("lee")).text_load == 25
    await floor.check()


def worker(user_id: str, **changes: object) -> Worker:
    values: dict[str, object] = {"idle_since": START, "seen_at": START, "activity": Activity.AVAILABLE, **changes}
    return Worker(user_id=user_id, **values)  # type: ignore[arg-type]


def work(**changes: object) -> Work:
    values: dict[str, object] = {
        "queue_id": "q",
        "lane": Lane.LIVE,
        "weight": 1,
        "order_at": START,
        "entered_at": START,
    }
    return Work(id="e", **{**values, **changes})  # type: ignore[arg-type]


def test_work_kept_for_one_agent_rings_only_them_and_then_anybody() -> None:
    until = START + timedelta(seconds=60)
    kept = work(preferred_agent_id="kim", preferred_until=until)
    rules = {"q": Rules("q", members={"kim": 1, "lee": 0}, ring_count=2)}
    both = {"kim": worker("kim"), "lee": worker("lee")}
    alone = core.decide(Snapshot([kept], both, rules), START).offers[0]
    assert (alone.agent_id, alone.also) == ("kim", ())
    busy = {"kim": worker("kim", live_load=1), "lee": worker("lee")}
    waiting = core.decide(Snapshot([kept], busy, rules), START)
    assert waiting.offers == []
    assert (waiting.kept[0].trace["why"], waiting.kept[0].trace["preferred"]) == (
        "waits for the preferred agent",
        "kim",
    )
    assert waiting.next_at == until
    fresh = {"kim": worker("kim", live_load=1, seen_at=until), "lee": worker("lee", seen_at=until)}
    assert core.decide(Snapshot([kept], fresh, rules), until).offers[0].agent_id == "lee"
    assert core.decide(Snapshot([kept], {"lee": worker("lee")}, rules), START).offers[0].agent_id == "lee", "gone home"


async def test_the_trace_tells_each_who_rings_with_them(small_floor: Floor, clock: FixedClock) -> None:
    floor = small_floor
    await floor.open("kim", "lee", ring_count=2)
    await floor.call(BEN)
    await floor.tick()
    traces = {offer.agent_id: offer.trace for offer in await floor.live_offers()}
    assert {name: trace["agent"] for name, trace in traces.items()} == {"kim": "kim", "lee": "lee"}
    assert "rings at the same time" in traces["kim"]["agents"]["by_agent"].values()
