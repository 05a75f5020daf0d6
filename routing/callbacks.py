"""Callbacks: promises to phone somebody by a time. One ends only as reached, refused, expired after its attempts, or blocked by a
named rule; never gone.

Every promise has an interaction in state promised (the call that asked, or a line of its own on the timeline) and, once due, a
queue entry at the place that the asking call had. Retries keep that place.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import col, select

from crm_core import accounts, addresses, conversations, events, interactions
from crm_core.addresses import Address
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.errors import Conflict, IllegalTransition, Invalid, NotFound
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.statements import fixed
from crm_core.tables import Table, at, key, one_of, ref, text, word
from crm_core.touches import Direction
from routing import entries, missed, queues
from routing.missed import MissedState
from routing.queues import EntryState


class CallbackState(StrEnum):
    """Where a promise stands."""

    REQUESTED = "requested"  # not due yet
    DUE = "due"  # an entry waits for an agent
    CLAIMED = "claimed"  # an agent has it
    DIALING = "dialing"
    REACHED = "reached"
    REFUSED = "refused"  # by the customer
    EXPIRED = "expired"  # attempts used up
    BLOCKED = "blocked"  # by a named rule


_OPEN = sql_text("state IN ('requested','due','claimed','dialing')")


class Callback(Table, table=True):
    """One promise."""

    __tablename__ = "callbacks"
    __table_args__ = (
        one_of("state", CallbackState),
        Index("uq_callbacks_open", "number_e164", "queue_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_callbacks_due", "due_at", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_callbacks_contact", "contact_id"),
        Index("ix_callbacks_interaction", "interaction_id"),
    )

    id: str = key()
    contact_id: str | None = text(default=None)
    number_e164: str = text()
    account_id: str = text()  # our number to show
    queue_id: str = ref("queues.id")
    interaction_id: str | None = text(default=None)  # the call that asked for it, in state promised
    entry_id: str | None = text(default=None)  # the present queue entry
    origin: str = text()  # in_queue, agent, form, missed
    state: CallbackState = word(CallbackState, default=CallbackState.REQUESTED)
    owner_id: str | None = text(default=None)  # personal: this agent first
    due_at: datetime = at()
    until_at: datetime | None = at(nullable=True)  # end of the promised window
    order_at: datetime = at()  # keeps the place of the call that asked
    attempts: int = 0
    max_attempts: int = 3
    rule: str = text()  # what blocked it
    note: str = text()
    created_by: str = text()
    created_at: datetime = at()
    ended_at: datetime | None = at(nullable=True)
    version: int = 1


OPEN = (CallbackState.REQUESTED, CallbackState.DUE, CallbackState.CLAIMED, CallbackState.DIALING)
_C = CallbackState
ALLOWED: dict[CallbackState, frozenset[CallbackState]] = {
    _C.REQUESTED: frozenset({_C.DUE, _C.CLAIMED, _C.REACHED, _C.REFUSED, _C.BLOCKED}),
    _C.DUE: frozenset({_C.REQUESTED, _C.CLAIMED, _C.REACHED, _C.REFUSED, _C.BLOCKED}),
    _C.CLAIMED: frozenset({_C.REQUESTED, _C.DUE, _C.DIALING, _C.REACHED, _C.REFUSED, _C.EXPIRED, _C.BLOCKED}),
    _C.DIALING: frozenset({_C.REQUESTED, _C.CLAIMED, _C.REACHED, _C.REFUSED, _C.EXPIRED}),
}
VOICE = "voice"
PERSONAL_WAIT = timedelta(minutes=5)  # a personal callback waits this long for its owner, then anybody may keep it

_LOCK = fixed(select(Callback).where(Callback.id == bindparam("id")).with_for_update())
_LIVE = fixed(
    select(Callback)
    .where(
        Callback.number_e164 == bindparam("number"),
        Callback.queue_id == bindparam("queue_id"),
        col(Callback.state).in_(OPEN),
    )
    .with_for_update()
)


async def lock(tx: Tx, callback_id: str) -> Callback:
    """The promise, held until this transaction ends; NotFound."""
    found: Callback | None = await tx.one(_LOCK, id=callback_id)
    if found is None:
        raise NotFound("There is no such callback.")
    return found


async def advance(tx: Tx, callback: Callback, to: CallbackState, *, now: datetime, **changes: Any) -> None:
    """Move a promise on, guarded by state and version. At its end the promising interaction ends too."""
    if to not in ALLOWED.get(callback.state, frozenset()):
        raise IllegalTransition(
            "A callback cannot go from %(from_text)s to %(to_text)s.", from_text=callback.state, to_text=to
        )
    if to not in OPEN:
        changes["ended_at"] = now
    values = {**changes, "state": to, "version": callback.version + 1}
    guard = update(Callback).where(
        col(Callback.id) == callback.id,
        col(Callback.version) == callback.version,
        col(Callback.state) == callback.state,
    )
    await tx.hit(guard.values(**values))
    callback.__dict__.update(values)
    await events.emit(tx, f"callback.{to}", callback.id, now=now, version=callback.version, queue_id=callback.queue_id)
    tx.wake("router")
    if to not in OPEN and callback.interaction_id is not None:
        promise = await interactions.get(tx, callback.interaction_id)
        if promise.state == InteractionState.PROMISED:
            await interactions.advance(tx, promise, InteractionState.ENDED, now=now, outcome=Outcome.CALLBACK)


async def request(
    tx: Tx,
    *,
    number: Address,
    queue_id: str,
    due_at: datetime,
    origin: str,
    now: datetime,
    account_id: str = "",
    contact_id: str | None = None,
    interaction: Interaction | None = None,
    order_at: datetime | None = None,
    owner_id: str | None = None,
    until_at: datetime | None = None,
    note: str = "",
    created_by: str = "",
    not_before: datetime | None = None,
) -> Callback:
    """Promise to phone `number`. One open promise per number and queue: a second request joins the first, at the better place.

    `interaction` is the waiting call that asks; without one the promise gets a line of its own on the timeline. Due at once: it
    enters the queue now, at `order_at`; `not_before` keeps it from being offered while the caller still hears the number.
    """
    queue = await queues.get(tx, queue_id)
    place = order_at or due_at
    known: Callback | None = await tx.one(_LIVE, number=number.value, queue_id=queue_id)
    if known is not None:
        await _join(tx, known, interaction, place=place, due_at=due_at, note=note, now=now)
        return known
    if interaction is None:
        interaction = await _promise(
            tx, number, account_id=account_id, contact_id=contact_id, queue_id=queue_id, now=now
        )
    elif interaction.state != InteractionState.PROMISED:
        await interactions.advance(tx, interaction, InteractionState.PROMISED, now=now)
    callback = Callback(
        id=new_id(now), contact_id=contact_id or interaction.contact_id, number_e164=number.value,
        account_id=account_id or interaction.account_id,
        queue_id=queue_id, interaction_id=interaction.id, origin=origin, owner_id=owner_id, due_at=due_at,
        until_at=until_at, order_at=place, max_attempts=queue.callback_max_attempts, note=note, created_by=created_by,
        created_at=now,
    )  # fmt: skip
    await tx.add(callback)
    await missed.settle(tx, number.value, MissedState.PROMISED, user_id=None, now=now, queue_id=queue_id)
    await events.emit(tx, "callback.requested", callback.id, now=now, version=1, queue_id=queue_id)
    tx.wake("router")
    if due_at <= now:
        await make_due(tx, callback, now=now, not_before=not_before)
    return callback


async def _join(
    tx: Tx,
    known: Callback,
    interaction: Interaction | None,
    *,
    place: datetime,
    due_at: datetime,
    note: str,
    now: datetime,
) -> None:
    if interaction is not None and interaction.id != known.interaction_id:
        # The promise that stands covers this call too; the call itself is over.
        if interaction.state != InteractionState.PROMISED:
            await interactions.advance(tx, interaction, InteractionState.PROMISED, now=now)
        await interactions.advance(tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.CALLBACK)
    values: dict[str, Any] = {"order_at": min(place, known.order_at), "note": note or known.note}
    if known.state == CallbackState.REQUESTED:
        values["due_at"] = min(due_at, known.due_at)
    guard = update(Callback).where(col(Callback.id) == known.id, col(Callback.version) == known.version)
    await tx.hit(guard.values(**values, version=known.version + 1))
    known.__dict__.update(values, version=known.version + 1)
    tx.wake("router")


async def _promise(
    tx: Tx, number: Address, *, account_id: str, contact_id: str | None, queue_id: str, now: datetime
) -> Interaction:
    if not account_id:
        known = await accounts.list_channel(tx, VOICE)
        fitting = [each for each in known if each.queue_id == queue_id and each.enabled] or known
        if not fitting:
            raise Invalid("There is no phone number to call from.")
        account_id = fitting[0].id
    conversation, _ = await conversations.open_thread(
        tx, channel=VOICE, account_id=account_id, thread_key=number.value, peer=number.value, now=now,
        contact_id=contact_id, queue_id=queue_id,
    )  # fmt: skip
    return await interactions.create(
        tx,
        Interaction(
            id=new_id(now), conversation_id=conversation.id, contact_id=contact_id, channel=VOICE,
            direction=Direction.OUTBOUND, account_id=account_id, to_address=number.value,
            state=InteractionState.PROMISED, queue_id=queue_id, first_arrival_at=now, created_at=now,
        ),
        now=now,
    )  # fmt: skip


async def make_due(tx: Tx, callback: Callback, *, now: datetime, not_before: datetime | None = None) -> None:
    """Put a promise before the agents, at the place of the call that asked."""
    queue = await queues.get(tx, callback.queue_id)
    promise = await interactions.get(tx, callback.interaction_id or "")
    entry = await entries.enter(
        tx, queue=queue, kind="callback", interaction=promise, now=now, order_at=callback.order_at,
        contact_id=callback.contact_id, callback_id=callback.id, preferred_agent_id=callback.owner_id,
        preferred_until=now + PERSONAL_WAIT if callback.owner_id else None, not_before=not_before,
    )  # fmt: skip
    await advance(tx, callback, CallbackState.DUE, now=now, entry_id=entry.id)


async def caller_gone(tx: Tx, interaction_id: str, *, now: datetime) -> None:
    """The caller who asked has hung up: their callback may be offered at once."""
    callback = await tx.one(
        select(Callback).where(Callback.interaction_id == interaction_id, Callback.state == CallbackState.DUE)
    )
    if callback is None or callback.entry_id is None:
        return
    entry = await entries.lock(tx, callback.entry_id)
    if entry.state == EntryState.WAITING and entry.not_before is not None:
        await entries.note(tx, entry, now=now, not_before=None)


async def claimed(tx: Tx, callback_id: str, *, agent_id: str, now: datetime) -> None:
    """An agent has it now."""
    callback = await lock(tx, callback_id)
    if callback.state != CallbackState.CLAIMED:
        await advance(tx, callback, CallbackState.CLAIMED, now=now, owner_id=callback.owner_id or agent_id)


async def released(tx: Tx, callback_id: str, *, entry_id: str | None, now: datetime) -> None:
    """Its work waits again (the agent was lost before dialing)."""
    callback = await lock(tx, callback_id)
    if callback.state == CallbackState.DIALING:
        await advance(tx, callback, CallbackState.CLAIMED, now=now)
    if callback.state == CallbackState.CLAIMED:
        await advance(tx, callback, CallbackState.DUE, now=now, entry_id=entry_id)


async def dialing(tx: Tx, callback_id: str, *, now: datetime) -> None:
    """Somebody dials: one attempt is used."""
    callback = await lock(tx, callback_id)
    await advance(tx, callback, CallbackState.DIALING, now=now, attempts=callback.attempts + 1)


async def reached(tx: Tx, callback_id: str, *, now: datetime) -> None:
    """The promise is kept."""
    callback = await lock(tx, callback_id)
    if callback.state in OPEN:
        await advance(tx, callback, CallbackState.REACHED, now=now)


async def dial_failed(tx: Tx, callback_id: str, *, now: datetime, reason: str) -> Callback:
    """Nobody answered: again after the queue's pause, or expired when the attempts are used up."""
    callback = await lock(tx, callback_id)
    if callback.state not in OPEN:
        return callback
    if callback.attempts >= callback.max_attempts:
        await advance(tx, callback, CallbackState.EXPIRED, now=now, rule=reason)
        return callback
    queue = await queues.get(tx, callback.queue_id)
    again = now + timedelta(seconds=queue.callback_retry_s)
    await advance(tx, callback, CallbackState.REQUESTED, now=now, due_at=again, entry_id=None)
    return callback


async def refused(tx: Tx, callback_id: str, *, now: datetime) -> None:
    """The customer does not want it any more. Work that still waits for it ends."""
    await _end(tx, callback_id, CallbackState.REFUSED, now=now, rule="customer")


async def blocked(tx: Tx, callback_id: str, *, rule: str, now: datetime) -> None:
    """A named rule forbids the call for good."""
    await _end(tx, callback_id, CallbackState.BLOCKED, now=now, rule=rule)


async def postpone(tx: Tx, callback_id: str, *, due_at: datetime, now: datetime) -> None:
    """Not now (a rule that time lifts, or the agent gave it back): due again at `due_at`, at the same place."""
    callback = await lock(tx, callback_id)
    if callback.state in (CallbackState.DUE, CallbackState.CLAIMED, CallbackState.DIALING):
        await advance(tx, callback, CallbackState.REQUESTED, now=now, due_at=due_at, entry_id=None)


async def _end(tx: Tx, callback_id: str, to: CallbackState, *, now: datetime, rule: str) -> None:
    # The entry first: that is the order in which everybody else takes the two locks.
    seen = await tx.one(select(Callback).where(Callback.id == callback_id))
    entry = await entries.lock(tx, seen.entry_id) if seen is not None and seen.entry_id else None
    callback = await lock(tx, callback_id)
    if callback.state not in OPEN:
        raise Conflict("This callback is over already.")
    if entry is not None and entry.state == EntryState.OFFERED:
        raise Conflict("This callback is being offered to an agent.")
    if entry is not None and entry.state == EntryState.WAITING:
        await entries.close(tx, entry, outcome=Outcome.CALLBACK, now=now)
    await advance(tx, callback, to, now=now, rule=rule)


async def kept_by_caller(tx: Tx, number_e164: str, *, now: datetime) -> None:
    """They phoned us and were answered: promises that still wait for the same number are kept with that."""
    waiting = await tx.all(
        select(Callback).where(
            Callback.number_e164 == number_e164, col(Callback.state).in_([CallbackState.REQUESTED, CallbackState.DUE])
        )
    )
    for seen in waiting:
        if seen.entry_id is not None:
            entry = await entries.lock(tx, seen.entry_id)
            if entry.state not in (EntryState.WAITING, EntryState.DONE):
                continue
            if entry.state == EntryState.WAITING:
                await entries.close(tx, entry, outcome=Outcome.CALLBACK, now=now)
        callback = await lock(tx, seen.id)
        if callback.state in (CallbackState.REQUESTED, CallbackState.DUE):
            await advance(tx, callback, CallbackState.REACHED, now=now, rule="they called us")


async def promised_to(tx: Tx, number_e164: str) -> bool:
    """Whether an open promise holds for this number, in whatever queue."""
    held = select(Callback.id).where(Callback.number_e164 == number_e164, col(Callback.state).in_(OPEN), _OPEN)
    return await tx.one(held.limit(1)) is not None


async def list_due(tx: Tx, *, now: datetime, limit: int = 100) -> list[Callback]:
    """Promises whose time has come and that wait for no agent yet."""
    return await tx.all(
        select(Callback)
        .where(Callback.state == CallbackState.REQUESTED, col(Callback.state).in_(OPEN), col(Callback.due_at) <= now)
        .order_by(col(Callback.due_at))
        .limit(limit)
    )


def is_late(row: Callback, now: datetime) -> bool:
    """An open promise whose time (or the end of its window) has passed."""
    return row.ended_at is None and (row.until_at or row.due_at) < now


def zone_of(number_e164: str, contact: Contact | None) -> str:
    """The zone that the customer lives by: of their card, else of their number when there is only one; empty when unknown."""
    if contact is not None and contact.zone:
        return contact.zone
    found = addresses.zones(number_e164)
    return found[0] if len(found) == 1 else ""


async def list_open(tx: Tx, *, owner_id: str = "", limit: int = 200) -> list[Callback]:
    """Open promises by due time; of one owner when given."""
    statement = select(Callback).where(col(Callback.state).in_(OPEN))
    if owner_id:
        statement = statement.where(Callback.owner_id == owner_id)
    return await tx.all(statement.order_by(col(Callback.due_at)).limit(limit))


async def list_for(tx: Tx, contact_id: str) -> list[Callback]:
    """A contact's promises, latest first; at most 50."""
    return await tx.all(
        select(Callback).where(Callback.contact_id == contact_id).order_by(col(Callback.id).desc()).limit(50)
    )
