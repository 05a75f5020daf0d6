"""Missed calls as work, the agent whom a contact knows, important people, and an agent's day in the ledger."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlmodel import col, select, update

from crm_core.contacts import Contact
from crm_core.errors import Conflict, Invalid
from routing import callbacks, desk, missed, pauses, time_ledger
from routing.missed import MissedCall
from tests.routing.floor import ANA, BEN, Floor


async def lines(floor: Floor) -> list[MissedCall]:
    async with floor.db.reading() as tx:
        return await tx.all(select(MissedCall).order_by(col(MissedCall.id)))


async def ring_in_vain(floor: Floor, number: str = ANA, *, seconds: float = 30) -> None:
    customer, _ = await floor.call(number)
    floor.clock.tick(seconds)
    await floor.status(customer, "completed")


async def test_two_calls_in_vain_are_one_line_closed_by_the_call_back(floor: Floor) -> None:
    await floor.open("kim")
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", now=floor.now))
    await ring_in_vain(floor)
    await ring_in_vain(floor, seconds=12)
    (line,) = await lines(floor)
    assert (line.state, line.times, line.waited_s, line.queue_id, line.number_e164) == ("open", 2, 12, "q", ANA)
    customer = (await floor.interaction()).external_id or ""
    await floor.status(customer, "completed", rank=9)
    assert (await lines(floor))[0].times == 2, "the same call told twice"

    await floor.do(lambda tx: desk.set_activity(tx, "kim", "available", now=floor.now))
    call = await floor.dial("kim", ANA)
    (line,) = await lines(floor)
    assert (line.state, line.attempts, line.tried_by) == ("open", 1, "kim")
    _, theirs = await floor.ring_out("kim", call)
    await floor.room(call.id, "join", theirs, "customer")
    (line,) = await lines(floor)
    assert (line.state, line.ended_by) == ("called_back", "kim")
    await floor.check()


async def test_it_stays_open_when_the_call_back_finds_nobody(floor: Floor) -> None:
    await floor.open("kim")
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", now=floor.now))
    await ring_in_vain(floor)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "available", now=floor.now))
    call = await floor.dial("kim", ANA)
    _, theirs = await floor.ring_out("kim", call)
    await floor.status(theirs, "no-answer")
    (line,) = await lines(floor)
    assert (line.state, line.attempts) == ("open", 1)
    await floor.check()


async def test_calling_again_and_being_answered_closes_it(floor: Floor) -> None:
    await floor.open("kim")
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", now=floor.now))
    await ring_in_vain(floor)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "available", now=floor.now))
    customer, _ = await floor.call(ANA)
    await floor.tick(beats=("kim",))
    await floor.talk("kim", customer, (await floor.interaction()).id)
    (line,) = await lines(floor)
    assert (line.state, line.ended_by) == ("called_again", "kim")
    await floor.check()


async def test_a_promise_closes_it_and_who_is_promised_a_call_is_not_missed(floor: Floor) -> None:
    await floor.open(callback_offer_after_s=0)
    await ring_in_vain(floor)
    customer, _ = await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.step(interaction.id, "pressed", 1, Digits="1")
    (line,) = await lines(floor)
    assert line.state == "promised"
    await floor.status(customer, "completed")
    await ring_in_vain(floor)
    assert [each.state for each in await lines(floor)] == ["promised"], "the promise stands: no second line"
    await floor.check()


async def test_an_agent_closes_it_with_a_reason_once(floor: Floor) -> None:
    await floor.open("kim")
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", now=floor.now))
    await ring_in_vain(floor)
    (line,) = await lines(floor)
    with pytest.raises(Invalid):
        await floor.do(lambda tx: missed.dismiss(tx, line.id, user_id="kim", reason=" ", now=floor.now))
    await floor.do(lambda tx: missed.dismiss(tx, line.id, user_id="kim", reason="wrong number", now=floor.now))
    with pytest.raises(Conflict):
        await floor.do(lambda tx: missed.dismiss(tx, line.id, user_id="kim", reason="again", now=floor.now))
    await ring_in_vain(floor)
    assert [each.state for each in await lines(floor)] == ["dismissed", "open"], "a new call in vain is new work"
    async with floor.db.reading() as tx:
        assert await missed.list_open(tx, queue_ids=frozenset({"other"})) == []
        assert len(await missed.list_open(tx, queue_ids=None)) == 1


async def test_a_withheld_number_is_nobody_to_call_back(floor: Floor) -> None:
    await floor.open()
    await ring_in_vain(floor, "anonymous")
    assert await lines(floor) == []


# --- whom they know, who is important


async def test_the_agent_who_talked_last_is_asked_first_and_alone_for_a_while(floor: Floor) -> None:
    await floor.open("kim", "lee", preferred="last", preferred_wait_s=60)
    await floor.person("Ana", ANA)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", now=floor.now))
    customer, _ = await floor.call(ANA)
    await floor.tick()
    interaction = await floor.interaction()
    await floor.talk("lee", customer, interaction.id)
    await floor.hang_up("lee", interaction.id)
    await floor.status(customer, "completed")
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "available", now=floor.now))
    await floor.call(ANA)
    await floor.later(5, beats=("kim", "lee"))
    assert await floor.live_offers() == [], "lee wraps up; it is kept for them"
    await floor.later(56, beats=("kim", "lee"))
    (offer,) = await floor.live_offers()
    assert offer.agent_id in ("kim", "lee")
    await floor.check()


async def test_an_owner_who_does_not_serve_the_queue_is_not_waited_for(floor: Floor) -> None:
    await floor.open("kim", "lee", preferred="owner", preferred_wait_s=60)
    contact = await floor.person("Ana", ANA)
    await floor.do(lambda tx: tx.run(update(Contact).where(col(Contact.id) == contact).values(owner_id="lee")))
    await floor.call(ANA)
    await floor.tick()
    (offer,) = await floor.live_offers()
    assert (offer.agent_id, offer.trace["why"]) == ("lee", "preferred")
    await floor.check()


async def test_important_people_count_as_earlier_and_nobody_starves(floor: Floor) -> None:
    await floor.open(vip_credit_s=120)
    contact = await floor.person("Ben", BEN)
    await floor.do(lambda tx: tx.run(update(Contact).where(col(Contact.id) == contact).values(vip=True)))
    await floor.call(ANA)
    first = await floor.entry()
    floor.clock.tick(60)
    await floor.call(BEN)
    assert await floor.position(await floor.entry()) == 1
    assert await floor.position(first) == 2
    floor.clock.tick(100)
    await floor.call("+12025550199")
    assert await floor.position(await floor.entry()) == 3
    assert (await floor.entry()).order_at > first.order_at, "two minutes and no more: who waits longer goes first"


async def test_a_personal_callback_waits_for_its_owner_then_the_team_keeps_it(floor: Floor) -> None:
    await floor.open("kim", "lee")
    from crm_core.addresses import phone

    await floor.call(BEN)
    await floor.tick()
    busy = (await floor.live_offers())[0].agent_id
    other = "lee" if busy == "kim" else "kim"
    await floor.accept(busy)
    await floor.do(
        lambda tx: callbacks.request(
            tx, number=phone(ANA), queue_id="q", due_at=floor.now, origin="agent", now=floor.now, owner_id=busy,
            account_id="acc-voice",
        )
    )  # fmt: skip
    await floor.tick(beats=("kim", "lee"))
    assert await floor.live_offers(other) == [], "its owner is in a call: it waits for them"
    floor.clock.tick(callbacks.PERSONAL_WAIT.total_seconds() + 1)
    await floor.tick(beats=("kim", "lee"))
    offered = [offer for offer in await floor.live_offers(other) if offer.trace]
    assert offered, "five minutes are over: the team keeps the promise"
    await floor.check()


# --- the ledger, the reasons


async def test_a_day_adds_up_and_is_cut_at_midnight(floor: Floor) -> None:
    await floor.open("kim")
    day = floor.now.date()
    floor.clock.tick(600)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", reason="lunch", now=floor.now))
    floor.clock.tick(300)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "available", now=floor.now))
    floor.clock.tick(100)
    async with floor.db.reading() as tx:
        read = await time_ledger.read(tx, "kim", day=day, zone="UTC", now=floor.now)
        tomorrow = await time_ledger.read(tx, "kim", day=day + timedelta(days=1), zone="UTC", now=floor.now)
        later = await time_ledger.read(
            tx, "kim", day=day + timedelta(days=1), zone="UTC", now=read.ends_at + timedelta(hours=1)
        )
    assert {(state, reason): seconds for state, reason, seconds in read.totals if state != "offline"} == {
        ("available", ""): 700, ("paused", "lunch"): 300,
    }  # fmt: skip
    assert (read.logged_in_s, read.occupancy, read.periods[-1].running) == (1000, 0.0, True)
    assert sum(period.seconds for period in read.periods if period.state != "offline") == read.logged_in_s
    assert tomorrow.periods == []
    assert later.totals == [("available", "", 3600.0)], "what began yesterday counts from midnight on"


async def test_pause_reasons_are_the_companys_own(floor: Floor) -> None:
    await floor.open("kim")
    async with floor.db.reading() as tx:
        assert await pauses.list_all(tx) == list(pauses.USUAL)
    given = [" prayer ", "lunch", "lunch", ""]
    assert await floor.do(lambda tx: pauses.set_all(tx, given, actor="kim", now=floor.now)) == ["prayer", "lunch"]
    with pytest.raises(Invalid):
        await floor.do(lambda tx: pauses.checked(tx, "break"))
    with pytest.raises(Invalid):
        await floor.do(lambda tx: pauses.set_all(tx, ["x" * 41], actor="kim", now=floor.now))
    assert await floor.do(lambda tx: pauses.set_all(tx, [], actor="kim", now=floor.now)) == list(pauses.USUAL)
