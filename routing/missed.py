"""Missed calls as work: people who phoned and reached nobody, one line per number and queue, until somebody talked with them.

A second call in vain joins the line of the first. It closes by itself: called back, called again and answered, promised a
callback; or an agent closes it with a reason. Which calls count is decided in `note`; nothing here dials.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import col, select

from crm_core import addresses, events
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.statements import fixed
from crm_core.tables import Table, at, key, one_of, ref, text, word
from crm_core.touches import Direction


class MissedState(StrEnum):
    """Where it stands, or what closed it."""

    OPEN = "open"
    CALLED_BACK = "called_back"  # we phoned, and they answered
    CALLED_AGAIN = "called_again"  # they phoned again, and were answered
    PROMISED = "promised"  # a callback holds for them now
    DISMISSED = "dismissed"  # by an agent, with a reason


OPEN_SQL = sql_text("missed_calls.state = 'open'")
_OPEN = sql_text("state = 'open'")


class MissedCall(Table, table=True):
    """One person (number) who reached nobody in one queue."""

    __tablename__ = "missed_calls"
    __table_args__ = (
        one_of("state", MissedState),
        Index("uq_missed_calls_open", "number_e164", "queue_id", unique=True,
              sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_missed_calls_interaction", "interaction_id"),
    )  # fmt: skip

    id: str = key()
    number_e164: str = text()
    queue_id: str = ref("queues.id", index=False)
    contact_id: str | None = text(default=None)
    account_id: str = text()  # the number of ours that they called
    conversation_id: str = ref("conversations.id", index=False)
    interaction_id: str = text()  # the latest call in vain
    first_at: datetime = at()
    last_at: datetime = at()
    times: int = 1  # calls in vain
    waited_s: int = 0  # in the latest
    state: MissedState = word(MissedState, default=MissedState.OPEN)
    attempts: int = 0  # our calls back that found nobody, and the present one
    tried_at: datetime | None = at(nullable=True)
    tried_by: str | None = text(default=None)
    ended_at: datetime | None = at(nullable=True)
    ended_by: str | None = text(default=None)
    reason: str = text()
    version: int = 1


MISSED = (Outcome.ABANDONED, Outcome.OVERFLOW)
TRYING = timedelta(minutes=2)  # so long a call back that began counts as going on, in the list

_OPEN_OF = fixed(
    select(MissedCall)
    .where(MissedCall.number_e164 == bindparam("number"), OPEN_SQL)
    .order_by(col(MissedCall.id))
    .limit(20)
    .with_for_update()
)
_BY_CALL = fixed(select(MissedCall.id).where(MissedCall.interaction_id == bindparam("id")).limit(1))


async def note(tx: Tx, interaction: Interaction, *, queue_id: str | None, now: datetime) -> MissedCall | None:
    """A call is over: kept as missed when it came in, its number is known, and nobody spoke with them. Once per call."""
    number = addresses.find_phone(interaction.from_address)
    in_vain = interaction.state == InteractionState.ENDED and interaction.outcome in MISSED
    if number is None or queue_id is None or interaction.direction != Direction.INBOUND or not in_vain:
        return None
    if await tx.one(_BY_CALL, id=interaction.id) is not None:
        return None
    waited = max(0, int((now - interaction.first_arrival_at).total_seconds()))
    known: MissedCall | None = next(
        (row for row in await tx.all(_OPEN_OF, number=number.value) if row.queue_id == queue_id), None
    )
    if known is not None:
        await _change(
            tx, known, now=now, times=known.times + 1, last_at=now, waited_s=waited, interaction_id=interaction.id,
            conversation_id=interaction.conversation_id, contact_id=known.contact_id or interaction.contact_id,
        )  # fmt: skip
        return known
    made = MissedCall(
        id=new_id(now), number_e164=number.value, queue_id=queue_id, contact_id=interaction.contact_id,
        account_id=interaction.account_id, conversation_id=interaction.conversation_id, interaction_id=interaction.id,
        first_at=interaction.first_arrival_at, last_at=now, waited_s=waited,
    )  # fmt: skip
    await tx.add(made)
    await events.emit(tx, "missed.changed", made.id, now=now, version=1, queue_id=queue_id)
    return made


async def _change(tx: Tx, row: MissedCall, *, now: datetime, **values: Any) -> None:
    guard = update(MissedCall).where(col(MissedCall.id) == row.id, col(MissedCall.version) == row.version)
    await tx.hit(guard.values(**values, version=row.version + 1))
    row.__dict__.update(values, version=row.version + 1)
    await events.emit(tx, "missed.changed", row.id, now=now, version=row.version, queue_id=row.queue_id)


async def tried(tx: Tx, number_e164: str, *, user_id: str, now: datetime) -> None:
    """Somebody dials this number: shown in the list, so that nobody dials it beside them."""
    for row in await tx.all(_OPEN_OF, number=number_e164):
        await _change(tx, row, now=now, attempts=row.attempts + 1, tried_at=now, tried_by=user_id)


async def settle(
    tx: Tx, number_e164: str, to: MissedState, *, user_id: str | None, now: datetime, queue_id: str = ""
) -> None:
    """They were reached (or are promised a call): every open line of this number closes; of one queue when given."""
    for row in await tx.all(_OPEN_OF, number=number_e164):
        if not queue_id or row.queue_id == queue_id:
            await _change(tx, row, now=now, state=to, ended_at=now, ended_by=user_id)


async def was_answered(tx: Tx, interaction_id: str, *, user_id: str, now: datetime) -> None:
    """What was reported late says that this call was answered: its line closes, unless they also called in vain before."""
    of_call = select(MissedCall).where(
        MissedCall.interaction_id == interaction_id, MissedCall.state == MissedState.OPEN, MissedCall.times == 1
    )
    for row in await tx.all(of_call.with_for_update()):
        await _change(tx, row, now=now, state=MissedState.CALLED_AGAIN, ended_at=now, ended_by=user_id)


async def get(tx: Tx, missed_id: str) -> MissedCall:
    """The line, or NotFound."""
    found: MissedCall | None = await tx.one(select(MissedCall).where(MissedCall.id == missed_id))
    if found is None:
        raise NotFound("There is no such missed call.")
    return found


async def dismiss(tx: Tx, missed_id: str, *, user_id: str, reason: str, now: datetime) -> MissedCall:
    """Nobody needs to call back, and why. Conflict when it is closed already."""
    if not reason.strip():
        raise Invalid("Say why nobody calls back.", fields={"reason": "Give a reason."})
    row = await get(tx, missed_id)
    if row.state != MissedState.OPEN:
        raise Conflict("This missed call is closed already.")
    await _change(
        tx, row, now=now, state=MissedState.DISMISSED, ended_at=now, ended_by=user_id, reason=reason.strip()[:200]
    )
    return row


async def list_open(tx: Tx, *, queue_ids: frozenset[str] | None, limit: int = 200) -> list[MissedCall]:
    """Open lines, longest ago first; of these queues (None = all)."""
    statement = select(MissedCall).where(OPEN_SQL)
    if queue_ids is not None:
        statement = statement.where(col(MissedCall.queue_id).in_(sorted(queue_ids)))
    return await tx.all(statement.order_by(col(MissedCall.first_at), col(MissedCall.id)).limit(limit))


async def list_ended(
    tx: Tx, *, queue_ids: frozenset[str] | None, before: str = "", limit: int = 100
) -> list[MissedCall]:
    """Closed lines, newest first, from below the id `before`; of these queues (None = all)."""
    statement = select(MissedCall).where(col(MissedCall.state) != MissedState.OPEN)
    if queue_ids is not None:
        statement = statement.where(col(MissedCall.queue_id).in_(sorted(queue_ids)))
    if before:
        statement = statement.where(col(MissedCall.id) < before)
    return await tx.all(statement.order_by(col(MissedCall.id).desc()).limit(limit))
