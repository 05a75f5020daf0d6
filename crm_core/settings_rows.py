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
from crm_core.ids import new_id
from crm_core.interactions import Disposition

ACCOUNT_FIELDS = frozenset({"name", "country", "queue_id", "flow_id", "settings", "sealed", "enabled"})
TOLD_FIELDS = frozenset(
    {"name", "country", "queue_id", "flow_id", "enabled"}
)  # the audit log quotes these; secrets never
SCOPES = ("", "queue", "list")
SWITCHED_OFF = "Switched off by an administrator."
DELETED = "Deleted by an administrator."


async def create_account(
    tx: Tx,
    *,
    channel: str,
    address: str,
    name: str,
    actor: str,
    now: datetime,
    country: str = "",
    queue_id: str | None = None,
    flow_id: str | None = None,
    settings: dict[str, Any] | None = None,
    sealed: str | None = None,
) -> ChannelAccount:
    """A new number, mailbox or form, in use at once. One deleted under this address comes back, with its history.

    Conflict when one in use has this address.
    """
    known = await accounts.find(tx, channel, address)
    if known is not None and known.deleted_at is None:
        raise Conflict("%(address)s is there already.", address=address)
    if known is not None:
        await restore_account(tx, known.id, actor=actor, now=now)
        known = await accounts.get(tx, known.id)
        return await edit_account(
            tx, known.id, version=known.version, actor=actor, now=now, name=name, country=country, queue_id=queue_id,
            flow_id=flow_id, settings=settings or {}, sealed=sealed, enabled=True,
        )  # fmt: skip
    made = ChannelAccount(
        id=new_id(now), channel=channel, address=address, name=name, country=country, queue_id=queue_id, flow_id=flow_id,
        settings=settings or {}, sealed=sealed, created_at=now,
    )  # fmt: skip
    if not await tx.add_new(made, unique=["channel", "address"]):
        raise Conflict("%(address)s is there already.", address=address)
    await audit.record(
        tx,
        actor=actor,
        action="account.created",
        subject=f"account:{made.id}",
        now=now,
        channel=channel,
        address=address,
    )
    return made


async def edit_account(
    tx: Tx, account_id: str, *, version: int, actor: str, now: datetime, **changes: Any
) -> ChannelAccount:
    """Change a number, mailbox or form that still has this version. Its address stays: history quotes it."""
    unknown = changes.keys() - ACCOUNT_FIELDS
    if unknown:
        raise Invalid("An account has no field %(names)s.", names=sorted(unknown))
    if not changes.get("enabled", True):
        changes["off_reason"] = SWITCHED_OFF
    elif "enabled" in changes:
        changes["off_reason"] = ""
    guard = update(ChannelAccount).where(
        col(ChannelAccount.id) == account_id,
        col(ChannelAccount.version) == version,
        col(ChannelAccount.deleted_at).is_(None),
    )
    if await tx.run(guard.values(**changes, version=version + 1)) != 1:
        raise Conflict("Somebody changed this account meanwhile.")
    told = {name: value for name, value in changes.items() if name in TOLD_FIELDS}
    await audit.record(
        tx,
        actor=actor,
        action="account.changed",
        subject=f"account:{account_id}",
        now=now,
        fields=sorted(changes),
        **told,
    )
    return await accounts.get(tx, account_id)


async def delete_account(tx: Tx, account_id: str, *, actor: str, now: datetime) -> ChannelAccount:
    """Take it out of use and off the screen. Its conversations, calls and consent stay; `restore_account` undoes it."""
    account = await accounts.get(tx, account_id)
    if account.deleted_at is None:
        guard = update(ChannelAccount).where(
            col(ChannelAccount.id) == account_id, col(ChannelAccount.version) == account.version
        )
        values = {"deleted_at": now, "enabled": False, "off_reason": DELETED if account.enabled else account.off_reason}
        if await tx.run(guard.values(**values, version=account.version + 1)) != 1:
            raise Conflict("Somebody changed this account meanwhile.")
        await audit.record(
            tx, actor=actor, action="account.deleted", subject=f"account:{account_id}", now=now, address=account.address
        )
    return await accounts.get(tx, account_id)


async def restore_account(tx: Tx, account_id: str, *, actor: str, now: datetime) -> ChannelAccount:
    """Undo `delete_account`: as it was, on or off. Conflict when it is not deleted."""
    account = await accounts.get(tx, account_id)
    was_on = account.off_reason in ("", DELETED)
    guard = update(ChannelAccount).where(
        col(ChannelAccount.id) == account_id, col(ChannelAccount.deleted_at).is_not(None)
    )
    reason = "" if was_on else account.off_reason
    values = {"deleted_at": None, "enabled": was_on, "off_reason": reason, "version": account.version + 1}
    if await tx.run(guard.values(**values)) != 1:
        raise Conflict("This account is not deleted.")
    await audit.record(tx, actor=actor, action="account.restored", subject=f"account:{account_id}", now=now)
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
