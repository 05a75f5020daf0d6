"""Overflow: after so long, when too many wait, when nobody is there; circles refused; place, arrival and road kept."""

from __future__ import annotations

import pytest
from sqlmodel import col, select

from crm_core.audit import AuditEntry
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from routing import explain, overflow, queue_settings, supervise
from routing.agents import Activity
from routing.hours import Hours
from routing.overflow import Overflow
from routing.queues import Queue
from tests.routing.floor import ANA, Floor, caller


async def two(floor: Floor, **rule: object) -> None:
    """Queue `q`, whose work goes to queue `b` (served by max)."""
    await floor.open("kim")
    await floor.do(lambda tx: tx.add(Queue(id="b", name="Backup", wrapup_s=60)))
    await floor.hire("max", queue_id="b")
    await floor.alter_queue(overflow={"queue_id": "b", **rule})


async def test_after_so_long_it_goes_with_its_place_and_says_why(floor: Floor) -> None:
    await two(floor, after_s=60)
    await floor.do(lambda tx: supervise.set_activity(tx, "kim", Activity.PAUSED, actor="max", now=floor.now))
    await floor.call(ANA)
    before = await floor.entry()
    next_at = await floor.tick(beats=("kim", "max"))
    assert next_at is not None
    await floor.later(59, beats=("kim", "max"))
    assert (await floor.entry()).queue_id == "q"
    await floor.later(1, beats=("kim", "max"))
    after = await floor.entry()
    assert (after.queue_id, after.order_at, after.first_arrival_at) == ("b", before.order_at, before.first_arrival_at)
    (offer,) = await floor.live_offers("max")
    async with floor.db.reading() as tx:
        told = await explain.explain(tx, offer.id)
    assert [(move["from"], move["to"], move["why"], move["by"]) for move in told["moves"]] == [
        ("Support", "Backup", "waited 60 s", "")
    ]
    assert (await floor.interaction()).queue_id == "b"
    await floor.check()


async def test_when_nobody_is_there_it_goes_at_once_and_when_somebody_is_it_stays(floor: Floor) -> None:
    await two(floor, nobody=True)
    await floor.call(ANA)
    await floor.tick()
    assert (await floor.entry()).queue_id == "q"
    await floor.do(lambda tx: supervise.set_activity(tx, "kim", Activity.OFFLINE, actor="max", now=floor.now))
    await floor.call(caller(7))
    await floor.tick()
    assert {entry.queue_id for entry in await floor.entries()} == {"b"}
    await floor.check()


async def test_when_too_many_wait_the_last_ones_go(floor: Floor) -> None:
    await two(floor, waiting=2)
    await floor.do(lambda tx: supervise.set_activity(tx, "kim", Activity.PAUSED, actor="max", now=floor.now))
    for each in range(4):
        await floor.call(caller(each))
        floor.clock.tick(1)
    await floor.tick()
    assert sorted(entry.queue_id for entry in await floor.entries()) == ["b", "b", "q", "q"]
    first = min(await floor.entries(), key=lambda entry: entry.order_at)
    assert first.queue_id == "q", "who came first stays first"
    await floor.check()


async def test_a_text_stays_unless_the_rule_says_written_work_too(floor: Floor) -> None:
    await two(floor, after_s=10)
    await floor.do(lambda tx: supervise.set_activity(tx, "kim", Activity.PAUSED, actor="max", now=floor.now))
    await floor.text("Hello")
    await floor.later(11, beats=("max",))
    assert (await floor.entry()).queue_id == "q"
    await floor.alter_queue(overflow={"queue_id": "b", "after_s": 10, "written": True})
    await floor.tick(beats=("max",))
    assert (await floor.entry()).queue_id == "b"
    await floor.check()


async def test_it_stays_while_the_other_queue_is_closed(floor: Floor) -> None:
    await two(floor, after_s=10)
    await floor.do(lambda tx: supervise.set_activity(tx, "kim", Activity.PAUSED, actor="max", now=floor.now))

    async def close(tx: Tx) -> None:
        await tx.add(Hours(id="h", name="Never", zone="UTC", week={}, days={}))
        await tx.change(Queue, {"hours_id": "h"}, id="b")

    await floor.do(close)
    await floor.call(ANA)
    await floor.later(20, beats=("max",))
    assert (await floor.entry()).queue_id == "q"
    await floor.check()


async def test_a_circle_is_refused_where_it_is_set_up(floor: Floor) -> None:
    await two(floor, after_s=60)
    with pytest.raises(Invalid) as refused:
        await floor.do(
            lambda tx: queue_settings.set_overflow(
                tx, "b", Overflow("q", after_s=30), preferred="", actor="max", now=floor.now
            )
        )
    assert refused.value.fields["overflow_queue_id"] == "Work would go round in a circle: Backup → Support → Backup."
    with pytest.raises(Invalid, match="cannot be set so"):
        await floor.do(lambda tx: overflow.check(tx, "b", Overflow("b", after_s=30)))
    with pytest.raises(Invalid) as empty:
        await floor.do(lambda tx: overflow.check(tx, "b", Overflow("nowhere", after_s=30)))
    assert empty.value.fields["overflow_queue_id"] == "Choose one of the list."
    with pytest.raises(Invalid) as never:
        await floor.do(lambda tx: overflow.check(tx, "q", Overflow("b")))
    assert never.value.fields["overflow_queue_id"] == "Say when work goes there."


async def test_a_supervisor_moves_and_gives_work_and_it_is_audited(floor: Floor) -> None:
    await two(floor)
    await floor.do(lambda tx: supervise.set_activity(tx, "kim", Activity.PAUSED, actor="max", now=floor.now))
    await floor.call(ANA)
    entry = await floor.entry()
    await floor.do(
        lambda tx: supervise.move_to_queue(
            tx, entry.id, queue_id="b", actor="kim", reason="their language", now=floor.now
        )
    )
    moved = await floor.entry()
    assert (moved.queue_id, moved.order_at) == ("b", entry.order_at)
    with pytest.raises(Conflict, match="paused"):
        await floor.do(lambda tx: supervise.give_to_agent(tx, entry.id, agent_id="kim", actor="max", now=floor.now))
    await floor.do(lambda tx: supervise.give_to_agent(tx, entry.id, agent_id="max", actor="kim", now=floor.now))
    (offer,) = await floor.live_offers("max")
    assert offer.trace["why"] == "Kim gives this to them"
    await floor.check()
    async with floor.db.reading() as tx:
        acts = [
            row.action
            for row in await tx.all(select(AuditEntry).order_by(col(AuditEntry.id)))
            if row.action.startswith(("work.", "agent."))
        ]
    assert acts == ["agent.activity", "work.moved", "work.given"]


async def test_work_that_rings_can_still_be_moved_but_not_once_it_is_accepted(floor: Floor) -> None:
    await two(floor)
    await floor.call(ANA)
    await floor.tick()
    entry = await floor.entry()
    await floor.do(lambda tx: supervise.move_to_queue(tx, entry.id, queue_id="b", actor="max", now=floor.now))
    assert await floor.live_offers("kim") == []
    assert (await floor.agent("kim")).misses == 0
    await floor.tick()
    await floor.accept("max")
    with pytest.raises(Conflict, match="accepted"):
        await floor.do(lambda tx: supervise.move_to_queue(tx, entry.id, queue_id="q", actor="max", now=floor.now))
    await floor.check()


async def test_nobody_is_made_available_whose_tab_is_gone(floor: Floor) -> None:
    await two(floor)
    floor.clock.tick(60)
    with pytest.raises(Conflict, match="does not answer"):
        await floor.do(lambda tx: supervise.set_activity(tx, "kim", Activity.AVAILABLE, actor="max", now=floor.now))
    with pytest.raises(Invalid):
        await floor.do(
            lambda tx: supervise.set_activity(tx, "kim", Activity.PAUSED, actor="max", reason="golf", now=floor.now)
        )
