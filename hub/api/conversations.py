"""API: conversations, with replies, notes and snoozing."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from crm_core import conversations, interactions
from crm_core.conversations import Conversation
from crm_core.db import Tx
from hub import rights
from hub.api.contacts import InteractionPage, InteractionShown, Paging, shown_interaction
from hub.api.operation import Call, Instant, Nothing, Operation, Shown, Strict, operation
from hub.api.work import AGENTS, READERS
from routing import replies


class ConversationShown(Shown):
    """A conversation."""

    id: str
    channel: str
    contact_id: str | None
    peer: str
    subject: str
    state: str
    queue_id: str | None
    assigned_user_id: str | None
    last_at: datetime
    version: int


class ConversationList(Shown):
    """Conversations, latest first."""

    items: list[ConversationShown]


class ReplyIn(Strict):
    """An answer in a conversation, on its own channel."""

    body: str = Field(min_length=1, max_length=100_000)
    subject: str = Field("", max_length=500)


class NoteIn(Strict):
    """A remark that stays in the house."""

    body: str = Field(min_length=1, max_length=20_000)


class NoteShown(Shown):
    """A remark."""

    id: str
    body: str
    user_id: str
    created_at: datetime


class SnoozeIn(Strict):
    """Bring it back at this instant."""

    until: Instant


def shown_conversation(row: Conversation) -> ConversationShown:
    """For output."""
    return ConversationShown.model_validate(row.model_dump(include=set(ConversationShown.model_fields)))


@operation(
    "GET",
    "/api/v1/conversations",
    "My open conversations",
    scope="conversations:read",
    roles=READERS,
    answer=ConversationList,
)
async def list_conversations(call: Call[Nothing, Nothing]) -> ConversationList:
    """Those assigned to you, latest first; at most 100."""
    async with call.runtime.db.reading() as tx:
        mine = await conversations.list_assigned(tx, call.user.id)
    return ConversationList(items=[shown_conversation(row) for row in mine])


@operation(
    "GET",
    "/api/v1/conversations/{id}",
    "Get a conversation",
    scope="conversations:read",
    roles=READERS,
    answer=ConversationShown,
)
async def get_conversation(call: Call[Nothing, Nothing]) -> ConversationShown:
    """404 unless it is yours or of a queue you serve."""
    async with call.runtime.db.reading() as tx:
        return shown_conversation(await rights.conversation(tx, call.user, call.path["id"]))


@operation(
    "GET",
    "/api/v1/conversations/{id}/interactions",
    "What was said",
    scope="conversations:read",
    roles=READERS,
    query=Paging,
    answer=InteractionPage,
)
async def list_conversation(call: Call[Paging, Nothing]) -> InteractionPage:
    """Newest first."""
    async with call.runtime.db.reading() as tx:
        found = await rights.conversation(tx, call.user, call.path["id"])
        rows = await interactions.list_timeline(
            tx, conversation_id=found.id, before=call.query.before, limit=call.query.limit
        )
    last = rows[-1].id if len(rows) == call.query.limit else None
    return InteractionPage(items=[shown_interaction(row) for row in rows], next=last)


@operation(
    "GET",
    "/api/v1/interactions/{id}",
    "Get an interaction",
    scope="conversations:read",
    roles=READERS,
    answer=InteractionShown,
)
async def get_interaction(call: Call[Nothing, Nothing]) -> InteractionShown:
    """404 unless you may see its conversation."""
    async with call.runtime.db.reading() as tx:
        return shown_interaction(await rights.interaction(tx, call.user, call.path["id"]))


@operation(
    "POST",
    "/api/v1/conversations/{id}/replies",
    "Reply",
    scope="conversations:write",
    roles=AGENTS,
    body=ReplyIn,
    answer=InteractionShown,
    status=201,
)
async def reply(call: Call[Nothing, ReplyIn]) -> InteractionShown:
    """Stored, and handed over by the outbox; `delivery` tells how far it is. 409 with `rule` when the gate refuses."""

    async def unit(tx: Tx) -> InteractionShown:
        found = await rights.conversation(tx, call.user, call.path["id"])
        sent = await replies.reply(
            tx, found.id, agent_id=call.user.id, body=call.body.body, subject=call.body.subject, now=call.now
        )
        return shown_interaction(sent)

    return await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/conversations/{id}/notes",
    "Add a note",
    scope="conversations:write",
    roles=READERS,
    body=NoteIn,
    answer=NoteShown,
    status=201,
)
async def add_note(call: Call[Nothing, NoteIn]) -> NoteShown:
    """Never leaves the house."""

    async def unit(tx: Tx) -> NoteShown:
        found = await rights.conversation(tx, call.user, call.path["id"])
        note = await replies.add_note(tx, found.id, agent_id=call.user.id, body=call.body.body, now=call.now)
        return NoteShown.model_validate(note.model_dump())

    return await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/conversations/{id}/close",
    "Close a conversation",
    scope="conversations:write",
    roles=AGENTS,
    answer=None,
)
async def close_conversation(call: Call[Nothing, Nothing]) -> None:
    """Nothing more is to be said; the next message opens a new one."""

    async def unit(tx: Tx) -> None:
        found = await rights.conversation(tx, call.user, call.path["id"])
        await replies.close(tx, found.id, agent_id=call.user.id, now=call.now)

    await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/conversations/{id}/snooze",
    "Snooze a conversation",
    scope="conversations:write",
    roles=AGENTS,
    body=SnoozeIn,
    answer=None,
)
async def snooze_conversation(call: Call[Nothing, SnoozeIn]) -> None:
    """Until then, or until they write again."""
    until = call.body.until

    async def unit(tx: Tx) -> None:
        found = await rights.conversation(tx, call.user, call.path["id"])
        await replies.snooze(tx, found.id, agent_id=call.user.id, until=until, now=call.now)

    await call.runtime.db.write(unit)


OPERATIONS: list[Operation] = [
    list_conversations,
    get_conversation,
    list_conversation,
    get_interaction,
    reply,
    add_note,
    close_conversation,
    snooze_conversation,
]
