"""The router's picture of the database: what waits, who could take it, every timer; read by indexed queries in one snapshot."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Text as SqlText
from sqlalchemy import bindparam, case, exists, literal_column, type_coerce, union_all
from sqlmodel import col, select

from crm_core.conversations import Conversation, ConversationState
from crm_core.db import Tx
from crm_core.interactions import Interaction, InteractionState
from crm_core.statements import fixed
from routing import overflow
from routing.agents import FRESH, LOST, Activity, Agent, AgentSkill
from routing.callbacks import OPEN, Callback, CallbackState
from routing.core import Memory, Ring, Rules, Snapshot, Timer, Work, Worker
from routing.offers import IS_LIVE, Offer, OfferState
from routing.queues import (
    IS_OPEN,
    IS_WAITING,
    EntryState,
    EntryTrace,
    Lane,
    LineTrace,
    Queue,
    QueueEntry,
    QueueMember,
    Refusal,
)
from routing.rooms import CallRoom

CALL = "voice"  # the kind of work in which a caller is on the line
DEPTH = 500  # how far down a queue one pass looks; what is behind cannot be next
UNDER_WAY = (InteractionState.WAITING, InteractionState.OFFERED, InteractionState.CONNECTED)  # of a call
ALONE = timedelta(seconds=30)  # a room with one party is ended after this
OFFLINE_AFTER = timedelta(minutes=5)  # a lost agent counts as logged out after this

_QUEUES = fixed(select(Queue))
_MEMBERS = fixed(select(QueueMember.queue_id, QueueMember.user_id, QueueMember.rank))
_AGENTS = fixed(select(Agent).where(Agent.activity != Activity.OFFLINE))
_SKILLS = fixed(
    select(AgentSkill.user_id, AgentSkill.skill, AgentSkill.level)
    .join(Agent, col(Agent.user_id) == col(AgentSkill.user_id))
    .where(Agent.activity != Activity.OFFLINE)
)
_WORK = (  # in the order of `Work`, and the kind
    QueueEntry.id, QueueEntry.queue_id, QueueEntry.lane, QueueEntry.weight, QueueEntry.order_at, QueueEntry.entered_at,
    QueueEntry.skills, QueueEntry.preferred_agent_id, QueueEntry.preferred_until, QueueEntry.not_before,
    QueueEntry.version, QueueEntry.kind,
)  # fmt: skip
_WAITING = fixed(
    select(*_WORK)  # type: ignore[call-overload]  # SQLModel describes up to four columns
    .where(QueueEntry.queue_id == bindparam("queue_id"), IS_WAITING)
    .order_by(col(QueueEntry.order_at), col(QueueEntry.id))
    .limit(DEPTH)
)
_REFUSALS = fixed(select(Refusal).join(QueueEntry, col(QueueEntry.id) == col(Refusal.entry_id)).where(IS_WAITING))
_TRACES = fixed(select(EntryTrace).join(QueueEntry, col(QueueEntry.id) == col(EntryTrace.entry_id)).where(IS_WAITING))
_LINES = fixed(select(LineTrace))
_LEFT_BEHIND = fixed(  # who wants to go and holds live work in which nobody is on the line
    select(QueueEntry.agent_id)
    .join(Agent, col(Agent.user_id) == col(QueueEntry.agent_id))
    .where(
        IS_OPEN,
        QueueEntry.state == EntryState.CONNECTED,
        QueueEntry.lane == Lane.LIVE,
        Agent.next_activity == Activity.OFFLINE,
        ~exists().where(
            col(Interaction.entry_id) == col(QueueEntry.id),
            col(Interaction.channel) == CALL,
            col(Interaction.state).in_(UNDER_WAY),
        ),
    )
)


def _timer(kind: Any, of: Any, instant: Any) -> Any:
    return select(type_coerce(kind, SqlText).label("kind"), of.label("id"), instant.label("at"))


def _word(kind: str) -> Any:
    return literal_column(f"'{kind}'")


_RINGS = case((col(Offer.state) == OfferState.OPEN, _word("offer")), else_=_word("accept"))
_PROMISES = (
    _timer(_word("callback"), col(Callback.id), col(Callback.due_at))
    .where(col(Callback.state) == CallbackState.REQUESTED, col(Callback.state).in_(OPEN))  # named for its index
    .order_by(col(Callback.due_at))
    .limit(200)
)
_SNOOZED = (
    _timer(_word("snooze"), col(Conversation.id), col(Conversation.snoozed_until))
    .where(col(Conversation.state) == ConversationState.SNOOZED, col(Conversation.snoozed_until).is_not(None))
    .order_by(col(Conversation.snoozed_until))
    .limit(200)
)
_ALL = union_all(
    _timer(_RINGS, col(Offer.id), col(Offer.deadline_at)).where(IS_LIVE),
    _timer(_word("wrapup"), col(QueueEntry.id), col(QueueEntry.wrapup_until)).where(
        IS_OPEN, col(QueueEntry.state) == EntryState.WRAPUP, col(QueueEntry.wrapup_until).is_not(None)
    ),
    _timer(_word("grace"), col(QueueEntry.id), col(QueueEntry.grace_until)).where(
        IS_OPEN, col(QueueEntry.state) == EntryState.CONNECTED, col(QueueEntry.grace_until).is_not(None)
    ),
    _timer(_word("alone"), col(CallRoom.id), col(CallRoom.alone_since)).where(
        col(CallRoom.alone_since).is_not(None), col(CallRoom.ended_at).is_(None)
    ),
    *(select(*bounded.subquery().c) for bounded in (_PROMISES, _SNOOZED)),
).subquery()
_TIMERS = fixed(select(_ALL.c.kind, _ALL.c.id, _ALL.c.at))  # in one round trip: most of them have nothing


@dataclass(frozen=True, slots=True)
class Told:
    """The traces that are stored: of what waits, by entry, and of its lines, by key."""

    entries: dict[str, dict[str, Any]]
    lines: dict[str, LineTrace]


async def load(tx: Tx) -> tuple[Snapshot, Told, list[Timer]]:
    """The snapshot for the core, the stored traces, and every timer."""
    queues = {queue.id: queue for queue in await tx.all(_QUEUES)}
    members: dict[str, dict[str, int]] = defaultdict(dict)
    for queue_id, user_id, rank in await tx.all(_MEMBERS):
        members[queue_id][user_id] = rank
    skills: dict[str, dict[str, int]] = defaultdict(dict)
    for user_id, skill, level in await tx.all(_SKILLS):
        skills[user_id][skill] = level
    agents: list[Agent] = await tx.all(_AGENTS)
    waiting: list[Work] = []
    calls: list[Work] = []
    for queue_id in queues:
        for *values, kind in await tx.all(_WAITING, queue_id=queue_id):
            work = Work(*values)
            waiting.append(work)
            if kind == CALL:
                calls.append(work)
    refusals: list[Refusal] = await tx.all(_REFUSALS) if waiting else []
    traces: list[EntryTrace] = await tx.all(_TRACES) if waiting else []
    lines: list[LineTrace] = await tx.all(_LINES)
    snapshot = Snapshot(
        work=waiting,
        workers={agent.user_id: _worker(agent, skills[agent.user_id]) for agent in agents},
        queues={queue.id: rules(queue, members[queue.id]) for queue in queues.values()},
        refusals={(each.entry_id, each.agent_id): Memory(each.until, each.times) for each in refusals},
        overflows=overflow.read_rules(list(queues.values())),
    )
    timers = await _timers(tx)
    for work in calls:
        longest = timedelta(seconds=queues[work.queue_id].max_wait_s)
        timers.append(Timer("longest_wait", work.id, work.entered_at + longest))
    leaving = any(agent.next_activity == Activity.OFFLINE for agent in agents)
    left_behind = set(await tx.all(_LEFT_BEHIND)) if leaving else set()
    for agent in agents:
        if agent.next_activity == Activity.OFFLINE:
            # Gone already as soon as the present call ends; work without a call would stay with them for ever.
            if agent.user_id in left_behind:
                timers.append(Timer("gone", agent.user_id, (agent.seen_at or agent.since) + OFFLINE_AFTER))
        elif agent.activity == Activity.NOT_RESPONDING and agent.reason == LOST:
            timers.append(Timer("gone", agent.user_id, (agent.seen_at or agent.since) + OFFLINE_AFTER))
        elif agent.activity == Activity.AVAILABLE:
            timers.append(Timer("lost", agent.user_id, (agent.seen_at or agent.since) + FRESH))
        elif agent.activity != Activity.OFFLINE:
            timers.append(Timer("gone", agent.user_id, (agent.seen_at or agent.since) + 12 * OFFLINE_AFTER))
    told = Told({trace.entry_id: trace.trace for trace in traces}, {line.key: line for line in lines})
    return snapshot, told, timers


async def _timers(tx: Tx) -> list[Timer]:
    return [
        Timer(kind, found, instant + ALONE if kind == "alone" else instant)
        for kind, found, instant in await tx.all(_TIMERS)
    ]


def _worker(agent: Agent, skills: dict[str, int]) -> Worker:
    return Worker(
        user_id=agent.user_id, activity=agent.activity, idle_since=agent.idle_since, seen_at=agent.seen_at,
        voice_ready=agent.voice_ready, live_load=agent.live_load, live_capacity=agent.live_capacity,
        text_load=agent.text_load, text_capacity=agent.text_capacity, wrapups=agent.wrapups,
        leaving=bool(agent.next_activity), skills=skills, version=agent.version,
    )  # fmt: skip


def rules(queue: Queue, members: dict[str, int]) -> Rules:
    """A queue's rules as the core reads them."""
    relax = queue.relax or {}
    rings = [
        Ring(float(ring["after_s"]), frozenset(ring.get("drop", ())), dict(ring.get("lower", {})))
        for ring in relax.get("rings", ())
    ]
    return Rules(
        id=queue.id, skills=queue.skills, rings=rings, members={} if queue.retired else members,
        preferred_wait_s=float(relax.get("preferred_wait_s", 0)), ring_count=queue.ring_count,
        offer_timeout_s=queue.offer_timeout_s,
    )  # fmt: skip
