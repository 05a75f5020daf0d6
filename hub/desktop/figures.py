"""What the status bar and the boards count: waiting work by queue, agents and what they do. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnClause, literal_column
from sqlmodel import col, func, select

from crm_core.db import Tx
from crm_core.users import Role, User
from hub.web import roles_of
from routing import pauses
from routing.agents import Activity, Agent, shown
from routing.queues import EntryState, Lane, Queue, QueueEntry, QueueMember

# Written into the statement, because an index over some of the states is only used for a state that stands there.
WAITING: ColumnClause[str] = literal_column("'waiting'")


@dataclass(frozen=True, slots=True)
class QueueFigure:
    """One queue: how many wait and since when the oldest does."""

    queue_id: str
    name: str
    waiting: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class AgentNow:
    """What the activity control shows: a word, its cause, since when, what comes next."""

    word: str  # available, busy, wrapup, ringing, joining (accepted, not yet together), paused, not_responding, offline
    activity: str
    reason: str
    cause: str
    since: datetime
    next_activity: str
    next_reason: str
    live: str  # "0/1"
    text: str
    reasons: list[str]  # why one may pause


async def agent_now(tx: Tx, user_id: str) -> AgentNow | None:
    """The agent's state; None when this user has never been one."""
    agent = await tx.one(select(Agent).where(Agent.user_id == user_id))
    if agent is None:
        return None
    word, reason = shown(agent)
    return AgentNow(
        word=word, activity=str(agent.activity), reason=reason, cause=agent.cause, since=agent.since,
        next_activity=agent.next_activity, next_reason=agent.next_reason,
        live=f"{agent.live_load}/{agent.live_capacity}", text=f"{agent.text_load}/{agent.text_capacity}",
        reasons=await pauses.list_all(tx),
    )  # fmt: skip


async def queues_of(tx: Tx, user: User) -> list[Queue]:
    """The queues a user serves; supervisors and administrators see all."""
    statement = select(Queue).where(col(Queue.retired).is_(False)).order_by(col(Queue.name)).limit(200)
    if not roles_of(user) & {Role.SUPERVISOR, Role.ADMIN}:
        mine = select(QueueMember.queue_id).where(QueueMember.user_id == user.id)
        statement = statement.where(col(Queue.id).in_(mine))
    return await tx.all(statement)


async def waiting_by_queue(tx: Tx) -> dict[str, tuple[int, datetime]]:
    """Queue id → how many wait, and since when the oldest."""
    rows = await tx.all(
        select(QueueEntry.queue_id, func.count(), func.min(QueueEntry.first_arrival_at))
        .where(col(QueueEntry.state) == WAITING)
        .group_by(col(QueueEntry.queue_id))
    )
    return {queue_id: (int(number), oldest) for queue_id, number, oldest in rows}


async def queue_figures(tx: Tx, user: User) -> list[QueueFigure]:
    """The user's queues with what waits in them, longest wait first."""
    waiting = await waiting_by_queue(tx)
    figures = [
        QueueFigure(queue.id, queue.name, *waiting.get(queue.id, (0, None))) for queue in await queues_of(tx, user)
    ]
    return sorted(figures, key=lambda f: (f.oldest_at is None, f.oldest_at or 0, f.name))


async def busy_agents(tx: Tx) -> list[tuple[User, Agent]]:
    """Every agent who is not offline, by name."""
    return await tx.all(
        select(User, Agent)
        .join(Agent, col(Agent.user_id) == col(User.id))
        .where(Agent.activity != Activity.OFFLINE)
        .order_by(col(User.name))
        .limit(300)
    )


async def work_of_agents(tx: Tx, states: Sequence[EntryState]) -> list[QueueEntry]:
    """Live work in hand, for the tiles."""
    return await tx.all(
        select(QueueEntry)
        .where(col(QueueEntry.state).in_(states), QueueEntry.lane == Lane.LIVE)
        .order_by(col(QueueEntry.connected_at))
        .limit(500)
    )
