"""Leases with a fencing token: who may do a singleton's work now (the router, a mailbox poller, the publisher)."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import update
from sqlmodel import Field, col, or_, select

from crm_core.db import Tx
from crm_core.tables import Table, at, text


class Lease(Table, table=True):
    """One named singleton. `token` rises with every new holder; a write by the holder quotes it."""

    __tablename__ = "leases"

    name: str = Field(primary_key=True)
    holder: str = text()
    token: int = 0
    expires_at: datetime = at()


AHEAD_S = 60.0  # a lease that ends later than this after its time to live was written by a clock that has been set back


async def take(tx: Tx, name: str, *, holder: str, now: datetime, ttl_s: float) -> int | None:
    """Take or renew the lease; its token, or None while somebody else holds it.

    When the clock was set back, a dead holder's lease would end hours from now: it counts as ended. Should its holder live, it
    has lost it, and its token says so.
    """
    until = now + timedelta(seconds=ttl_s)
    if await tx.add_new(Lease(name=name, holder=holder, token=1, expires_at=until), unique=["name"]):
        return 1
    mine = update(Lease).where(col(Lease.name) == name, col(Lease.holder) == holder, col(Lease.expires_at) > now)
    if await tx.run(mine.values(expires_at=until)) == 0:
        over = or_(
            col(Lease.expires_at) <= now,
            col(Lease.holder) == "",
            col(Lease.expires_at) > until + timedelta(seconds=AHEAD_S),
        )
        free = update(Lease).where(col(Lease.name) == name, over)
        if await tx.run(free.values(holder=holder, token=Lease.token + 1, expires_at=until)) == 0:
            return None
    token: int | None = await tx.one(select(Lease.token).where(Lease.name == name, Lease.holder == holder))
    return token


async def release(tx: Tx, name: str, *, holder: str, now: datetime) -> None:
    """Give the lease up, so that another takes over at once."""
    await tx.run(
        update(Lease).where(col(Lease.name) == name, col(Lease.holder) == holder).values(holder="", expires_at=now)
    )


async def holds(tx: Tx, name: str, *, token: int) -> bool:
    """True while nobody newer has taken over: quote it in the transaction that acts on the lease."""
    return await tx.one(select(Lease.token).where(Lease.name == name)) == token
