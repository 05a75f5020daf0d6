"""What happens to a piece of work: entering a queue, put back, handed on, wrapped up, closed. Offers: offering.py.

Each step is a guarded update of the entry, which the unit holds, and in the same transaction the agent's load, the offer and
the interactions it stands for, so that no commit shows them apart. Lock order on PostgreSQL: entry, then agent; interactions
follow their entry. Decides nothing about who gets what (core.py) or what a caller hears (calls_in.py, calls_waiting.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete
from sqlmodel import and_, col, func, or_, select

from crm_core import calls, conversations, events, interactions
from crm_core.changes import among, change_held, named
from crm_core.db import Tx
from crm_core.errors import Conflict, NotFound
from crm_core.ids import new_id, new_secret
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.statements import Fixed, fixed
from crm_core.touches import Direction
from routing import agents, queues, standing
from routing.agents import Agent
from routing.queues import IS_WAITING, EntryState, EntryTrace, Lane, Queue, QueueEntry, Refusal

# What one piece of work costs an agent. Written work counts in points of text_capacity (100): four texts or five mails at
# once. A web form is live work, because it is answered by a call within seconds, and a call cannot share an agent.
LANES: dict[str, tuple[Lane, int]] = {
    "voice": (Lane.LIVE, 1),
    "callback": (Lane.LIVE, 1),
    "webform": (Lane.LIVE, 1),
    "lead": (Lane.LIVE, 1),
    "outbound": (Lane.LIVE, 1),
    "voicemail": (Lane.LIVE, 1),
    "transfer": (Lane.LIVE, 1),
    "sms": (Lane.TEXT, 25),
    "email": (Lane.TEXT, 20),
}
DEFAULT_DISPOSITION = "none"  # the code that a wrap-up gets when its time is over

_GET = fixed(select(QueueEntry).where(QueueEntry.id == bindparam("id")))
_LOCK = fixed(select(QueueEntry).where(QueueEntry.id == bindparam("id")).with_for_update())


async def get(tx: Tx, entry_id: str) -> QueueEntry:
    """The entry, or NotFound."""
    found: QueueEntry | None = await tx.one(_GET, id=entry_id)
    if found is None:
        raise NotFound("There is no such piece of work.")
    return found


async def lock(tx: Tx, entry_id: str) -> QueueEntry:
    """The entry, held until this transaction ends."""
    found: QueueEntry | None = await tx.one(_LOCK, id=entry_id)
    if found is None:
        raise NotFound("There is no such piece of work.")
    return found


@cache
def _lock_all(number: int) -> Fixed[Any]:
    these = select(QueueEntry).where(among(QueueEntry.id, "id", number))
    return fixed(these.order_by(col(QueueEntry.id)).with_for_update())


async def lock_all(tx: Tx, entry_ids: Sequence[str]) -> dict[str, QueueEntry]:
    """These entries, held in the order of their ids."""
    found: list[QueueEntry] = await tx.all(_lock_all(len(entry_ids)), **named("id", entry_ids))
    return {entry.id: entry for entry in found}


_OPEN_OF = fixed(
    select(QueueEntry)
    .where(QueueEntry.conversation_id == bindparam("conversation_id"), col(QueueEntry.state) != EntryState.DONE)
    .order_by(col(QueueEntry.id).desc())
    .limit(1)
    .with_for_update()
)


async def find_open(tx: Tx, conversation_id: str) -> QueueEntry | None:
    """The conversation's piece of work that is not done, held."""
    found: QueueEntry | None = await tx.one(_OPEN_OF, conversation_id=conversation_id)
    return found


async def enter(
    tx: Tx,
    *,
    queue: Queue,
    kind: str,
    interaction: Interaction,
    now: datetime,
    order_at: datetime | None = None,
    contact_id: str | None = None,
    callback_id: str | None = None,
    preferred_agent_id: str | None = None,
    preferred_until: datetime | None = None,
    not_before: datetime | None = None,
    skills: dict[str, int] | None = None,
    entry_id: str = "",
) -> QueueEntry:
    """A new waiting piece of work. Its order key is fixed here: first arrival less the credits, or the one given.

    `preferred_agent_id` is asked first, until `preferred_until` alone; without one the queue's own rule decides
    (standing.py).
    `entry_id`: an id made before, which the interaction carries already.
    """
    lane, weight = LANES[kind]
    arrived = interaction.first_arrival_at
    credit = queue.priority_credit_s
    owed = await standing.of(tx, queue, contact_id or interaction.contact_id, now=now)
    if owed is not None:
        credit += owed.credit_s
        if preferred_agent_id is None and owed.agent_id is not None:
            preferred_agent_id, preferred_until = owed.agent_id, now + timedelta(seconds=queue.preferred_wait_s)
    entry = QueueEntry(
        id=entry_id or new_id(now), queue_id=queue.id, kind=kind, lane=lane, weight=weight, interaction_id=interaction.id,
        conversation_id=interaction.conversation_id, contact_id=contact_id or interaction.contact_id,
        callback_id=callback_id, skills=skills or {}, preferred_agent_id=preferred_agent_id,
        preferred_until=preferred_until, order_at=order_at or arrived - timedelta(seconds=credit),
        first_arrival_at=arrived, entered_at=now, not_before=not_before,
    )  # fmt: skip
    tx.later(entry)
    await events.emit(tx, "entry.changed", entry.id, now=now, version=1, queue_id=queue.id, state=EntryState.WAITING)
    tx.wake("router")
    return entry


async def advance(tx: Tx, entry: QueueEntry, to: EntryState, *, now: datetime, **changes: Any) -> None:
    """Move work that this unit holds on to another state."""
    await advance_all(tx, [(entry, changes)], to, now=now)


async def advance_all(
    tx: Tx, changed: Sequence[tuple[QueueEntry, dict[str, Any]]], to: EntryState, *, now: datetime
) -> None:
    """`advance` for several at once, each named once; Conflict when somebody was first."""
    waited = [entry.id for entry, _ in changed if entry.state == EntryState.WAITING]
    if waited:
        await tx.run_later(_drop_traces(len(waited)), **named("id", waited))
    await change_held(tx, [(entry, {**changes, "state": to}) for entry, changes in changed])
    for entry, _ in changed:
        await events.emit(
            tx, "entry.changed", entry.id, now=now, version=entry.version, queue_id=entry.queue_id, state=to
        )  # fmt: skip
    tx.wake("router")


@cache
def _drop_traces(number: int) -> Fixed[Any]:
    return fixed(delete(EntryTrace).where(among(EntryTrace.entry_id, "id", number)))


async def note(tx: Tx, entry: QueueEntry, *, now: datetime, **changes: Any) -> None:
    """Change facts of an entry that are not its state, guarded by version."""
    values = {**changes, "version": entry.version + 1}
    if await tx.change(QueueEntry, values, id=entry.id, version=entry.version) != 1:
        raise Conflict
    entry.__dict__.update(values)
    tx.wake("router")


async def tell_moved(tx: Tx, entry: QueueEntry, *, now: datetime, left: str) -> None:
    """Work stands in another queue now: said for both, so that whoever watches either looks again."""
    for queue_id in (left, entry.queue_id):
        await events.emit(
            tx, "entry.changed", entry.id, now=now, version=entry.version, queue_id=queue_id, state=entry.state
        )  # fmt: skip


def load(entry: QueueEntry, agent: Agent, by: int) -> dict[str, Any]:
    """An agent's load with this work on top, or without it (`by` -1)."""
    if entry.lane == Lane.LIVE:
        return {"live_load": agent.live_load + by * entry.weight}
    return {"text_load": agent.text_load + by * entry.weight}


def fits(entry: QueueEntry, agent: Agent) -> bool:
    """True when the agent has room for this work."""
    if entry.lane == Lane.LIVE:
        return agent.live_load + entry.weight <= agent.live_capacity
    return agent.text_load + entry.weight <= agent.text_capacity


async def follow(
    tx: Tx, entry: QueueEntry, to: InteractionState, *, now: datetime, outcome: str = "", **changes: Any
) -> None:
    """Move what came to us and stands behind this entry along with it; ended and promised ones stay as they are."""
    standing_behind = (await interactions.hold_entries(tx, [entry.id]))[entry.id]
    await interactions.advance_held(tx, followers(standing_behind, to), to, now=now, outcome=outcome, **changes)


def followers(behind: Iterable[Interaction], to: InteractionState) -> list[Interaction]:
    """Those behind an entry which go along with it.

    A call that we made moves along once it has been transferred: from then on it waits and is offered like one that came.
    """
    return [
        one
        for one in behind
        if (one.direction == Direction.INBOUND or "transfers" in one.data)
        and to in interactions.ALLOWED[one.state]
        and one.state != InteractionState.PROMISED
    ]


async def tell_calls(
    tx: Tx,
    entry: QueueEntry,
    kind: str,
    *,
    now: datetime,
    user_id: str = "",
    key: str = "",
    fold: bool = False,
    **raw: str,
) -> None:
    """Append an event of the hub's own to the records of the entry's calls; `fold` writes the records anew."""
    behind = await interactions.list_entry(tx, entry.id)
    note_calls(tx, behind, kind, key=key or str(entry.version), user_id=user_id, now=now, raw=raw)
    if fold:
        for interaction in behind:
            if "room" in interaction.data:
                await calls.refold(tx, interaction.id)


def note_calls(
    tx: Tx, behind: Iterable[Interaction], kind: str, *, key: str, user_id: str, now: datetime,
    raw: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """Append an event of the hub's own to the records of the calls among these."""
    for interaction in behind:
        if "room" in interaction.data:
            calls.note_event(
                tx, interaction_id=interaction.id, kind=kind, raw=raw, user_id=user_id,
                event_key=f"hub:{interaction.id}:{kind}:{key}", now=now,
            )  # fmt: skip


async def take(tx: Tx, entry: QueueEntry, agent: Agent, *, now: datetime) -> None:
    """Give waiting work to an agent directly, without an offer (a follow-up, a pick). Conflict when they have no room."""
    if entry.state != EntryState.WAITING or not fits(entry, agent):
        raise Conflict("There is no room for this piece of work now.")
    await agents.change(tx, agent, now=now, **load(entry, agent, 1))
    await connected(tx, entry, agent.user_id, now=now)


async def connected(tx: Tx, entry: QueueEntry, agent_id: str, *, now: datetime) -> None:
    """The work is this agent's now: entry, interactions and conversation with it."""
    await advance(tx, entry, EntryState.CONNECTED, now=now, agent_id=agent_id, connected_at=now, grace_until=None)
    await follow(tx, entry, InteractionState.CONNECTED, now=now, agent_id=agent_id, connected_at=now)
    conversation = await conversations.get(tx, entry.conversation_id)
    if conversation.assigned_user_id != agent_id:
        await conversations.change(tx, conversation, now=now, event="conversation.assigned", assigned_user_id=agent_id)


async def put_back(tx: Tx, entry: QueueEntry, *, now: datetime, preferred_agent_id: str | None = None) -> None:
    """Connected work waits again, at its old place: the agent left, or was lost."""
    agent = await agents.lock(tx, entry.agent_id or "")
    await agents.change(tx, agent, now=now, **load(entry, agent, -1))
    await advance(
        tx, entry, EntryState.WAITING, now=now, agent_id=None, offer_id=None, grace_until=None,
        preferred_agent_id=preferred_agent_id or entry.preferred_agent_id,
    )  # fmt: skip
    await follow(tx, entry, InteractionState.WAITING, now=now)


async def hand_on(
    tx: Tx,
    entry: QueueEntry,
    *,
    queue: Queue,
    interaction: Interaction,
    now: datetime,
    not_before: datetime | None = None,
) -> None:
    """The agent gives a call away: it waits again, in this queue, with the order key that it always had, and the agent wraps up.

    The wrap-up is a piece of work of its own (kind transfer), so that the call is free for others at once.
    """
    left = await queues.get(tx, entry.queue_id)
    agent = await agents.lock(tx, entry.agent_id or "")
    freed = load(entry, agent, -1)
    if left.wrapup_s > 0:
        wrapup = QueueEntry(
            id=new_id(now), queue_id=left.id, kind="transfer", lane=Lane.LIVE, weight=1, interaction_id=interaction.id,
            conversation_id=entry.conversation_id, contact_id=entry.contact_id, state=EntryState.WRAPUP,
            order_at=entry.order_at, first_arrival_at=entry.first_arrival_at, entered_at=now, agent_id=agent.user_id,
            connected_at=entry.connected_at, left_at=now, wrapup_until=now + timedelta(seconds=left.wrapup_s),
        )  # fmt: skip
        await tx.add(wrapup)
        freed["wrapups"] = agent.wrapups + 1
        await events.emit(tx, "entry.changed", wrapup.id, now=now, version=1, queue_id=left.id, state=EntryState.WRAPUP)
    else:
        freed["idle_since"] = now
    await agents.change(tx, agent, now=now, **freed)
    memory = Refusal(entry_id=entry.id, agent_id=agent.user_id, until=now + timedelta(minutes=5))
    await tx.put(memory, unique=["entry_id", "agent_id"], update=["until"], add=["times"])
    await advance(
        tx, entry, EntryState.WAITING, now=now, agent_id=None, offer_id=None, grace_until=None, wrapup_until=None,
        connected_at=None, queue_id=queue.id, entered_at=now, kind="voice", interaction_id=interaction.id,
        preferred_agent_id=None, preferred_until=None, not_before=not_before,
    )  # fmt: skip
    await follow(tx, entry, InteractionState.WAITING, now=now, queue_id=queue.id)


async def to_wrapup(tx: Tx, entry: QueueEntry, *, now: datetime) -> None:
    """The talk is over. Live work is wrapped up for as long as its queue says; without such a time it closes at once."""
    queue = await queues.get(tx, entry.queue_id)
    if queue.wrapup_s <= 0:
        await close(tx, entry, outcome=Outcome.HANDLED, now=now, disposition=DEFAULT_DISPOSITION)
        return
    agent = await agents.lock(tx, entry.agent_id or "")
    await agents.change(tx, agent, now=now, **load(entry, agent, -1), wrapups=agent.wrapups + 1)
    await advance(
        tx, entry, EntryState.WRAPUP, now=now, left_at=now, wrapup_until=now + timedelta(seconds=queue.wrapup_s),
        grace_until=None,
    )  # fmt: skip
    await follow(tx, entry, InteractionState.WRAPUP, now=now, left_at=now)
    await tell_calls(tx, entry, "wrapup", now=now, user_id=agent.user_id, fold=True)


async def close(
    tx: Tx, entry: QueueEntry, *, outcome: Outcome, now: datetime, disposition: str = "", notes: str = ""
) -> None:
    """The work is over, from whatever state without a live offer; the agent's room is free again."""
    if entry.state == EntryState.OFFERED:
        raise Conflict("This work is being offered.")
    if entry.state in (EntryState.CONNECTED, EntryState.WRAPUP):
        agent = await agents.lock(tx, entry.agent_id or "")
        freed: dict[str, Any] = (
            {"wrapups": agent.wrapups - 1} if entry.state == EntryState.WRAPUP else load(entry, agent, -1)
        )
        idle: dict[str, Any] = {"idle_since": now} if entry.lane == Lane.LIVE else {}
        await agents.change(tx, agent, now=now, **freed, **idle)
    chosen: dict[str, Any] = {}
    if disposition:
        chosen["disposition"] = disposition
    if notes:
        chosen["notes"] = notes
    await tell_calls(tx, entry, "disposed", now=now, user_id=entry.agent_id or "", fold=True, disposition=disposition)
    await advance(
        tx, entry, EntryState.DONE, now=now, outcome=str(outcome), left_at=entry.left_at or now, wrapup_until=None,
        grace_until=None,
    )  # fmt: skip
    await follow(tx, entry, InteractionState.ENDED, now=now, outcome=outcome, **chosen)


def ahead_of(entry: QueueEntry) -> Any:
    """Condition: waits in the same queue before this entry."""
    earlier = or_(
        col(QueueEntry.order_at) < entry.order_at,
        (col(QueueEntry.order_at) == entry.order_at) & (col(QueueEntry.id) < entry.id),
    )
    return and_(col(QueueEntry.queue_id) == entry.queue_id, IS_WAITING, earlier)


async def position(tx: Tx, entry: QueueEntry) -> int:
    """The place in the queue, counted from our rows, from 1; live and written work wait in separate lanes."""
    lane = col(QueueEntry.lane) == entry.lane
    return int(await tx.one(select(func.count()).select_from(QueueEntry).where(ahead_of(entry), lane)) or 0) + 1


_WAITS = fixed(
    select(QueueEntry.entered_at, QueueEntry.connected_at)
    .where(
        QueueEntry.queue_id == bindparam("queue_id"),
        col(QueueEntry.connected_at) > bindparam("since"),
        QueueEntry.kind == "voice",
    )
    .order_by(col(QueueEntry.connected_at).desc())
    .limit(20)
)


async def estimate_s(tx: Tx, queue_id: str, *, now: datetime) -> float | None:
    """How long four of five callers waited lately (the last hour's latest twenty), or None when fewer than five are known."""
    rows = await tx.all(_WAITS, queue_id=queue_id, since=now - timedelta(hours=1))
    waits = sorted((connected - entered).total_seconds() for entered, connected in rows)
    return waits[int(len(waits) * 0.8)] if len(waits) >= 5 else None


async def list_waiting(tx: Tx, queue_id: str, *, limit: int = 200) -> list[QueueEntry]:
    """What waits in a queue, in order."""
    return await tx.all(
        select(QueueEntry)
        .where(QueueEntry.queue_id == queue_id, IS_WAITING)
        .order_by(col(QueueEntry.order_at), col(QueueEntry.id))
        .limit(limit)
    )


async def list_held(tx: Tx, agent_id: str) -> list[QueueEntry]:
    """An agent's work that is not done, oldest first; at most 100."""
    return await tx.all(
        select(QueueEntry)
        .where(QueueEntry.agent_id == agent_id, col(QueueEntry.state) != EntryState.DONE)
        .order_by(col(QueueEntry.id))
        .limit(100)
    )


def fresh_nonce() -> str:
    """What proves that a browser's call belongs to this accept or dial."""
    return new_secret(128)
