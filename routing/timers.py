"""What happens by time alone, each as one unit of work that looks again under the lock: late or twice changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import update
from sqlmodel import col, select

from crm_core import contacts, conversations, interactions, outbox
from crm_core.addresses import find_phone
from crm_core.calls import LegRole
from crm_core.consent import Purpose, may_contact
from crm_core.conversations import Conversation, ConversationState
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.interactions import Interaction, InteractionState
from routing import (
    agents,
    callbacks,
    calls_waiting,
    desk,
    entries,
    gate,
    hours,
    offer_ends,
    offers,
    queues,
    rooms,
    talks,
)
from routing.agents import FRESH, LOST, Activity
from routing.callbacks import CallbackState
from routing.core import Timer
from routing.mirror import ALONE, OFFLINE_AFTER, UNDER_WAY
from routing.offer_ends import Ending
from routing.offers import Offer, OfferState
from routing.queues import EntryState, Lane, QueueEntry
from routing.rooms import CallRoom


async def _held_offer(tx: Tx, offer_id: str) -> tuple[Offer, QueueEntry]:
    seen = await offers.get(tx, offer_id)
    entry = await entries.lock(tx, seen.entry_id)
    return await offers.get(tx, offer_id), entry


async def expire(tx: Tx, offer_ids: Sequence[str], *, now: datetime) -> None:
    """Offers that nobody answered in time: remembered, and counted as a miss."""
    held = await offer_ends.hold_all(tx, offer_ids)
    over = [one for one in held.values() if one.offer.state == OfferState.OPEN and one.offer.deadline_at <= now]
    missed = [Ending(one, OfferState.EXPIRED, "not answered in time", remembered=True, missed=True) for one in over]
    await offer_ends.end_all(tx, missed, now=now)


async def _offer(tx: Tx, offer_id: str, now: datetime) -> None:
    await expire(tx, [offer_id], now=now)


async def _accept(tx: Tx, offer_id: str, now: datetime) -> None:
    """Accepted, but customer and agent did not come together in time: nobody's fault."""
    offer, entry = await _held_offer(tx, offer_id)
    if offer.state == OfferState.ACCEPTING and offer.deadline_at <= now:
        interaction = await interactions.get(tx, entry.interaction_id)
        await talks.fail_accept(tx, interaction, entry, reason="the connection did not come about in time", now=now)


async def _wrapup(tx: Tx, entry_id: str, now: datetime) -> None:
    entry = await entries.lock(tx, entry_id)
    if entry.state == EntryState.WRAPUP and entry.wrapup_until is not None and entry.wrapup_until <= now:
        await desk.close_wrapup(tx, entry, now=now)


async def _grace(tx: Tx, entry_id: str, now: datetime) -> None:
    """The agent's leg did not come, or did not come back."""
    entry = await entries.lock(tx, entry_id)
    if entry.state != EntryState.CONNECTED or entry.grace_until is None or entry.grace_until > now:
        return
    call = await call_of(tx, entry)
    if call is None:
        await entries.note(tx, entry, now=now, grace_until=None)
    elif talks.dialing(call):
        await talks.unreached(tx, call, entry, now=now, reason="failed", failed=not call.data.get("placed"))
    else:
        await talks.rescue(tx, call, entry, now=now)


async def call_of(tx: Tx, entry: QueueEntry) -> Interaction | None:
    """The call that goes on within this work, if any."""
    found = [
        each for each in await interactions.list_entry(tx, entry.id) if "room" in each.data and each.state in UNDER_WAY
    ]
    return found[-1] if found else None


async def _callback(tx: Tx, callback_id: str, now: datetime) -> None:
    """A promise falls due: gate and opening hours first, then before the agents."""
    callback = await callbacks.lock(tx, callback_id)
    if callback.state != CallbackState.REQUESTED or callback.due_at > now:
        return
    queue = await queues.get(tx, callback.queue_id)
    number = find_phone(callback.number_e164)
    if number is None:
        await callbacks.advance(tx, callback, CallbackState.BLOCKED, now=now, rule="number")
        return
    contact = await contacts.find(tx, callback.contact_id) if callback.contact_id else None
    verdict = await may_contact(
        tx, purpose=Purpose.REQUESTED_CALLBACK, channel="voice", address=number, now=now, contact=contact,
        sender=callback.account_id, spend=False,
    )  # fmt: skip
    opens = hours.next_open(await hours.find(tx, queue.hours_id), now)
    if not verdict.allowed and verdict.rule in gate.PERMANENT:
        await callbacks.advance(tx, callback, CallbackState.BLOCKED, now=now, rule=verdict.rule)
    elif not verdict.allowed or opens is None or opens > now:
        later = verdict.until or opens or now + timedelta(days=1)
        await tx.run(
            update(callbacks.Callback)
            .where(col(callbacks.Callback.id) == callback.id, col(callbacks.Callback.version) == callback.version)
            .values(due_at=max(later, now + timedelta(minutes=1)), version=callback.version + 1)
        )
    else:
        await callbacks.make_due(tx, callback, now=now)


async def _lost(tx: Tx, user_id: str, now: datetime) -> None:
    """No heartbeat for half a minute: offers go back without blame, no new ones come; a call that goes on goes on."""
    seen = await agents.find(tx, user_id)
    if seen is None or seen.activity != Activity.AVAILABLE or _fresh(seen, now, FRESH):
        return
    await offer_ends.withdraw_open(tx, user_id, reason="the agent's tab does not answer", now=now)
    agent = await agents.lock(tx, user_id)
    if agent.activity == Activity.AVAILABLE and not _fresh(agent, now, FRESH):
        await agents.change(tx, agent, now=now, by="system", activity=Activity.NOT_RESPONDING, reason=LOST)


def _fresh(agent: agents.Agent, now: datetime, age: timedelta) -> bool:
    return now - (agent.seen_at or agent.since) < age


async def _gone(tx: Tx, user_id: str, now: datetime) -> None:
    """Away for so long that the shift counts as over: undone work goes to others, at its old place."""
    seen = await agents.find(tx, user_id)
    if seen is None or seen.activity == Activity.OFFLINE:
        return
    soon = seen.reason == LOST or seen.next_activity == Activity.OFFLINE
    age = OFFLINE_AFTER if soon else 12 * OFFLINE_AFTER
    if _fresh(seen, now, age):
        return
    for held in await entries.list_held(tx, user_id):
        entry = await entries.lock(tx, held.id)
        idle = entry.state == EntryState.CONNECTED and entry.lane == Lane.LIVE and entry.agent_id == user_id
        if idle and await call_of(tx, entry) is None:
            if entry.kind == "outbound":
                await entries.close(tx, entry, outcome=interactions.Outcome.HANDLED, now=now)
                continue
            await entries.put_back(tx, entry, now=now)
            if entry.callback_id is not None:
                await callbacks.released(tx, entry.callback_id, entry_id=entry.id, now=now)
    await desk.set_activity(tx, user_id, Activity.OFFLINE, reason=seen.reason, cause="system", now=now)


async def _alone(tx: Tx, room_id: str, now: datetime) -> None:
    """One party sits alone. An agent's empty room is ended; a customer is never dropped here but brought back to the queue."""
    seen = await tx.one(select(CallRoom).where(CallRoom.id == room_id))
    if seen is None:
        return
    interaction, entry = await talks.open_call(tx, seen.interaction_id)
    room = await tx.one(select(CallRoom).where(CallRoom.id == room_id).with_for_update())
    if room is None or room.ended_at is not None or room.alone_since is None or room.alone_since + ALONE > now:
        return
    dialing = talks.dialing(interaction)
    kept = entry is not None and entry.state == EntryState.CONNECTED and entry.grace_until is not None
    again: datetime | None = now
    if rooms.present(room, LegRole.CUSTOMER) and interaction.state in (
        InteractionState.WAITING,
        InteractionState.OFFERED,
    ):
        if entry is not None and not dialing:
            await talks.ask_move(tx, interaction, entry, "retry", now=now)
    elif not dialing and not kept:
        await outbox.ask(
            tx, "room.end", interaction.id, lane="control", now=now, ordering=interaction.id,
            dedupe=f"room.end:{room.id}", room_id=room.id,
        )  # fmt: skip
        again = None
    guard = update(CallRoom).where(col(CallRoom.id) == room.id, col(CallRoom.version) == room.version)
    await tx.hit(guard.values(alone_since=again, version=room.version + 1))


async def _longest_wait(tx: Tx, entry_id: str, now: datetime) -> None:
    entry = await entries.lock(tx, entry_id)
    queue = await queues.get(tx, entry.queue_id)
    interaction = await interactions.get(tx, entry.interaction_id)
    if "room" in interaction.data and entry.entered_at + timedelta(seconds=queue.max_wait_s) <= now:
        await calls_waiting.overflow(tx, interaction, entry, now=now)


async def _snooze(tx: Tx, conversation_id: str, now: datetime) -> None:
    due = (col(Conversation.id) == conversation_id) & (col(Conversation.state) == ConversationState.SNOOZED)
    if not await tx.run(
        update(Conversation)
        .where(due, col(Conversation.snoozed_until) <= now)
        .values(state=ConversationState.OPEN, snoozed_until=None)
    ):
        return
    conversation = await conversations.get(tx, conversation_id)
    await conversations.change(tx, conversation, now=now, event="conversation.changed")


APPLY: dict[str, Callable[[Tx, str, datetime], Awaitable[None]]] = {
    "offer": _offer,
    "accept": _accept,
    "wrapup": _wrapup,
    "grace": _grace,
    "callback": _callback,
    "lost": _lost,
    "gone": _gone,
    "alone": _alone,
    "longest_wait": _longest_wait,
    "snooze": _snooze,
}


async def apply(tx: Tx, timer: Timer, *, now: datetime) -> None:
    """Do what this timer stands for, if it still stands."""
    try:
        await APPLY[timer.kind](tx, timer.id, now)
    except NotFound:
        return  # the row went meanwhile
