"""Background work end to end: real RQ workers on a real Valkey, the database as the truth, Redis flushed on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.serializers import JSONSerializer

from campaigns import call_lists, campaigns, imports
from campaigns.campaigns import CampaignState
from crm_core import contacts, csv_files
from crm_core.addresses import PointKind
from crm_core.clock import SystemClock
from crm_core.consent import Purpose
from crm_core.db import Database, Tx, open_database
from hub import jobs
from hub.files import Files
from tests.campaigns import cast
from tests.campaigns.providers import CountingTwilio

WORKER = """
import sys
from hub.jobs import run_worker
from hub.settings import read_settings
sys.exit(run_worker(read_settings(), sys.argv[1]))
"""


@dataclass
class Hub:
    """A data folder, its environment, its workers."""

    folder: Path
    environ: dict[str, str]
    db: Database
    client: redis.Redis

    def work(self, queue: str) -> subprocess.Popen[bytes]:
        """A worker process."""
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, queue], env={**os.environ, **self.environ}, cwd=Path(__file__).parents[2]
        )


@pytest.fixture
async def twilio() -> AsyncIterator[CountingTwilio]:
    async with CountingTwilio() as server:
        yield server


@pytest.fixture
async def hub(sqlite_url: str, valkey_url: str, tmp_path: Path, twilio: CountingTwilio) -> AsyncIterator[Hub]:
    environ = {
        "HUB_DATA_DIR": str(tmp_path / "data"), "HUB_DATABASE_URL": sqlite_url, "HUB_REDIS_URL": valkey_url,
        "HUB_SECRET_KEY": "k" * 40, "HUB_FILES_URL": f"file://{tmp_path}/files", "HUB_SANDBOX": "0",
        "HUB_TWILIO_API_BASE": f"http://127.0.0.1:{twilio.port}", "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
        "TWILIO_AUTH_TOKEN": "t" * 32, "TWILIO_API_KEY_SID": "SK" + "0" * 32, "TWILIO_API_KEY_SECRET": "x" * 32,
        "HUB_PUBLIC_URL": "https://hub.example.test", "PYTHONPATH": ".",
    }  # fmt: skip
    db = await open_database(sqlite_url)
    with redis.Redis.from_url(valkey_url) as client:
        yield Hub(tmp_path, environ, db, client)
    await db.close()


@pytest.fixture
def workers(hub: Hub) -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


async def offer_until(hub: Hub, done: object, *, within_s: float = 90) -> None:
    """Sweep as the poller does until `done()` says so."""
    deadline = time.monotonic() + within_s
    while not await done():  # type: ignore[operator]
        assert time.monotonic() < deadline, "not done in time"
        await jobs.enqueue_due(hub.db, hub.client, clock=SystemClock())
        await asyncio.sleep(0.2)


async def test_a_file_becomes_a_campaign_becomes_messages_through_a_flush_and_a_kill(
    hub: Hub, twilio: CountingTwilio, workers: list[subprocess.Popen[bytes]]
) -> None:
    now = datetime.now(UTC)
    content = "phone,name\n" + "".join(f"{cast.mobile(n).value},Ana {n}\n" for n in range(120))
    files = Files(hub.environ["HUB_FILES_URL"])
    key = await files.put(content.encode(), folder="imports", now=now)
    look = csv_files.look(content.encode(), kind=PointKind.PHONE)

    async def unit(tx: Tx) -> tuple[str, str]:
        await people_at_noon(tx, now, 120)
        row = await imports.register(
            tx, file_key=key, file_name="a.csv", kind=PointKind.PHONE, encoding=look.encoding, delimiter=look.delimiter,
            headers=look.headers, mapping=look.mapping, country="", user_id="ana", now=now,
        )  # fmt: skip
        await imports.begin(tx, row.id, now=now)
        ours = await cast.account(tx, "sms", cast.SMS_FROM, now=now, rate_per_s=40)
        campaign = await campaigns.create(
            tx, name="Spring", account_id=ours.id, purpose=Purpose.SERVICE, user_id="ana", now=now,
            audience={"import": row.id},
        )  # fmt: skip
        await campaigns.set_content(
            tx, campaign.id, subject="", body="Hello {{ name }}", html="", user_id="ana", now=now, fields=frozenset()
        )
        await campaigns.start(tx, campaign.id, now=now)
        return row.id, campaign.id

    _, campaign_id = await hub.db.write(unit)
    workers += [hub.work("interactive"), hub.work("bulk")]

    async def some_sent() -> bool:
        return len(twilio.messages) >= 20

    await offer_until(hub, some_sent)
    hub.client.flushall()
    workers[1].send_signal(signal.SIGKILL)
    workers[1].wait()
    workers.append(hub.work("bulk"))

    async def over() -> bool:
        states = await cast.states(hub.db, campaign_id)
        return states.get("accepted", 0) + states.get("unknown", 0) == 120

    await offer_until(hub, over, within_s=170)
    states = await cast.states(hub.db, campaign_id)
    assert max(twilio.counts.values()) == 1
    assert states.get("unknown", 0) <= 20
    assert len(twilio.messages) >= states["accepted"]


async def people_at_noon(tx: Tx, now: datetime, count: int) -> None:
    """People who say where they live: a zone in which it is noon now, whatever the time of the test."""
    offset = 12 - now.hour  # signs of Etc zones are reversed: Etc/GMT-2 is two hours ahead
    zone = "Etc/GMT" if offset == 0 else f"Etc/GMT{-offset:+d}"
    for number in range(count):
        await contacts.create(tx, name=f"Ana {number}", now=now, source="test", points=[cast.mobile(number)], zone=zone)


async def test_lists_are_built_in_the_background_and_a_worker_ends_when_told(
    hub: Hub, workers: list[subprocess.Popen[bytes]]
) -> None:
    now = datetime.now(UTC)

    async def unit(tx: Tx) -> str:
        for number in range(5):
            await contacts.create(
                tx, name=f"Ana {number}", now=now, source="test", points=[cast.mobile(number)], tags=["vip"]
            )
        ours = await cast.account(tx, "voice", cast.VOICE_FROM, now=now)
        row = await call_lists.create(tx, name="VIPs", account_id=ours.id, user_id="ana", now=now)
        await call_lists.build(tx, row.id, source={"tag": "vip"}, now=now)
        return row.id

    list_id = await hub.db.write(unit)
    workers.append(hub.work("interactive"))

    async def built() -> bool:
        async with hub.db.reading() as tx:
            return (await call_lists.get(tx, list_id)).state == call_lists.ListState.ACTIVE

    await offer_until(hub, built)
    async with hub.db.reading() as tx:
        assert await call_lists.progress(tx, list_id) == {"ready": 5}
    workers[0].send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(workers[0].wait, 15) == 0


async def test_what_is_due_is_offered_once_and_again_after_a_flush(sqlite_db: Database, valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        now = datetime.now(UTC)
        row, _ = await cast.campaign(sqlite_db, [cast.mobile(1)], now=now)
        await sqlite_db.write(lambda tx: campaigns.start(tx, row.id, now=now - timedelta(seconds=1)))
        assert await jobs.enqueue_due(sqlite_db, client, clock=SystemClock()) == 1
        assert await jobs.enqueue_due(sqlite_db, client, clock=SystemClock()) == 0
        queue = Queue("bulk", connection=client, serializer=JSONSerializer)
        assert [(job.func_name, job.args) for job in queue.jobs] == [("hub.jobs.run_campaign", [row.id])]
        client.flushall()
        assert await jobs.enqueue_due(sqlite_db, client, clock=SystemClock()) == 1
    assert (await cast.get(sqlite_db, row.id)).state == CampaignState.MATERIALISING
