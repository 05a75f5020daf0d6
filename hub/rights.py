"""Who may see which record: the one place, for desktop and API alike. What may not be seen does not exist (404).

Supervisors and administrators see everything. Agents and telemarketers see every contact (anybody may phone), and the
conversations of queues they serve, those assigned to them, and those they took part in. Marketers see contacts and
campaigns.
"""

from __future__ import annotations

from sqlmodel import select

from crm_core import accounts, conversations, interactions
from crm_core.accounts import ChannelAccount
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.errors import Conflict, NotFound
from crm_core.interactions import Interaction
from crm_core.users import Role, User
from hub.web import SUPERVISORS, roles_of
from routing.queues import QueueEntry, QueueMember


def sees_everything(user: User) -> bool:
    """True for supervisors and administrators."""
    return bool(roles_of(user) & SUPERVISORS)


async def queues_served(tx: Tx, user: User) -> frozenset[str]:
    """Ids of the queues this user serves."""
    return frozenset(await tx.all(select(QueueMember.queue_id).where(QueueMember.user_id == user.id)))


async def may_see(tx: Tx, user: User, conversation: Conversation) -> bool:
    """Whether the user may see this conversation."""
    if sees_everything(user):
        return True
    if not roles_of(user) & {Role.AGENT, Role.TELEMARKETER}:
        return False
    if conversation.assigned_user_id == user.id:
        return True
    if conversation.queue_id is not None and conversation.queue_id in await queues_served(tx, user):
        return True
    mine = select(Interaction.id).where(Interaction.conversation_id == conversation.id, Interaction.agent_id == user.id)
    if await tx.one(mine.limit(1)) is not None:
        return True
    # Their part of a call that they gave away is theirs to wrap up.
    had = select(QueueEntry.id).where(
        QueueEntry.conversation_id == conversation.id, QueueEntry.agent_id == user.id, QueueEntry.kind == "transfer"
    )
    return await tx.one(had.limit(1)) is not None


async def conversation(tx: Tx, user: User, conversation_id: str) -> Conversation:
    """The conversation, or NotFound when there is none or the user may not see it."""
    found = await conversations.get(tx, conversation_id)
    if not await may_see(tx, user, found):
        raise NotFound("There is no such conversation.")
    return found


async def interaction(tx: Tx, user: User, interaction_id: str) -> Interaction:
    """The interaction, or NotFound when there is none or the user may not see it."""
    found = await interactions.get(tx, interaction_id)
    if found.agent_id != user.id and not await may_see(tx, user, await conversations.get(tx, found.conversation_id)):
        raise NotFound("There is no such interaction.")
    return found


async def senders(tx: Tx, user: User, channel: str) -> list[ChannelAccount]:
    """Our numbers or mailboxes that this user may write from: switched on, and of a queue they serve or of none."""
    served = None if sees_everything(user) else await queues_served(tx, user)
    return [
        account
        for account in await accounts.list_channel(tx, channel)
        if account.enabled and (served is None or account.queue_id is None or account.queue_id in served)
    ]


async def sender(tx: Tx, user: User, account_id: str) -> ChannelAccount:
    """The account, or NotFound when there is none or the user may not write from it."""
    account = await accounts.get(tx, account_id)
    if account.id not in {one.id for one in await senders(tx, user, account.channel)}:
        raise NotFound("There is no such channel account.")
    return account


async def may_join(tx: Tx, user: User, thread: Conversation | None) -> None:
    """Conflict when a message would join a conversation that this user may not see."""
    if thread is not None and not await may_see(tx, user, thread):
        raise Conflict("A colleague writes with them from this sender; choose another one, or ask that colleague.")
