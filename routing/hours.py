"""Opening hours: weekly blocks in a named zone, and days that differ. Pure arithmetic over rows; correct over clock changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import bindparam
from sqlmodel import select

from crm_core.db import Tx
from crm_core.statements import fixed
from crm_core.tables import Table, doc, key, text

AHEAD_DAYS = 370  # how far the next opening is looked for
Block = tuple[time, time]


class Hours(Table, table=True):
    """When a queue is open.

    `week`: weekday ("0" = Monday) → blocks such as [["09:00", "12:30"], ["13:30", "24:00"]]; a missing day is closed.
    `days`: date → blocks for that day alone; an empty list is a holiday.
    """

    __tablename__ = "hours"

    id: str = key()
    name: str = text(unique=True)
    zone: str = text(default="UTC")  # IANA
    week: dict[str, Any] = doc()
    days: dict[str, Any] = doc()
    version: int = 1


_BY_ID = fixed(select(Hours).where(Hours.id == bindparam("id")))


async def find(tx: Tx, hours_id: str | None) -> Hours | None:
    """The hours, or None: always open."""
    return None if hours_id is None else await tx.one(_BY_ID, id=hours_id)


def spans(hours: Hours, day: date) -> list[tuple[datetime, datetime]]:
    """The open spans of a local day, as instants, in order.

    A block that begins in the hour that spring skips begins when the clock has jumped; one that ends in the hour that autumn
    repeats ends the second time it comes round, so that nobody is turned away early.
    """
    zone = ZoneInfo(hours.zone)
    blocks = hours.days.get(day.isoformat(), hours.week.get(str(day.weekday()), []))
    found = []
    for start, end in blocks:
        begins = _instant(day, start, zone, fold=0)
        ends = _instant(day, end, zone, fold=1)
        if ends > begins:
            found.append((begins, ends))
    return sorted(found)


def _instant(day: date, clock: str, zone: ZoneInfo, *, fold: int) -> datetime:
    hour, minute = (int(part) for part in clock.split(":"))
    if hour == 24:
        day, hour = day + timedelta(days=1), 0
    local = datetime.combine(day, time(hour, minute), zone).replace(fold=fold)
    return local.astimezone(UTC)


def is_open(hours: Hours | None, now: datetime) -> bool:
    """True when `now` lies in a block; without hours always."""
    if hours is None:
        return True
    today = now.astimezone(ZoneInfo(hours.zone)).date()
    return any(start <= now < end for day in (today - timedelta(days=1), today) for start, end in spans(hours, day))


def next_open(hours: Hours | None, now: datetime) -> datetime | None:
    """The first instant from `now` on that is open; None when none comes within a year."""
    if is_open(hours, now) or hours is None:
        return now
    today = now.astimezone(ZoneInfo(hours.zone)).date()
    for ahead in range(AHEAD_DAYS):
        for start, _ in spans(hours, today + timedelta(days=ahead)):
            if start > now:
                return start
    return None
