"""What an administrator may set about opening hours: several blocks a day, days that differ, holidays; written as people write.

A day is written `09:00-12:30, 13:30-18:00` (24:00 is midnight at its end), a day that differs `2026-12-24 09:00-12:00`, a
holiday as its date alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from itertools import pairwise
from typing import Any
from zoneinfo import available_timezones

from sqlalchemy import delete, update
from sqlmodel import col, select

from crm_core import audit
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.ids import new_id
from crm_core.texts import Text
from routing import hours
from routing.hours import Hours
from routing.queues import Queue

BLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*[-–]\s*((?:[01]\d|2[0-3]):[0-5]\d|24:00)")
MOST_BLOCKS, MOST_DAYS = 8, 400
WRITE_BLOCKS = "Write it as 09:00-12:30, 13:30-18:00."

Blocks = list[list[str]]


def read_blocks(text: str) -> Blocks:
    """The blocks of a day, in order; empty text is closed. Invalid when they cannot be read or lie over each other."""
    found: Blocks = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        hit = BLOCK.fullmatch(part)
        if hit is None:
            raise Invalid(WRITE_BLOCKS)
        found.append([f"{hit[1]}:{hit[2]}", hit[3]])
    found.sort()
    if any(start >= end for start, end in found):
        raise Invalid(
            "A block must end after it begins; one that goes past midnight is two, up to 24:00 and from 00:00."
        )
    if any(one[1] > other[0] for one, other in pairwise(found)):
        raise Invalid("Two blocks lie over each other.")
    if len(found) > MOST_BLOCKS:
        raise Invalid("At most %(number)s blocks a day.", number=MOST_BLOCKS)
    return found


def write_blocks(blocks: Sequence[Sequence[str]]) -> str:
    """As `read_blocks` reads them."""
    return ", ".join(f"{start}-{end}" for start, end in blocks)


def read_days(text: str) -> dict[str, Blocks]:
    """Days that differ, one per line; a date alone is a holiday. Invalid naming the line."""
    found: dict[str, Blocks] = {}
    for number, line in enumerate(filter(None, (line.strip() for line in text.splitlines())), 1):
        word, _, rest = line.partition(" ")
        try:
            day = date.fromisoformat(word) if len(word) == 10 else None
            blocks = read_blocks(rest)
        except (ValueError, Invalid):
            day = None
        if day is None:
            raise Invalid("Line %(number)s: write it as 2026-12-25, or 2026-12-24 09:00-12:00.", number=number)
        if day.isoformat() in found:
            raise Invalid("Line %(number)s: this day is there twice.", number=number)
        found[day.isoformat()] = blocks
    if len(found) > MOST_DAYS:
        raise Invalid("At most %(number)s days that differ.", number=MOST_DAYS)
    return dict(sorted(found.items()))


def write_days(days: Mapping[str, Any]) -> str:
    """As `read_days` reads them."""
    return "\n".join(f"{day} {write_blocks(blocks)}".strip() for day, blocks in sorted(days.items()))


def checked(*, name: str, zone: str, week: Mapping[str, str], days: str) -> dict[str, Any]:
    """Columns of an Hours row; Invalid with a sentence at each wrong field (`day-0` is Monday)."""
    wrong: dict[str, str] = {}
    if not name.strip():
        wrong["name"] = Text("Give a name.")
    if zone not in available_timezones():
        wrong["zone"] = Text("Choose a time zone such as Europe/London.")
    read: dict[str, Blocks] = {}
    for day in map(str, range(7)):
        try:
            blocks = read_blocks(week.get(day, ""))
        except Invalid as error:
            wrong[f"day-{day}"] = error.message
        else:
            if blocks:
                read[day] = blocks
    differing: dict[str, Blocks] = {}
    try:
        differing = read_days(days)
    except Invalid as error:
        wrong["days"] = error.message
    if not wrong and not read and not any(differing.values()):
        wrong["day-0"] = Text("These hours are never open.")
    if wrong:
        raise Invalid("These hours cannot be used so.", fields=wrong)
    return {"name": name.strip()[:100], "zone": zone, "week": read, "days": differing}


async def list_all(tx: Tx) -> list[Hours]:
    """All, by name."""
    return await tx.all(select(Hours).order_by(col(Hours.name)).limit(500))


async def get(tx: Tx, hours_id: str) -> Hours:
    """The hours, or NotFound."""
    found = await hours.find(tx, hours_id)
    if found is None:
        raise NotFound("There are no such hours.")
    return found


async def create(tx: Tx, values: Mapping[str, Any], *, actor: str, now: datetime) -> Hours:
    """New hours from `checked` values; they hold for queues that are given them. Conflict when the name is taken."""
    row = Hours(id=new_id(now), **values)
    if not await tx.add_new(row, unique=["name"]):
        raise Conflict("There are hours of this name.")
    await audit.record(tx, actor=actor, action="hours.created", subject=f"hours:{row.id}", now=now, **values)
    return row


async def edit(tx: Tx, hours_id: str, values: Mapping[str, Any], *, version: int, actor: str, now: datetime) -> Hours:
    """Change hours that still have this version; they hold from this commit on."""
    other = await tx.one(select(Hours.id).where(Hours.name == values["name"], Hours.id != hours_id))
    if other is not None:
        raise Conflict("There are hours of this name.")
    guard = update(Hours).where(col(Hours.id) == hours_id, col(Hours.version) == version)
    if await tx.run(guard.values(**values, version=version + 1)) != 1:
        raise Conflict("Somebody changed these hours meanwhile.")
    await audit.record(tx, actor=actor, action="hours.changed", subject=f"hours:{hours_id}", now=now, **values)
    tx.wake("router")
    return await get(tx, hours_id)


async def remove(tx: Tx, hours_id: str, *, actor: str, now: datetime) -> None:
    """Delete hours that no queue uses; Conflict naming one that does."""
    row = await get(tx, hours_id)
    used = await tx.one(select(Queue.name).where(Queue.hours_id == hours_id).limit(1))
    if used is not None:
        raise Conflict("The queue %(name)s uses these hours.", name=used)
    await tx.run(delete(Hours).where(col(Hours.id) == hours_id))
    await audit.record(
        tx, actor=actor, action="hours.deleted", subject=f"hours:{hours_id}", now=now, name=row.name, zone=row.zone,
        week=row.week, days=row.days,
    )  # fmt: skip
