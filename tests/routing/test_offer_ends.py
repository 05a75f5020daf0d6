"""Offers that end at once are written together, and end as each would by itself: refused by many, run out after one pass."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from crm_core.clock import FixedClock
from crm_core.db import DatabaseUnavailable, Tx, open_database
from crm_core.errors import Conflict, HubError, NotFound
from routing import desk, offer_ends
from routing.agents import Activity
from routing.offer_ends import Ending
from routing.offers import Offer
from routing.queues import EntryState
from routing.refusals import AT_ONCE, Refusals
from tests.routing.floor import ANA, Floor, caller
from tests.routing.test_offering import STAFF, counted

CREW = tuple(f"agent-{number:02d}" for number in range(12))


async def rung(floor: Floor, *names: str, **queue: Any) -> list[Offer]:
    """As many calls as agents, each offered to one of them."""
    await floor.open(*names, **queue)
    for number in range(len(names)):
        await floor.call(caller(number))
    await floor.tick()
    offers = await floor.live_offers()
    assert len(offers) == len(names)
    return offers


async def all_refuse(floor: Floor, refusals: Refusals, said: Sequence[tuple[str, str]]) -> list[Any]:
    """What each who says no to an offer (id, agent) in the same moment gets for an answer."""
    return await asyncio.gather(
        *(refusals.refuse(offer_id, agent_id=agent_id, now=floor.now) for offer_id, agent_id in said),
        return_exceptions=True,
    )


async def test_many_who_refuse_at_once_cost_no_more_statements(floor: Floor) -> None:
    costs = []
    offers = await rung(floor, *CREW)
    refusals = Refusals(floor.db)
    for some in (offers[:4], offers[4:]):
        with counted() as seen:
            assert set(await all_refuse(floor, refusals, [(one.id, one.agent_id) for one in some])) == {None}
        costs.append(seen.total())
    assert costs[0] == costs[1] <= 24, costs
    assert Counter(one.state for one in await floor.offers()) == {"refused": 12}
    assert await floor.live_offers() == []
    await floor.check()
    await floor.tick()
    assert not {(one.entry_id, one.agent_id) for one in offers} & {
        (one.entry_id, one.agent_id) for one in await floor.live_offers()
    }, "nobody is asked again for what they have just refused"


async def test_what_is_wrong_with_one_is_told_to_that_one_alone(floor: Floor) -> None:
    kim, lee, max_, ola = await rung(floor, *STAFF)
    await floor.accept(ola.agent_id, ola.id)
    refusals = Refusals(floor.db)
    said = [
        (kim.id, kim.agent_id), (kim.id, kim.agent_id), (lee.id, kim.agent_id), ("none", "kim"), (max_.id, max_.agent_id),
        (ola.id, ola.agent_id),
    ]  # fmt: skip
    answers = await all_refuse(floor, refusals, said)
    assert [type(answer) for answer in answers] == [type(None)] * 2 + [NotFound] * 2 + [type(None)] * 2
    assert [one.id for one in await floor.live_offers()] == [lee.id], (
        "twice is once, and an accepted one may be refused"
    )
    await floor.check()
    await floor.later(30, beats=STAFF)
    [late] = await all_refuse(floor, refusals, [(lee.id, lee.agent_id)])
    assert isinstance(late, Conflict)
    assert "run out" in str(late)
    await floor.check()


async def test_a_batch_that_meets_something_newer_is_heard_one_by_one(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers = await rung(floor, *STAFF)
    plain, sizes = offer_ends.end_all, []

    async def refuses_many(tx: Tx, endings: Sequence[Ending], **how: Any) -> None:
        sizes.append(len(endings))
        await plain(tx, endings, **how)
        if len(endings) > 1 or endings[0].held.offer.id == offers[2].id:
            raise Conflict

    monkeypatch.setattr(offer_ends, "end_all", refuses_many)
    answers = await all_refuse(floor, Refusals(floor.db), [(one.id, one.agent_id) for one in offers])
    assert [type(answer) for answer in answers] == [type(None), type(None), Conflict, type(None)]
    assert sizes == [4, 1, 1, 1, 1]
    assert [one.id for one in await floor.live_offers()] == [offers[2].id]
    await floor.check()


async def test_more_than_fit_into_one_unit_are_all_heard(floor: Floor) -> None:
    offers = await rung(floor, *(f"agent-{number:02d}" for number in range(AT_ONCE + 3)))
    answers = await all_refuse(floor, Refusals(floor.db), [(one.id, one.agent_id) for one in offers])
    assert set(answers) == {None}
    assert await floor.live_offers() == []
    await floor.check()


async def test_who_gives_up_waiting_takes_nobody_along(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    offers = await rung(floor, *STAFF)
    refusals, plain, begun, go_on = Refusals(floor.db), floor.db.write, asyncio.Event(), asyncio.Event()

    async def held_up(unit: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await plain(unit)

    monkeypatch.setattr(floor.db, "write", held_up)
    asked = [asyncio.create_task(refusals.refuse(one.id, agent_id=one.agent_id, now=floor.now)) for one in offers]
    await begun.wait()
    asked[1].cancel()  # heard together with the first, who writes
    go_on.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    assert [answers[place] for place in (0, 2, 3)] == [None] * 3
    assert await floor.live_offers() == []

    go_on.clear()
    begun.clear()
    asked = [asyncio.create_task(refusals.refuse(one.id, agent_id=one.agent_id, now=floor.now)) for one in offers]
    await begun.wait()
    asked[0].cancel()  # who writes for all
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert {type(answer) for answer in answers[1:]} == {DatabaseUnavailable}
    await floor.check()


async def test_the_database_is_gone_for_all_of_them(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    offers = await rung(floor, *STAFF)

    async def gone(_unit: Any) -> Any:
        raise DatabaseUnavailable("It does not answer.")

    monkeypatch.setattr(floor.db, "write", gone)
    answers = await all_refuse(floor, Refusals(floor.db), [(one.id, one.agent_id) for one in offers])
    assert {type(answer) for answer in answers} == {DatabaseUnavailable}
    assert not any(isinstance(answer, HubError) for answer in answers)


async def test_offers_of_one_pass_run_out_in_one_unit(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    await rung(floor, *CREW, offer_timeout_s=20)
    plain, sizes = offer_ends.end_all, []

    async def noted(tx: Tx, endings: Sequence[Ending], **how: Any) -> None:
        sizes.append(len(endings))
        await plain(tx, endings, **how)

    monkeypatch.setattr(offer_ends, "end_all", noted)
    await floor.later(20, beats=CREW)
    assert sizes == [12]
    assert Counter(one.state for one in await floor.offers()) == {"expired": 12, "open": 12}
    assert {(await floor.agent(name)).misses for name in CREW} == {1}
    await floor.check()


async def test_half_of_those_at_work_are_left_when_all_miss_twice_at_once(floor: Floor) -> None:
    await rung(floor, *CREW, offer_timeout_s=20, refusal_cooloff_s=0)
    for _ in range(2):
        await floor.later(20, beats=CREW)
    doing = Counter([(await floor.agent(name)).activity for name in CREW])
    assert doing == {Activity.NOT_RESPONDING: 6, Activity.AVAILABLE: 6}
    await floor.check()


async def test_all_whom_a_call_rings_at_miss_it_together(floor: Floor) -> None:
    await floor.open(*STAFF, ring_count=4, offer_timeout_s=20)
    await floor.call(ANA)
    await floor.tick()
    assert len(await floor.live_offers()) == 4
    await floor.later(20, beats=STAFF)
    assert Counter(one.state for one in await floor.offers()) == {"expired": 4}
    assert (await floor.entry()).state == EntryState.WAITING
    assert [(await floor.agent(name)).live_load for name in STAFF] == [0] * 4
    await floor.check()


async def test_texts_of_one_agent_run_out_together(floor: Floor) -> None:
    await floor.open("kim", offer_timeout_s=20)
    for number in range(4):
        await floor.text(f"Question {number}", caller(number))
    await floor.tick()
    assert (await floor.agent("kim")).text_load == 100
    await floor.later(20, beats=("kim",))
    assert Counter(one.state for one in await floor.offers()) == {"expired": 4}
    assert (await floor.agent("kim")).text_load == 0
    await floor.check()


async def test_who_pauses_in_the_instant_of_an_offer_does_not_get_it(
    pg_url: str, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = await open_database(pg_url)
    floor, plain, looked = Floor(db, clock), offer_ends.withdraw_open, []
    await floor.open("kim")
    await floor.call(ANA)

    async def overtaken(tx: Tx, agent_id: str, **how: Any) -> None:
        await plain(tx, agent_id, **how)
        looked.append(len(await floor.offers()))
        await floor.tick()  # the router's own connection

    monkeypatch.setattr(offer_ends, "withdraw_open", overtaken)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", now=floor.now))
    assert looked == [0, 1], "it looked again"
    assert [(one.state, one.reason) for one in await floor.offers()] == [("withdrawn", "the agent is paused")]
    assert (await floor.agent("kim")).activity == Activity.PAUSED
    await floor.check()
    await db.close()
