"""Agents: activity, capacity and skills, kept on the server, so that a closed tab changes nothing about what is true.

Every change of an agent goes through `change_all`: held, guarded by version, the time ledger in the same transaction. Its state
follows from the row (`shown`): live work first, then wrap-up, then an accepted offer on its way to the customer, then a
ringing one, then the activity. Written work does not change it, because an agent who writes can still be called.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import Boolean, Index, bindparam, update
from sqlmodel import Field, and_, col, or_, select

from crm_core import events
from crm_core.changes import among, change_held, named
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.ids import new_id
from crm_core.statements import Fixed, fixed
from crm_core.tables import Table, at, key, one_of, ref, text, word

FRESH = timedelta(seconds=30)  # a heartbeat older than this means that the tab is gone
LOST = "connection lost"  # pause reason that the next heartbeat ends by itself
MISSES = 2  # offers missed in a row before an agent counts as not responding


class Activity(StrEnum):
    """What an agent is doing, as far as new work is concerned. Busy, ringing and wrap-up follow from their work."""

    OFFLINE = "offline"
    AVAILABLE = "available"
    PAUSED = "paused"
    NOT_RESPONDING = "not_responding"


class Agent(Table, table=True):
    """One agent's session. Loads change only in the transaction that offers, connects or ends work."""

    __tablename__ = "agents"
    __table_args__ = (one_of("activity", Activity),)

    user_id: str = ref("users.id", primary_key=True)
    activity: Activity = word(Activity, default=Activity.OFFLINE)
    reason: str = text()  # pause reason
    cause: str = text()  # agent, supervisor, system, api
    since: datetime = at()  # of the state shown (see `shown`)
    next_activity: str = text()  # asked for: takes effect when present work ends
    next_reason: str = text()
    live_load: int = 0  # live work offered or connected
    live_capacity: int = 1
    text_load: int = 0  # points of written work offered or connected
    text_capacity: int = 100
    ringing: int = 0  # of live_load: offered, not yet answered by the agent
    joining: int = 0  # of live_load: accepted, on the way to the customer
    wrapups: int = 0  # pieces of live work in wrap-up: no new live work meanwhile
    voice_ready: bool = False  # the browser phone is registered, or they are rung on `phone_e164`
    phone_e164: str = text()  # calls are taken on this phone instead of the browser; empty: in the browser
    seen_at: datetime | None = at(nullable=True)  # last heartbeat
    idle_since: datetime = at()  # longest idle is asked first
    misses: int = 0  # offers expired in a row
    version: int = 1


class AgentSkill(Table, table=True):
    """A skill and how good: 1 to 5."""

    __tablename__ = "agent_skills"

    user_id: str = ref("users.id", primary_key=True)
    skill: str = Field(primary_key=True)
    level: int = 3


class AgentPeriod(Table, table=True):
    """The time ledger: consecutive periods of one agent, each ending where the next begins; sums to logged-in time."""

    __tablename__ = "agent_periods"
    __table_args__ = (Index("ix_agent_periods_user", "user_id", "started_at"),)

    id: str = key()
    user_id: str = ref("users.id", index=False)
    state: str = text()  # available, paused, not_responding, ringing, joining, busy, wrapup, offline
    reason: str = text()
    cause: str = text()
    started_at: datetime = at()
    ended_at: datetime | None = at(nullable=True)


_GET = fixed(select(Agent).where(Agent.user_id == bindparam("id")))
_LOCK = fixed(select(Agent).where(Agent.user_id == bindparam("id")).with_for_update())


@cache
def _lock_all(number: int) -> Fixed[Any]:
    these = select(Agent).where(among(Agent.user_id, "id", number))
    return fixed(these.order_by(col(Agent.user_id)).with_for_update())


async def find(tx: Tx, user_id: str) -> Agent | None:
    """The agent's session, or None for somebody who never was one."""
    found: Agent | None = await tx.one(_GET, id=user_id)
    return found


async def lock(tx: Tx, user_id: str) -> Agent:
    """The session, held until this transaction ends; NotFound for somebody who never was an agent."""
    found: Agent | None = await tx.one(_LOCK, id=user_id)
    if found is None:
        raise NotFound("There is no such agent.")
    return found


async def lock_all(tx: Tx, user_ids: Sequence[str]) -> dict[str, Agent]:
    """These sessions, held in the order of their ids; who never was an agent is left out."""
    found: list[Agent] = await tx.all(_lock_all(len(user_ids)), **named("id", user_ids))
    return {agent.user_id: agent for agent in found}


async def ensure(tx: Tx, user_id: str, *, now: datetime) -> Agent:
    """The session, held; made as offline at somebody's first log-in."""
    fresh = Agent(user_id=user_id, since=now, idle_since=now)
    if await tx.add_new(fresh, unique=["user_id"]):
        tx.later(AgentPeriod(id=new_id(now), user_id=user_id, state="offline", cause="system", started_at=now))
    return await lock(tx, user_id)


def shown(agent: Agent) -> tuple[str, str]:
    """What an agent is doing in one word, and the pause reason: what boards show and the ledger adds up."""
    if agent.live_load > agent.ringing + agent.joining:
        return "busy", ""
    if agent.wrapups:
        return "wrapup", ""
    if agent.joining:
        return "joining", ""
    if agent.ringing:
        return "ringing", ""
    return str(agent.activity), agent.reason


async def change(tx: Tx, agent: Agent, *, now: datetime, by: str = "", **changes: Any) -> None:
    """Change one session that this unit holds, its ledger with it. `by` is who caused a change of activity (default: as before).

    An activity asked for during work takes effect here, at the instant the last live work is over.
    """
    await change_all(tx, [(agent, changes)], now=now, by=by)


async def change_all(tx: Tx, changed: Sequence[tuple[Agent, dict[str, Any]]], *, now: datetime, by: str = "") -> None:
    """`change` for several sessions at once, each named once; Conflict when somebody was first."""
    before = {agent.user_id: (shown(agent), agent.since) for agent, _ in changed}
    planned = [(agent, _planned(agent, changes, now=now, by=by)) for agent, changes in changed]
    await change_held(tx, planned)
    moved = [agent for agent, _ in changed if shown(agent) != before[agent.user_id][0]]
    await _note_periods(tx, [(agent, before[agent.user_id][1]) for agent in moved])
    for agent in moved:
        await events.emit(tx, "agent.changed", agent.user_id, now=now, version=agent.version, user_id=agent.user_id)
    tx.wake("router")


def _planned(agent: Agent, changes: dict[str, Any], *, now: datetime, by: str) -> dict[str, Any]:
    """All that changes with these changes."""
    values = dict(changes)
    if by:
        values["cause"] = by
    after = cast(Agent, SimpleNamespace(**{**agent.__dict__, **values}))
    if after.next_activity and not after.live_load and not after.wrapups:
        values |= {"activity": Activity(after.next_activity), "reason": after.next_reason, "next_activity": "",
                   "next_reason": "", "cause": "agent"}  # fmt: skip
    if values.get("activity", agent.activity) == Activity.AVAILABLE and agent.activity != Activity.AVAILABLE:
        values |= {"idle_since": now, "misses": 0}
    after.__dict__.update(values)
    if shown(after) != shown(agent):
        # Two processes' clocks differ by a little: a period never ends before it began.
        values["since"] = max(now, agent.since)
    return values


async def beat(tx: Tx, user_id: str, *, voice_ready: bool, now: datetime) -> None:
    """Note a heartbeat. It changes the session (version, event) only when the phone's readiness changes or a lost tab is back.

    Who takes calls on a telephone needs the browser for the screen only.
    """
    if await tx.run(_BEAT, id=user_id, ready=voice_ready, now=now):
        return  # nearly always: one statement, every ten seconds, from every desktop
    agent = await ensure(tx, user_id, now=now)
    values: dict[str, Any] = {"seen_at": now, "voice_ready": voice_ready or bool(agent.phone_e164)}
    if agent.activity == Activity.NOT_RESPONDING and agent.reason == LOST:
        values |= {"activity": Activity.AVAILABLE, "reason": ""}
    await change(tx, agent, now=now, by="system", **values)


async def heal_clock(tx: Tx, *, now: datetime) -> int:
    """The clock was set back: a heartbeat in what is now the future would count as fresh for hours; how many did."""
    ahead = update(Agent).where(col(Agent.seen_at) > now + FRESH)
    return await tx.run(ahead.values(seen_at=now))


async def any_ahead(tx: Tx, *, now: datetime) -> bool:
    """True when `heal_clock` has something to do."""
    return await tx.one(select(Agent.user_id).where(col(Agent.seen_at) > now + FRESH).limit(1)) is not None


_LOST = and_(col(Agent.activity) == Activity.NOT_RESPONDING, col(Agent.reason) == LOST)
_BEAT = fixed(
    update(Agent)
    .where(
        col(Agent.user_id) == bindparam("id"),
        col(Agent.voice_ready) == or_(bindparam("ready", type_=Boolean), col(Agent.phone_e164) != ""),
        ~_LOST,
    )
    .values(seen_at=bindparam("now"))
)


async def _note_periods(tx: Tx, moved: Sequence[tuple[Agent, datetime]]) -> None:
    """End the running period of each, which began at the instant given or later, and begin the next where it ends."""
    by_instant: dict[datetime, list[tuple[Agent, datetime]]] = defaultdict(list)
    for agent, began in moved:
        by_instant[agent.since].append((agent, began))
    for instant, ended in by_instant.items():
        fresh = [
            AgentPeriod(
                id=new_id(instant), user_id=agent.user_id, state=shown(agent)[0], reason=shown(agent)[1],
                cause=agent.cause, started_at=instant,
            )
            for agent, _ in ended
        ]  # fmt: skip
        await tx.run_later(
            _end_periods(len(ended)), since=min(began for _, began in ended), instant=instant,
            **named("id", [agent.user_id for agent, _ in ended]), **named("fresh", [period.id for period in fresh]),
        )  # fmt: skip
        for period in fresh:
            tx.later(period)


@cache
def _end_periods(number: int) -> Fixed[Any]:
    # `since` is only for the index: years of ended periods need not be looked through.
    return fixed(
        update(AgentPeriod)
        .where(
            among(AgentPeriod.user_id, "id", number),
            col(AgentPeriod.started_at) >= bindparam("since"),
            col(AgentPeriod.ended_at).is_(None),
            ~among(AgentPeriod.id, "fresh", number),
        )
        .values(ended_at=bindparam("instant"))
    )


async def list_periods(tx: Tx, user_id: str, *, since: datetime, limit: int = 1000) -> list[AgentPeriod]:
    """The ledger from the first period that ended after `since`, oldest first."""
    return await tx.all(
        select(AgentPeriod)
        .where(
            AgentPeriod.user_id == user_id, (col(AgentPeriod.ended_at) > since) | col(AgentPeriod.ended_at).is_(None)
        )
        .order_by(col(AgentPeriod.started_at), col(AgentPeriod.id))
        .limit(limit)
    )


async def set_skill(tx: Tx, user_id: str, skill: str, level: int) -> None:
    """Give a skill, or change how good (1 to 5)."""
    await tx.put(AgentSkill(user_id=user_id, skill=skill, level=level), unique=["user_id", "skill"], update=["level"])
