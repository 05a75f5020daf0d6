"""Tokens, attempts and wake-ups over a real Valkey, and what is left of them without one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio as aioredis

from crm_core.clock import FixedClock
from hub.redis_ports import RedisAttempts, RedisTokens, RedisWakeups, waited


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[aioredis.Redis]:
    made: aioredis.Redis = aioredis.Redis.from_url(valkey_url, socket_timeout=0.5, socket_connect_timeout=0.5)
    yield made
    await made.aclose()


@pytest.fixture
async def nobody() -> AsyncIterator[aioredis.Redis]:
    made: aioredis.Redis = aioredis.Redis.from_url("unix:///nonexistent/valkey.sock", socket_connect_timeout=0.5)
    yield made
    await made.aclose()


async def test_a_missing_bucket_starts_empty_and_fills(client: aioredis.Redis, clock: FixedClock) -> None:
    tokens = RedisTokens(client)
    granted, wait_s = await tokens.take_or_wait("b", rate_per_s=200, burst=10, want=5)
    assert granted == 0
    assert 0 < wait_s <= 0.005
    total, began = 0, time.monotonic()
    while total < 20:
        total += await tokens.take("b", rate_per_s=200, burst=10, want=5, now=clock.now())
        await asyncio.sleep(0.005)
    spent = time.monotonic() - began
    assert total <= spent * 200 + 1, "never more than the rate allows"


async def test_four_askers_share_one_bucket(client: aioredis.Redis, clock: FixedClock) -> None:
    askers = [RedisTokens(client) for _ in range(4)]
    began, total = time.monotonic(), 0
    await askers[0].take("s", rate_per_s=100, burst=5, want=1, now=clock.now())
    while time.monotonic() - began < 0.3:
        total += sum(
            await asyncio.gather(*(one.take("s", rate_per_s=100, burst=5, want=3, now=clock.now()) for one in askers))
        )
        await asyncio.sleep(0.002)
    assert 10 <= total <= (time.monotonic() - began) * 100 + 1


async def test_a_flush_lets_no_burst_through(client: aioredis.Redis, clock: FixedClock) -> None:
    tokens = RedisTokens(client)
    await tokens.take("f", rate_per_s=1, burst=1000, want=1, now=clock.now())
    await client.flushall()
    assert await tokens.take("f", rate_per_s=1, burst=1000, want=1000, now=clock.now()) == 0


async def test_without_redis_nothing_is_granted_and_nobody_waits(nobody: aioredis.Redis, clock: FixedClock) -> None:
    tokens, attempts = RedisTokens(nobody), RedisAttempts(nobody)
    began = time.monotonic()
    for _ in range(50):
        assert await tokens.take_or_wait("b", rate_per_s=100, burst=10, want=5) == (0, 1.0)
    found = [await attempts.allow("ip", limit=3, window_s=60, now=clock.now()) for _ in range(5)]
    assert found[:3] == [0, 0, 0]
    assert all(0 < wait <= 60 for wait in found[3:])
    assert time.monotonic() - began < 2


async def test_attempts_are_shared_and_end_with_their_window(client: aioredis.Redis, clock: FixedClock) -> None:
    one, two = RedisAttempts(client), RedisAttempts(client)
    for asker in (one, two, one):
        assert await asker.allow("ip", limit=3, window_s=1, now=clock.now()) == 0
    assert await two.allow("ip", limit=3, window_s=1, now=clock.now()) == 1
    async with asyncio.timeout(5):
        while await one.allow("ip", limit=3, window_s=1, now=clock.now()):
            await asyncio.sleep(0.05)


async def test_a_wake_up_is_heard_here_at_once_and_elsewhere_soon(client: aioredis.Redis, valkey_url: str) -> None:
    other_client: aioredis.Redis = aioredis.Redis.from_url(valkey_url)
    here, there = RedisWakeups(client), RedisWakeups(other_client)
    try:
        with here.waiting("router") as near, there.waiting("router", "outbox") as far, here.waiting("bulk") as deaf:
            async with asyncio.timeout(60):
                while (await client.pubsub_numsub("hub:wake"))[0][1] < 2:
                    await asyncio.sleep(0.01)
            await here.wake({"router"})
            assert near.is_set()
            assert await waited(far, 3)
            assert not far.is_set()
            assert not deaf.is_set()
            assert not await waited(far, 0.01)
    finally:
        await here.close()
        await there.close()
        await other_client.aclose()


async def test_waking_without_redis_neither_raises_nor_holds_up(nobody: aioredis.Redis) -> None:
    wakeups = RedisWakeups(nobody)
    with wakeups.waiting("router") as woken:
        began = time.monotonic()
        for _ in range(1000):
            await wakeups.wake({"router"})
        assert time.monotonic() - began < 0.5
        assert woken.is_set()
        assert await wakeups.wait("router", timeout_s=0.01) is False
    await wakeups.close()


async def test_a_cancellation_that_the_client_swallows_does_not_hold_up_the_end() -> None:
    connected = asyncio.Event()

    class Swallowing:
        """A client whose connection is made just when it is cancelled; after that nothing comes any more."""

        def pubsub(self, **_: Any) -> Swallowing:
            return self

        async def subscribe(self, _: str) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                connected.set()
                await asyncio.sleep(60)

        async def get_message(self, timeout: float) -> None:
            await asyncio.sleep(timeout)

        async def aclose(self) -> None:
            """Nothing is open."""

    client: Any = Swallowing()
    wakeups = RedisWakeups(client)
    with wakeups.waiting("topic"):
        await connected.wait()
        async with asyncio.timeout(60):
            await wakeups.close()
