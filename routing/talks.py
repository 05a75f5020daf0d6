"""A call as a piece of work: the customer came together with an agent, one of them left, nobody answered, the agent was lost.

Both directions. Every function is safe to call again: a step that does not fit the present state changes nothing.
What a caller hears is in calls_in.py and calls_waiting.py;
who dials whom in calls_out.py; what the provider reported arrives through legs.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import bindparam, update
from sqlmodel import col, select

from crm_core import accounts, addresses, calls, conversations, interactions, outbox
from crm_core.calls import CallLeg, CallRecord, LegRole
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.leads import Lead, LeadStage
from crm_core.statements import fixed
from crm_core.touches import Direction
from routing import agents, callbacks, entries, missed, offer_ends, offering, offers, recordings, rooms
from routing.missed import MissedState
from routing.offers import OfferState
from routing.queues import EntryState, QueueEntry
from routing.rooms import step_path

GRACE = timedelta(seconds=30)  # how long a customer is kept for an agent whose leg is gone
RETURN = timedelta(seconds=5)  # the same while the two are being joined: a reload takes one or two
ENDED_LEG = 5  # rank from which a leg's status is terminal (channels.contract.CallProgress)

_INTERACTION = fixed(select(Interaction).where(Interaction.id == bindparam("id")).with_for_update())


async def open_call(tx: Tx, interaction_id: str) -> tuple[Interaction, QueueEntry | None]:
    """The interaction and its present piece of work, held: the entry first, as everybody does, then the interaction."""
    seen = await interactions.get(tx, interaction_id)
    entry = await entries.lock(tx, seen.entry_id) if seen.entry_id is not None else None
    held: Interaction | None = await tx.one(_INTERACTION, id=interaction_id)
    if held is None:
        raise NotFound("There is no such interaction.")
    if entry is None and held.entry_id is not None:  # it entered a queue while we waited for the lock
        entry = await entries.lock(tx, held.entry_id)
    return held, entry


def dialing(interaction: Interaction) -> bool:
    """True while we ring somebody up. (A call of ours that was transferred waits for an agent, like one that came.)"""
    mine = interaction.direction == Direction.OUTBOUND and "transfers" not in interaction.data
    return mine and interaction.state == InteractionState.WAITING


async def latest_leg(tx: Tx, interaction_id: str, role: LegRole, *, user_id: str = "") -> CallLeg | None:
    """The newest leg in this role that has not ended."""
    legs = [leg for leg in await calls.list_legs(tx, interaction_id) if leg.role == role]
    if user_id:
        legs = [leg for leg in legs if leg.user_id == user_id]
    return next((leg for leg in reversed(legs) if not over(leg)), None)


def over(leg: CallLeg) -> bool:
    """True when the leg has ended, as far as we were told."""
    return leg.status in ("completed", "busy", "no-answer", "failed", "canceled")


async def end_legs(tx: Tx, interaction_id: str, role: LegRole | None, *, now: datetime, but: str = "") -> None:
    """Have the legs of this role (None = all) hung up; one already gone is success."""
    for leg in await calls.list_legs(tx, interaction_id):
        if (role is None or leg.role == role) and not over(leg) and leg.id != but:
            await outbox.ask(
                tx, "call.end", interaction_id, lane="control", now=now, ordering=interaction_id,
                dedupe=f"call.end:{leg.id}", call_id=leg.id,
            )  # fmt: skip


async def ask_move(tx: Tx, interaction: Interaction, entry: QueueEntry, step: str, *, now: datetime) -> bool:
    """Have the customer's leg go on with a step of ours; False when there is no such leg any more."""
    leg = await latest_leg(tx, interaction.id, LegRole.CUSTOMER)
    if leg is None:
        return False
    await outbox.ask(
        tx, "call.move", interaction.id, lane="control", now=now, ordering=interaction.id,
        dedupe=f"call.move:{interaction.id}:{step}:{entry.offers}", call_id=leg.id,
        path=step_path(interaction.id, step, entry.offers),
    )  # fmt: skip
    return True


async def together(tx: Tx, interaction: Interaction, entry: QueueEntry, *, now: datetime) -> None:
    """Customer and agent are both in the room: *answered*."""
    if not dialing(interaction):
        live = await offers.find_live(tx, entry.id)
        if entry.state != EntryState.OFFERED or live is None or live.state != OfferState.ACCEPTING:
            return
        await offering.win(tx, entry, live, now=now)
        if interaction.direction == Direction.INBOUND:
            await callbacks.kept_by_caller(tx, interaction.from_address, now=now)
            await missed.settle(
                tx, interaction.from_address, MissedState.CALLED_AGAIN, user_id=entry.agent_id, now=now
            )  # fmt: skip
        await recordings.begin_if_due(tx, interaction, entry.queue_id, now=now)
    else:
        await interactions.advance(
            tx, interaction, InteractionState.CONNECTED, now=now, connected_at=now, agent_id=entry.agent_id
        )
        if entry.grace_until is not None:
            await entries.note(tx, entry, now=now, grace_until=None)
        if entry.callback_id is not None:
            await callbacks.reached(tx, entry.callback_id, now=now)
        await missed.settle(tx, interaction.to_address, MissedState.CALLED_BACK, user_id=entry.agent_id, now=now)
        await _touch_lead(tx, entry, now=now)
    await conversations.touch(tx, interaction.conversation_id, now=now)


async def _touch_lead(tx: Tx, entry: QueueEntry, *, now: datetime) -> None:
    lead = (col(Lead.interaction_id) == entry.interaction_id) & col(Lead.first_touch_at).is_(None)
    await tx.run(update(Lead).where(lead).values(first_touch_at=now, version=Lead.version + 1))
    fresh = (col(Lead.interaction_id) == entry.interaction_id) & (col(Lead.stage) == LeadStage.NEW)
    await tx.run(update(Lead).where(fresh).values(stage=LeadStage.CONTACTED, version=Lead.version + 1))


async def customer_gone(
    tx: Tx, interaction: Interaction, entry: QueueEntry | None, *, now: datetime, reason: str = "no-answer"
) -> None:
    """The customer's leg is over. Waiting: abandoned. Being accepted: offer withdrawn, nobody is blamed. Talking: wrap-up.

    Who reached nobody and is promised nothing is noted as missed, for somebody to call them back.
    """
    await _customer_left(tx, interaction, entry, now=now, reason=reason)
    if interaction.direction == Direction.INBOUND and not await callbacks.promised_to(tx, interaction.from_address):
        over = await interactions.get(tx, interaction.id)
        queue_id = over.queue_id or (await accounts.get(tx, over.account_id)).queue_id
        await missed.note(tx, over, queue_id=queue_id, now=now)


async def _customer_left(
    tx: Tx, interaction: Interaction, entry: QueueEntry | None, *, now: datetime, reason: str
) -> None:
    state = interaction.state
    if state == InteractionState.MENU:
        await interactions.advance(
            tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.ABANDONED, left_at=now
        )
        await calls.refold(tx, interaction.id)
    elif state == InteractionState.PROMISED:
        await callbacks.caller_gone(tx, interaction.id, now=now)
    elif entry is None or state in (InteractionState.ENDED, InteractionState.WRAPUP):
        return
    elif state == InteractionState.CONNECTED:
        await talk_over(tx, interaction, entry, now=now)
    elif dialing(interaction):
        await unreached(tx, interaction, entry, now=now, reason=reason)
    else:
        await _withdraw(tx, entry, "caller left", now=now)
        await entries.close(tx, entry, outcome=Outcome.ABANDONED, now=now)
        await end_legs(tx, interaction.id, LegRole.AGENT, now=now)
        await rooms.ask_end(tx, interaction.id, now=now)


async def correct(tx: Tx, interaction: Interaction, record: CallRecord, *, now: datetime) -> None:
    """Reports come in any order: who was held for abandoned, and by what was told later did talk with an agent, is counted as
    answered, and is nobody's missed call. There is no wrap-up for it: the agent has gone on meanwhile.
    """
    in_vain = interaction.state == InteractionState.ENDED and interaction.outcome == Outcome.ABANDONED
    if not in_vain or record.answered_at is None or not record.agents or interaction.direction != Direction.INBOUND:
        return
    if interaction.connected_at is not None:
        return  # we knew of that talk: they left while waiting once more, after a transfer or a lost agent
    agent_id = record.agents[-1]
    await interactions.correct(
        tx, interaction, Outcome.HANDLED, now=now, agent_id=agent_id, connected_at=record.answered_at
    )
    if interaction.entry_id is not None:
        entry = (col(QueueEntry.id) == interaction.entry_id) & (col(QueueEntry.state) == EntryState.DONE)
        await tx.run(update(QueueEntry).where(entry).values(outcome=str(Outcome.HANDLED), agent_id=agent_id))
    await missed.was_answered(tx, interaction.id, user_id=agent_id, now=now)


async def _withdraw(tx: Tx, entry: QueueEntry, reason: str, *, now: datetime) -> None:
    if entry.state == EntryState.OFFERED:
        await offer_ends.withdraw(tx, entry, reason=reason, now=now)


async def talk_over(tx: Tx, interaction: Interaction, entry: QueueEntry, *, now: datetime) -> None:
    """The talk has ended, whoever hung up: everybody leaves the room, the agent wraps up."""
    await rooms.ask_end(tx, interaction.id, now=now)
    await end_legs(tx, interaction.id, None, now=now)
    outbound = interaction.direction == Direction.OUTBOUND
    if outbound:
        await interactions.advance(tx, interaction, InteractionState.WRAPUP, now=now, left_at=now)
    await _wrap(tx, interaction, entry, now=now)


async def _wrap(tx: Tx, interaction: Interaction, entry: QueueEntry, *, now: datetime) -> None:
    """Wrap-up of the work; without time for it, an outgoing call ends with its work (incoming ones follow by themselves)."""
    if entry.state == EntryState.CONNECTED:
        await entries.to_wrapup(tx, entry, now=now)
    done = (await entries.get(tx, entry.id)).state == EntryState.DONE
    if done and interaction.direction == Direction.OUTBOUND and interaction.state == InteractionState.WRAPUP:
        await interactions.advance(tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.HANDLED)


async def unreached(
    tx: Tx, interaction: Interaction, entry: QueueEntry, *, now: datetime, reason: str, failed: bool = False
) -> None:
    """An outgoing call found nobody. A callback comes back by its rule; the agent wraps up what was tried."""
    if not dialing(interaction):
        return
    outcome = Outcome.FAILED if failed else Outcome.UNREACHED
    data = {**interaction.data, "end_reason": reason}
    await interactions.advance(
        tx, interaction, InteractionState.ENDED, now=now, outcome=outcome, left_at=now, data=data
    )
    await calls.refold(tx, interaction.id)
    if entry.callback_id is not None:
        await callbacks.dial_failed(tx, entry.callback_id, now=now, reason=reason)
    if entry.state == EntryState.CONNECTED:
        await entries.to_wrapup(tx, entry, now=now)
    await end_legs(tx, interaction.id, None, now=now)
    await rooms.ask_end(tx, interaction.id, now=now)


async def agent_gone(
    tx: Tx, interaction: Interaction, entry: QueueEntry | None, leg: CallLeg, *, now: datetime
) -> None:
    """An agent's leg is over without having been hung up on the server: reload, crash, lost network."""
    if entry is None or entry.agent_id != leg.user_id:
        return
    newest = await latest_leg(tx, interaction.id, LegRole.AGENT, user_id=leg.user_id)
    if newest is not None and newest.id != leg.id:
        return  # they have come back already
    if entry.state == EntryState.OFFERED and leg.offer_id:
        live = await offers.find_live(tx, entry.id)
        if live is None or live.id != leg.offer_id or live.state != OfferState.ACCEPTING:
            return
        agent = await agents.find(tx, leg.user_id)
        if agent is not None and not agent.phone_e164:
            # A page that reloads while it joins is back within a second or two; the offer's timer ends it else.
            await offers.hasten(tx, live, now + RETURN)
        else:
            await fail_accept(tx, interaction, entry, reason="the agent's line was lost", now=now)
    elif entry.state == EntryState.CONNECTED:
        if dialing(interaction):
            await unreached(tx, interaction, entry, now=now, reason="canceled")
        elif interaction.state == InteractionState.CONNECTED and entry.grace_until is None:
            await entries.note(tx, entry, now=now, grace_until=now + GRACE)
            await rooms.ask_hold(tx, interaction.id, on=True, now=now)


async def agent_back(tx: Tx, interaction: Interaction, entry: QueueEntry, *, now: datetime) -> None:
    """The agent is in the room again: the customer is taken off the hold that bridged the gap."""
    if entry.grace_until is None or interaction.state != InteractionState.CONNECTED:
        return
    await entries.note(tx, entry, now=now, grace_until=None)
    leg = await latest_leg(tx, interaction.id, LegRole.CUSTOMER)
    if leg is None or not leg.held:  # held by the agent before the reload: stays on hold
        await rooms.ask_hold(tx, interaction.id, on=False, now=now)


async def fail_accept(tx: Tx, interaction: Interaction, entry: QueueEntry, *, reason: str, now: datetime) -> None:
    """An accepted offer did not become a talk in time. The work waits again at its place; the agent is not blamed."""
    live = await offers.find_live(tx, entry.id)
    if entry.state != EntryState.OFFERED or live is None or live.state != OfferState.ACCEPTING:
        return
    # A short memory, so that a broken line does not ring at once again; it is no miss.
    await offer_ends.end_offer(tx, entry, live, OfferState.FAILED, reason=reason, now=now, cooloff_s=10)
    await end_legs(tx, interaction.id, LegRole.AGENT, now=now)
    room = await rooms.current(tx, interaction.id)
    if rooms.present(room, LegRole.CUSTOMER):
        await ask_move(tx, interaction, entry, "retry", now=now)
    await queued_again(tx, interaction, entry, now=now)


async def queued_again(tx: Tx, interaction: Interaction, entry: QueueEntry, *, now: datetime) -> None:
    """Note in the call record that the caller waits again."""
    await entries.tell_calls(tx, entry, "queued", now=now)


async def rescue(tx: Tx, interaction: Interaction, entry: QueueEntry, *, now: datetime) -> None:
    """The agent did not come back. An incoming caller waits again at the old place and hears why; somebody we called is promised
    a call at once.
    """
    if entry.state != EntryState.CONNECTED or interaction.state != InteractionState.CONNECTED:
        return
    if interaction.direction == Direction.INBOUND or "transfers" in interaction.data:
        if await latest_leg(tx, interaction.id, LegRole.CUSTOMER) is None:
            await talk_over(tx, interaction, entry, now=now)
            return
        await entries.put_back(tx, entry, now=now)
        await queued_again(tx, interaction, entry, now=now)
        await ask_move(tx, interaction, entry, "rescue", now=now)
        return
    number = addresses.find_phone(interaction.to_address)
    moved = await ask_move(tx, interaction, entry, "sorry", now=now)
    await interactions.advance(tx, interaction, InteractionState.WRAPUP, now=now, left_at=now)
    await _wrap(tx, interaction, entry, now=now)
    if number is not None:
        await callbacks.request(
            tx, number=number, queue_id=entry.queue_id, due_at=now, origin="lost", now=now,
            account_id=interaction.account_id, contact_id=interaction.contact_id, order_at=entry.order_at,
            not_before=now + timedelta(seconds=20) if moved else None, note="The line to the agent was lost.",
        )  # fmt: skip


async def watch(tx: Tx, entry: QueueEntry, *, until_s: float, now: datetime) -> None:
    """Have the engine look at this work again if nothing has come of it by then."""
    await entries.note(tx, entry, now=now, grace_until=now + timedelta(seconds=until_s))
