"""Callbacks: asked for in the queue, kept by an agent or by the caller, tried again, ended only by a rule that has a name."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from channels.steps import Gather, Leave, Redirect
from crm_core import consent
from crm_core.addresses import phone
from crm_core.consent import SuppressionReason
from crm_core.errors import Conflict, Refused
from crm_core.touches import Touch
from routing import callbacks, desk, gate, timers
from routing.core import Timer
from routing.hours import Hours
from routing.queues import Queue
from tests.routing.floor import ANA, BEN, Floor, kinds, said
from tests.routing.test_voice_in import accepted_until_move


async def asked(floor: Floor) -> str:
    """All agents busy, Ana waits and presses 1; the id of her call."""
    call_id, _ = await floor.call(ANA)
    interaction = await floor.interaction_of(call_id)
    floor.clock.tick(25)
    steps = await floor.step(interaction.id, "wait", 1)
    assert isinstance(steps[0], Gather), steps
    assert "Press 1" in said(steps)
    answered = await floor.step(interaction.id, "pressed", 1, Digits="1")
    assert kinds(answered) == ["Say", "Leave"]
    assert "plus 1 2 0 2 5 5 5 0 1 0 1" in said(answered)
    return interaction.id


async def test_a_callback_keeps_the_place_and_the_agent_calls_back(floor: Floor) -> None:
    await floor.open("kim")
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", now=floor.now))
    first = await asked(floor)
    await floor.call(BEN)  # comes later, must stay behind
    promised = await floor.interaction(first)
    assert promised.state == "promised"
    (callback,) = await floor.callbacks()
    by_kind = {(entry.kind, entry.interaction_id): entry for entry in await floor.entries()}
    voice, work = by_kind["voice", first], by_kind["callback", first]
    assert (voice.state, voice.outcome) == ("done", "callback")
    assert await floor.position(work) == 1, "the caller who came later stays behind"
    assert (work.order_at, callback.order_at) == (promised.first_arrival_at, promised.first_arrival_at)
    assert callback.entry_id == work.id
    await floor.check()
    assert await floor.step(first, "wait", 2) == [Leave()]
    assert kinds(await floor.step(first, "left", 1, QueueResult="leave")) == ["Hangup"]
    await floor.status(promised.external_id, "completed")  # the caller has heard the number: it may be offered at once

    floor.clock.tick(5)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "available", now=floor.now))
    await floor.tick()
    (offer,) = await floor.live_offers("kim")
    assert offer.entry_id == work.id
    assert (await floor.accept("kim")).state == "won"
    assert (await floor.callbacks())[0].state == "claimed"
    call = await floor.dial("kim", ANA)
    assert call.entry_id == work.id
    assert (await floor.callbacks())[0].state == "dialing"
    leg, theirs = await floor.ring_out("kim", call)
    await floor.check()
    floor.clock.tick(4)
    await floor.room(call.id, "join", theirs, "customer")
    assert (await floor.callbacks())[0].state == "reached"
    kept = await floor.interaction(first)
    assert (kept.state, kept.outcome) == ("ended", "callback")
    assert (await floor.interaction(call.id)).state == "connected"
    floor.clock.tick(30)
    await floor.room(call.id, "leave", theirs, "customer")
    await floor.room(call.id, "leave", leg, "agent-kim")
    floor.clock.tick(10)
    await floor.finish("kim", work.id)
    record = await floor.record(call.id)
    assert (record.ring_ms, record.talk_ms, record.wrap_ms, record.direction) == (4000, 30000, 10000, "outbound")
    ended = await floor.interaction(call.id)
    assert (ended.outcome, ended.disposition) == ("handled", "done")
    await floor.check()


async def test_conversion_loses_to_an_agent_who_has_accepted(floor: Floor) -> None:
    await floor.open("kim")
    await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.tick()
    await accepted_until_move(floor, interaction.id)
    steps = await floor.step(interaction.id, "pressed", 1, Digits="1")
    assert "just taking your call" in said(steps)
    assert await floor.callbacks() == []
    assert (await floor.interaction()).state == "offered"
    await floor.check()


async def test_conversion_wins_over_an_offer_that_only_rings(floor: Floor) -> None:
    await floor.open("kim")
    await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.tick()
    steps = await floor.step(interaction.id, "pressed", 1, Digits="1")
    assert kinds(steps) == ["Say", "Leave"]
    (offer,) = await floor.offers()
    assert (offer.state, offer.reason) == ("withdrawn", "caller asked for a callback")
    await floor.check()
    await floor.tick()
    assert await floor.live_offers() == [], "not while the number is being read out"
    await floor.later(21)
    assert len(await floor.live_offers("kim")) == 1


async def test_no_callback_is_offered_to_a_hidden_number_or_before_its_time(small_floor: Floor) -> None:
    await small_floor.open("kim")
    await small_floor.call("anonymous")
    hidden = await small_floor.interaction()
    small_floor.clock.tick(60)
    assert kinds(await small_floor.step(hidden.id, "wait", 1)) == ["Say", "Play", "Redirect"]
    assert "cannot see your number" in said(await small_floor.step(hidden.id, "pressed", 1, Digits="1"))
    await small_floor.call(ANA)
    fresh = await small_floor.interaction()
    steps = await small_floor.step(fresh.id, "wait", 1)
    assert kinds(steps) == ["Say", "Play", "Redirect"]
    assert said(steps) == "You are number 2 in the queue."
    assert steps[-1] == Redirect(f"/webhooks/twilio/voice/step?i={fresh.id}&step=wait&n=2")
    other = await small_floor.step(fresh.id, "pressed", 2, Digits="7")
    assert kinds(other) == ["Redirect"]


async def test_not_reached_comes_back_at_its_place_until_the_attempts_are_used_up(floor: Floor) -> None:
    await floor.open("kim", callback_max_attempts=2, callback_retry_s=600, wrapup_s=0)
    first = await asked(floor)
    place = (await floor.callbacks())[0].order_at
    for attempt in (1, 2):
        await floor.later(601, beats=("kim",))
        (offer,) = await floor.live_offers("kim")
        work = next(entry for entry in await floor.entries() if entry.id == offer.entry_id)
        assert work.order_at == place
        await floor.accept("kim")
        call = await floor.dial("kim", ANA)
        leg, theirs = await floor.ring_out("kim", call)
        await floor.status(theirs, "busy" if attempt == 1 else "no-answer")
        await floor.status(leg, "completed")
        ended = await floor.interaction(call.id)
        assert (ended.state, ended.outcome) == ("ended", "unreached")
        assert (await floor.record(call.id)).end_reason == ("busy" if attempt == 1 else "no-answer")
        await floor.check()
        assert (await floor.callbacks())[0].state == ("requested" if attempt == 1 else "expired")
    promise = await floor.interaction(first)
    assert (promise.state, promise.outcome) == ("ended", "callback")
    assert (await floor.callbacks())[0].rule == "no-answer"
    agent = await floor.agent("kim")
    assert (agent.live_load, agent.wrapups) == (0, 0)


async def test_a_rule_that_forbids_for_good_blocks_by_name_and_one_that_time_lifts_postpones(floor: Floor) -> None:
    await floor.open("kim")

    async def ask(number: str, minutes: int) -> callbacks.Callback:
        return await floor.do(
            lambda tx: callbacks.request(
                tx, number=phone(number), queue_id="q", due_at=floor.now + timedelta(minutes=minutes), origin="agent",
                now=floor.now,
            )
        )  # fmt: skip

    blocked = await ask(ANA, 5)
    await floor.do(
        lambda tx: consent.opt_out(
            tx, phone(ANA), reason=SuppressionReason.DEAD, source="provider", evidence={}, actor="t", now=floor.now
        )
    )
    await floor.later(301, beats=("kim",))
    (row,) = await floor.callbacks()
    assert (row.id, row.state, row.rule) == (blocked.id, "blocked", "dead")
    await floor.check()
    await ask(BEN, 0)
    await floor.tick()
    await floor.accept("kim")
    await floor.do(
        lambda tx: consent.opt_out(
            tx, phone(BEN), reason=SuppressionReason.DEAD, source="provider", evidence={}, actor="t", now=floor.now
        )
    )
    with pytest.raises(Refused) as refused:
        await floor.dial("kim", BEN)
    assert refused.value.rule == "dead"
    await floor.do(lambda tx: gate.record_refusal(tx, refused.value, now=floor.now))
    ended = next(each for each in await floor.callbacks() if each.number_e164 == BEN)
    assert (ended.state, ended.rule) == ("blocked", "dead")
    async with floor.db.reading() as tx:
        (touch,) = await tx.all(select(Touch).where(col(Touch.allowed).is_(False)))
    assert (touch.rule, touch.user_id, touch.purpose) == ("dead", "kim", "requested_callback")


async def test_one_open_promise_per_number_and_queue(floor: Floor) -> None:
    await floor.open("kim")
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", now=floor.now))
    first = await asked(floor)
    second = await asked(floor)
    assert len(await floor.callbacks()) == 1
    again = await floor.interaction(second)
    assert (again.state, again.outcome) == ("ended", "callback")
    assert (await floor.interaction(first)).state == "promised"
    await floor.check()


async def test_a_caller_who_is_answered_meanwhile_is_not_called_back(floor: Floor) -> None:
    await floor.open("kim")
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", now=floor.now))
    first = await asked(floor)
    customer, _ = await floor.call(ANA)
    call = await floor.interaction_of(customer)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "available", now=floor.now))
    await floor.tick()
    await floor.talk("kim", customer, call.id)
    (callback,) = await floor.callbacks()
    assert (callback.state, callback.rule) == ("reached", "they called us")
    assert (await floor.interaction(first)).outcome == "callback"
    await floor.check()


async def test_given_back_without_dialing_the_promise_stands(floor: Floor) -> None:
    await floor.open("kim")
    await asked(floor)
    await floor.later(21, beats=("kim",))
    await floor.accept("kim")
    await floor.finish("kim", (await floor.entry()).id)
    assert (await floor.callbacks())[0].state == "requested"
    await floor.later(61, beats=("kim",))
    assert (await floor.callbacks())[0].state == "due"
    await floor.check()


async def test_refused_by_the_customer_ends_it(floor: Floor) -> None:
    await floor.open()
    await asked(floor)
    callback = (await floor.callbacks())[0]
    await floor.do(lambda tx: callbacks.refused(tx, callback.id, now=floor.now))
    assert (await floor.callbacks())[0].state == "refused"
    await floor.check()
    with pytest.raises(Conflict):
        await floor.do(lambda tx: callbacks.refused(tx, callback.id, now=floor.now))


async def test_an_agent_who_never_returns_gives_the_callback_back(floor: Floor) -> None:
    await floor.open("kim")
    await asked(floor)
    await floor.later(21, beats=("kim",))
    await floor.accept("kim")
    await floor.later(31)
    assert (await floor.agent("kim")).activity == "not_responding"
    await floor.later(300)
    assert (await floor.agent("kim")).activity == "offline"
    assert (await floor.callbacks())[0].state == "due"
    assert (await floor.entry()).state == "waiting"
    await floor.check()


async def test_an_agent_who_wanted_to_go_and_vanished_gives_the_callback_back(floor: Floor) -> None:
    """Offline was to come after the work in hand; the tab was closed before, and nobody else would ever have had it."""
    await floor.open("kim")
    await asked(floor)
    await floor.later(21, beats=("kim",))
    await floor.accept("kim")
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "offline", now=floor.now))
    await floor.later(299)
    assert (await floor.entry()).state == "connected", "may still return"
    await floor.later(2)
    assert (await floor.agent("kim")).activity == "offline"
    assert (await floor.callbacks())[0].state == "due"
    assert (await floor.entry()).state == "waiting"
    await floor.check()


async def test_closed_hours_offer_a_call_when_open(floor: Floor) -> None:
    await floor.open("kim")
    closed = Hours(id="h", name="Evenings", zone="Europe/London", week={"2": [["18:00", "20:00"]]})
    await floor.do(lambda tx: tx.add(closed))
    await floor.alter_queue(hours_id="h")
    _, steps = await floor.call(ANA)
    assert "closed" in said(steps)
    interaction = await floor.interaction()
    answered = await floor.step(interaction.id, "closed", 1, Digits="1")
    assert "when we are open" in said(answered)
    (callback,) = await floor.callbacks()
    assert (callback.state, callback.due_at.isoformat()) == ("requested", "2026-11-18T18:00:00+00:00")
    await floor.check()
    _, steps = await floor.call(BEN)
    other = (await floor.interactions())[-1]
    assert kinds(await floor.step(other.id, "closed", 1)) == ["Say", "Hangup"]
    assert (await floor.interaction(other.id)).outcome == "overflow"
    await floor.check()


async def test_the_longest_wait_ends_in_a_promise(floor: Floor) -> None:
    await floor.open(max_wait_s=120)
    customer, _ = await floor.call(ANA)
    known = await floor.interaction_of(customer)
    hidden, _ = await floor.call("anonymous")
    unknown = await floor.interaction_of(hidden)
    due = await floor.tick()
    assert due == floor.now + timedelta(seconds=120)
    await floor.later(121)
    assert (await floor.interaction(known.id)).state == "promised"
    assert (await floor.interaction(unknown.id)).outcome == "overflow"
    moves = [task.payload["path"] for task in await floor.outbox() if task.kind == "call.move"]
    assert len(moves) == 2
    assert "call you back" in said(await floor.step(known.id, "overflow", 0))
    assert kinds(await floor.step(unknown.id, "overflow", 0)) == ["Say", "Hangup"]
    await floor.check()


async def test_a_full_provider_queue_becomes_a_promise(floor: Floor) -> None:
    await floor.open("kim")
    await floor.call(ANA)
    interaction = await floor.interaction()
    steps = await floor.step(interaction.id, "left", 1, QueueResult="queue-full")
    assert kinds(steps) == ["Say", "Say", "Hangup"]
    assert (await floor.callbacks())[0].origin == "missed"
    await floor.check()


async def test_a_timer_that_fires_late_or_twice_changes_nothing(floor: Floor) -> None:
    await floor.open("kim")
    await floor.call(ANA)
    await floor.tick()
    (offer,) = await floor.live_offers()
    entry = await floor.entry()
    await floor.do(lambda tx: tx.run(update(Queue).values(version=2)))
    for kind, key in (
        ("offer", offer.id), ("accept", offer.id), ("wrapup", entry.id), ("grace", entry.id), ("lost", "kim"),
        ("gone", "kim"), ("alone", "nothing"), ("longest_wait", entry.id), ("callback", "nothing"), ("snooze", "nothing"),
    ):  # fmt: skip
        await floor.do(lambda tx, kind=kind, key=key: timers.apply(tx, Timer(kind, key, floor.now), now=floor.now))  # type: ignore[misc]
    assert (await floor.live_offers())[0].version == offer.version
    assert (await floor.entry()).version == entry.version
    await floor.check()
