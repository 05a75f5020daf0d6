"""An agent's day out of the time ledger: every period in order, and what each state adds up to. Reads only; cuts at midnight.

The totals of a day add up to the time that the ledger covers on it, because periods follow one another without a gap;
`logged_in_s` is all of it but offline.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from crm_core.db import Tx
from routing import agents

WORKING = ("busy", "joining", "ringing", "wrapup")  # of occupancy; available counts against it, pauses do not
ORDER = ("available", "ringing", "joining", "busy", "wrapup", "paused", "not_responding", "offline")


@dataclass(frozen=True, slots=True)
class Period:
    """One period, cut to the day. `running`: it has not ended yet."""

    state: str
    reason: str
    cause: str  # agent, supervisor, system, api
    started_at: datetime
    ended_at: datetime
    running: bool

    @property
    def seconds(self) -> float:
        """How long it lasted, as far as it lies in the day."""
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True)
class Day:
    """One agent's day. `totals`: (state, pause reason) → seconds, in the usual order."""

    day: date
    begins_at: datetime
    ends_at: datetime
    periods: list[Period]
    totals: list[tuple[str, str, float]]
    logged_in_s: float
    occupancy: float | None  # share of the time at work that was spent on work; None without any


def bounds(day: date, zone: str) -> tuple[datetime, datetime]:
    """A local day as instants; 23 or 25 hours long where the clock changes."""
    local = ZoneInfo(zone or "UTC")
    begins = datetime.combine(day, time(), local).astimezone(UTC)
    return begins, datetime.combine(day + timedelta(days=1), time(), local).astimezone(UTC)


async def read(tx: Tx, user_id: str, *, day: date, zone: str, now: datetime) -> Day:
    """The agent's day in this zone, up to now."""
    begins, ends = bounds(day, zone)
    until = min(ends, max(now, begins))
    rows = await agents.list_periods(tx, user_id, since=begins, limit=5000)
    periods = [
        Period(
            row.state, row.reason, row.cause, max(row.started_at, begins), min(row.ended_at or until, until),
            running=row.ended_at is None and until == now,
        )
        for row in rows
        if (row.ended_at is None or row.ended_at > begins)
        and (max(row.started_at, begins) < until or (row.ended_at is None and begins <= row.started_at <= until))
    ]  # fmt: skip
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for period in periods:
        sums[period.state, period.reason if period.state == "paused" else ""] += period.seconds
    totals = [(state, reason, seconds) for (state, reason), seconds in sums.items()]
    totals.sort(key=lambda each: (ORDER.index(each[0]) if each[0] in ORDER else len(ORDER), each[1]))
    logged_in = sum(seconds for state, _, seconds in totals if state != "offline")
    working = sum(seconds for state, _, seconds in totals if state in WORKING)
    idle = sum(seconds for state, _, seconds in totals if state == "available")
    return Day(
        day, begins, ends, periods, totals, logged_in, working / (working + idle) if working + idle else None
    )  # fmt: skip
