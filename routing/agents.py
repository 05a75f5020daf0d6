"""Agents: activity, capacity and skills, kept on the server, so that a closed tab changes nothing about what is true.

Every change of an agent goes through `change`: guarded by version, with the time ledger in the same transaction. The ledger's
state follows from the row (`shown`): live work first, then wrap-up, then an accepted offer on its way to the customer, then a
ringing one, then the activity. Written work does not change it, because an agent who writes can still be called.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import Index, bindparam, update
from sqlmodel import Field, col, select

from crm_core import events
from crm_core.db import Tx
from crm_core.errors import Conflict, NotFound
from crm_core.ids import new_id
from crm_core.statements import fixed
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
_OPEN_PERIOD = fixed(
    select(AgentPeriod)
    .where(AgentPeriod.user_id == bindparam("id"), col(AgentPeriod.ended_at).is_(None))
    .order_by(col(AgentPeriod.started_at).desc())
    .limit(1)
)


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


async def ensure(tx: Tx, user_id: str, *, now: datetime) -> Agent:
    """The session, held; made as offline at somebody's first log-in."""
    fresh = Agent(user_id=user_id, since=now, idle_since=now)
    if await tx.add_new(fresh, unique=["user_id"]):
        await _note_period(tx, user_id, "offline", "", "system", now)
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
    """Guarded change of one session, its ledger with it. `by` is who caused a change of activity (default: as before).

    An activity asked for during work takes effect here, at the instant the last live work is over. Conflict when somebody
    was first.
    """
    before = shown(agent)
    values = {**changes, "version": agent.version + 1}
    if by:
        values["cause"] = by
    after = cast(Agent, SimpleNamespace(**{**agent.__dict__, **values}))
    if after.next_activity and not after.live_load and not after.wrapups:
        values |= {"activity": Activity(after.next_activity), "reason": after.next_reason, "next_activity": "",
                   "next_reason": "", "cause": "agent"}  # fmt: skip
    if values.get("activity", agent.activity) == Activity.AVAILABLE and agent.activity != Activity.AVAILABLE:
        values |= {"idle_since": now, "misses": 0}
    after.__dict__.update(values)
    if shown(after) != before:
        values["since"] = now
    if await tx.change(Agent, values, user_id=agent.user_id, version=agent.version) != 1:
        raise Conflict
    agent.__dict__.update(values)
    if shown(agent) != before:
        await _note_period(tx, agent.user_id, *shown(agent), agent.cause, now)
        await events.emit(tx, "agent.changed", agent.user_id, now=now, version=agent.version, user_id=agent.user_id)
    tx.wake("router")


async def beat(tx: Tx, agent: Agent, *, voice_ready: bool, now: datetime) -> None:
    """Note a heartbeat. It changes the session (version, event) only when the phone's readiness changes or a lost tab is back."""
    if agent.voice_ready == voice_ready and not (agent.activity == Activity.NOT_RESPONDING and agent.reason == LOST):
        await tx.run(_BEAT, id=agent.user_id, now=now)
        return
    values: dict[str, Any] = {"seen_at": now, "voice_ready": voice_ready}
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


_BEAT = fixed(update(Agent).where(col(Agent.user_id) == bindparam("id")).values(seen_at=bindparam("now")))


async def _note_period(tx: Tx, user_id: str, state: str, reason: str, cause: str, now: datetime) -> None:
    # Two processes' clocks differ by a little: a period never ends before it began, and the next begins where it ended.
    running: AgentPeriod | None = await tx.one(_OPEN_PERIOD, id=user_id)
    if running is not None:
        now = max(now, running.started_at)
        if await tx.change(AgentPeriod, {"ended_at": now}, id=running.id, ended_at=None) != 1:
            raise Conflict
    await tx.add(AgentPeriod(id=new_id(now), user_id=user_id, state=state, reason=reason, cause=cause, started_at=now))


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
