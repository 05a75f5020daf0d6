"""Recognition by a person: an agent says who is at the other end, or makes the contact while they talk.

Decides what follows: the conversation, what was said in it by a stranger, and the address belong to that contact from now on.
"""

from __future__ import annotations

from datetime import datetime

from sqlmodel import col, select

from crm_core import contacts, conversations, interactions
from crm_core.addresses import Address, find_email, find_phone
from crm_core.contacts import Contact
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.interactions import Interaction


def address_of(conversation: Conversation) -> Address | None:
    """The other side's address; None when it is withheld."""
    peer = conversation.peer
    return find_email(peer) if "@" in peer else find_phone(peer)


async def settle(tx: Tx, conversation: Conversation, contact: Contact, *, actor: str, now: datetime) -> None:
    """This conversation is with this contact. Their address is linked, unverified; nobody else loses it."""
    address = address_of(conversation)
    if address is not None:
        await contacts.link_point(tx, contact.id, address, now=now, source=f"agent:{actor}")
    await conversations.change(tx, conversation, now=now, event="conversation.changed", contact_id=contact.id)
    unknown = await tx.all(
        select(Interaction)
        .where(Interaction.conversation_id == conversation.id, col(Interaction.contact_id).is_(None))
        .order_by(col(Interaction.id).desc())
        .limit(200)
    )
    match = {"level": "exact", "certainty": 100, "reason": "An agent said who it is.", "candidates": [contact.id]}
    for interaction in unknown:
        await interactions.change(tx, interaction, now=now, contact_id=contact.id, match=match)
