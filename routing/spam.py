"""Mail that is kept as spam: listed, looked at, and given back to work when it is none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnClause, literal_column
from sqlmodel import col, select

from crm_core import accounts, addresses, audit, blocked, conversations, interactions
from crm_core.conversations import ConversationState
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.interactions import Interaction, InteractionState
from crm_core.touches import Direction
from routing import entries, mails, threads
from routing.queues import Lane

MOST_OF_ONE = 50
# Written into the statement, because an index over some of the rows is only used for a value that stands there.
SPAM: ColumnClause[str] = literal_column("'spam'")


async def list_spam(tx: Tx, *, before: str = "", limit: int = 50) -> list[Interaction]:
    """Mails kept as spam, by a mark, a block or an agent, newest first, from below the id `before`."""
    statement = select(Interaction).where(Interaction.outcome == SPAM, Interaction.channel == mails.MAIL)
    if before:
        statement = statement.where(col(Interaction.id) < before)
    return await tx.all(statement.order_by(col(Interaction.id).desc()).limit(min(limit, 200)))


async def rescue(tx: Tx, interaction_id: str, *, user_id: str, now: datetime) -> Sequence[Interaction]:
    """It is no spam: this mail, and what of its conversation was put away with it, goes the normal way from here, in the place
    that its arrival gives it. Who wrote it is not blocked any more (a block of the whole domain stays).

    Invalid for what is not kept as spam; Conflict when the hub has no queue or somebody was first.
    """
    asked = await interactions.get(tx, interaction_id)
    if asked.channel != mails.MAIL or asked.outcome != interactions.Outcome.SPAM:
        raise Invalid("This mail is not kept as spam.")
    conversation = await conversations.get(tx, asked.conversation_id)
    account = await accounts.get(tx, conversation.account_id)
    if addresses.find_email(asked.from_address) is not None:
        await blocked.unblock(tx, asked.from_address, user_id=user_id, now=now)
    if conversation.state == ConversationState.CLOSED:
        await conversations.change(
            tx, conversation, now=now, event="conversation.changed", state=ConversationState.OPEN
        )
    queue = await threads.queue_of(tx, account, conversation)
    if queue is None:
        raise Conflict("There is no queue for it.")
    of_conversation = (
        select(Interaction)
        .where(
            Interaction.conversation_id == conversation.id, Interaction.direction == Direction.INBOUND,
            Interaction.outcome == SPAM,
        )
        .order_by(col(Interaction.id))
        .limit(MOST_OF_ONE)
    )  # fmt: skip
    rescued = await tx.all(of_conversation)
    work = await entries.find_open(tx, conversation.id)
    if work is not None and work.lane != Lane.TEXT:
        raise Conflict("A colleague works on this.")
    for one in rescued:
        if work is None:
            work = await entries.enter(
                tx,
                queue=queue,
                kind=mails.MAIL,
                interaction=one,
                now=now,
                preferred_agent_id=conversation.assigned_user_id,
            )
        data = {name: value for name, value in one.data.items() if name != "automatic"}
        await interactions.revive(
            tx, one, threads.STANDS[work.state], now=now, entry_id=work.id, queue_id=work.queue_id, data=data,
            agent_id=work.agent_id, connected_at=now if threads.STANDS[work.state] == InteractionState.CONNECTED else None,
        )  # fmt: skip
    await conversations.touch(tx, conversation.id, now=now)
    await audit.record(
        tx,
        actor=user_id,
        action="mail.rescued",
        subject=asked.id,
        now=now,
        sender=asked.from_address,
        mails=len(rescued),
    )
    return rescued
