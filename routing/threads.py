"""Written conversations: an inbound message joins its conversation and the piece of work that stands for it.

One entry per conversation that has something unanswered; what comes while it is open joins it. The assigned agent gets
follow-ups directly while they are at work and have room, otherwise first of all.
"""

from __future__ import annotations

from datetime import datetime

from crm_core import conversations, interactions
from crm_core.accounts import ChannelAccount
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState
from routing import agents, entries, queues
from routing.agents import Activity
from routing.entries import LANES
from routing.queues import EntryState, Lane, Queue, QueueEntry

# An interaction that joins work stands where that work stands.
STANDS = {
    EntryState.WAITING: InteractionState.WAITING,
    EntryState.OFFERED: InteractionState.OFFERED,
    EntryState.CONNECTED: InteractionState.CONNECTED,
    EntryState.WRAPUP: InteractionState.CONNECTED,
}


async def queue_of(tx: Tx, account: ChannelAccount, conversation: Conversation) -> Queue | None:
    """Where this conversation's work goes: its own queue, else the account's, else the first there is."""
    wanted = conversation.queue_id or account.queue_id
    if wanted is not None:
        found: Queue | None = await tx.one(queues.BY_ID, id=wanted)
        return found
    return next(iter(await queues.list_all(tx)), None)


async def deliver(
    tx: Tx,
    interaction: Interaction,
    conversation: Conversation,
    account: ChannelAccount,
    *,
    now: datetime,
    fresh: bool = False,
) -> QueueEntry | None:
    """Store an inbound interaction that wants an answer, with its conversation's open work or as new work.

    `fresh`: the conversation was begun in this very unit, so it has no work and was never touched.

    None only when the hub has no queue at all: it is kept, waiting, and seen on the timeline.
    """
    work = None if fresh else await entries.find_open(tx, conversation.id)
    if work is not None and work.lane == Lane.TEXT:
        interaction.__dict__.update(
            entry_id=work.id, queue_id=work.queue_id, state=STANDS[work.state], agent_id=work.agent_id
        )
        if work.state == EntryState.CONNECTED:
            interaction.__dict__["connected_at"] = now
        await interactions.create(tx, interaction, now=now)
        await conversations.touch(tx, conversation.id, now=now)
        return work
    queue = await queue_of(tx, account, conversation)
    entry_id = new_id(now) if queue else None
    interaction.__dict__.update(state=InteractionState.WAITING, queue_id=queue.id if queue else None, entry_id=entry_id)
    await interactions.create(tx, interaction, now=now)
    if not fresh:
        await conversations.touch(tx, conversation.id, now=now)
    if queue is None or entry_id is None:
        return None
    entry = await entries.enter(
        tx, queue=queue, kind=account.channel, interaction=interaction, now=now,
        preferred_agent_id=conversation.assigned_user_id, entry_id=entry_id,
    )  # fmt: skip
    await _to_assigned(tx, entry, conversation, now=now)
    return entry


async def _to_assigned(tx: Tx, entry: QueueEntry, conversation: Conversation, *, now: datetime) -> None:
    if conversation.assigned_user_id is None:
        return
    known = await agents.find(tx, conversation.assigned_user_id)
    if known is None:
        return
    agent = await agents.lock(tx, conversation.assigned_user_id)
    weight = LANES[entry.kind][1]
    here = agent.activity == Activity.AVAILABLE and agent.seen_at is not None and now - agent.seen_at <= agents.FRESH
    if here and not agent.live_load and agent.text_load + weight <= agent.text_capacity:
        await entries.take(tx, entry, agent, now=now)
