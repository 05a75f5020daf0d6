"""What an administrator may set about channel accounts and dispositions. Each change leaves an audit entry."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from crm_core import accounts, audit
from crm_core.accounts import ChannelAccount
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.interactions import Disposition

ACCOUNT_FIELDS = frozenset({"name", "queue_id", "flow_id", "enabled"})
SCOPES = ("", "queue", "list")


async def edit_account(
    tx: Tx, account_id: str, *, version: int, actor: str, now: datetime, **changes: Any
) -> ChannelAccount:
    """Change a number, mailbox or form that still has this version; its address and secrets are not changed here."""
    unknown = changes.keys() - ACCOUNT_FIELDS
    if unknown:
        raise Invalid(f"An account has no field {', '.join(sorted(unknown))}.")
    if not changes.get("enabled", True):
        changes["off_reason"] = "Switched off by an administrator."
    elif "enabled" in changes:
        changes["off_reason"] = ""
    guard = update(ChannelAccount).where(col(ChannelAccount.id) == account_id, col(ChannelAccount.version) == version)
    if await tx.run(guard.values(**changes, version=version + 1)) != 1:
        raise Conflict("Somebody changed this account meanwhile.")
    await audit.record(tx, actor=actor, action="account.changed", subject=f"account:{account_id}", now=now, **changes)
    return await accounts.get(tx, account_id)


async def put_disposition(
    tx: Tx, *, key: str, label: str, scope: str, flags: dict[str, Any], position: int, actor: str, now: datetime
) -> None:
    """A new disposition, or new words and flags for a known one; its key never changes, because calls quote it."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,39}", key):
        raise Invalid("A key is small letters, digits and underscores.", fields={"key": "Change the key."})
    if not label.strip():
        raise Invalid("Give it a label.", fields={"label": "Give it a label."})
    if scope not in SCOPES:
        raise Invalid("A disposition is for queues, for lists, or for both.")
    row = Disposition(key=key, label=label.strip()[:100], scope=scope, flags=flags, position=position)
    await tx.put(row, unique=["key"], update=["label", "scope", "flags", "position", "retired"])
    await audit.record(tx, actor=actor, action="disposition.put", subject=f"disposition:{key}", now=now, flags=flags)


async def retire_disposition(tx: Tx, key: str, *, retired: bool, actor: str, now: datetime) -> None:
    """Take it out of the choice, or back; calls that carry it keep it."""
    if await tx.run(update(Disposition).where(col(Disposition.key) == key).values(retired=retired)) == 0:
        raise NotFound("There is no such disposition.")
    await audit.record(
        tx, actor=actor, action="disposition.retired", subject=f"disposition:{key}", now=now, retired=retired
    )


async def list_dispositions(tx: Tx) -> list[Disposition]:
    """All, retired ones last."""
    return await tx.all(
        select(Disposition)
        .order_by(col(Disposition.retired), col(Disposition.position), col(Disposition.key))
        .limit(300)
    )
