"""API: conversations, with replies, notes and snoozing."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from crm_core import addresses, contacts, conversations, drafts, interactions
from crm_core.consent import Purpose
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.users import Role
from hub import rights
from hub.api.contacts import InteractionPage, InteractionShown, Paging, shown_interaction
from hub.api.operation import Call, Instant, Nothing, Operation, Shown, Strict, operation
from hub.api.work import AGENTS, READERS
from routing import replies, starts
from routing.mails import StoredFile

STARTERS = AGENTS | {Role.SUPERVISOR}


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
    """An answer in a conversation, on its own channel. Copies, files and the sender's address are for mails."""

    body: str = Field("", max_length=100_000, description="may be empty when files go along")
    subject: str = Field("", max_length=500)
    cc: list[str] = Field(default_factory=list, max_length=20)
    bcc: list[str] = Field(default_factory=list, max_length=20)
    file_ids: list[str] = Field(default_factory=list, max_length=20, description="of files put to your draft before")
    sender: str = Field("", max_length=254, description="one of the mailbox's addresses; else the one they wrote to")


class StartIn(Strict):
    """A first message to an address, from one of our senders. Send an `Idempotency-Key` so that a repeat sends nothing."""

    account_id: str = Field(min_length=1, max_length=40, description="our number or mailbox: GET /api/v1/senders")
    to: str = Field(min_length=3, max_length=320, description="a phone number with its country code, or a mail address")
    purpose: Purpose = Field(
        description="reply (only into their open conversation), service, transactional or marketing"
    )
    body: str = Field(min_length=1, max_length=100_000)
    subject: str = Field("", max_length=500, description="mails need one")
    contact_id: str | None = Field(None, max_length=40, description="whom the address must belong to")


class StartedShown(Shown):
    """The conversation, and the message on its way."""

    conversation: ConversationShown
    interaction: InteractionShown
    joined: bool


class SenderShown(Shown):
    """One of our numbers or mailboxes."""

    id: str
    channel: str
    name: str
    address: str


class SenderList(Shown):
    """Those you may write from."""

    items: list[SenderShown]


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
    "/api/v1/senders",
    "Numbers and mailboxes I may write from",
    scope="conversations:read",
    roles=STARTERS,
    answer=SenderList,
)
async def list_senders(call: Call[Nothing, Nothing]) -> SenderList:
    """Switched on, and of a queue you serve or of none."""
    async with call.runtime.db.reading() as tx:
        found = [one for name in starts.CHANNEL_OF.values() for one in await rights.senders(tx, call.user, name)]
    return SenderList(
        items=[SenderShown(id=one.id, channel=one.channel, name=one.name, address=one.address) for one in found]
    )


@operation(
    "POST",
    "/api/v1/conversations",
    "Write to somebody first",
    scope="conversations:write",
    roles=STARTERS,
    body=StartIn,
    answer=StartedShown,
    status=201,
)
async def start_conversation(call: Call[Nothing, StartIn]) -> StartedShown:
    """A text joins the open conversation of that number and sender; a mail begins one. 409 with `rule` when the gate
    refuses; 404 for a sender that is not open to you."""
    asked = call.body

    async def unit(tx: Tx) -> StartedShown:
        account = await rights.sender(tx, call.user, asked.account_id)
        country = (await contacts.get(tx, asked.contact_id)).country if asked.contact_id else account.country
        to = addresses.email(asked.to) if "@" in asked.to else addresses.phone(asked.to, country=country)
        await rights.may_join(tx, call.user, await starts.open_thread(tx, account, to))
        begun = await starts.start(
            tx, account_id=account.id, address=to, purpose=asked.purpose, subject=asked.subject, body=asked.body,
            user_id=call.user.id, now=call.now, contact_id=asked.contact_id,
        )  # fmt: skip
        return StartedShown(
            conversation=shown_conversation(begun.conversation),
            interaction=shown_interaction(begun.interaction),
            joined=begun.joined,
        )

    return await call.runtime.db.write(unit)


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
        asked, mine = call.body, {"user_id": call.user.id, "conversation_id": found.id}
        files = await drafts.take_files(tx, asked.file_ids, **mine)
        sent = await replies.reply(
            tx, found.id, agent_id=call.user.id, body=asked.body, subject=asked.subject, now=call.now,
            cc=[addresses.email(one) for one in asked.cc], bcc=[addresses.email(one) for one in asked.bcc], sender=asked.sender,
            files=[StoredFile(one.name, one.content_type, one.size, one.file_key) for one in files],
        )  # fmt: skip
        for one in files:
            await drafts.remove_file(tx, one.id, **mine)
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
    list_senders,
    start_conversation,
    get_conversation,
    list_conversation,
    get_interaction,
    reply,
    add_note,
    close_conversation,
    snooze_conversation,
]
