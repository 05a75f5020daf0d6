"""What happened, for screens, webhooks out and reactions: rows written with the change, numbered later in commit order.

An event carries ids and versions, never content: whoever hears it reads the present state through their own rights.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import Field, col, select

from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, key, text

TOPIC = "events"


class Event(Table, table=True):
    """One change. `seq` is null until the leased publisher has numbered it."""

    __tablename__ = "events"
    __table_args__ = (
        Index(
            "ix_events_unnumbered", "id", sqlite_where=sql_text("seq IS NULL"), postgresql_where=sql_text("seq IS NULL")
        ),
        Index(  # of those that have one: every event is written without
            "uq_events_numbered", "seq", unique=True,
            sqlite_where=sql_text("seq IS NOT NULL"), postgresql_where=sql_text("seq IS NOT NULL"),
        ),
    )  # fmt: skip

    id: str = key()
    seq: int | None = Field(default=None, sa_type=BigInteger, nullable=True)
    kind: str = text()  # noun.verb in the past: offer.opened, interaction.connected
    subject_id: str = text()
    version: int = 0  # of the subject after the change
    user_id: str | None = text(default=None)  # set: for this user only
    queue_id: str | None = text(default=None)  # set: for those who serve or supervise this queue
    data: dict[str, Any] = doc()  # ids and small words only
    created_at: datetime = at()


async def emit(
    tx: Tx,
    kind: str,
    subject_id: str,
    *,
    now: datetime,
    version: int = 0,
    user_id: str | None = None,
    queue_id: str | None = None,
    **data: Any,
) -> None:
    """Write one event in the caller's transaction and wake the publisher after its commit."""
    tx.later(
        Event(
            id=new_id(now),
            kind=kind,
            subject_id=subject_id,
            version=version,
            user_id=user_id,
            queue_id=queue_id,
            data=data,
            created_at=now,
        )
    )
    tx.wake(TOPIC)


_UNNUMBERED = fixed(select(Event).where(col(Event.seq).is_(None)).order_by(col(Event.id)).limit(500))
_LAST = fixed(select(Event.seq).where(col(Event.seq).is_not(None)).order_by(col(Event.seq).desc()).limit(1))
_NUMBER = fixed(
    update(Event)
    .where(col(Event.id) == bindparam("event_id"), col(Event.seq).is_(None))
    .values(seq=bindparam("number"))
)


async def number_new(tx: Tx) -> list[Event]:
    """Number up to 500 committed events in order and give them back; only the leased publisher calls this."""
    fresh: list[Event] = await tx.all(_UNNUMBERED)
    if not fresh:
        return []
    last = await tx.one(_LAST) or 0
    for number, event in enumerate(fresh, last + 1):
        await tx.hit(_NUMBER, event_id=event.id, number=number)
        event.__dict__["seq"] = number
    return fresh


_ANY = fixed(select(Event.id).where(col(Event.seq).is_(None)).limit(1))


async def any_unnumbered(tx: Tx) -> bool:
    """True when `number_new` has something to do: a read that keeps the writer free."""
    return await tx.one(_ANY) is not None


async def last_number(tx: Tx) -> int:
    """The highest number given so far; 0 before the first."""
    return await tx.one(_LAST) or 0


async def list_since(tx: Tx, seq: int, *, limit: int = 1000) -> list[Event]:
    """Numbered events after `seq`, oldest first."""
    return await tx.all(select(Event).where(col(Event.seq) > seq).order_by(col(Event.seq)).limit(limit))
