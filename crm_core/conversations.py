"""Conversations: one thread on one channel account. For SMS one open per (account, number), for mail one per thread, for
calls and forms one open per (account, address). Across channels there is the contact's timeline.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import Field, col, select

from crm_core import events
from crm_core.db import Tx
from crm_core.errors import Conflict, NotFound
from crm_core.ids import new_id, new_secret
from crm_core.statements import fixed
from crm_core.tables import Table, UtcDateTime, at, key, one_of, ref, text, word


class ConversationState(StrEnum):
    """Whether anything is still to be said."""

    OPEN = "open"
    SNOOZED = "snoozed"
    CLOSED = "closed"


class Conversation(Table, table=True):
    """One thread. `version` rises with every change."""

    __tablename__ = "conversations"
    __table_args__ = (
        one_of("state", ConversationState),
        Index(
            "uq_conversations_open", "account_id", "thread_key", unique=True,
            sqlite_where=sql_text("state <> 'closed'"), postgresql_where=sql_text("state <> 'closed'"),
        ),
        Index("ix_conversations_contact", "contact_id", "last_at"),
        Index("ix_conversations_user", "assigned_user_id", "state"),
        Index("ix_conversations_snoozed", "snoozed_until",
              sqlite_where=sql_text("snoozed_until IS NOT NULL"), postgresql_where=sql_text("snoozed_until IS NOT NULL")),
    )  # fmt: skip

    id: str = key()
    channel: str = text()
    account_id: str = ref("channel_accounts.id", index=False)
    thread_key: str = text()  # SMS, call, form: the other side's address; mail: the first Message-ID
    thread_token: str = Field(unique=True)  # signed into our mails' addresses and headers
    contact_id: str | None = ref("contacts.id", nullable=True, index=False)
    peer: str = text()  # the other side's address as normalised
    subject: str = text()
    state: ConversationState = word(ConversationState, default=ConversationState.OPEN)
    snoozed_until: datetime | None = at(nullable=True)
    queue_id: str | None = text(default=None)
    assigned_user_id: str | None = text(default=None)
    created_at: datetime = at()
    last_at: datetime = at()  # latest interaction
    version: int = 1


_OPEN = fixed(
    select(Conversation).where(
        Conversation.account_id == bindparam("account_id"),
        Conversation.thread_key == bindparam("thread_key"),
        Conversation.state != ConversationState.CLOSED,
    )
)
_TOUCH = fixed(
    update(Conversation)
    .where(col(Conversation.id) == bindparam("id"))
    .values(last_at=bindparam("now", type_=UtcDateTime()), version=Conversation.version + 1)
)
_GET = fixed(select(Conversation).where(Conversation.id == bindparam("id")))


async def find_open(tx: Tx, account_id: str, thread_key: str) -> Conversation | None:
    """The open or snoozed conversation of this thread."""
    found: Conversation | None = await tx.one(_OPEN, account_id=account_id, thread_key=thread_key)
    return found


async def get(tx: Tx, conversation_id: str) -> Conversation:
    """The conversation, or NotFound."""
    found: Conversation | None = await tx.one(_GET, id=conversation_id)
    if found is None:
        raise NotFound("There is no such conversation.")
    return found


async def open_thread(
    tx: Tx,
    *,
    channel: str,
    account_id: str,
    thread_key: str,
    peer: str,
    now: datetime,
    contact_id: str | None = None,
    subject: str = "",
    queue_id: str | None = None,
) -> tuple[Conversation, bool]:
    """The open conversation of this thread and whether it is new. Twenty first messages at once open exactly one."""
    known = await find_open(tx, account_id, thread_key)
    if known is not None:
        return known, False
    fresh = await start(
        tx, channel=channel, account_id=account_id, thread_key=thread_key, peer=peer, now=now, contact_id=contact_id,
        subject=subject, queue_id=queue_id,
    )  # fmt: skip
    return fresh, True


async def start(
    tx: Tx,
    *,
    channel: str,
    account_id: str,
    thread_key: str,
    peer: str,
    now: datetime,
    contact_id: str | None = None,
    subject: str = "",
    queue_id: str | None = None,
) -> Conversation:
    """A new conversation where none is open; Conflict, by the end of the unit at the latest, when there is one after all."""
    fresh = Conversation(
        id=new_id(now), channel=channel, account_id=account_id, thread_key=thread_key, thread_token=new_secret(128),
        contact_id=contact_id, peer=peer, subject=subject[:500], queue_id=queue_id, created_at=now, last_at=now,
    )  # fmt: skip
    tx.later(fresh)
    await events.emit(tx, "conversation.opened", fresh.id, now=now, version=1)
    return fresh


async def change(tx: Tx, conversation: Conversation, *, now: datetime, event: str, **changes: object) -> None:
    """Guarded change of one conversation; Conflict when its version moved on. `event` such as conversation.assigned."""
    values = {**changes, "version": conversation.version + 1}
    if await tx.change(Conversation, values, id=conversation.id, version=conversation.version) != 1:
        raise Conflict("This conversation changed meanwhile.")
    conversation.__dict__.update(changes, version=conversation.version + 1)
    await events.emit(tx, event, conversation.id, now=now, version=conversation.version)


async def touch(tx: Tx, conversation_id: str, *, now: datetime) -> None:
    """Note that something was said; a snoozed conversation wakes."""
    await tx.run(_TOUCH, id=conversation_id, now=now)
    await tx.change(
        Conversation,
        {"state": ConversationState.OPEN, "snoozed_until": None},
        id=conversation_id,
        state=ConversationState.SNOOZED,
    )


async def list_assigned(tx: Tx, user_id: str) -> list[Conversation]:
    """Open conversations of an agent, latest first; at most 100."""
    return await tx.all(
        select(Conversation)
        .where(Conversation.assigned_user_id == user_id, col(Conversation.state) != ConversationState.CLOSED)
        .order_by(col(Conversation.last_at).desc())
        .limit(100)
    )
