"""Signatures under mails: one per mailbox, and each user's own, which goes before it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete
from sqlmodel import Field, col, select

from crm_core.db import Tx
from crm_core.tables import Table, at, text

LONGEST = 2000


class MailSignature(Table, table=True):
    """The plain text under mails of a mailbox or a user."""

    __tablename__ = "mail_signatures"

    owner_id: str = Field(primary_key=True)  # of a channel account or a user
    body: str = text()
    updated_at: datetime = at()


async def keep(tx: Tx, owner_id: str, body: str, *, now: datetime) -> None:
    """Set the signature; an empty one is dropped."""
    plain = body.replace("\r\n", "\n").strip()[:LONGEST]
    if plain:
        row = MailSignature(owner_id=owner_id, body=plain, updated_at=now)
        await tx.put(row, unique=["owner_id"], update=["body", "updated_at"])
    else:
        await tx.run(delete(MailSignature).where(col(MailSignature.owner_id) == owner_id))


async def find(tx: Tx, owner_id: str) -> str:
    """The signature, or empty."""
    found: str | None = await tx.one(select(MailSignature.body).where(MailSignature.owner_id == owner_id))
    return found or ""


async def under(tx: Tx, *, user_id: str, account_id: str) -> str:
    """What goes under a mail of this user from this mailbox: their own words, then the mailbox's."""
    both = [await find(tx, user_id) if user_id else "", await find(tx, account_id)]
    return "\n\n".join(one for one in both if one)
