"""The pure core: a frozen picture of queues, agents and waiting work, plus the time → who is offered what, and why.

No I/O, no clock, no chance but the seed: the same snapshot gives the same decisions, so recorded traffic can be replayed
against changed rules. Every decision carries its trace; `explain` shows that trace and never thinks again.

Rules, in the order they are looked at:
1. Work is served in order of `order_at`, then id, over all queues; written work and live work share the one order.
2. Who may have it: members of its queue who are available, whose tab answered within 30 s, who have the skills (after the
   rings that its waiting time has opened) and room: live work needs a free live lane, no wrap-up and a registered phone;
   written work needs points and no live work. Written work never blocks live work.
3. Who refused or missed it is not asked during the cool-off; afterwards only when nobody else is left.
4. Of the rest: the preferred agent, then the lower rank in the queue, then the longest idle, then the seed.
5. A queue may ring several at once. They are as many as it says, but no more than a fair share of those who are free: work behind
   it is offered too. The preferred agent, while work is kept for them, is rung alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any

from crm_core.texts import Text
from routing.agents import FRESH, Activity
from routing.queues import Lane

TRACED = 30  # how many agents a trace names one by one; the rest are counted by reason
BEHIND = "behind in order"
RUNG_TOO = "rings at the same time"


@dataclass(frozen=True, slots=True)
class Work:
    """One waiting entry."""

    id: str
    queue_id: str
    lane: Lane
    weight: int
    order_at: datetime
    entered_at: datetime
    skills: Mapping[str, int] = field(default_factory=dict)
    preferred_agent_id: str | None = None
    preferred_until: datetime | None = None  # kept for the preferred agent alone until then
    not_before: datetime | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class Worker:
    """One agent's session."""

    user_id: str
    activity: Activity
    idle_since: datetime
    seen_at: datetime | None
    voice_ready: bool = True
    live_load: int = 0
    live_capacity: int = 1
    text_load: int = 0
    text_capacity: int = 100
    wrapups: int = 0
    leaving: bool = False  # has asked for another activity after the present work
    skills: Mapping[str, int] = field(default_factory=dict)
    version: int = 1


@dataclass(frozen=True, slots=True)
class Ring:
    """After so long, these skills are no longer needed, or only this good."""

    after_s: float
    drop: frozenset[str] = frozenset()
    lower: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """One queue: what its work needs and who serves it (user id → rank)."""

    id: str
    skills: Mapping[str, int] = field(default_factory=dict)
    rings: Sequence[Ring] = ()
    members: Mapping[str, int] = field(default_factory=dict)
    preferred_wait_s: float = 0  # how long work waits for its preferred agent alone
    ring_count: int = 1  # how many are offered a piece of work at once
    offer_timeout_s: int = 0  # how long an offer stands


@dataclass(frozen=True, slots=True)
class Memory:
    """Somebody refused or missed a piece of work."""

    until: datetime
    times: int = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the core may know."""

    work: Sequence[Work]
    workers: Mapping[str, Worker]
    queues: Mapping[str, Rules]
    refusals: Mapping[tuple[str, str], Memory] = field(default_factory=dict)
    overflows: Mapping[str, Any] = field(default_factory=dict)  # queue id → overflow.Overflow, of those that use it
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Offered:
    """Offer this entry to this agent; both must still have the version that was seen (the agent's counts on with each offer)."""

    entry_id: str
    agent_id: str
    entry_version: int
    agent_version: int
    trace: dict[str, Any]
    also: tuple[tuple[str, int], ...] = ()  # others who are rung at the same time, with their versions
    timeout_s: int = 0  # how long it stands


@dataclass(frozen=True, slots=True)
class Kept:
    """This entry waits on, and why. What stands in the agents' way is said once for all work of the same line, under its key."""

    entry_id: str
    trace: dict[str, Any]
    line: str = ""  # empty when nobody was asked
    agents: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decisions:
    """What one pass decided. `next_at` is when time alone will change the picture (a ring, a cool-off, a delay)."""

    offers: list[Offered]
    kept: list[Kept]
    next_at: datetime | None


def needed(rules: Rules, work: Work, now: datetime) -> tuple[dict[str, int], int, datetime | None]:
    """Skills this work needs now, the ring it has reached (0 = none), and when the next ring opens."""
    wanted = {**rules.skills, **work.skills}
    waited = (now - work.entered_at).total_seconds()
    reached, opens = 0, None
    for number, ring in enumerate(sorted(rules.rings, key=lambda each: each.after_s), 1):
        if waited < ring.after_s:
            opens = work.entered_at + timedelta(seconds=ring.after_s)
            break
        reached = number
        wanted = {
            skill: min(level, ring.lower.get(skill, level)) for skill, level in wanted.items() if skill not in ring.drop
        }
    return {skill: level for skill, level in wanted.items() if level > 0}, reached, opens


def obstacle(worker: Worker, work: Work, wanted: Mapping[str, int], now: datetime) -> str:
    """Why this agent cannot have this work now, in one short clause; empty when they can."""
    if worker.activity != Activity.AVAILABLE:
        return str(worker.activity).replace("_", " ")
    if worker.leaving:
        return "stops after the present work"
    if worker.seen_at is None or now - worker.seen_at > FRESH:
        return "no heartbeat"
    if work.lane == Lane.LIVE:
        if not worker.voice_ready:
            return "phone not registered"
        if worker.wrapups:
            return "in wrap-up"
        if worker.live_load + work.weight > worker.live_capacity:
            return "busy with live work"
    else:
        if worker.live_load:
            return "busy with live work"
        if worker.text_load + work.weight > worker.text_capacity:
            return Text("written work full (%(load)s of %(most)s)", load=worker.text_load, most=worker.text_capacity)
    for skill, level in wanted.items():
        has = worker.skills.get(skill, 0)
        if has < level:
            return Text("skill %(skill)s: %(has)s of %(needed)s", skill=skill, has=has, needed=level)
    return ""


def decide(snapshot: Snapshot, now: datetime) -> Decisions:
    """One pass over everything that waits, oldest first; each offer uses up the room it takes."""
    room = _Room(snapshot)
    places: dict[tuple[str, Lane], int] = {}
    offers: list[Offered] = []
    kept: list[Kept] = []
    moments: list[datetime] = []
    behind_it = _due_by_line(snapshot, now)
    for work in sorted(snapshot.work, key=lambda each: (each.order_at, each.id)):
        rules = snapshot.queues[work.queue_id]
        place = places[work.queue_id, work.lane] = places.get((work.queue_id, work.lane), 0) + 1
        wanted, ring, opens = needed(rules, work, now)
        base: dict[str, Any] = {"position": place, "ring": ring, "skills": wanted}
        if opens is not None:
            moments.append(opens)
        if work.not_before is not None and work.not_before > now:
            moments.append(work.not_before)
            kept.append(Kept(work.id, {**base, "why": "not yet due"}))
            continue
        behind_it[work.queue_id, work.lane] -= 1  # so many wait behind it
        ranked, line = room.sort_out(work, rules, wanted, now)
        moments.extend(_cool_offs(snapshot, work, rules, now))
        waits_for = _waits_for_preferred(snapshot, work, rules, ranked, now)
        if waits_for is not None:
            moments.append(waits_for)
            told = {"why": "waits for the preferred agent", "preferred": work.preferred_agent_id}
            # By itself: others of its line may go to those who are free.
            kept.append(Kept(work.id, {**base, **told}, work.id, line.named()))
        elif not ranked:
            kept.append(Kept(work.id, {**base, "why": _why(rules, line.blocked)}, line.key, line.named()))
        else:
            chosen = ranked[0]
            share = len(ranked) // (behind_it[work.queue_id, work.lane] + 1)
            several = ranked[1 : min(rules.ring_count, max(1, share))]
            if chosen == work.preferred_agent_id and _kept_until(work, rules, now) is not None:
                several = []  # kept for them alone
            trace = {
                **base,
                "agent": chosen,
                "why": room.reason(work, rules, chosen, len(ranked)),
                "candidates": ranked[:TRACED],
                "agents": line.named(ranked[1:], ringing=len(several)),
            }
            also = tuple((user_id, room.workers[user_id].version) for user_id in several)
            version = room.workers[chosen].version
            offers.append(Offered(work.id, chosen, work.version, version, trace, also, rules.offer_timeout_s))
            for user_id in (chosen, *several):
                room.use(work, user_id, now)
            places[work.queue_id, work.lane] -= 1
    return Decisions(offers, kept, min(moments, default=None))


@lru_cache(maxsize=10_000)
def _lot(seed: int, user_id: str) -> bytes:
    """Decides between agents who are alike in all else."""
    return hashlib.blake2b(f"{seed}:{user_id}".encode(), digest_size=8).digest()


@lru_cache(maxsize=1000)
def _behind(place: int) -> str:
    return str(Text("behind in order (%(place)s)", place=place))


def _kind(work: Work, wanted: Mapping[str, int]) -> tuple[Any, ...]:
    """What a line has in common."""
    return (work.queue_id, work.lane, work.weight, *sorted(wanted.items()))


def _key(kind: tuple[Any, ...]) -> str:
    """The line's key in the traces, the same in every pass and process."""
    return hashlib.blake2b(repr(kind).encode(), digest_size=12).hexdigest()


def _due_by_line(snapshot: Snapshot, now: datetime) -> dict[tuple[str, Lane], int]:
    """How much work of each queue and lane could be offered now."""
    counts: dict[tuple[str, Lane], int] = {}
    for work in snapshot.work:
        if work.not_before is None or work.not_before <= now:
            counts[work.queue_id, work.lane] = counts.get((work.queue_id, work.lane), 0) + 1
    return counts


class _Line:
    """Those who serve a queue, for one kind of its work: who can have it, best first, and what stands in the others' way."""

    def __init__(self, key: str, work: Work, wanted: Mapping[str, int]) -> None:
        self.key = key
        self.work = work  # as an example of its kind
        self.wanted = wanted
        self.free: list[str] = []
        self.blocked: dict[str, str] = {}
        self._counts: dict[str, int] = {}  # of `blocked` by reason
        self._named: dict[str, Any] | None = None

    def block(self, user_id: str, why: str) -> None:
        """This agent cannot have it, or not for the reason that was given before."""
        why = str(why)  # plain, as it is stored: ten times quicker to write
        if user_id in self.blocked:
            self._counts[self.blocked[user_id]] -= 1
        self.blocked[user_id] = why
        self._counts[why] = self._counts.get(why, 0) + 1
        self._named = None

    def named(self, behind: Sequence[str] = (), *, ringing: int = 0) -> dict[str, Any]:
        """The agents with their reasons as a trace holds them: some by name, all by count.

        `behind`: who could have had it as well, best first; the first `ringing` of them are rung too.
        """
        if not behind and self._named is not None:
            return self._named
        named: dict[str, str] = {}
        for place, user_id in enumerate(behind[:TRACED]):
            named[user_id] = RUNG_TOO if place < ringing else _behind(place + 2)
        named.update(islice(self.blocked.items(), TRACED - len(named)))
        counts = {why: number for why, number in self._counts.items() if number}
        for why, number in ((RUNG_TOO, ringing), (BEHIND, len(behind) - ringing)):
            if number:
                counts[why] = number
        told = {"by_agent": named, "by_reason": counts}
        if not behind:
            self._named = told
        return told


class _Room:
    """Who has how much room left, as this pass hands work out."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.workers = dict(snapshot.workers)
        # What is asked of a queue's agents is mostly the same for all its work: looked at once, and then only at who is used.
        self._known: dict[tuple[Any, ...], _Line] = {}
        self._refused = {work_id for work_id, _ in snapshot.refusals}

    def sort_out(self, work: Work, rules: Rules, wanted: Mapping[str, int], now: datetime) -> tuple[list[str], _Line]:
        """Who can have it, best first; and all whom its queue has."""
        preferred = work.preferred_agent_id
        if self.is_special(work, rules):
            line = self._sort_out(work.id, work, rules, wanted, now, preferred=preferred)
            return line.free, line
        kind = _kind(work, wanted)
        known = self._known.get(kind)
        if known is None:
            known = self._known[kind] = self._sort_out(_key(kind), work, rules, wanted, now, preferred=None)
        if preferred not in known.free:
            return known.free, known
        return sorted(known.free, key=lambda user_id: user_id != preferred), known

    def is_special(self, work: Work, rules: Rules) -> bool:
        """Whether others are asked for it, or answer otherwise, than for the work beside it."""
        preferred = work.preferred_agent_id
        return work.id in self._refused or (preferred is not None and preferred not in rules.members)

    def _sort_out(
        self, key: str, work: Work, rules: Rules, wanted: Mapping[str, int], now: datetime, *, preferred: str | None
    ) -> _Line:
        line = _Line(key, work, wanted)
        for user_id in _asked(work, rules):
            worker = self.workers.get(user_id)
            if worker is None:
                continue
            why = obstacle(worker, work, wanted, now)
            memory = self.snapshot.refusals.get((work.id, user_id))
            if not why and memory is not None and memory.until > now:
                why = "refused or missed it just now"
            if why:
                line.block(user_id, why)
            else:
                line.free.append(user_id)

        def order(user_id: str) -> tuple[Any, ...]:
            memory = self.snapshot.refusals.get((work.id, user_id))
            return (
                memory.times if memory else 0,
                user_id != preferred,
                rules.members.get(user_id, 0),
                self.workers[user_id].idle_since,
                _lot(self.snapshot.seed, user_id),
            )

        line.free.sort(key=order)
        return line

    def reason(self, work: Work, rules: Rules, chosen: str, number: int) -> str:
        if number == 1:
            return "the only one free"
        if chosen == work.preferred_agent_id:
            return "preferred"
        if len(set(rules.members.values())) > 1:
            return "lowest rank, then longest idle"
        return "longest idle"

    def use(self, work: Work, user_id: str, now: datetime) -> None:
        worker = self.workers[user_id]
        live = work.weight if work.lane == Lane.LIVE else 0
        used = self.workers[user_id] = Worker(
            user_id=user_id, activity=worker.activity, idle_since=worker.idle_since, seen_at=worker.seen_at,
            voice_ready=worker.voice_ready, live_load=worker.live_load + live, live_capacity=worker.live_capacity,
            text_load=worker.text_load + work.weight - live, text_capacity=worker.text_capacity, wrapups=worker.wrapups,
            leaving=worker.leaving, skills=worker.skills, version=worker.version + 1,
        )  # fmt: skip
        for line in self._known.values():
            if user_id not in self.snapshot.queues[line.work.queue_id].members:
                continue
            why = obstacle(used, line.work, line.wanted, now)
            if why:
                if user_id not in line.blocked:
                    line.free.remove(user_id)
                line.block(user_id, why)


def _cool_offs(snapshot: Snapshot, work: Work, rules: Rules, now: datetime) -> list[datetime]:
    if not snapshot.refusals:
        return []
    found = (snapshot.refusals.get((work.id, user_id)) for user_id in _asked(work, rules))
    return [memory.until for memory in found if memory is not None and memory.until > now]


def _waits_for_preferred(
    snapshot: Snapshot, work: Work, rules: Rules, free: Sequence[str], now: datetime
) -> datetime | None:
    """Until when this work waits for its preferred agent alone; None when it does not. Nobody waits for one who has gone home."""
    preferred = snapshot.workers.get(work.preferred_agent_id or "")
    if work.preferred_agent_id is None or work.preferred_agent_id in free:
        return None
    if preferred is None or (work.id, preferred.user_id) in snapshot.refusals:
        return None  # gone home, or they have said no
    return _kept_until(work, rules, now)


def _kept_until(work: Work, rules: Rules, now: datetime) -> datetime | None:
    until = work.preferred_until
    if until is None and rules.preferred_wait_s > 0:
        until = work.entered_at + timedelta(seconds=rules.preferred_wait_s)
    return until if until is not None and until > now else None


def _asked(work: Work, rules: Rules) -> list[str]:
    """Who may be asked at all: those who serve the queue, and whom the work is meant for."""
    asked = list(rules.members)
    if work.preferred_agent_id is not None and work.preferred_agent_id not in rules.members:
        asked.append(work.preferred_agent_id)
    return asked


def _why(rules: Rules, blocked: Mapping[str, str]) -> str:
    if not rules.members:
        return "nobody serves this queue"
    if not blocked:
        return "nobody who serves this queue has logged in"
    return "nobody is free for it"


@dataclass(frozen=True, slots=True)
class Timer:
    """Something that happens by time alone: an offer's deadline, the end of a wrap-up, a promise that falls due."""

    kind: str
    id: str
    at: datetime


def fire(timers: Sequence[Timer], now: datetime) -> tuple[list[Timer], datetime | None]:
    """Those whose time has come, oldest first, and when the next of the others is due."""
    fired = sorted((timer for timer in timers if timer.at <= now), key=lambda each: (each.at, each.kind, each.id))
    return fired, min((timer.at for timer in timers if timer.at > now), default=None)
