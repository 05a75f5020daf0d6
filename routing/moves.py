"""Waiting work goes to another queue: by overflow, or by a supervisor. Its order key and its arrival stay; only the line changes.

Every move is told at the interaction (`data["moves"]`), so that explain can show the road, and in the record of a call.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, update
from sqlmodel import col, select

from crm_core import calls, conversations, interactions
from crm_core.db import Tx
from crm_core.errors import Conflict
from crm_core.interactions import InteractionState
from routing import entries, queues
from routing.callbacks import OPEN, Callback
from routing.queues import EntryState, EntryTrace, Queue, QueueEntry

MOST_TOLD = 20


async def move(tx: Tx, entry: QueueEntry, queue: Queue, *, why: str, by: str, now: datetime) -> None:
    """Put waiting work into another queue, at the place that its order key gives it there. Conflict when it waits no more.

    `by`: the user who did it; empty for the hub itself. Rings and the longest wait begin anew, because they are the queue's.
    """
    if entry.state != EntryState.WAITING:
        raise Conflict("This work does not wait any more.")
    if entry.queue_id == queue.id:
        raise Conflict("This work is in that queue already.")
    left = await queues.get(tx, entry.queue_id)
    told = {"from": left.name, "to": queue.name, "to_id": queue.id, "why": str(why), "by": by, "at": now.isoformat()}
    await entries.note(tx, entry, now=now, queue_id=queue.id, entered_at=now, preferred_until=None)
    await tx.run(delete(EntryTrace).where(col(EntryTrace.entry_id) == entry.id))
    for interaction in await interactions.list_entry(tx, entry.id):
        if interaction.state not in (InteractionState.WAITING, InteractionState.PROMISED):
            continue
        data = {**interaction.data, "moves": [*interaction.data.get("moves", []), told][-MOST_TOLD:]}
        await interactions.change(tx, interaction, now=now, queue_id=queue.id, data=data)
        if "room" in interaction.data:
            await calls.record_event(
                tx, interaction_id=interaction.id, kind="requeued", happened_at=now, now=now, user_id=by,
                event_key=f"hub:{interaction.id}:requeued:{entry.version}", raw={"from": left.id, "to": queue.id},
            )  # fmt: skip
    conversation = await conversations.get(tx, entry.conversation_id)
    if conversation.queue_id != queue.id:
        await conversations.change(tx, conversation, now=now, event="conversation.changed", queue_id=queue.id)
    if entry.callback_id is not None:
        await _move_promise(tx, entry.callback_id, queue)
    await entries.tell_moved(tx, entry, now=now, left=left.id)


async def _move_promise(tx: Tx, callback_id: str, queue: Queue) -> None:
    """The promise goes along, unless the same number is promised a call there already: then it only waits there."""
    row = await tx.one(select(Callback).where(Callback.id == callback_id))
    if row is None:
        return
    there = select(Callback.id).where(
        Callback.number_e164 == row.number_e164, Callback.queue_id == queue.id, col(Callback.state).in_(OPEN)
    )
    if await tx.one(there.limit(1)) is None:
        await tx.run(
            update(Callback).where(col(Callback.id) == row.id).values(queue_id=queue.id, version=row.version + 1)
        )


def road(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The moves of an interaction, oldest first."""
    found: list[dict[str, Any]] = data.get("moves") or []
    return found
