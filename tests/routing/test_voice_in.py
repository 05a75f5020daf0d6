"""A call from the first ring to the call record: queue, offer, accept, talk, wrap-up; and the other ways it may end."""

from __future__ import annotations

import pytest
from sqlalchemy import update
from sqlmodel import col

from channels.contract import CallArrived
from channels.steps import DialConference, Enqueue, Hangup, Reject
from crm_core.interactions import Interaction
from routing import desk, router, talks
from routing.agents import Agent, shown
from tests.routing.floor import ANA, BEN, NUMBER, Floor, kinds, said


async def test_a_call_reaches_an_agent_and_adds_up(floor: Floor) -> None:
    await floor.open("kim")
    contact = await floor.person("Ana Example", ANA)
    call_id, steps = await floor.call(ANA)
    assert kinds(steps) == ["Say", "Enqueue"]
    interaction = await floor.interaction()
    assert isinstance(steps[1], Enqueue)
    assert steps[1].wait_url == f"/webhooks/twilio/voice/step?i={interaction.id}&step=wait&n=1"
    assert (interaction.state, interaction.contact_id) == ("waiting", contact)
    assert interaction.match["level"] == "exact"
    await floor.check()

    await floor.later(4)
    (offer,) = await floor.live_offers("kim")
    assert offer.trace["why"] == "the only one free"
    assert (await floor.interaction()).state == "offered"
    assert agents_state(await floor.agent("kim")) == ("ringing", 1, 0)

    floor.clock.tick(3)
    leg = await accepted_until_move(floor, interaction.id)
    floor.clock.tick(2)
    assert isinstance((await floor.step(interaction.id, "join", 1))[0], DialConference)
    await floor.room(interaction.id, "join", call_id, "customer")
    assert (await floor.interaction()).state == "connected"
    assert (await floor.live_offers()) == []
    assert agents_state(await floor.agent("kim")) == ("busy", 1, 0)
    await floor.check()

    floor.clock.tick(60)
    await floor.room(interaction.id, "leave", call_id, "customer")
    await floor.room(interaction.id, "leave", leg, "agent-kim")
    await floor.status(call_id, "completed")
    assert (await floor.interaction()).state == "wrapup"
    assert agents_state(await floor.agent("kim")) == ("wrapup", 0, 1)
    await floor.check()

    floor.clock.tick(20)
    await floor.finish("kim", (await floor.entry()).id)
    ended = await floor.interaction()
    assert (ended.state, ended.outcome, ended.disposition) == ("ended", "handled", "done")
    record = await floor.record(interaction.id)
    spent = (record.menu_ms, record.wait_ms, record.ring_ms, record.talk_ms, record.hold_ms, record.wrap_ms)
    assert spent == (0, 7000, 2000, 60000, 0, 20000)
    assert (record.hung_up_by, record.end_reason, record.agents) == ("customer", "completed", ["kim"])
    assert (await floor.conservation()) == {
        "came": 1, "done": 1, "abandoned": 0, "waiting": 0, "with_agents": 0, "promised": 0, "automated": 0,
    }  # fmt: skip
    await floor.check()


def agents_state(agent: Agent) -> tuple[str, int, int]:
    return shown(agent)[0], agent.live_load, agent.wrapups


async def accepted_until_move(floor: Floor, interaction_id: str, agent_id: str = "kim") -> str:
    offer = await floor.accept(agent_id)
    assert offer.state == "accepting"
    leg, steps = await floor.connect(agent_id, offer=offer.id, nonce=offer.nonce)
    assert steps == [
        DialConference(
            f"room-{interaction_id}", f"agent-{agent_id}", end_on_exit=False,
            status_url=f"/webhooks/twilio/voice/room?i={interaction_id}",
            action=f"/webhooks/twilio/voice/step?i={interaction_id}&step=agent&n=1",
        )
    ]  # fmt: skip
    await floor.room(interaction_id, "join", leg, f"agent-{agent_id}")
    move = (await floor.outbox(interaction_id))[-1]
    assert move.kind == "call.move"
    assert move.payload["path"] == f"/webhooks/twilio/voice/step?i={interaction_id}&step=join&n=1"
    return leg


async def joining(floor: Floor) -> tuple[str, Interaction, str]:
    """A call on its way to the one agent, who is in the room already: the caller's leg, the call, the agent's leg."""
    await floor.open("kim")
    customer, _ = await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.tick()
    return customer, interaction, await accepted_until_move(floor, interaction.id)


async def test_a_caller_who_leaves_while_waiting_is_abandoned(floor: Floor) -> None:
    await floor.open("kim")
    call_id, _ = await floor.call()
    interaction = await floor.interaction()
    await floor.step(interaction.id, "left", 1, QueueResult="hangup")
    await floor.status(call_id, "completed")
    assert (await floor.interaction()).outcome == "abandoned"
    assert (await floor.record(interaction.id)).end_reason == "abandoned"
    await floor.tick()
    assert await floor.offers() == []
    await floor.check()


async def test_a_caller_who_leaves_before_the_join_blames_nobody(floor: Floor) -> None:
    await floor.open("kim")
    call_id, _ = await floor.call()
    interaction = await floor.interaction()
    await floor.tick()
    leg = await accepted_until_move(floor, interaction.id)
    await floor.status(call_id, "completed")
    (offer,) = await floor.offers()
    assert (offer.state, offer.reason) == ("withdrawn", "caller left")
    agent = await floor.agent("kim")
    assert (agent.misses, agent.live_load, agent.activity) == (0, 0, "available")
    asked = [(task.kind, task.payload.get("call_id")) for task in await floor.outbox(interaction.id)]
    assert ("call.end", leg) in asked
    assert "room.end" in [kind for kind, _ in asked]
    await floor.check()


async def test_a_missed_offer_goes_to_the_next_and_the_second_miss_takes_the_agent_out(floor: Floor) -> None:
    await floor.open("kim", "lee", "max")
    await floor.call(ANA)
    await floor.tick()
    (first,) = await floor.live_offers()
    await floor.later(21, beats=("kim", "lee", "max"))
    (second,) = await floor.live_offers()
    assert second.agent_id != first.agent_id
    assert second.trace["agents"]["by_agent"][first.agent_id] == "refused or missed it just now"
    assert (await floor.agent(first.agent_id)).misses == 1
    await floor.check()
    entry = await floor.entry()
    assert (entry.offers, entry.order_at) == (2, entry.first_arrival_at)


async def test_an_agent_who_refuses_is_asked_again_only_when_nobody_else_is_left(floor: Floor) -> None:
    await floor.open("kim", refusal_cooloff_s=30)
    await floor.call(ANA)
    await floor.tick()
    (offer,) = await floor.live_offers("kim")
    await floor.do(lambda tx: desk.refuse(tx, offer.id, agent_id="kim", now=floor.now, reason="lunch"))
    await floor.later(10, beats=("kim",))
    assert await floor.live_offers() == []
    await floor.later(21, beats=("kim",))
    (again,) = await floor.live_offers("kim")
    assert again.id != offer.id
    assert (await floor.agent("kim")).misses == 0


async def test_an_accept_without_media_fails_without_blame_and_the_caller_keeps_the_place(floor: Floor) -> None:
    await floor.open("kim")
    await floor.call(ANA)
    before = await floor.entry()
    await floor.tick()
    await floor.accept("kim")
    await floor.later(21, beats=("kim",))
    (offer,) = [offer for offer in await floor.offers() if offer.state == "failed"]
    assert "did not come about" in offer.reason
    assert (await floor.agent("kim")).misses == 0
    after = await floor.entry()
    assert (after.order_at, after.id) == (before.order_at, before.id)
    await floor.check()


async def test_a_join_that_comes_too_late_goes_back_to_the_queue(floor: Floor) -> None:
    _, interaction, leg = await joining(floor)
    await floor.status(leg, "completed")
    assert (await floor.interaction()).state == "offered", "a page that reloads is back at once"
    await floor.later(talks.RETURN.total_seconds() - 1)
    assert (await floor.interaction()).state == "offered"
    await floor.later(1)
    assert (await floor.interaction()).state == "waiting"
    steps = await floor.step(interaction.id, "join", 1)
    assert kinds(steps) == ["Say", "Enqueue"]
    assert isinstance(steps[1], Enqueue)
    assert "n=1001" in steps[1].wait_url
    await floor.check()


@pytest.mark.parametrize("moved", [False, True])
async def test_a_page_that_reloads_while_it_joins_has_its_call(floor: Floor, moved: bool) -> None:
    customer, interaction, leg = await joining(floor)
    if moved:
        await floor.step(interaction.id, "join", 1)
    await floor.room(interaction.id, "leave", leg, "agent-kim")
    await floor.status(leg, "completed")
    if moved:
        await floor.room(interaction.id, "join", customer, "customer")
    floor.clock.tick(1)
    found = await floor.do(lambda tx: desk.rejoin(tx, agent_id="kim", now=floor.now))
    assert found is not None
    again, steps = await floor.connect("kim", **found["rejoin_params"])
    assert isinstance(steps[0], DialConference)
    await floor.room(interaction.id, "join", again, steps[0].label)
    if not moved:
        await floor.room(interaction.id, "join", customer, "customer")
    assert (await floor.interaction()).state == "connected"
    assert [offer.state for offer in await floor.offers()] == ["won"]
    await floor.later(talks.RETURN.total_seconds(), beats=("kim",))
    assert (await floor.interaction()).state == "connected"
    await floor.check()


async def test_a_telephone_that_is_hung_up_while_it_joins_is_not_waited_for(floor: Floor) -> None:
    _, _, leg = await joining(floor)
    await floor.do(lambda tx: tx.run(update(Agent).where(col(Agent.user_id) == "kim").values(phone_e164=BEN)))
    await floor.status(leg, "completed")
    assert (await floor.interaction()).state == "waiting"


async def test_only_the_accepting_browser_gets_in(floor: Floor) -> None:
    await floor.open("kim", "lee")
    await floor.call(ANA)
    await floor.tick()
    (offer,) = await floor.live_offers()
    other = "lee" if offer.agent_id == "kim" else "kim"
    accepted = await floor.accept(offer.agent_id)
    for who, nonce in ((other, accepted.nonce), (offer.agent_id, "wrong"), (offer.agent_id, "")):
        _, steps = await floor.connect(who, offer=offer.id, nonce=nonce)
        assert kinds(steps) == ["Say", "Hangup"]
    _, steps = await floor.connect("kim", offer="nothing", nonce="x")
    assert "no longer there" in said(steps)


async def test_reload_keeps_the_customer_and_the_agent_comes_back(floor: Floor) -> None:
    await floor.open("kim")
    customer, _ = await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.tick()
    leg = await floor.talk("kim", customer, interaction.id)
    floor.clock.tick(10)
    await floor.room(interaction.id, "leave", leg, "agent-kim")
    await floor.status(leg, "completed")
    held = (await floor.outbox(interaction.id))[-1]
    assert (held.kind, held.payload["on"], held.payload["call_id"]) == ("call.hold", True, customer)
    shown = await floor.do(lambda tx: desk.rejoin(tx, agent_id="kim", now=floor.now))
    assert shown is not None
    assert shown["interaction_id"] == interaction.id
    floor.clock.tick(3)
    again, steps = await floor.connect("kim", **shown["rejoin_params"])
    assert isinstance(steps[0], DialConference)
    assert steps[0].label == "agent-kim.2"
    await floor.room(interaction.id, "join", again, steps[0].label)
    assert (await floor.outbox(interaction.id))[-1].payload["on"] is False
    entry = await floor.entry()
    assert (entry.state, entry.grace_until) == ("connected", None)
    await floor.check()


async def test_an_agent_who_does_not_come_back_loses_the_call_to_the_front_of_the_queue(floor: Floor) -> None:
    await floor.open("kim", "lee")
    customer, _ = await floor.call(ANA)
    first = await floor.interaction()
    await floor.tick()
    (offer,) = await floor.live_offers()
    lost, other = offer.agent_id, "lee" if offer.agent_id == "kim" else "kim"
    leg = await floor.talk(lost, customer, first.id)
    await floor.do(lambda tx: desk.set_activity(tx, other, "paused", now=floor.now))
    await floor.call(BEN)
    floor.clock.tick(10)
    await floor.status(leg, "completed")
    floor.clock.tick(31)
    await floor.do(lambda tx: desk.set_activity(tx, other, "available", now=floor.now))
    await floor.tick(beats=(other,))
    steps = await floor.step(first.id, "rescue", 1)
    assert kinds(steps) == ["Say", "Enqueue"]
    assert "first in line" in said(steps)
    (rescued,) = await floor.live_offers(other)
    entry = next(each for each in await floor.entries() if each.id == rescued.entry_id)
    assert entry.interaction_id == first.id, "the older call comes first again"
    await floor.check()
    # The move takes the customer out of the old room: that is no hang-up.
    await floor.room(first.id, "leave", customer, "customer")
    assert (await floor.interaction(first.id)).state == "offered"


async def test_a_number_that_is_not_ours_is_rejected(small_floor: Floor) -> None:
    await small_floor.open()
    event = CallArrived("CA1", ANA, "+442079460999", "k", {}, {})
    assert await small_floor.do(lambda tx: router.call_arrived(tx, event, now=small_floor.now)) == [Reject()]


async def test_the_same_call_reported_twice_is_one_call(floor: Floor) -> None:
    await floor.open("kim")
    call_id, first = await floor.call(ANA)
    _, second = await floor.call(ANA, call_id=call_id)
    assert first[-1] == second[-1]
    assert len(await floor.interactions()) == 1
    assert len(await floor.entries()) == 1


async def test_a_shared_number_names_nobody(small_floor: Floor) -> None:
    await small_floor.open()
    both = {await small_floor.person("Ana", ANA), await small_floor.person("Ana's husband", ANA)}
    await small_floor.call(ANA)
    interaction = await small_floor.interaction()
    assert interaction.contact_id is None
    assert interaction.match["level"] == "shared"
    assert set(interaction.match["candidates"]) == both
    await small_floor.call("anonymous")
    assert (await small_floor.interaction()).match["level"] == "withheld"


async def test_events_in_the_wrong_order_come_to_the_same(floor: Floor) -> None:
    customer, interaction, leg = await joining(floor)
    # The customer's leave overtakes the join: nobody is left in the room, and the late join does not bring them back. In the
    # order in which it happened it was a talk, and so it is counted.
    await floor.room(interaction.id, "leave", customer, "customer", sequence=900)
    await floor.room(interaction.id, "join", customer, "customer", sequence=899)
    assert (await floor.interaction()).state == "offered"
    await floor.status(customer, "completed")
    assert (await floor.interaction()).outcome == "handled"
    await floor.room(interaction.id, "end", "", sequence=901)
    await floor.status(leg, "completed")
    await floor.check()


async def test_steps_of_a_finished_call_hang_up(floor: Floor) -> None:
    await floor.open("kim")
    call_id, _ = await floor.call(ANA)
    interaction = await floor.interaction()
    await floor.status(call_id, "completed")
    for step in ("join", "rescue", "agent", "done"):
        assert await floor.step(interaction.id, step, 1) == [Hangup()]


async def test_a_call_whose_first_webhook_failed_begins_at_the_fallback(floor: Floor) -> None:
    await floor.open("kim")
    told = {"CallSid": "CA-lost", "From": ANA, "To": NUMBER}
    steps = await floor.step("", "fallback", 0, **told)
    assert kinds(steps) == ["Say", "Enqueue"]
    assert kinds(await floor.step("", "fallback", 0, **told)) == ["Enqueue"], (
        "held on once more: back to where it stands"
    )
    _, swept = await floor.call(ANA, call_id="CA-lost")  # the failed receipt is taken again
    assert kinds(swept) == ["Enqueue"]
    assert len(await floor.interactions()) == 1
    await floor.check()
