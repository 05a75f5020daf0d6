"""redis-server as the distribution ships it, reached by URL: what the hub keeps there, and the hub without it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aioredis
from redis.exceptions import RedisError
from sqlmodel import func, select

from campaigns import call_lists
from campaigns.call_lists import ListState
from crm_core import contacts, events
from crm_core.accounts import ChannelAccount
from crm_core.addresses import phone
from crm_core.clock import FixedClock, SystemClock
from crm_core.interactions import Interaction
from hub.app import serving
from hub.jobs import _client, enqueue_due
from hub.publisher import STREAM, Publisher
from hub.redis_ports import RedisTokens, RedisWakeups
from hub.runtime import Runtime, running
from hub.settings import read_settings
from routing.queues import Queue
from tests.apps import AUTH_TOKEN, test_environment
from tests.real.servers import Redis
from tests.webhooks.signing import call_fields, signature

pytestmark = pytest.mark.needs_redis

NUMBER = "+442079460000"
WORKER = """
import sys
from hub.jobs import run_worker
from hub.settings import read_settings
sys.exit(run_worker(read_settings(), sys.argv[1]))
"""


@pytest.fixture
def environ(sqlite_url: str, debian_redis: Redis, tmp_path: Path) -> dict[str, str]:
    """A hub on SQLite and this Redis."""
    return test_environment(tmp_path / "data", sqlite_url, debian_redis.url)


@pytest.fixture
async def hub(environ: dict[str, str], clock: FixedClock) -> AsyncIterator[Runtime]:
    """Its runtime, with a number that people call."""
    async with running(read_settings(environ), clock=clock) as made:

        async def unit(tx: Any) -> None:
            await tx.add(Queue(id="queue", name="Support"))
            await tx.add(
                ChannelAccount(
                    id="voice", channel="voice", name="Main line", address=NUMBER, country="GB", queue_id="queue",
                    created_at=clock.now(),
                )
            )  # fmt: skip

        await made.db.write(unit)
        yield made


@pytest.fixture
def worker(environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """An RQ worker of the hub in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, "interactive"],
        env={**os.environ, **environ, "PYTHONPATH": "."}, cwd=Path(__file__).parents[2], start_new_session=True,
    )  # fmt: skip
    yield process
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def test_a_commit_in_one_process_wakes_another(hub: Runtime, debian_redis: Redis) -> None:
    client: aioredis.Redis = aioredis.Redis.from_url(debian_redis.url, socket_timeout=0.5)
    other = RedisWakeups(client)
    try:
        with other.waiting("events") as woken:
            ends = time.monotonic() + 10
            while not woken.is_set():
                assert time.monotonic() < ends
                await hub.db.write(lambda tx: contacts.create(tx, name="Ana", now=hub.clock.now(), source="test"))
                await asyncio.sleep(0.02)
    finally:
        await other.close()
        await client.aclose()


async def test_a_missing_bucket_starts_empty(hub: Runtime) -> None:
    now = hub.clock.now()
    assert await hub.tokens.take("sms", rate_per_s=500, burst=50, want=50, now=now) == 0
    total, began = 0, time.monotonic()
    while total < 60:
        assert time.monotonic() - began < 10
        total += await RedisTokens(hub.redis).take("sms", rate_per_s=500, burst=50, want=5, now=now)
        await asyncio.sleep(0.002)
    assert total <= (time.monotonic() - began) * 500 + 5


async def numbers(hub: Runtime) -> list[int]:
    """What the stream holds."""
    return [int(entry_id.partition(b"-")[0]) for entry_id, _ in await hub.redis.xrange(STREAM)]


async def test_the_stream_holds_every_event_in_order_also_after_redis_lost_everything(
    hub: Runtime, debian_redis: Redis
) -> None:
    publisher = Publisher(hub.db, hub.redis, hub.wakeups)
    for number in range(30):
        await hub.db.write(
            lambda tx, n=number: contacts.create(tx, name=f"n{n}", now=hub.clock.now(), source="test")  # type: ignore[misc]
        )
        if number == 10:
            await publisher.publish()
            await hub.redis.flushall()
    await publisher.publish()
    await publisher.publish()
    async with hub.db.reading() as tx:
        newest = await events.last_number(tx)
    assert newest >= 30
    assert await numbers(hub) == list(range(1, newest + 1))


async def list_to_build(hub: Runtime) -> str:
    """A call list that waits for a worker."""

    async def unit(tx: Any) -> str:
        now = SystemClock().now()
        for number in range(1, 31):
            await contacts.create(
                tx,
                name=f"n{number}",
                now=now,
                source="test",
                points=[phone(f"+12025550{100 + number}")],
                tags=["spring"],
            )
        made = await call_lists.create(tx, name="Spring", account_id="voice", user_id="sam", now=now)
        await call_lists.build(tx, made.id, source={"tag": "spring"}, now=now)
        return made.id

    return await hub.db.write(unit)


async def built(hub: Runtime, list_id: str) -> dict[str, int]:
    """The counts once the list is built; the sweep runs meanwhile as the poller does it."""
    client = await asyncio.to_thread(_client, hub.settings)
    ends = time.monotonic() + 60
    try:
        while True:
            async with hub.db.reading() as tx:
                row = await call_lists.get(tx, list_id)
                counts = await call_lists.progress(tx, list_id)
            if row.state != ListState.BUILDING:
                return counts
            assert time.monotonic() < ends, f"the list is still {row.state}"
            with contextlib.suppress(RedisError):
                await enqueue_due(hub.db, client, clock=SystemClock())
            await asyncio.sleep(0.2)
    finally:
        client.close()


async def test_a_worker_runs_a_job(hub: Runtime, worker: subprocess.Popen[bytes]) -> None:
    counts = await built(hub, await list_to_build(hub))
    assert sum(counts.values()) == 30
    assert worker.poll() is None


async def test_a_worker_outlives_a_redis_that_went_away(
    hub: Runtime, worker: subprocess.Popen[bytes], debian_redis: Redis
) -> None:
    ends = time.monotonic() + 30
    while not await hub.redis.keys("rq:worker:*"):
        assert time.monotonic() < ends, "the worker does not come up"
        await asyncio.sleep(0.05)
    await asyncio.to_thread(debian_redis.kill)
    list_id = await list_to_build(hub)
    await asyncio.to_thread(debian_redis.start)
    assert sum((await built(hub, list_id)).values()) == 30
    assert worker.poll() is None, "the same worker, not a new one"


@pytest.mark.parametrize("way", ["gone", "silent"])
async def test_the_hub_goes_on_without_redis_and_catches_up(
    hub: Runtime, debian_redis: Redis, clock: FixedClock, way: str
) -> None:
    """Gone: the port is closed. Silent: connections stay open and nothing is answered, as behind a broken network."""
    publisher = Publisher(hub.db, hub.redis, hub.wakeups)
    process = debian_redis.process
    assert process is not None
    waits: list[float] = []
    async with serving(hub, host="127.0.0.1", port=0) as (_, port), aiohttp.ClientSession() as http:
        base, path = f"http://127.0.0.1:{port}", "/webhooks/twilio/voice"

        async def call(number: int) -> None:
            fields = call_fields(number, to=NUMBER)
            headers = {"X-Twilio-Signature": signature(hub.settings.public_url + path, fields, AUTH_TOKEN)}
            began = time.monotonic()
            async with http.post(base + path, data=fields, headers=headers) as answer:
                assert answer.status == 200
                assert "<Response>" in await answer.text()
            waits.append(time.monotonic() - began)

        async def ready() -> dict[str, str]:
            began = time.monotonic()
            async with http.get(f"{base}/readyz") as answer:
                assert answer.status == 200, "a hub without Redis still takes everything in"
                told: dict[str, str] = await answer.json()
            waits.append(time.monotonic() - began)
            return told

        await call(1)
        assert await publisher.publish()
        waits.clear()  # the first call also pays for imports
        if way == "gone":
            await asyncio.to_thread(debian_redis.kill)
        else:
            process.send_signal(signal.SIGSTOP)
        try:
            for number in range(2, 22):
                await call(number)
            assert (await ready())["redis"] != "ok"
            await asyncio.gather(*(call(number) for number in range(22, 32)))
            began = time.monotonic()
            assert await publisher.publish(), "events are numbered in the rows all the same"
            assert time.monotonic() - began < 2
            assert max(waits) < 1.0, f"a request waited {max(waits):.2f} s for a hint"
        finally:
            if way == "gone":
                await asyncio.to_thread(debian_redis.start)
            else:
                process.send_signal(signal.SIGCONT)
        ends = time.monotonic() + 20
        while (await ready())["redis"] != "ok":
            assert time.monotonic() < ends
            await asyncio.sleep(0.05)
        await call(32)
        async with hub.db.reading() as tx:
            assert await tx.one(select(func.count()).select_from(Interaction)) == 32
        while True:
            await publisher.publish()
            async with hub.db.reading() as tx:
                newest = await events.last_number(tx)
            if (held := await numbers(hub)) == list(range(1, newest + 1)):
                break
            assert time.monotonic() < ends, f"the stream holds {len(held)} of {newest}"
            await asyncio.sleep(0.1)
