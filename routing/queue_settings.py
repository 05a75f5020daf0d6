"""What an administrator may set about a queue: made, changed within bounds, and who serves it. Each change is audited."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, update
from sqlmodel import col, select

from crm_core import audit, events
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.ids import new_id
from crm_core.texts import Text
from routing import queues
from routing.queues import Queue, QueueMember

# Field → least and greatest value, in seconds or times.
BOUNDS: dict[str, tuple[int, int]] = {
    "offer_timeout_s": (5, 300),
    "accept_timeout_s": (5, 120),
    "refusal_cooloff_s": (0, 3600),
    "wrapup_s": (0, 3600),
    "service_level_s": (1, 86_400),
    "priority_credit_s": (0, 86_400),
    "callback_offer_after_s": (-1, 3600),
    "callback_max_attempts": (1, 20),
    "callback_retry_s": (60, 7 * 86_400),
    "max_wait_s": (60, 86_400),
}


def check(values: dict[str, int]) -> None:
    """Invalid, with a sentence for each value out of bounds, and for values that contradict each other."""
    wrong: dict[str, str] = {
        name: Text("Between %(low)s and %(high)s.", low=low, high=high)
        for name, value in values.items()
        for low, high in [BOUNDS[name]]
        if not low <= value <= high
    }
    offered, longest = values.get("callback_offer_after_s", 0), values.get("max_wait_s", BOUNDS["max_wait_s"][1])
    if not wrong and offered >= longest:
        wrong["callback_offer_after_s"] = "The callback would be offered after the longest wait."
    if wrong:
        raise Invalid("This queue cannot be set so.", fields=wrong)


async def create(tx: Tx, *, name: str, actor: str, now: datetime) -> Queue:
    """A queue with the usual values. Conflict when the name is taken."""
    if not name.strip():
        raise Invalid("A queue needs a name.", fields={"name": "Give a name."})
    queue = Queue(id=new_id(now), name=name.strip()[:100])
    if not await tx.add_new(queue, unique=["name"]):
        raise Conflict("There is a queue of this name.")
    await audit.record(tx, actor=actor, action="queue.created", subject=f"queue:{queue.id}", now=now, name=queue.name)
    return queue


async def edit(
    tx: Tx, queue_id: str, *, version: int, actor: str, now: datetime, name: str, values: dict[str, int]
) -> Queue:
    """Change a queue that still has this version; Conflict when somebody was first."""
    if not name.strip():
        raise Invalid("A queue needs a name.", fields={"name": "Give a name."})
    check(values)
    other = await tx.one(select(Queue.id).where(Queue.name == name.strip(), Queue.id != queue_id))
    if other is not None:
        raise Conflict("There is a queue of this name.")
    before = await queues.get(tx, queue_id)
    guard = update(Queue).where(col(Queue.id) == queue_id, col(Queue.version) == version)
    if await tx.run(guard.values(name=name.strip()[:100], **values, version=version + 1)) != 1:
        raise Conflict("Somebody changed this queue meanwhile; the newer values are shown.")
    changed = {
        field: [getattr(before, field), value] for field, value in values.items() if getattr(before, field) != value
    }
    await audit.record(tx, actor=actor, action="queue.changed", subject=f"queue:{queue_id}", now=now, changed=changed)
    await events.emit(tx, "entry.changed", queue_id, now=now, queue_id=queue_id)
    tx.wake("router")
    return await queues.get(tx, queue_id)


async def set_members(tx: Tx, queue_id: str, user_ids: list[str], *, actor: str, now: datetime) -> None:
    """Exactly these users serve the queue; ranks of those who stay are kept."""
    queue = await queues.get(tx, queue_id)
    present = set(await tx.all(select(QueueMember.user_id).where(QueueMember.queue_id == queue.id)))
    wanted = set(user_ids)
    for user_id in sorted(wanted - present):
        await queues.put_member(tx, queue.id, user_id)
    gone = sorted(present - wanted)
    if gone:
        await tx.run(
            delete(QueueMember).where(col(QueueMember.queue_id) == queue.id, col(QueueMember.user_id).in_(gone))
        )
    if present != wanted:
        await audit.record(
            tx, actor=actor, action="queue.members", subject=f"queue:{queue.id}", now=now,
            added=sorted(wanted - present), removed=gone,
        )  # fmt: skip
    tx.wake("router")
