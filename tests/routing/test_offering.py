"""The offers of one pass are written together: one that met something newer is left out alone, and more of them cost no more
statements; a refusal costs few."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from crm_core import db_postgres, db_sqlite
from crm_core.db import Tx
from crm_core.errors import Conflict, NotFound
from routing import agents, core, desk, engine, entries, mirror, offering, supervise
from routing.core import Offered
from routing.offering import Ringing
from routing.queues import EntryState, Queue
from tests.routing.floor import Floor, caller

STAFF = ("kim", "lee", "max", "ola")


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How many statements units of work send while this is open (BEGIN and COMMIT not among them)."""
    seen: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for driver in (db_sqlite._Direct, db_postgres._Connection):
            for name in ("fetch", "execute", "execute_many"):
                plain = getattr(driver, name)

                async def count(self: Any, sql: str, arguments: Any, plain: Any = plain) -> Any:
                    seen[sql] += 1
                    return await plain(self, sql, arguments)

                patch.setattr(driver, name, count)
        yield seen


async def decided(floor: Floor) -> list[Offered]:
    """What the core decides now."""
    async with floor.db.reading() as tx:
        snapshot, _, _ = await mirror.load(tx)
    return core.decide(snapshot, floor.now).offers


async def apply(floor: Floor, offers: list[Offered]) -> bool:
    """Carry decisions out; True when one met something newer."""
    return (await engine.offer_all(floor.db, offers, "test", floor.now))[0]


@pytest.mark.parametrize("newer", ["agent", "work", "gone"])
async def test_one_stale_decision_is_left_out_alone(floor: Floor, newer: str) -> None:
    await floor.open(*STAFF)
    for number in range(4):
        await floor.call(caller(number))
    offers = await decided(floor)
    assert len(offers) == 4
    stale = offers[1]

    async def meanwhile(tx: Tx) -> None:
        entry = await entries.lock(tx, stale.entry_id)
        if newer == "agent":
            await desk.set_activity(tx, stale.agent_id, "paused", now=floor.now)
        elif newer == "work":
            await entries.note(tx, entry, now=floor.now, not_before=None)
        else:
            other = await agents.lock(tx, offers[2].agent_id)
            await entries.take(tx, entry, other, now=floor.now)

    await floor.do(meanwhile)
    assert await apply(floor, offers), "the pass is told to look again"
    gone = {stale.agent_id} | ({offers[2].agent_id} if newer == "gone" else set())
    made = await floor.live_offers()
    assert {(each.entry_id, each.agent_id) for each in made} == {
        (each.entry_id, each.agent_id) for each in offers if each.agent_id not in gone
    }
    assert all(each.trace["by"] == "test" for each in made)
    await floor.check()
    assert not await apply(floor, await decided(floor))
    await floor.check()


async def test_a_batch_that_fails_is_applied_one_by_one(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    await floor.open(*STAFF)
    for number in range(4):
        await floor.call(caller(number))
    offers = await decided(floor)
    plain, sizes = offering.offer_all, []

    async def refuses_many(tx: Tx, ringing: list[Ringing], **how: Any) -> Any:
        sizes.append(len(ringing))
        made = await plain(tx, ringing, **how)
        if len(ringing) > 1 or ringing[0].entry.id == offers[3].entry_id:
            raise Conflict
        return made

    monkeypatch.setattr(offering, "offer_all", refuses_many)
    assert await apply(floor, offers)
    assert sizes == [4, 1, 1, 1, 1]
    assert {each.entry_id for each in await floor.live_offers()} == {each.entry_id for each in offers[:3]}
    await floor.check()


async def test_texts_of_one_agent_are_offered_in_order(floor: Floor) -> None:
    await floor.open("kim", "lee")
    for number in range(7):
        await floor.text(f"Question {number}", caller(number))
    offers = await decided(floor)
    assert max(Counter(each.agent_id for each in offers).values()) == 4
    assert not await apply(floor, offers)
    assert len(await floor.live_offers()) == 7
    assert sorted([(await floor.agent(name)).text_load for name in ("kim", "lee")]) == [75, 100]
    await floor.check()


async def test_more_offers_cost_no_more_statements(floor: Floor) -> None:
    await floor.open(*STAFF, *(f"more-{number}" for number in range(8)))
    costs = []
    for number in range(12):
        await floor.call(caller(number))
    offers = await decided(floor)
    for some in (offers[:3], offers[3:]):
        with counted() as seen:
            assert not await apply(floor, some)
        costs.append(seen.total())
    assert costs[0] == costs[1] <= 16, costs
    await floor.check()


async def test_a_refusal_is_a_handful_of_statements(floor: Floor) -> None:
    await floor.open("kim", refusal_cooloff_s=0)
    await floor.call()
    await floor.tick()
    [live] = await floor.live_offers()
    with counted() as seen:
        await floor.do(lambda tx: desk.refuse(tx, live.id, agent_id="kim", now=floor.now))
    most = 11 if floor.db.dialect == "sqlite" else 4
    assert seen.total() <= most, "\n".join(seen)
    assert (await floor.entry()).state == EntryState.WAITING
    await floor.check()


async def test_nobody_refuses_what_was_offered_to_another(floor: Floor) -> None:
    await floor.open("kim", "lee")
    await floor.call()
    await floor.tick()
    [live] = await floor.live_offers()
    other = "lee" if live.agent_id == "kim" else "kim"
    for offer_id, agent_id in ((live.id, other), ("none", "kim")):
        with pytest.raises(NotFound):
            await floor.do(
                lambda tx, o=offer_id, a=agent_id: desk.refuse(tx, o, agent_id=a, now=floor.now)  # type: ignore[misc]
            )
    assert [each.id for each in await floor.live_offers()] == [live.id]
    await floor.check()


async def test_a_refusal_that_waits_for_a_move_hears_that_the_offer_is_gone(floor: Floor) -> None:
    await floor.open("kim")
    await floor.do(lambda tx: tx.add(Queue(id="other", name="Other")))
    await floor.call()
    await floor.tick()
    [live] = await floor.live_offers()
    moving = floor.do(
        lambda tx: supervise.move_to_queue(tx, live.entry_id, queue_id="other", actor="kim", now=floor.now)
    )
    refusing = floor.do(lambda tx: desk.refuse(tx, live.id, agent_id="kim", now=floor.now))
    moved, refused = await asyncio.gather(moving, refusing, return_exceptions=True)
    assert not isinstance(moved, Exception), moved
    assert refused is None or isinstance(refused, Conflict), refused
    assert (await floor.entry()).queue_id == "other"
    assert await floor.live_offers() == []
    await floor.check()
