"""What happens by time: singletons that fail over, the publisher's stream, the router's loop, mailboxes. Real Valkey."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio as aioredis
from sqlmodel import col, select

from crm_core import events
from crm_core.clock import FixedClock
from crm_core.db import Database
from crm_core.leases import Lease
from hub.pollers import TTL_S, Singletons, every, guarded
from hub.publisher import AGAIN, STREAM, Publisher
from hub.redis_ports import RedisWakeups


class Runtime:
    """The part of a runtime that leases need."""

    def __init__(self, db: Database, clock: FixedClock) -> None:
        self.db = db
        self.clock = clock


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[aioredis.Redis]:
    made: aioredis.Redis = aioredis.Redis.from_url(valkey_url, socket_timeout=0.5, socket_connect_timeout=0.5)
    yield made
    await made.aclose()


async def emit(db: Database, clock: FixedClock, *subjects: str) -> None:
    for subject in subjects:
        await db.write(lambda tx: events.emit(tx, "test.thing", subject, now=clock.now()))  # noqa: B023
        clock.tick(0.001)


async def stream(client: aioredis.Redis) -> list[tuple[str, str]]:
    found = await client.xrange(STREAM)
    return [(entry_id.decode(), json.loads(fields[b"e"])["subject"]) for entry_id, fields in found]


async def test_events_are_numbered_and_copied_in_order(db: Database, clock: FixedClock, client: aioredis.Redis) -> None:
    publisher = Publisher(db, client, RedisWakeups(client))
    await emit(db, clock, "a", "b")
    assert await publisher.publish() == 2
    await emit(db, clock, "c")
    assert await publisher.publish() == 1
    assert await publisher.publish() == 0
    assert await stream(client) == [("1-0", "a"), ("2-0", "b"), ("3-0", "c")]


async def test_after_redis_lost_everything_the_rows_are_copied_again(
    db: Database, clock: FixedClock, client: aioredis.Redis
) -> None:
    publisher = Publisher(db, client, RedisWakeups(client))
    await emit(db, clock, "a", "b", "c")
    await publisher.publish()
    await client.flushall()
    assert await publisher.publish() == 0
    assert [subject for _, subject in await stream(client)] == ["a", "b", "c"]
    await client.flushall()
    await emit(db, clock, "d")
    await publisher.publish()
    assert await stream(client) == [("1-0", "a"), ("2-0", "b"), ("3-0", "c"), ("4-0", "d")]
    assert AGAIN >= 1000


async def test_two_publishers_never_copy_one_event_twice(
    db: Database, clock: FixedClock, client: aioredis.Redis
) -> None:
    one, two = (Publisher(db, client, RedisWakeups(client)) for _ in range(2))
    for round_ in range(5):
        await emit(db, clock, *(f"{round_}.{n}" for n in range(4)))
        await asyncio.gather(one.publish(), two.publish(), return_exceptions=True)
    await one.publish()
    await two.publish()
    ids = [entry_id for entry_id, _ in await stream(client)]
    assert ids == [f"{n}-0" for n in range(1, 21)]


async def test_a_publisher_whose_lease_was_taken_numbers_nothing(
    db: Database, clock: FixedClock, client: aioredis.Redis
) -> None:
    await db.write(lambda tx: tx.add(Lease(name="publisher", holder="other", token=5, expires_at=clock.now())))
    await emit(db, clock, "a")
    publisher = Publisher(db, client, RedisWakeups(client))
    assert await publisher.publish(token=4) is None
    async with db.reading() as tx:
        assert await tx.one(select(events.Event.seq).order_by(col(events.Event.id))) is None
    assert await publisher.publish(token=5) == 1


async def test_events_wait_in_their_rows_while_redis_is_away(db: Database, clock: FixedClock, valkey_url: str) -> None:
    nobody: aioredis.Redis = aioredis.Redis.from_url("unix:///nonexistent/valkey.sock")
    await emit(db, clock, "a", "b")
    publisher = Publisher(db, nobody, RedisWakeups(nobody))
    assert await publisher.publish() == 2
    await nobody.aclose()
    back: aioredis.Redis = aioredis.Redis.from_url(valkey_url)
    await Publisher(db, back, RedisWakeups(back)).publish()
    assert [subject for _, subject in await stream(back)] == ["a", "b"]
    await back.aclose()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not done():
            await asyncio.sleep(0.005)


async def test_a_singleton_runs_in_one_process_and_fails_over(db: Database, clock: FixedClock) -> None:
    running: list[str] = []

    def work(name: str) -> Any:
        async def run(token: int) -> None:
            running.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                running.remove(name)

        return run

    one = Singletons(Runtime(db, clock), {"job": work("one")}, holder="one")  # type: ignore[arg-type]
    two = Singletons(Runtime(db, clock), {"job": work("two")}, holder="two")  # type: ignore[arg-type]
    await one.turn()
    await two.turn()
    await until(lambda: running == ["one"])
    clock.tick(TTL_S - 1)
    await one.turn()
    clock.tick(TTL_S - 1)
    await two.turn()
    assert (one.held, two.held) == ({"job"}, set())
    clock.tick(TTL_S)  # the first one hangs
    await two.turn()
    await until(lambda: sorted(running) == ["one", "two"])
    await one.turn()  # it wakes: another holds the lease, so it stops
    await until(lambda: running == ["two"])
    assert one.held == set()
    await two._stop({"job"})
    await two._release()
    await one.turn()
    await until(lambda: running == ["one"])
    await one._stop({"job"})


async def test_a_broken_part_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from hub import pollers

    monkeypatch.setattr(pollers, "AGAIN_S", (0.001, 0.002))
    turns: list[int] = []

    async def work() -> None:
        turns.append(1)
        raise RuntimeError("a bug")

    task = asyncio.create_task(guarded("test", work))
    await until(lambda: len(turns) >= 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_every_runs_again_and_again() -> None:
    turns: list[int] = []

    async def work() -> None:
        turns.append(1)

    task = asyncio.create_task(every(0.001, work)(1))  # type: ignore[arg-type]
    await until(lambda: len(turns) >= 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
