"""Starting a conversation in writing: with whom, from which of our senders, for what purpose. Through the gate like every touch.

A text joins the open thread of its number and sender; a mail begins a thread of its own. Decides nothing about who may use
which sender: the entrance has asked that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import col, select

from crm_core import accounts, contacts, conversations
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address, PointKind
from crm_core.consent import Purpose
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.ids import new_id
from crm_core.interactions import Interaction
from crm_core.touches import Direction, Touch
from routing import mails, messages, replies
from routing.mails import StoredFile
from routing.matching import match

# Which channel writes to which kind of address.
CHANNEL_OF = {PointKind.PHONE: messages.TEXT, PointKind.EMAIL: mails.MAIL}
# Why one may write first. `reply` only where they opened the conversation and it is still open.
PURPOSES = (Purpose.REPLY, Purpose.SERVICE, Purpose.TRANSACTIONAL, Purpose.MARKETING)
LOOKED_BACK = 20  # touches of an address among which its last sender is looked for


@dataclass(frozen=True, slots=True)
class Started:
    """The message on its way, and the conversation it stands in."""

    conversation: Conversation
    interaction: Interaction
    joined: bool  # the conversation was there before


async def last_sender(tx: Tx, address: Address) -> str:
    """Id of the account that last wrote to this address or got something from it; empty when there was none.

    The same person keeps seeing the same number: what Twilio calls a sticky sender, held by our own rows.
    """
    recent = (
        select(Interaction.account_id)
        .join(Touch, col(Touch.interaction_id) == col(Interaction.id))
        .where(
            Touch.kind == address.kind,
            Touch.value == address.value,
            Touch.channel == CHANNEL_OF[address.kind],
            Touch.allowed == True,  # noqa: E712 - SQL, not Python
        )
        .order_by(col(Touch.at).desc(), col(Touch.id).desc())
        .limit(LOOKED_BACK)
    )
    return next(iter(await tx.all(recent)), "")


async def open_thread(tx: Tx, account: ChannelAccount, address: Address) -> Conversation | None:
    """The open conversation that a message from this sender to this address would join."""
    if account.channel != messages.TEXT:
        return None
    return await conversations.find_open(tx, account.id, address.value)


async def list_purposes(tx: Tx, account: ChannelAccount, address: Address) -> list[Purpose]:
    """Why we may write first, the likeliest first; whether it is allowed the gate says when it is sent."""
    thread = await open_thread(tx, account, address)
    if thread is not None and await _they_wrote(tx, thread):
        return list(PURPOSES)
    return [purpose for purpose in PURPOSES if purpose is not Purpose.REPLY]


async def _they_wrote(tx: Tx, thread: Conversation) -> bool:
    inbound = select(Interaction.id).where(
        Interaction.conversation_id == thread.id, Interaction.direction == Direction.INBOUND
    )
    return await tx.one(inbound.limit(1)) is not None


async def start(
    tx: Tx,
    *,
    account_id: str,
    address: Address,
    purpose: Purpose,
    body: str,
    user_id: str,
    now: datetime,
    subject: str = "",
    contact_id: str | None = None,
    files: Sequence[StoredFile] = (),
) -> Started:
    """Write to somebody first. The writer has the conversation, unless a colleague has it.

    Refused with its rule when the gate says no; Invalid with its field; Conflict when it is being offered to a colleague.
    """
    account = await accounts.get(tx, account_id)
    if account.channel != CHANNEL_OF[address.kind]:
        raise Invalid("This sender cannot write to this address.", fields={"sender": "Choose another sender."})
    if not account.enabled:
        raise Invalid("This sender is switched off.", fields={"sender": "Choose another sender."})
    if not body.strip() and not files:
        raise Invalid("Write something first.", fields={"body": "Write something first."})
    if purpose not in await list_purposes(tx, account, address):
        raise Invalid(
            "This is no reply: they have no open conversation with this sender. Choose why you write.",
            fields={"purpose": "Choose why you write."},
        )
    contact_id = await _whose(tx, address, contact_id)
    if account.channel == messages.TEXT:
        return await _text(tx, account, address, purpose, body, files, user_id, contact_id, now)
    return await _mail(tx, account, address, purpose, subject, body, files, user_id, contact_id, now)


async def _whose(tx: Tx, address: Address, contact_id: str | None) -> str | None:
    owners = await contacts.list_owners(tx, address)
    if contact_id is None:
        return match(address, owners).contact_id
    contact = await contacts.get(tx, contact_id)
    if contact.id not in {owner.id for owner, _ in owners}:
        raise Invalid("This address is not theirs.", fields={"to": "Choose one of their addresses."})
    return contact.id


async def _text(
    tx: Tx, account: ChannelAccount, address: Address, purpose: Purpose, body: str, files: Sequence[StoredFile],
    user_id: str, contact_id: str | None, now: datetime,
) -> Started:  # fmt: skip
    messages.check_length(body)
    thread, fresh = await conversations.open_thread(
        tx, channel=account.channel, account_id=account.id, thread_key=address.value, peer=address.value, now=now,
        contact_id=contact_id, queue_id=account.queue_id,
    )  # fmt: skip
    if not fresh:
        await replies.take_over(tx, thread, user_id, now=now)
    sent = await messages.send(
        tx, thread, account, address, body=body, purpose=purpose, user_id=user_id,
        contact_id=contact_id or thread.contact_id, now=now, files=files,
    )  # fmt: skip
    await _assign(tx, thread.id, user_id, contact_id, now=now)
    return Started(await conversations.get(tx, thread.id), sent, not fresh)


async def _mail(
    tx: Tx, account: ChannelAccount, address: Address, purpose: Purpose, subject: str, body: str,
    files: Sequence[StoredFile], user_id: str, contact_id: str | None, now: datetime,
) -> Started:  # fmt: skip
    subject = " ".join(subject.split())[:500]
    if not subject:
        raise Invalid("A mail needs a subject.", fields={"subject": "Give a subject."})
    # Their answer is known by our Message-ID and our signed address, so the thread's key only has to be its own.
    thread, _ = await conversations.open_thread(
        tx, channel=account.channel, account_id=account.id, thread_key=f"started:{new_id(now)}", peer=address.value,
        now=now, contact_id=contact_id, subject=subject, queue_id=account.queue_id,
    )  # fmt: skip
    sent = await mails.send(
        tx, thread, account, address, subject=subject, body=body, html="", files=files, purpose=purpose,
        user_id=user_id, contact_id=contact_id, now=now,
    )  # fmt: skip
    await _assign(tx, thread.id, user_id, contact_id, now=now)
    return Started(await conversations.get(tx, thread.id), sent, joined=False)


async def _assign(tx: Tx, thread_id: str, user_id: str, contact_id: str | None, *, now: datetime) -> None:
    """Their answer comes to whoever wrote, unless a colleague has the conversation already."""
    thread = await conversations.get(tx, thread_id)
    changes: dict[str, object] = {}
    if thread.assigned_user_id is None:
        changes["assigned_user_id"] = user_id
    if thread.contact_id is None and contact_id is not None:
        changes["contact_id"] = contact_id
    if changes:
        await conversations.change(tx, thread, now=now, event="conversation.assigned", **changes)
