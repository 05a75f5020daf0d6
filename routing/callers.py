"""Everything that is known when a call comes in, in one look-up: the number's account and queue, the caller, their thread.

An arriving call is what everybody waits for, and each look-up is a round trip. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, bindparam, literal_column
from sqlmodel import col, select

from channels.contract import CallArrived
from crm_core import addresses, contacts, conversations
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address, PointKind
from crm_core.blocked_callers import BlockedCaller
from crm_core.calls import CallLeg
from crm_core.contacts import Contact, ContactLink, ContactPoint
from crm_core.conversations import Conversation, ConversationState
from crm_core.db import Tx
from crm_core.statements import fixed
from routing.queues import Queue

VOICE = "voice"
# What carriers send for a number that is withheld: the words ANONYMOUS, RESTRICTED, BLOCKED, UNKNOWN, UNAVAILABLE on the keys of
# a telephone (Twilio, "why am I getting calls from these strange numbers", as of the knowledge notes).
HIDDEN = frozenset({"266696687", "7378742833", "2562533", "8566696", "86282452253"})

_LOOK_UP = fixed(
    select(ChannelAccount, CallLeg, Queue, Conversation)
    .add_columns(BlockedCaller, Contact, ContactLink)
    .select_from(ChannelAccount)
    .outerjoin(CallLeg, col(CallLeg.id) == bindparam("call_id"))
    .outerjoin(Queue, col(Queue.id) == col(ChannelAccount.queue_id))
    .outerjoin(
        Conversation,
        and_(
            col(Conversation.account_id) == col(ChannelAccount.id),
            col(Conversation.thread_key) == bindparam("thread_key"),
            col(Conversation.state) != ConversationState.CLOSED,
        ),
    )
    .outerjoin(
        ContactPoint, and_(col(ContactPoint.kind) == PointKind.PHONE, col(ContactPoint.value) == bindparam("value"))
    )
    .outerjoin(
        ContactLink, and_(col(ContactLink.point_id) == col(ContactPoint.id), col(ContactLink.valid_until).is_(None))
    )
    .outerjoin(
        Contact,
        and_(
            col(Contact.id) == col(ContactLink.contact_id),
            col(Contact.merged_into).is_(None),
            col(Contact.erased_at).is_(None),
        ),
    )
    .outerjoin(BlockedCaller, col(BlockedCaller.value) == bindparam("value"))
    .where(col(ChannelAccount.channel) == VOICE, col(ChannelAccount.address) == bindparam("address"))
    .order_by(col(ContactLink.id))
    .limit(literal_column("20")),
    together=True,
)


@dataclass(frozen=True, slots=True)
class Calling:
    """What is known. `caller` is None for a withheld or unreadable number; `known` is this very call, if it was here before."""

    account: ChannelAccount
    queue: Queue | None
    known: CallLeg | None
    caller: Address | None
    owners: list[tuple[Contact, ContactLink]]
    thread_key: str
    conversation: Conversation | None
    blocked: BlockedCaller | None = None  # somebody does not want their calls; perhaps not any more


async def look_up(tx: Tx, event: CallArrived) -> Calling | None:
    """What is known about a call; None when the number called is not ours."""
    hidden = event.from_raw.lstrip("+") in HIDDEN
    caller = None if hidden else addresses.find_phone(event.from_raw)
    value = caller.value if caller else ""
    thread_key = value or f"withheld:{event.call_id}"
    rows = await tx.all(_LOOK_UP, address=event.to_raw, call_id=event.call_id, value=value, thread_key=thread_key)
    if not rows:
        return None
    account, known, queue, conversation, blocked, _, _ = rows[0]
    owners = [(contact, link) for *_, contact, link in rows if contact is not None]
    if caller is None and not hidden:
        # A number in the national style can be read only now that the country is known.
        caller = addresses.find_phone(event.from_raw, country=account.country)
        if caller is not None:
            thread_key = caller.value
            owners = await contacts.list_owners(tx, caller)
            conversation = await conversations.find_open(tx, account.id, thread_key)
            blocked = await tx.one(select(BlockedCaller).where(BlockedCaller.value == caller.value))
    return Calling(account, queue, known, caller, owners, thread_key, conversation, blocked)
