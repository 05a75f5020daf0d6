"""Senders of mail that nobody wants to read: addresses and whole domains. Their mail is kept as spam, never offered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, delete
from sqlmodel import Field, col, or_, select

from crm_core import audit
from crm_core.addresses import find_email
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.statements import fixed
from crm_core.tables import Table, at, text


class BlockedSender(Table, table=True):
    """One address, or one domain as `@example.com` (without its subdomains)."""

    __tablename__ = "blocked_senders"

    value: str = Field(primary_key=True)
    user_id: str = text()  # who blocked it
    created_at: datetime = at()


def normal(value: str) -> str:
    """The address or `@domain` as it is stored; Invalid when it is neither."""
    given = value.strip().lower()
    found = find_email(f"x{given}" if given.startswith("@") else given)
    if found is None:
        raise Invalid("Give a mail address, or a domain such as @example.com.", fields={"value": "This is neither."})
    return found.value[1:] if given.startswith("@") else found.value


async def block(tx: Tx, value: str, *, user_id: str, now: datetime) -> str:
    """Block an address or domain; what is stored. Blocking it again changes nothing."""
    stored = normal(value)
    if await tx.one(select(BlockedSender.value).where(BlockedSender.value == stored)) is None:
        await tx.put(BlockedSender(value=stored, user_id=user_id, created_at=now), unique=["value"], update=["user_id"])
        await audit.record(tx, actor=user_id, action="sender.blocked", subject=stored, now=now)
    return stored


async def unblock(tx: Tx, value: str, *, user_id: str, now: datetime) -> bool:
    """Take their mail again from now on; False when it was not blocked."""
    gone = await tx.run(delete(BlockedSender).where(col(BlockedSender.value) == value)) == 1
    if gone:
        await audit.record(tx, actor=user_id, action="sender.unblocked", subject=value, now=now)
    return gone


_BLOCKED = fixed(
    select(BlockedSender.value)
    .where(or_(BlockedSender.value == bindparam("address"), BlockedSender.value == bindparam("domain")))
    .limit(1)
)


async def is_blocked(tx: Tx, address: str) -> bool:
    """Whether this address or its domain is blocked."""
    lowered = address.lower()
    return await tx.one(_BLOCKED, address=lowered, domain=f"@{lowered.rpartition('@')[2]}") is not None


_AMONG = fixed(select(BlockedSender.value).where(col(BlockedSender.value).in_(bindparam("values", expanding=True))))


async def list_among(tx: Tx, values: Sequence[str]) -> set[str]:
    """Those of these addresses and @domains, in lower case, that are blocked."""
    return set(await tx.all(_AMONG, values=values)) if values else set()


async def list_blocked(tx: Tx, *, after: str = "", limit: int = 100) -> list[BlockedSender]:
    """Blocked addresses and domains in order, from behind `after`."""
    statement = select(BlockedSender).where(col(BlockedSender.value) > after).order_by(col(BlockedSender.value))
    return await tx.all(statement.limit(min(limit, 200)))
