"""What a contact is owed by a queue: an earlier place for important people, and the agent whom they know.

Asked once, when work enters a queue whose rules speak of it; other queues cost no look-up. Decides who is preferred, not who gets
the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import bindparam
from sqlmodel import col, select

from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.ids import first_id
from crm_core.interactions import Interaction
from crm_core.statements import fixed
from crm_core.users import User
from routing.queues import Queue, QueueMember

LAST, OWNER = "last", "owner"
WAYS = ("", LAST, OWNER)
REMEMBERED = timedelta(days=90)  # an agent who talked with them longer ago is not asked first


@dataclass(frozen=True, slots=True)
class Standing:
    """`credit_s`: how much earlier they count as arrived. `agent_id`: who is asked first; None = nobody in particular."""

    credit_s: int
    agent_id: str | None


_CONTACT = fixed(select(Contact.vip, Contact.owner_id).where(Contact.id == bindparam("id")))
_SERVES = fixed(
    select(User.id)
    .join(QueueMember, col(QueueMember.user_id) == col(User.id))
    .where(User.id == bindparam("user"), QueueMember.queue_id == bindparam("queue"), col(User.disabled_at).is_(None))
)
_TALKED = fixed(
    select(Interaction.agent_id)
    .where(
        Interaction.contact_id == bindparam("contact"),
        col(Interaction.agent_id).is_not(None),
        col(Interaction.id) >= bindparam("since"),
    )
    .order_by(col(Interaction.id).desc())
    .limit(1)
)


async def of(tx: Tx, queue: Queue, contact_id: str | None, *, now: datetime) -> Standing | None:
    """What this queue's rules give this contact; None when they give nothing to anybody."""
    if contact_id is None or not (queue.preferred or queue.vip_credit_s):
        return None
    contact = await tx.one(_CONTACT, id=contact_id)
    if contact is None:
        return None
    vip, owner_id = contact
    agent_id: str | None = owner_id if queue.preferred == OWNER else None
    if queue.preferred == LAST:
        agent_id = await tx.one(_TALKED, contact=contact_id, since=first_id(now - REMEMBERED))
    if agent_id is not None and await tx.one(_SERVES, user=agent_id, queue=queue.id) is None:
        agent_id = None  # they do not serve this queue (any more)
    return Standing(queue.vip_credit_s if vip else 0, agent_id)
