"""Callers whom we do not take: numbers, or the beginnings of numbers, with a reason and perhaps an end."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete
from sqlmodel import Field, col, select

from crm_core import audit
from crm_core.addresses import find_phone
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.tables import Table, at, text


class BlockedCaller(Table, table=True):
    """One number in E.164."""

    __tablename__ = "blocked_callers"

    value: str = Field(primary_key=True)
    reason: str = text()
    user_id: str = text()  # who blocked it
    until_at: datetime | None = at(nullable=True)  # null: for good
    created_at: datetime = at()


async def block(
    tx: Tx, number: str, *, user_id: str, now: datetime, reason: str = "", until_at: datetime | None = None,
    country: str = "",
) -> str:  # fmt: skip
    """Refuse this number's calls from now on; the number as stored. Invalid when it is none."""
    found = find_phone(number, country=country)
    if found is None:
        raise Invalid("This is not a phone number.", fields={"value": "Give a number with its country code."})
    row = BlockedCaller(
        value=found.value, reason=reason.strip()[:200], user_id=user_id, until_at=until_at, created_at=now
    )
    await tx.put(row, unique=["value"], update=["reason", "user_id", "until_at"])
    await audit.record(tx, actor=user_id, action="caller.blocked", subject=found.value, now=now, reason=row.reason)
    return found.value


async def unblock(tx: Tx, value: str, *, user_id: str, now: datetime) -> bool:
    """Take their calls again; False when they were not blocked."""
    gone = await tx.run(delete(BlockedCaller).where(col(BlockedCaller.value) == value)) == 1
    if gone:
        await audit.record(tx, actor=user_id, action="caller.unblocked", subject=value, now=now)
    return gone


async def list_all(tx: Tx) -> list[BlockedCaller]:
    """Blocked callers, newest first; at most 500."""
    return await tx.all(select(BlockedCaller).order_by(col(BlockedCaller.created_at).desc()).limit(500))
