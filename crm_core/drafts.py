"""Drafts: what an agent has typed and not sent, kept on the server, so that a closed tab loses nothing."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete
from sqlmodel import col, select

from crm_core.db import Tx
from crm_core.tables import Table, at, ref, text

LONGEST = 100_000


class Draft(Table, table=True):
    """One unfinished answer of one user in one conversation."""

    __tablename__ = "drafts"

    user_id: str = ref("users.id", primary_key=True)
    conversation_id: str = ref("conversations.id", primary_key=True)
    subject: str = text()
    body: str = text()
    updated_at: datetime = at()


async def keep(tx: Tx, *, user_id: str, conversation_id: str, subject: str, body: str, now: datetime) -> None:
    """Store what is typed now; an empty draft is dropped."""
    if not body.strip() and not subject.strip():
        await drop(tx, user_id=user_id, conversation_id=conversation_id)
        return
    row = Draft(
        user_id=user_id, conversation_id=conversation_id, subject=subject[:500], body=body[:LONGEST], updated_at=now
    )
    await tx.put(row, unique=["user_id", "conversation_id"], update=["subject", "body", "updated_at"])


async def find(tx: Tx, *, user_id: str, conversation_id: str) -> Draft | None:
    """The draft, if there is one."""
    mine = select(Draft).where(Draft.user_id == user_id, Draft.conversation_id == conversation_id)
    draft: Draft | None = await tx.one(mine)
    return draft


async def drop(tx: Tx, *, user_id: str, conversation_id: str) -> None:
    """Forget the draft: it was sent, or emptied."""
    await tx.run(delete(Draft).where(col(Draft.user_id) == user_id, col(Draft.conversation_id) == conversation_id))
