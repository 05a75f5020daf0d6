"""Effects still to be made: rows written in the transaction that caused them, claimed by a lease, executed outside of any.

States: pending → claimed → done | failed | unknown. `unknown` = the call may have happened: it is examined, never
repeated blindly.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import col, or_, select

from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, key, one_of, text, word

TOPIC = "outbox"
LEASE_S = 60


class OutboxState(StrEnum):
    """Where an effect stands."""

    PENDING = "pending"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


_OPEN = sql_text("state IN ('pending','claimed')")
_ORDERED = sql_text("state IN ('pending','claimed') AND ordering <> ''")


class OutboxTask(Table, table=True):
    """One effect to make. Tasks of one `ordering` run one after another, in id order."""

    __tablename__ = "outbox"
    __table_args__ = (
        one_of("state", OutboxState),
        Index(
            "ix_outbox_due",
            "lane",
            "due_at",
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        ),
        Index("ix_outbox_ordering", "ordering", "id", sqlite_where=_ORDERED, postgresql_where=_ORDERED),
    )

    id: str = key()
    lane: str = text()  # control (calls), reply (agents' messages), notice (webhooks out, mails of the hub)
    kind: str = text()  # verb the executor knows: call.move, message.send …
    subject_id: str = text(index=True)
    ordering: str = text()  # empty: no order promised
    payload: dict[str, Any] = doc()
    dedupe: str | None = text(default=None, unique=True)  # the same effect asked for twice is one row
    state: OutboxState = word(OutboxState, default=OutboxState.PENDING)
    due_at: datetime = at()
    attempts: int = 0
    token: int = 0  # fencing: rises with every claim
    lease_until: datetime | None = at(nullable=True)
    error: str = text()
    created_at: datetime = at()
    done_at: datetime | None = at(nullable=True)


async def ask(
    tx: Tx,
    kind: str,
    subject_id: str,
    *,
    lane: str,
    now: datetime,
    due_at: datetime | None = None,
    ordering: str = "",
    dedupe: str | None = None,
    **payload: Any,
) -> bool:
    """Ask for one effect with this transaction; False when the same `dedupe` was asked for before."""
    task = OutboxTask(
        id=new_id(now),
        lane=lane,
        kind=kind,
        subject_id=subject_id,
        ordering=ordering,
        payload=payload,
        dedupe=dedupe,
        due_at=due_at or now,
        created_at=now,
    )
    tx.wake(TOPIC)
    if dedupe is None:
        tx.later(task)
        return True
    return await tx.add_new(task, unique=["dedupe"])


_DUE = fixed(
    select(OutboxTask)
    .where(
        OutboxTask.lane == bindparam("lane"),
        col(OutboxTask.state).in_([OutboxState.PENDING, OutboxState.CLAIMED]),
        OutboxTask.due_at <= bindparam("now"),
    )
    .order_by(col(OutboxTask.due_at), col(OutboxTask.id))
    .limit(200)
)


_BEFORE = fixed(
    select(OutboxTask.id)
    .where(
        OutboxTask.ordering == bindparam("ordering"),
        OutboxTask.id < bindparam("before"),
        col(OutboxTask.state).in_([OutboxState.PENDING, OutboxState.CLAIMED]),
    )
    .limit(1)
)
_ANY = fixed(
    select(OutboxTask.id)
    .where(
        OutboxTask.lane == bindparam("lane"),
        col(OutboxTask.state).in_([OutboxState.PENDING, OutboxState.CLAIMED]),
        OutboxTask.due_at <= bindparam("now"),
        or_(OutboxTask.state == OutboxState.PENDING, col(OutboxTask.lease_until) <= bindparam("now")),
    )
    .limit(1)
)


async def any_due(tx: Tx, *, lane: str, now: datetime) -> bool:
    """True when `claim` may find something: a read that keeps the writer free."""
    return await tx.one(_ANY, lane=lane, now=now) is not None


async def claim(tx: Tx, *, lane: str, now: datetime, limit: int = 20) -> tuple[list[OutboxTask], list[OutboxTask]]:
    """Claim due tasks of a lane for one minute.

    Returns (to execute, doubtful): doubtful tasks were claimed by somebody whose lease ran out in the middle of the call;
    the executor decides by kind whether to repeat (idempotent calls) or to mark `unknown`. Rows are not locked while they
    are looked at: the guarded update decides, and whoever loses it has still seen that the ordering is busy.
    """
    ready: list[OutboxTask] = []
    doubtful: list[OutboxTask] = []
    busy: set[str] = set()
    for task in await tx.all(_DUE, lane=lane, now=now):
        if task.state == OutboxState.CLAIMED and task.lease_until is not None and task.lease_until > now:
            busy.add(task.ordering)
            continue
        if task.ordering and (task.ordering in busy or await tx.one(_BEFORE, ordering=task.ordering, before=task.id)):
            # An older one is under way, or rests until its next try: this one does not overtake it.
            continue
        busy.add(task.ordering)
        if len(ready) + len(doubtful) >= limit:
            break
        values = {
            "state": OutboxState.CLAIMED,
            "token": task.token + 1,
            "attempts": task.attempts + 1,
            "lease_until": now + timedelta(seconds=LEASE_S),
        }
        guard = update(OutboxTask).where(col(OutboxTask.id) == task.id, col(OutboxTask.token) == task.token)
        if await tx.run(guard.values(**values)) == 1:
            (ready if task.state == OutboxState.PENDING else doubtful).append(task)
            task.__dict__.update(values)
    return ready, doubtful


AHEAD = timedelta(seconds=60)


async def heal_clock(tx: Tx, *, now: datetime) -> int:
    """The clock was set back: what was asked for or claimed in what is now the future is due now; how many."""
    asked = update(OutboxTask).where(_OPEN, col(OutboxTask.created_at) > now + AHEAD, col(OutboxTask.due_at) > now)
    claimed = update(OutboxTask).where(
        _OPEN, col(OutboxTask.lease_until) > now + timedelta(seconds=LEASE_S) + AHEAD
    )  # its call may have happened: the next claim finds it doubtful
    healed = await tx.run(asked.values(due_at=now)) + await tx.run(claimed.values(lease_until=now))
    if healed:
        tx.wake(TOPIC)
    return healed


async def any_ahead(tx: Tx, *, now: datetime) -> bool:
    """True when `heal_clock` has something to do: a read that keeps the writer free."""
    ahead = or_(
        col(OutboxTask.created_at) > now + AHEAD,
        col(OutboxTask.lease_until) > now + timedelta(seconds=LEASE_S) + AHEAD,
    )
    return await tx.one(select(OutboxTask.id).where(_OPEN, ahead).limit(1)) is not None


async def finish(tx: Tx, task: OutboxTask, state: OutboxState, *, now: datetime, error: str = "") -> bool:
    """Close a claimed task; False when the lease was lost meanwhile, and then nothing is written."""
    guard = update(OutboxTask).where(
        col(OutboxTask.id) == task.id, col(OutboxTask.token) == task.token, col(OutboxTask.state) == OutboxState.CLAIMED
    )
    tx.wake(TOPIC)
    return await tx.run(guard.values(state=state, done_at=now, error=error, lease_until=None)) == 1


async def retry(tx: Tx, task: OutboxTask, *, due_at: datetime, error: str) -> bool:
    """Put a claimed task back for later; False when the lease was lost."""
    guard = update(OutboxTask).where(
        col(OutboxTask.id) == task.id, col(OutboxTask.token) == task.token, col(OutboxTask.state) == OutboxState.CLAIMED
    )
    return await tx.run(guard.values(state=OutboxState.PENDING, due_at=due_at, error=error, lease_until=None)) == 1


async def list_unfinished(tx: Tx, subject_ids: Sequence[str]) -> list[OutboxTask]:
    """Tasks of these subjects that are not done, oldest first."""
    open_states = [OutboxState.PENDING, OutboxState.CLAIMED, OutboxState.UNKNOWN, OutboxState.FAILED]
    return await tx.all(
        select(OutboxTask)
        .where(col(OutboxTask.subject_id).in_(subject_ids), col(OutboxTask.state).in_(open_states))
        .order_by(col(OutboxTask.id))
    )
