"""Overflow: work that one queue cannot serve goes to another, after so long, when too many wait, or when nobody is there.

Pure but for `apply`, which looks again under the lock. A circle of queues is refused where it is set up (`check`), so nothing
goes round; should two administrators close one in the same instant, `check` still sees it, because it holds every queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select

from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.texts import Text
from routing import entries, hours, moves, queues
from routing.agents import Activity
from routing.core import Snapshot, Work
from routing.queues import EntryState, Lane, Queue

LONGEST_S, MOST = 86_400, 10_000


@dataclass(frozen=True, slots=True)
class Overflow:
    """Where to, and when: each condition stands alone; 0 and False mean that it is not used."""

    queue_id: str = ""
    after_s: int = 0  # of waiting in this queue
    waiting: int = 0  # more than so many wait: the last ones go
    nobody: bool = False  # nobody who serves the queue is at work
    written: bool = False  # texts and mails too, not only calls and what is answered by a call

    @property
    def used(self) -> bool:
        """True when something would ever go."""
        return bool(self.queue_id and (self.after_s or self.waiting or self.nobody))


@dataclass(frozen=True, slots=True)
class Going:
    """This entry goes, and why."""

    entry_id: str
    version: int
    why: Text


def of(stored: Mapping[str, Any]) -> Overflow:
    """A queue's rule as it is stored."""
    return Overflow(
        queue_id=str(stored.get("queue_id", "")), after_s=int(stored.get("after_s", 0)),
        waiting=int(stored.get("waiting", 0)), nobody=bool(stored.get("nobody", False)),
        written=bool(stored.get("written", False)),
    )  # fmt: skip


def as_doc(rule: Overflow) -> dict[str, Any]:
    """As it is stored; empty when no queue is named."""
    if not rule.queue_id:
        return {}
    return {
        "queue_id": rule.queue_id, "after_s": rule.after_s, "waiting": rule.waiting, "nobody": rule.nobody,
        "written": rule.written,
    }  # fmt: skip


def decide(snapshot: Snapshot, rules: Mapping[str, Overflow], now: datetime) -> tuple[list[Going], datetime | None]:
    """What goes now, and when time alone sends the next."""
    going: list[Going] = []
    moments: list[datetime] = []
    lines: dict[tuple[str, Lane], list[Work]] = {}
    for work in snapshot.work:
        rule = rules.get(work.queue_id)
        if rule is None or not rule.used or (work.lane == Lane.TEXT and not rule.written):
            continue
        if work.not_before is not None and work.not_before > now:
            continue
        lines.setdefault((work.queue_id, work.lane), []).append(work)
    for (queue_id, _), line in lines.items():
        rule = rules[queue_id]
        absent = rule.nobody and not _anybody(snapshot, queue_id)
        for place, work in enumerate(sorted(line, key=lambda each: (each.order_at, each.id)), 1):
            due = work.entered_at + timedelta(seconds=rule.after_s)
            if absent:
                going.append(Going(work.id, work.version, Text("nobody who serves the queue is at work")))
            elif rule.waiting and place > rule.waiting:
                told = Text("more than %(number)s waited", number=rule.waiting)
                going.append(Going(work.id, work.version, told))
            elif rule.after_s and due <= now:
                going.append(Going(work.id, work.version, Text("waited %(seconds)s s", seconds=rule.after_s)))
            elif rule.after_s:
                moments.append(due)
    return going, min(moments, default=None)


def _anybody(snapshot: Snapshot, queue_id: str) -> bool:
    """Whether somebody who serves this queue is at work: available, in a call or in wrap-up; those who pause are not."""
    workers = (snapshot.workers.get(user_id) for user_id in snapshot.queues[queue_id].members)
    return any(worker is not None and worker.activity == Activity.AVAILABLE for worker in workers)


async def apply(tx: Tx, going: Going, *, now: datetime) -> bool:
    """Let this work go, if it still waits as it was seen and there is an open queue to go to; False when it stays."""
    entry = await entries.lock(tx, going.entry_id)
    if entry.state != EntryState.WAITING or entry.version != going.version:
        raise Conflict("The work changed meanwhile.")
    left = await queues.get(tx, entry.queue_id)
    rule = of(left.overflow)
    target: Queue | None = await tx.one(queues.BY_ID, id=rule.queue_id)
    if target is None or target.retired or target.id == left.id:
        return False
    if not hours.is_open(await hours.find(tx, target.hours_id), now):
        return False
    await moves.move(tx, entry, target, why=going.why, by="", now=now)
    return True


async def check(tx: Tx, queue_id: str, rule: Overflow) -> None:
    """Invalid at a field when the rule cannot be: no such queue, itself, a circle, no condition, a figure out of bounds."""
    wrong: dict[str, str] = {}
    if not rule.queue_id:
        if rule.after_s or rule.waiting or rule.nobody:
            wrong["overflow_queue_id"] = Text("Choose the queue that work goes to.")
    else:
        rows = await tx.all(select(Queue).order_by(col(Queue.id)).with_for_update())
        known = {row.id: row for row in rows}
        road, here = [queue_id], rule.queue_id
        while here and here in known and here not in road:
            road.append(here)
            here = of(known[here].overflow).queue_id
        if rule.queue_id not in known or known[rule.queue_id].retired:
            wrong["overflow_queue_id"] = Text("Choose one of the list.")
        elif here == queue_id:
            names = " → ".join(known[each].name for each in [*road, queue_id] if each in known)
            wrong["overflow_queue_id"] = Text("Work would go round in a circle: %(queues)s.", queues=names)
        elif not rule.used:
            wrong["overflow_queue_id"] = Text("Say when work goes there.")
    if not 0 <= rule.after_s <= LONGEST_S:
        wrong["overflow_after_s"] = Text("Between %(low)s and %(high)s.", low=0, high=LONGEST_S)
    if not 0 <= rule.waiting <= MOST:
        wrong["overflow_waiting"] = Text("Between %(low)s and %(high)s.", low=0, high=MOST)
    if wrong:
        raise Invalid("This queue cannot be set so.", fields=wrong)


def read_rules(rows: Sequence[Queue]) -> dict[str, Overflow]:
    """The rules of these queues that use one."""
    found = {row.id: of(row.overflow) for row in rows if row.overflow}
    return {queue_id: rule for queue_id, rule in found.items() if rule.used}
