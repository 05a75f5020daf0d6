"""What the core remembers within a pass changes nothing: every decision and every trace is the same without it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import pytest

from routing import core
from routing.agents import Activity
from routing.queues import Lane

NOW = datetime(2026, 11, 18, 10, 0, tzinfo=UTC)
SKILLS = ["de", "en", "fr"]


def floor(seed: int) -> core.Snapshot:
    """A small floor by chance: skills, rings, preferred agents of the queue and not of it, refusals, several rung at once."""
    chance = random.Random(seed)
    workers = {
        f"a{n}": core.Worker(
            user_id=f"a{n}",
            activity=chance.choice([Activity.AVAILABLE, Activity.AVAILABLE, Activity.AVAILABLE, Activity.PAUSED]),
            idle_since=NOW - timedelta(seconds=chance.randrange(100)),
            seen_at=NOW,
            live_load=chance.choice([0, 0, 1]),
            text_load=chance.choice([0, 40, 80]),
            skills={skill: chance.randint(1, 5) for skill in chance.sample(SKILLS, 2)},
        )
        for n in range(8)
    }
    queues = {
        f"q{n}": core.Rules(
            id=f"q{n}",
            skills={chance.choice(SKILLS): chance.randint(1, 4)} if n else {},
            rings=[core.Ring(after_s=60, lower={skill: 1 for skill in SKILLS})] if n == 1 else [],
            members={f"a{m}": chance.randint(1, 2) for m in chance.sample(range(8), 5)},
            preferred_wait_s=chance.choice([0, 30]),
            ring_count=chance.choice([1, 2]),
        )
        for n in range(3)
    }
    work = []
    for n in range(30):
        lane = chance.choice([Lane.LIVE, Lane.TEXT])
        work.append(
            core.Work(
                id=f"w{n}",
                queue_id=f"q{chance.randrange(3)}",
                lane=lane,
                weight=1 if lane == Lane.LIVE else 40,
                order_at=NOW - timedelta(seconds=chance.randrange(120)),
                entered_at=NOW - timedelta(seconds=chance.randrange(120)),
                skills={chance.choice(SKILLS): 2} if chance.random() < 0.2 else {},
                preferred_agent_id=f"a{chance.randrange(9)}" if chance.random() < 0.2 else None,
            )
        )
    refusals = {
        (f"w{chance.randrange(30)}", f"a{chance.randrange(8)}"): core.Memory(
            until=NOW + timedelta(seconds=chance.choice([-5, 20])), times=chance.randint(1, 3)
        )
        for _ in range(6)
    }
    return core.Snapshot(work=work, workers=workers, queues=queues, refusals=refusals, seed=seed)


def look_anew(
    room: core._Room, work: core.Work, rules: core.Rules, wanted: dict[str, int], now: datetime
) -> tuple[list[str], core._Line]:
    key = work.id if room.is_special(work, rules) else core._key(core._kind(work, wanted))
    asked = room._sort_out(key, work, rules, wanted, now, preferred=work.preferred_agent_id)
    return asked.free, asked


@pytest.mark.parametrize("seed", range(40))
def test_the_same_decisions_without_remembering(seed: int) -> None:
    snapshot = floor(seed)
    remembered = core.decide(snapshot, NOW)
    with patch.object(core._Room, "sort_out", look_anew):
        anew = core.decide(snapshot, NOW)
    assert remembered == anew
    assert remembered.offers or remembered.kept
