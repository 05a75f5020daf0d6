"""What an agent does, and what is remembered of it: activity, its ledger, hold, hang-up, wrap-up, dialing out."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlmodel import select

from crm_core import consent
from crm_core.addresses import phone
from crm_core.consent import Purpose
from crm_core.errors import Conflict, Invalid, NotAllowed, NotFound, Refused
from routing import agents, desk, explain, router
from routing.agents import shown
from routing.queues import EntryTrace
from tests.routing.floor import ANA, BEN, Floor


async def test_fifty_accepts_at_once_have_one_winner(floor: Floor) -> None:
    await floor.open("kim")
    await floor.text("Hello")
    await floor.tick()
    (offer,) = await floor.live_offers("kim")
    tries = [floor.do(lambda tx: desk.accept(tx, offer.id, agent_id="kim", now=floor.now)) for _ in range(50)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(result, Conflict) for result in results if isinstance(result, BaseException))
    agent = await floor.agent("kim")
    assert agent.text_load == 25
    await floor.check()


async def test_fifty_accepts_of_one_call_have_one_nonce(floor: Floor) -> None:
    await floor.open("kim", "lee")
    await floor.call(ANA)
    await floor.tick()
    (offer,) = await floor.live_offers()
    other = "lee" if offer.agent_id == "kim" else "kim"
    tries = [
        floor.do(lambda tx, who=who: desk.accept(tx, offer.id, agent_id=who, now=floor.now))  # type: ignore[misc]
        for who in [offer.agent_id] * 25 + [other] * 25
    ]
    results = await asyncio.gather(*tries, return_exceptions=True)
    nonces = {result.nonce for result in results if not isinstance(result, BaseException)}
    assert len(nonces) == 1
    assert sum(isinstance(result, NotFound) for result in results) == 25


async def test_the_ledger_sums_to_logged_in_time(floor: Floor) -> None:
    await floor.open("kim")
    start = floor.now
    floor.clock.tick(10)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", reason="lunch", now=floor.now))
    floor.clock.tick(20)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "available", now=floor.now))
    customer, _ = await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.tick()
    floor.clock.tick(5)
    await floor.talk("kim", customer, interaction.id)
    floor.clock.tick(40)
    await floor.hang_up("kim", interaction.id)
    floor.clock.tick(15)
    await floor.finish("kim", (await floor.entry()).id)
    floor.clock.tick(7)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "offline", now=floor.now))
    end = floor.now
    async with floor.db.reading() as tx:
        periods = await agents.list_periods(tx, "kim", since=start)
    told = [
        (period.state, period.reason, ((period.ended_at or end) - period.started_at).total_seconds())
        for period in periods
    ]
    assert [each for each in told if each[0] != "offline"] == [
        ("available", "", 10), ("paused", "lunch", 20), ("available", "", 0), ("ringing", "", 5), ("joining", "", 0),
        ("busy", "", 40), ("wrapup", "", 15), ("available", "", 7),
    ]  # fmt: skip
    logged_in = sum(seconds for state, _, seconds in told if state != "offline")
    assert logged_in == (end - start).total_seconds()
    await floor.check()


async def test_a_pause_asked_for_in_a_call_begins_when_its_wrapup_ends(floor: Floor) -> None:
    await floor.open("kim")
    customer, _ = await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.tick()
    await floor.talk("kim", customer, interaction.id)
    await floor.do(lambda tx: desk.set_activity(tx, "kim", "paused", reason="lunch", now=floor.now))
    agent = await floor.agent("kim")
    assert (shown(agent)[0], agent.next_activity) == ("busy", "paused")
    await floor.status(customer, "completed")
    assert shown(await floor.agent("kim"))[0] == "wrapup"
    await floor.later(61, beats=("kim",))
    agent = await floor.agent("kim")
    assert (shown(agent), agent.next_activity, agent.cause) == (("paused", "lunch"), "", "agent")
    ended = await floor.interaction(interaction.id)
    assert (ended.outcome, ended.disposition) == ("handled", "none")
    await floor.finish("kim", (await floor.entry()).id)
    assert (await floor.interaction(interaction.id)).disposition == "done", (
        "what the agent chose late replaces the default"
    )
    assert (await floor.record(interaction.id)).disposition == "done"
    await floor.check()


async def test_going_offline_gives_written_work_back(floor: Floor) -> None:
    await floor.open("kim", "lee")
    await floor.text("Hello")
    await floor.tick()
    (offer,) = await floor.live_offers()
    holder, other = offer.agent_id, "lee" if offer.agent_id == "kim" else "kim"
    await floor.accept(holder)
    before = await floor.entry()
    floor.clock.tick(600)
    await floor.beat(other)
    await floor.do(lambda tx: desk.set_activity(tx, holder, "offline", now=floor.now))
    await floor.tick()
    (again,) = await floor.live_offers(other)
    assert again.entry_id == before.id
    assert (await floor.entry()).order_at == before.order_at
    assert (await floor.agent(holder)).text_load == 0
    await floor.check()


async def test_a_lost_tab_gives_offers_back_and_a_heartbeat_brings_the_agent_back(floor: Floor) -> None:
    await floor.open("kim", offer_timeout_s=120)
    await floor.call(ANA)
    await floor.later(29)
    (offer,) = await floor.live_offers("kim")
    await floor.later(2)
    (ended,) = await floor.offers()
    assert (ended.id, ended.state, ended.reason) == (offer.id, "withdrawn", "the agent's tab does not answer")
    agent = await floor.agent("kim")
    assert (agent.activity, agent.misses) == ("not_responding", 0)
    await floor.tick(beats=("kim",))
    assert (await floor.agent("kim")).activity == "available"
    assert len(await floor.live_offers("kim")) == 1
    await floor.check()


async def test_hold_and_mute(floor: Floor) -> None:
    await floor.open("kim", "lee")
    customer, _ = await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.tick()
    (offer,) = await floor.live_offers()
    mine, other = offer.agent_id, "lee" if offer.agent_id == "kim" else "kim"
    with pytest.raises(Conflict):
        await floor.do(lambda tx: desk.hold(tx, interaction.id, agent_id=mine, on=True, now=floor.now))
    leg = await floor.talk(mine, customer, interaction.id)
    with pytest.raises(NotAllowed):
        await floor.do(lambda tx: desk.hold(tx, interaction.id, agent_id=other, on=True, now=floor.now))
    await floor.do(lambda tx: desk.hold(tx, interaction.id, agent_id=mine, on=True, now=floor.now))
    await floor.do(lambda tx: desk.mute(tx, interaction.id, agent_id=mine, on=True, now=floor.now))
    (held,) = [task for task in await floor.outbox() if task.kind == "call.hold"]
    assert held.payload == {"room_id": f"CF-{interaction.id}", "call_id": customer, "on": True}
    shown_now = await floor.do(lambda tx: desk.rejoin(tx, agent_id=mine, now=floor.now))
    assert shown_now is not None
    assert (shown_now["held"], shown_now["muted"], shown_now["state"]) == (True, True, "connected")
    # A reload while the customer is on hold leaves them on hold.
    await floor.status(leg, "completed")
    again, steps = await floor.connect(mine, **shown_now["rejoin_params"])
    await floor.room(interaction.id, "join", again, steps[0].label)  # type: ignore[union-attr]
    assert [task.payload["on"] for task in await floor.outbox() if task.kind == "call.hold"] == [True, True]


async def test_hanging_up_twice_is_once_and_only_ones_own(floor: Floor) -> None:
    await floor.open("kim")
    customer, _ = await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.tick()
    await floor.talk("kim", customer, interaction.id)
    with pytest.raises(NotAllowed):
        await floor.hang_up("lee", interaction.id)
    floor.clock.tick(9)
    await floor.hang_up("kim", interaction.id)
    await floor.hang_up("kim", interaction.id)
    await floor.room(interaction.id, "leave", customer, "customer")
    assert (await floor.interaction(interaction.id)).state == "wrapup"
    assert (await floor.record(interaction.id)).hung_up_by == "agent"
    with pytest.raises(Invalid):
        await floor.finish("kim", (await floor.entry()).id, "no such outcome")
    await floor.check()


async def test_never_again_holds_at_once(floor: Floor) -> None:
    await floor.open("kim")
    customer, _ = await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.tick()
    await floor.talk("kim", customer, interaction.id)
    await floor.hang_up("kim", interaction.id)
    await floor.finish("kim", (await floor.entry()).id, "dnc")
    with pytest.raises(Refused) as refused:
        await floor.dial("kim", ANA, purpose=Purpose.TELEMARKETING)
    assert refused.value.rule == "do_not_call"
    await floor.check()


async def test_click_to_call(floor: Floor) -> None:
    await floor.open("kim")
    contact = await floor.person("Ben", BEN)
    call = await floor.dial("kim", BEN)
    assert (call.state, call.contact_id) == ("waiting", contact)
    with pytest.raises(Conflict):
        await floor.dial("kim", ANA)
    leg, theirs = await floor.ring_out("kim", call)
    placed = [task for task in await floor.outbox() if task.kind == "call.place"]
    assert [(task.payload["to"], task.payload["label"], task.payload["room"]) for task in placed] == [
        (BEN, "customer", f"room-{call.id}")
    ]
    await floor.check()
    floor.clock.tick(6)
    await floor.room(call.id, "join", theirs, "customer")
    floor.clock.tick(11)
    await floor.status(leg, "completed")
    assert (await floor.entry()).grace_until == floor.now + timedelta(seconds=30)
    await floor.later(31, beats=("kim",))
    # The agent did not come back: the customer hears a promise, and it is kept by the router.
    (callback,) = await floor.callbacks()
    assert (callback.origin, callback.number_e164) == ("lost", BEN)
    await floor.check()


async def test_a_dial_whose_browser_never_comes_frees_the_agent(floor: Floor) -> None:
    await floor.open("kim", wrapup_s=0)
    call = await floor.dial("kim", BEN)
    await floor.later(31, beats=("kim",))
    ended = await floor.interaction(call.id)
    assert (ended.state, ended.outcome) == ("ended", "failed")
    assert (await floor.agent("kim")).live_load == 0
    await floor.check()


async def test_reports_that_overtake_the_placing_are_taken_when_it_is_known(floor: Floor) -> None:
    await floor.open("kim", wrapup_s=0)
    call = await floor.dial("kim", BEN)
    leg, steps = await floor.connect("kim", call=call.id, nonce=call.data["nonce"])
    await floor.room(call.id, "join", leg, steps[0].label)  # type: ignore[union-attr]
    await floor.status("CC-early", "busy")
    await floor.do(lambda tx: router.call_placed(tx, call.id, call_id="CC-early", now=floor.now))
    assert (await floor.interaction(call.id)).outcome == "unreached"
    await floor.check()


async def test_a_provider_who_cannot_dial_frees_the_agent(floor: Floor) -> None:
    await floor.open("kim", wrapup_s=0)
    call = await floor.dial("kim", BEN)
    leg, steps = await floor.connect("kim", call=call.id, nonce=call.data["nonce"])
    await floor.room(call.id, "join", leg, steps[0].label)  # type: ignore[union-attr]
    await floor.do(lambda tx: router.call_placed(tx, call.id, call_id="", error="21211", now=floor.now))
    ended = await floor.interaction(call.id)
    assert (ended.outcome, ended.data["end_reason"]) == ("failed", "21211")
    assert (await floor.agent("kim")).live_load == 0


async def test_why_this_agent_and_why_still_waiting(floor: Floor) -> None:
    await floor.open("kim")
    await floor.call(ANA)
    await floor.call(BEN)
    await floor.tick()
    (offer,) = await floor.live_offers()
    async with floor.db.reading() as tx:
        told = await explain.explain(tx, offer.id)
        assert (told["agent_id"], told["why"], told["by"]) == ("kim", "the only one free", "test")
        waiting = next(entry for entry in await floor.entries() if entry.state == "waiting")
        why = await explain.why_waiting(tx, waiting.id)
        assert why is not None
        assert (why["why"], why["position"]) == ("nobody is free for it", 1)
        assert why["agents"]["by_agent"] == {"kim": "busy with live work"}
        assert await explain.why_waiting(tx, offer.entry_id) is None
    async with floor.db.reading() as tx:
        before = await tx.all(select(EntryTrace))
    await floor.later(1)
    async with floor.db.reading() as tx:
        assert await tx.all(select(EntryTrace)) == before, "stored on change only"


async def test_consent_of_a_stranger_is_no_permission_to_sell(small_floor: Floor) -> None:
    await small_floor.open("kim")
    with pytest.raises(Refused):
        await small_floor.dial("kim", ANA, purpose=Purpose.TELEMARKETING)
    async with small_floor.db.reading() as tx:
        assert await consent.list_for(tx, phone(ANA)) == ([], [])
