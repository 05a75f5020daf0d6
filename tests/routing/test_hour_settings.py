"""Hours as people write them, and a queue's rules on both engines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from crm_core.db import Database
from crm_core.errors import Conflict, Invalid
from routing import hour_settings, hours, queue_settings, queues
from routing.queues import Queue

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)  # a Friday


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", []),
        ("09:00-17:00", [["09:00", "17:00"]]),
        ("13:30 – 18:00, 09:00-12:30", [["09:00", "12:30"], ["13:30", "18:00"]]),
        ("00:00-24:00", [["00:00", "24:00"]]),
        ("09:00-12:00,12:00-13:00", [["09:00", "12:00"], ["12:00", "13:00"]]),
    ],
)
def test_blocks(text: str, blocks: list[list[str]]) -> None:
    assert hour_settings.read_blocks(text) == blocks
    assert hour_settings.read_blocks(hour_settings.write_blocks(blocks)) == blocks


@pytest.mark.parametrize(
    "text", ["9-5", "09:00", "17:00-09:00", "09:00-09:00", "09:00-12:00, 11:00-13:00", "24:00-25:00", "x"]
)
def test_blocks_that_cannot_be_read(text: str) -> None:
    with pytest.raises(Invalid):
        hour_settings.read_blocks(text)


def test_days_that_differ() -> None:
    read = hour_settings.read_days("2026-12-25\n\n2026-12-24 09:00-12:00, 13:00-14:00\n")
    assert read == {"2026-12-24": [["09:00", "12:00"], ["13:00", "14:00"]], "2026-12-25": []}
    assert hour_settings.read_days(hour_settings.write_days(read)) == read
    for wrong in ("25.12.2026", "2026-12-25 closed", "2026-12-25\n2026-12-25", "2026-02-30"):
        with pytest.raises(Invalid) as told:
            hour_settings.read_days(wrong)
        assert "Line" in str(told.value)


def checked(**more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "name": "Office",
        "zone": "Europe/London",
        "week": {"4": "09:00-12:30, 13:30-18:00"},
        "days": "",
    }
    return hour_settings.checked(**{**given, **more})


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"name": " "}, "name"), ({"zone": "London"}, "zone"), ({"week": {"2": "all day"}}, "day-2"), ({"week": {}}, "day-0"),
        ({"days": "tomorrow"}, "days"),
    ],
)  # fmt: skip
def test_wrong_hours_are_told_at_the_field(more: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as told:
        checked(**more)
    assert field in told.value.fields


async def test_hours_from_creation_to_deletion(db: Database) -> None:
    row = await db.write(lambda tx: hour_settings.create(tx, checked(), actor="test", now=NOW))
    assert hours.is_open(row, NOW)
    assert not hours.is_open(row, NOW.replace(hour=13))
    with pytest.raises(Conflict):
        await db.write(lambda tx: hour_settings.create(tx, checked(), actor="test", now=NOW))
    await db.write(lambda tx: tx.add(Queue(id="q", name="Support")))
    rules: dict[str, Any] = {"language": "de-DE", "hours_id": row.id, "skills": {"german": 4}, "relax": {}}
    await db.write(lambda tx: queue_settings.set_rules(tx, "q", **rules, actor="test", now=NOW))
    closed = checked(days="2026-11-20")
    changed = await db.write(lambda tx: hour_settings.edit(tx, row.id, closed, version=1, actor="test", now=NOW))
    assert not hours.is_open(changed, NOW), "a holiday"
    with pytest.raises(Conflict):
        await db.write(lambda tx: hour_settings.edit(tx, row.id, closed, version=1, actor="test", now=NOW))
    with pytest.raises(Conflict) as told:
        await db.write(lambda tx: hour_settings.remove(tx, row.id, actor="test", now=NOW))
    assert "Support" in str(told.value)
    async with db.reading() as tx:
        queue = await queues.get(tx, "q")
    assert (queue.language, queue.skills, queue.hours_id, queue.version) == ("de-DE", {"german": 4}, row.id, 2)
    await db.write(lambda tx: queue_settings.set_rules(tx, "q", **{**rules, "hours_id": ""}, actor="test", now=NOW))
    await db.write(lambda tx: hour_settings.remove(tx, row.id, actor="test", now=NOW))
    with pytest.raises(Invalid):
        await db.write(lambda tx: queue_settings.set_rules(tx, "q", **rules, actor="test", now=NOW))
    with pytest.raises(Invalid):
        await db.write(
            lambda tx: queue_settings.set_rules(tx, "q", **{**rules, "language": "<x>"}, actor="test", now=NOW)
        )


def test_skills_and_how_they_are_relaxed() -> None:
    skills = queue_settings.read_skills("Spanish 4, second line, chinese 2")
    assert skills == {"spanish": 4, "second line": 3, "chinese": 2}
    relax = queue_settings.read_relax("120: spanish 0, chinese 1\n60: spanish 2", skills)
    assert relax == {
        "rings": [
            {"after_s": 60, "lower": {"spanish": 2}},
            {"after_s": 120, "drop": ["spanish"], "lower": {"chinese": 1}},
        ]
    }
    assert queue_settings.read_relax(queue_settings.write_relax(relax), skills) == relax
    assert queue_settings.read_skills(queue_settings.write_skills(skills)) == skills
    for wrong in ("soon: spanish 2", "60 spanish 2", "60: german 1", "60: spanish 4", "60: spanish 9"):
        with pytest.raises(Invalid):
            queue_settings.read_relax(wrong, skills)
    for wrong in ("spanish 9", "spanish 0", "<x> 3", ", ".join(f"s{n}" for n in range(21))):
        with pytest.raises(Invalid):
            queue_settings.read_skills(wrong)
