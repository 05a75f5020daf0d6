"""Who did what, written in the transaction of the act; sealed into a hash chain afterwards, in order."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, update
from sqlmodel import Field, col, func, select

from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.tables import Table, at, doc, key, text

SEAL_BATCH = 1000


class AuditEntry(Table, table=True):
    """One privileged act. `number` and `seal` are null until the sealer has chained it."""

    __tablename__ = "audit"

    id: str = key()
    at: datetime = at(index=True)
    actor_id: str = text()  # user id, `token:<id>`, or `system`
    action: str = text()  # such as user.created, contact.merged
    subject: str = text(index=True)  # kind:id
    detail: dict[str, Any] = doc()  # no secrets, no message bodies
    number: int | None = Field(default=None, sa_type=BigInteger, nullable=True, unique=True)
    seal: str | None = text(default=None)  # hex SHA-256 over the previous seal and this entry


async def record(tx: Tx, *, actor: str, action: str, subject: str, now: datetime, **detail: Any) -> None:
    """Write one entry in the caller's transaction."""
    tx.later(AuditEntry(id=new_id(now), at=now, actor_id=actor, action=action, subject=subject, detail=detail))


async def any_unsealed(tx: Tx) -> bool:
    """True when `seal` has something to do: a read that keeps the writer free."""
    return await tx.one(select(AuditEntry.id).where(col(AuditEntry.number).is_(None)).limit(1)) is not None


async def seal(tx: Tx) -> int:
    """Chain every unsealed entry, in id order; the number sealed. Run by one leased sealer every five seconds."""
    last = await tx.one(
        select(AuditEntry).where(col(AuditEntry.number).is_not(None)).order_by(col(AuditEntry.number).desc()).limit(1)
    )
    number, previous = (last.number or 0, last.seal or "") if last else (0, "")
    fresh = await tx.all(
        select(AuditEntry).where(col(AuditEntry.number).is_(None)).order_by(col(AuditEntry.id)).limit(SEAL_BATCH)
    )
    for entry in fresh:
        number += 1
        previous = chained(previous, number, entry)
        await tx.run(update(AuditEntry).where(col(AuditEntry.id) == entry.id).values(number=number, seal=previous))
    return len(fresh)


def chained(previous: str, number: int, entry: AuditEntry) -> str:
    """The seal of `entry` behind `previous`."""
    told = [previous, number, entry.id, entry.at.isoformat(), entry.actor_id, entry.action, entry.subject, entry.detail]
    return hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


async def verify(tx: Tx) -> int | None:
    """The number of the first entry whose seal is wrong or missing from the chain; None when the chain holds."""
    total = await tx.one(select(func.max(AuditEntry.number))) or 0
    previous = ""
    for start in range(0, total, SEAL_BATCH):
        window = col(AuditEntry.number).between(start + 1, start + SEAL_BATCH)
        entries = await tx.all(select(AuditEntry).where(window).order_by(col(AuditEntry.number)))
        for number, entry in enumerate(entries, start + 1):
            if entry.number != number or entry.seal != chained(previous, number, entry):
                return number
            previous = entry.seal or ""
        if len(entries) != min(SEAL_BATCH, total - start):
            return start + len(entries) + 1
    return None
