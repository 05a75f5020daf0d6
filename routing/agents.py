"""Agents: activity, capacity and skills, kept on the server, so that a closed tab changes nothing about what is true."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import Index
from sqlmodel import Field

from crm_core.tables import Table, at, key, one_of, ref, text, word


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
    since: datetime = at()
    next_activity: str = text()  # asked for: takes effect when present work ends
    next_reason: str = text()
    live_load: int = 0
    live_capacity: int = 1
    text_load: int = 0
    text_capacity: int = 100
    wrapups: int = 0  # pieces of live work in wrap-up: no new live work meanwhile
    voice_ready: bool = False  # the browser phone is registered
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
    state: str = text()  # available, paused, not_responding, ringing, busy, wrapup, offline
    reason: str = text()
    cause: str = text()
    started_at: datetime = at()
    ended_at: datetime | None = at(nullable=True)
