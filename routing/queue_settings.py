"""What an administrator may set about a queue: made, changed within bounds, and who serves it. Each change is audited."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from sqlalchemy import delete, update
from sqlmodel import col, select

from crm_core import audit, events
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.ids import new_id
from crm_core.texts import Text
from routing import hours, overflow, prompts, queues, standing
from routing.overflow import Overflow
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
    "ring_count": (1, 20),
    "preferred_wait_s": (0, 3600),
    "vip_credit_s": (0, 86_400),
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


MOST_RINGS, MOST_SKILLS = 10, 20
SKILL = re.compile(r"[^\W_][\w .+-]{0,39}")


def read_skills(text: str) -> dict[str, int]:
    """`spanish 3, chinese` as skill → least level from 1 to 5 (3 when none is given). Invalid at `skills`."""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip().lower() for part in text.split(","))):
        name, level = _skill(part)
        if name is None or not 1 <= level <= 5:
            raise Invalid(
                "A skill has a level from 1 to 5.", fields={"skills": Text("Write it as spanish 4, chinese 2.")}
            )
        found[name] = level
    if len(found) > MOST_SKILLS:
        raise Invalid("There are too many skills.", fields={"skills": Text("At most %(number)s.", number=MOST_SKILLS)})
    return found


def _skill(part: str) -> tuple[str | None, int]:
    head, _, last = part.rpartition(" ")
    name, level = (
        (head.strip(), int(last)) if head and last.isascii() and last.isdigit() and len(last) < 4 else (part, 3)
    )
    return (name if SKILL.fullmatch(name) else None), level


def write_skills(skills: dict[str, int]) -> str:
    """As `read_skills` reads it."""
    return ", ".join(f"{name} {level}" for name, level in skills.items())


def read_relax(text: str, skills: dict[str, int]) -> dict[str, Any]:
    """What is asked of agents less and less as work waits: `60: spanish 2` lowers, `120: spanish 0` drops. One line per
    instant, in seconds of waiting. Invalid at `relax`."""
    rings: dict[int, dict[str, Any]] = {}
    for line in filter(None, (line.strip().lower() for line in text.splitlines())):
        seconds, colon, rest = line.partition(":")
        if not (colon and seconds.strip().isascii() and seconds.strip().isdigit() and len(seconds) < 7):
            raise Invalid(RELAX, fields={"relax": Text("Write each line as 60: spanish 2.")})
        ring = rings.setdefault(int(seconds), {"after_s": int(seconds)})
        for part in filter(None, (part.strip() for part in rest.split(","))):
            name, level = _skill(part)
            if name is None or name not in skills or not 0 <= level < skills[name]:
                told = Text("Line %(line)s: name a skill of this queue with a lower level, or 0.", line=line[:40])
                raise Invalid(RELAX, fields={"relax": told})
            if level:
                ring.setdefault("lower", {})[name] = level
            else:
                ring.setdefault("drop", []).append(name)
    if len(rings) > MOST_RINGS:
        raise Invalid(RELAX, fields={"relax": Text("At most %(number)s.", number=MOST_RINGS)})
    return {"rings": [rings[after] for after in sorted(rings)]} if rings else {}


RELAX = "What is relaxed cannot be read."


def write_relax(relax: dict[str, Any]) -> str:
    """As `read_relax` reads it."""
    lines = []
    for ring in relax.get("rings", ()):
        parts = [f"{name} {level}" for name, level in ring.get("lower", {}).items()]
        parts += [f"{name} 0" for name in ring.get("drop", ())]
        lines.append(f"{ring['after_s']}: {', '.join(parts)}")
    return "\n".join(lines)


async def set_rules(
    tx: Tx, queue_id: str, *, language: str, hours_id: str, skills: dict[str, int], relax: dict[str, Any], actor: str,
    now: datetime,
) -> None:  # fmt: skip
    """Language of announcements, opening hours (empty: always open), skills asked for and how they are relaxed."""
    queue = await queues.get(tx, queue_id)
    prompts.check_language(language)
    if hours_id and await hours.find(tx, hours_id) is None:
        raise Invalid("There are no such hours.", fields={"hours_id": Text("Choose one of the list.")})
    fresh = {"language": language, "hours_id": hours_id or None, "skills": skills, "relax": relax}
    changed = {name: value for name, value in fresh.items() if getattr(queue, name) != value}
    if not changed:
        return
    await tx.run(update(Queue).where(col(Queue.id) == queue_id).values(**changed, version=queue.version + 1))
    await audit.record(tx, actor=actor, action="queue.changed", subject=f"queue:{queue_id}", now=now, changed=changed)
    tx.wake("router")


async def set_overflow(tx: Tx, queue_id: str, rule: Overflow, *, preferred: str, actor: str, now: datetime) -> None:
    """Where work goes that this queue cannot serve, and for whom it is kept (`last`, `owner` or nobody). Invalid at a field."""
    if preferred not in standing.WAYS:
        raise Invalid("This queue cannot be set so.", fields={"preferred": Text("Choose one of the list.")})
    await overflow.check(tx, queue_id, rule)
    queue = await queues.get(tx, queue_id)
    fresh: dict[str, Any] = {"overflow": overflow.as_doc(rule), "preferred": preferred}
    changed = {name: value for name, value in fresh.items() if getattr(queue, name) != value}
    if not changed:
        return
    await tx.run(update(Queue).where(col(Queue.id) == queue_id).values(**changed, version=queue.version + 1))
    await audit.record(tx, actor=actor, action="queue.changed", subject=f"queue:{queue_id}", now=now, changed=changed)
    tx.wake("router")


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
