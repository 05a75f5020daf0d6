"""What an agent does with a written conversation: reply through the gate, add a note, snooze, close."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlmodel import col, select

from crm_core import accounts, addresses, blocked, conversations, events, interactions
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address
from crm_core.consent import Purpose
from crm_core.conversations import Conversation, ConversationState
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.ids import new_id
from crm_core.interactions import Attachment, Interaction, Note, Outcome
from crm_core.touches import Direction
from routing import agents, entries, mails, messages
from routing.mails import StoredFile
from routing.queues import EntryState, Lane


async def reply(
    tx: Tx,
    conversation_id: str,
    *,
    agent_id: str,
    body: str,
    now: datetime,
    subject: str = "",
    html: str = "",
    files: Sequence[StoredFile] = (),
    cc: Sequence[Address] = (),
    bcc: Sequence[Address] = (),
    sender: str = "",
) -> Interaction:
    """Answer in a conversation, on its own channel. Work that still waits for an agent is taken by this one.

    By mail: their latest mail is quoted below, `cc` and `bcc` get copies, and `sender` is one of the mailbox's aliases (the one
    they wrote to when none is named).

    Refused with its rule when the gate says no (a STOP); Invalid for an empty text; Conflict when it is offered to somebody else.
    """
    if not body.strip() and not files:
        raise Invalid("Write something first.", fields={"body": "Write something first."})
    conversation = await conversations.get(tx, conversation_id)
    account = await accounts.get(tx, conversation.account_id)
    await take_over(tx, conversation, agent_id, now=now)
    if account.channel == messages.TEXT:
        if cc or bcc:
            raise Invalid("A text message has no copies.", fields={"cc": "Not for texts."})
        messages.check_length(body)
        to: Address | None = addresses.find_phone(conversation.peer)
    elif account.channel == mails.MAIL:
        to = addresses.find_email(await answer_to(tx, conversation))
    else:
        raise Invalid("This conversation cannot be answered in writing.")
    if to is None:
        raise Invalid("“%(peer)s” cannot be written to.", peer=conversation.peer)
    if account.channel == messages.TEXT:
        return await messages.send(
            tx, conversation, account, to, body=body, purpose=Purpose.REPLY, user_id=agent_id,
            contact_id=conversation.contact_id, now=now, files=files,
        )  # fmt: skip
    if not subject:
        plain = conversation.subject or "(no subject)"
        subject = plain if plain.lower().startswith("re:") else f"Re: {plain}"
    latest = await latest_written(tx, conversation.id)
    return await mails.send(
        tx, conversation, account, to, subject=" ".join(subject.split())[:500], body=body, html=html, files=files,
        purpose=Purpose.REPLY, user_id=agent_id, contact_id=conversation.contact_id, now=now, cc=cc, bcc=bcc,
        quote=mails.quoted(latest, language=language_of(account)) if latest is not None else "",
        sender=sender or reply_as(account, latest),
    )  # fmt: skip


def language_of(account: ChannelAccount) -> str:
    """The language of what the hub itself writes into a mailbox's mails."""
    return str(account.settings.get("language") or "")


def reply_as(account: ChannelAccount, latest: Interaction | None) -> str:
    """The address of ours that their latest mail was written to, so that the answer comes from there."""
    written_to = (
        [] if latest is None else [str(one).lower() for one in (*latest.data.get("to", ()), *latest.data.get("cc", ()))]
    )
    return next((one for one in written_to if one in accounts.mail_addresses(account)), account.address)


def others_in(account: ChannelAccount, latest: Interaction | None, to: str) -> list[str]:
    """Who else got their latest mail, for an answer to all: without ourselves and without who is answered anyway."""
    if latest is None:
        return []
    ours = set(accounts.mail_addresses(account))
    named = [str(one).lower() for one in (latest.from_address, *latest.data.get("to", ()), *latest.data.get("cc", ()))]
    return [one for one in dict.fromkeys(named) if one != to and one not in ours and not mails.token_in(one)][:20]


async def spam(tx: Tx, conversation_id: str, *, agent_id: str, block: bool, now: datetime) -> None:
    """Nobody wants this: the work ends as spam, the conversation is closed, and `block` keeps their further mail from queues.

    Conflict when a colleague works on it or it is being offered.
    """
    conversation = await conversations.get(tx, conversation_id)
    if conversation.channel != mails.MAIL:
        raise Invalid("Only mail can be marked as spam.")
    work = await entries.find_open(tx, conversation_id)
    if work is not None:
        if work.agent_id is not None and work.agent_id != agent_id:
            raise Conflict("A colleague works on this.")
        if work.state == EntryState.OFFERED:
            raise Conflict("This is being offered to you; accept it first.")
        await entries.close(tx, work, outcome=Outcome.SPAM, now=now)
        conversation = await conversations.get(tx, conversation_id)
    if block and addresses.find_email(conversation.peer) is not None:
        await blocked.block(tx, conversation.peer, user_id=agent_id, now=now)
    if conversation.state != ConversationState.CLOSED:
        await conversations.change(
            tx, conversation, now=now, event="conversation.closed", state=ConversationState.CLOSED, snoozed_until=None
        )


async def forward(tx: Tx, interaction_id: str, *, agent_id: str, to: Address, body: str, now: datetime) -> Interaction:
    """Send a mail of a conversation on to somebody else, with its files; their answer joins the conversation.

    Invalid for what is no mail; Refused with its rule.
    """
    original = await interactions.get(tx, interaction_id)
    if original.channel != mails.MAIL:
        raise Invalid("Only mails can be forwarded.")
    conversation = await conversations.get(tx, original.conversation_id)
    account = await accounts.get(tx, conversation.account_id)
    rows = await tx.all(select(Attachment).where(Attachment.interaction_id == original.id).order_by(col(Attachment.id)))
    files = [StoredFile(row.name, row.content_type, row.size, row.file_key) for row in rows]
    subject = original.subject or conversation.subject or "(no subject)"
    return await mails.send(
        tx, conversation, account, to, body=body.strip(), html="", files=files, quote=mails.forwarded(original),
        subject=(subject if subject.lower().startswith("fwd:") else f"Fwd: {subject}")[:500],
        purpose=Purpose.TRANSACTIONAL, user_id=agent_id, contact_id=None, now=now,
    )  # fmt: skip


async def take_over(tx: Tx, conversation: Conversation, agent_id: str, *, now: datetime) -> None:
    """Whoever answers has the work: waiting work is taken as far as there is room; of others' work nothing is taken away."""
    work = await entries.find_open(tx, conversation.id)
    if work is None or work.lane != Lane.TEXT:
        return
    if work.state == EntryState.OFFERED and work.agent_id != agent_id:
        raise Conflict("This is being offered to a colleague.")
    if work.state == EntryState.WAITING:
        await entries.take(tx, work, await agents.lock(tx, agent_id), now=now)
        # Taking it changed the conversation too; what follows must quote the new version.
        conversation.__dict__.update((await conversations.get(tx, conversation.id)).__dict__)


async def answer_to(tx: Tx, conversation: Conversation) -> str:
    """Where the latest mail of a person wants its answer: Reply-To, else who wrote it. Never to a robot: not to a bounce."""
    latest = await latest_written(tx, conversation.id)
    return conversation.peer if latest is None else str(latest.data.get("reply_to") or latest.from_address)


async def latest_written(tx: Tx, conversation_id: str) -> Interaction | None:
    """The latest mail or text that a person wrote to us in this conversation; robots' are passed over (of the last fifty)."""
    inbound = (
        select(Interaction)
        .where(Interaction.conversation_id == conversation_id, Interaction.direction == Direction.INBOUND)
        .order_by(col(Interaction.id).desc())
        .limit(50)
    )
    return next((one for one in await tx.all(inbound) if not one.data.get("automatic")), None)


async def add_note(tx: Tx, conversation_id: str, *, agent_id: str, body: str, now: datetime) -> Note:
    """A remark for colleagues; never leaves the house."""
    if not body.strip():
        raise Invalid("Write something first.", fields={"body": "Write something first."})
    conversation = await conversations.get(tx, conversation_id)
    note = Note(
        id=new_id(now), conversation_id=conversation.id, contact_id=conversation.contact_id, user_id=agent_id,
        body=body.strip(), created_at=now,
    )  # fmt: skip
    await tx.add(note)
    await events.emit(tx, "conversation.changed", conversation.id, now=now, version=conversation.version)
    return note


async def close(
    tx: Tx, conversation_id: str, *, agent_id: str, now: datetime, disposition: str = "", notes: str = ""
) -> None:
    """Nothing more is to be said: the conversation and its open written work end. Conflict when it is a colleague's work."""
    work = await entries.find_open(tx, conversation_id)
    conversation = await conversations.get(tx, conversation_id)
    if conversation.state == ConversationState.CLOSED:
        return
    if work is not None:
        if work.lane != Lane.TEXT or (work.agent_id is not None and work.agent_id != agent_id):
            raise Conflict("A colleague works on this.")
        if work.state == EntryState.OFFERED:
            raise Conflict("This is being offered to you; accept it first.")
        await entries.close(tx, work, outcome=Outcome.HANDLED, now=now, disposition=disposition, notes=notes)
        conversation = await conversations.get(tx, conversation_id)
    await conversations.change(
        tx, conversation, now=now, event="conversation.closed", state=ConversationState.CLOSED, snoozed_until=None
    )


async def snooze(tx: Tx, conversation_id: str, *, agent_id: str, until: datetime, now: datetime) -> None:
    """Put away until then or until they write again; its written work ends meanwhile."""
    if until <= now:
        raise Invalid("Choose a time to come.", fields={"until": "Choose a time to come."})
    work = await entries.find_open(tx, conversation_id)
    if work is not None and work.lane == Lane.TEXT:
        if work.agent_id != agent_id or work.state != EntryState.CONNECTED:
            raise Conflict("A colleague works on this.")
        await entries.close(tx, work, outcome=Outcome.HANDLED, now=now)
    conversation = await conversations.get(tx, conversation_id)
    await conversations.change(
        tx, conversation, now=now, event="conversation.changed", state=ConversationState.SNOOZED, snoozed_until=until
    )


async def list_messages(tx: Tx, conversation_id: str, *, limit: int = 100) -> list[Interaction]:
    """The conversation's latest messages, oldest first."""
    return list(reversed(await interactions.list_timeline(tx, conversation_id=conversation_id, limit=limit)))
