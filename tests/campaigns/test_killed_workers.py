"""Workers killed with SIGKILL in the middle of a thousand recipients: none lost, none doubled, the doubtful named.

Real processes, real databases, real sockets. The same deaths in each run; HUB_TEST_SEED draws others.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from datetime import UTC, datetime

import pytest

from campaigns import deliveries
from campaigns.campaigns import CampaignState
from campaigns.sender import AT_ONCE
from crm_core.db import Database
from tests.campaigns import cast
from tests.campaigns.cast import mailbox, mobile
from tests.campaigns.providers import CountingMailbox, CountingTwilio

MANY = 1_000
# Where a worker dies, and at which passage at the latest: early enough that every life ends among the thousand.
POINTS = {
    "sender.before_claim": 2, "sender.after_claim": 2, "sender.before_call": 150, "sender.after_call": 150,
    "sender.before_record": 8, "db.before_commit": 15, "db.after_commit": 15,
}  # fmt: skip
NOON = datetime(2026, 11, 18, 16, 0, tzinfo=UTC)


async def worker(url: str, campaign: str, account: str, port: int, now: datetime, points: str, number: int) -> int:
    """Run one worker process to its end; its exit code, -9 when it was killed."""
    spec = {
        "url": url, "campaign": campaign, "account": account, "port": port, "now": now.isoformat(), "failpoints": points,
        "number": number,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.campaigns.doomed_worker", json.dumps(spec), env={**os.environ, "PYTHONPATH": "."}
    )
    return await asyncio.wait_for(process.wait(), 120)


def fate(chance: random.Random) -> str:
    """Where a worker dies, and at which passage."""
    point = chance.choice(list(POINTS))
    return f"{point}:{chance.randint(1, POINTS[point])}"


async def ordeal(
    db: Database, url: str, channel: str, port: int, *, wanted: int, many: int = MANY, workers: int = 1
) -> tuple[str, int]:
    """Send to a thousand while workers die; (campaign, kills)."""
    seed = int(os.environ.get("HUB_TEST_SEED", "") or 20261121)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    chance = random.Random(seed)
    people = [mobile(n) if channel == "sms" else mailbox(n) for n in range(many)]
    row, ours = await cast.campaign(db, people, now=NOON, channel=channel)
    clock = cast.FixedClock(NOON)
    await cast.start(db, row.id, clock)
    kills = 0
    for number in range(wanted * 4):
        # A kill between any two lines: each worker gets a point and how often it may pass it.
        armed = [fate(chance) if kills < wanted else "" for _ in range(workers)]
        runs = [worker(url, row.id, ours.id, port, clock.now(), armed[n], number * 10 + n) for n in range(workers)]
        codes = await asyncio.gather(*runs)
        kills += sum(1 for code in codes if code == -signal.SIGKILL)
        assert set(codes) <= {0, -signal.SIGKILL}
        clock.tick(200)  # longer than any lease
        if (await cast.get(db, row.id)).state == CampaignState.FINISHED:
            break
    return row.id, kills


async def judge(
    db: Database, campaign: str, counts: Counter[str], kills: int, *, by_list: bool, many: int = MANY
) -> None:
    """What the ledger says against what the provider counted."""
    assert (await cast.get(db, campaign)).state == CampaignState.FINISHED
    found = await cast.rows(db, campaign)
    states = await cast.states(db, campaign)
    assert sum(states.values()) == many == len(found)
    assert set(states) <= {"accepted", "unknown"}
    assert max(counts.values()) == 1, f"doubled: {[to for to, n in counts.items() if n > 1]}"
    async with db.reading() as tx:
        named = {row.value for row in await deliveries.list_unknown(tx, campaign, limit=1000)}
    assert len(named) == states.get("unknown", 0) <= kills * AT_ONCE
    for value, row in found.items():
        if row.state == "accepted":
            assert counts[value] == 1, f"{value} is said to have it and has not"
        elif counts[value] == 0:
            assert value in named
    if by_list:
        # The provider's list showed which of the doubtful ones went: only those that did not are left.
        assert not any(counts[value] for value in named)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_texts_survive_killed_workers(engine: str, request: pytest.FixtureRequest) -> None:
    url = str(request.getfixturevalue("sqlite_url" if engine == "sqlite" else "pg_url"))
    db = await cast.open_database(url)
    async with CountingTwilio() as twilio:
        # On PostgreSQL a second worker goes on while the first is killed.
        many, workers = (MANY, 1) if engine == "sqlite" else (300, 2)
        campaign, kills = await ordeal(
            db, url, "sms", twilio.port, wanted=3 if engine == "sqlite" else 2, many=many, workers=workers
        )
        assert kills >= (2 if engine == "sqlite" else 1)
        await judge(db, campaign, twilio.counts, kills, by_list=True, many=many)
    await db.close()


@pytest.mark.timeout(400)
async def test_mails_survive_killed_workers(sqlite_url: str) -> None:
    db = await cast.open_database(sqlite_url)
    async with CountingMailbox() as mailbox:
        campaign, kills = await ordeal(db, sqlite_url, "email", mailbox.port, wanted=2, many=400)
        assert kills >= 1
        await judge(db, campaign, mailbox.counts, kills, by_list=False, many=400)
    await db.close()
