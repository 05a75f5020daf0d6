"""What lower folders need from Redis: shared token buckets, wake-ups, counted attempts. All of it can be rebuilt.

Every await is bounded to half a second, and after a failure a breaker keeps everybody away for a second: nothing that comes
in ever waits for a hint. Losing Redis costs speed, never work: whoever waits for a wake-up also looks by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from hub.log import get_logger
from hub.tasks import end_tasks

log = get_logger(__name__)

R = TypeVar("R")

TIMEOUT_S = 0.5
REST_S = 1.0  # how long a broken Redis is left alone
CHANNEL = "hub:wake"
SEEN_TTL_S = 3600
PUBLISH_STEP_S = 0.02  # a lone hint goes out at once; in a storm of commits, fifty a second

# One bucket: tokens and the instant they were counted, by Redis's own clock, so that the clocks of machines do not matter.
# A bucket that is not there starts empty: losing Redis must not let a burst through. Returns granted and ms until one more.
TAKE = """
local rate, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local bucket = redis.call('HMGET', KEYS[1], 'n', 't')
local tokens, counted = tonumber(bucket[1]), tonumber(bucket[2])
if not tokens or not counted then tokens, counted = 0, now end
tokens = math.min(burst, tokens + math.max(0, now - counted) * rate)
local granted = math.min(want, math.floor(tokens))
tokens = tokens - granted
redis.call('HSET', KEYS[1], 'n', string.format('%.6f', tokens), 't', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(math.max(60, 2 * burst / rate) * 1000))
return {granted, math.ceil(math.max(0, 1 - tokens) / rate * 1000)}
"""

# Tries within a fixed window; the milliseconds until it ends when the limit is passed.
ALLOW = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if count <= tonumber(ARGV[1]) then return 0 end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) left = tonumber(ARGV[2]) end
return left
"""


class RedisDown(Exception):
    """Redis did not answer in time, or is being left alone for a moment."""


class Breaker:
    """Calls to Redis with a bound; after a failure the next ones fail at once for a second. Logs the change, not each failure."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, rest_s: float = REST_S) -> None:
        self._timeout_s = timeout_s
        self._rest_s = rest_s
        self._until = 0.0
        self.down = False

    async def call(self, ask: Callable[[], Awaitable[R]]) -> R:
        """What `ask` gives; RedisDown otherwise."""
        if time.monotonic() < self._until:
            raise RedisDown
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await ask()
        except (RedisError, OSError, TimeoutError) as error:
            self._until = time.monotonic() + self._rest_s
            if not self.down:
                self.down = True
                log.warning("redis is down: working on without it", reason=type(error).__name__)
            raise RedisDown from error
        if self.down:
            self.down = False
            log.info("redis is back")
        return answer


async def hint(ask: Callable[[], Awaitable[R]]) -> R | None:
    """What Redis answers, or None when it does not in time: for what is as well not known."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await ask()
    except (RedisError, OSError, TimeoutError):
        return None


class RedisTokens:
    """`RateTokens`: buckets shared by all processes. Without Redis nothing is granted: rates are promises to others."""

    def __init__(self, client: aioredis.Redis) -> None:
        self._take = client.register_script(TAKE)
        self._breaker = Breaker()

    async def take(self, bucket: str, *, rate_per_s: float, burst: float, want: int, now: datetime) -> int:
        """How many of `want` tokens were granted (0..want); see `RateTokens`."""
        granted, _ = await self.take_or_wait(bucket, rate_per_s=rate_per_s, burst=burst, want=want)
        return granted

    async def take_or_wait(self, bucket: str, *, rate_per_s: float, burst: float, want: int) -> tuple[int, float]:
        """Granted tokens, and the seconds after which one more is worth asking for."""
        if rate_per_s <= 0 or want <= 0:
            return 0, REST_S
        arguments: list[str | int] = [repr(float(rate_per_s)), repr(float(max(burst, 1))), want]
        try:
            granted, wait_ms = await self._breaker.call(lambda: self._take(keys=[f"hub:rate:{bucket}"], args=arguments))
        except RedisDown:
            return 0, REST_S
        return int(granted), int(wait_ms) / 1000


class RedisAttempts:
    """Counted tries of strangers (forms, log-ins): shared while Redis answers, else counted in this process."""

    def __init__(self, client: aioredis.Redis) -> None:
        self._allow = client.register_script(ALLOW)
        self._breaker = Breaker()
        self._local: dict[str, tuple[int, float]] = {}

    async def allow(self, name: str, *, limit: int, window_s: int, now: datetime) -> int:
        """0 when this try is within `limit` per window, else the whole seconds to wait."""
        try:
            left_ms = await self._breaker.call(
                lambda: self._allow(keys=[f"hub:tries:{name}"], args=[limit, window_s * 1000])
            )
        except RedisDown:
            return self._here(name, limit, window_s)
        return 0 if int(left_ms) == 0 else max(1, -(-int(left_ms) // 1000))

    def _here(self, name: str, limit: int, window_s: int) -> int:
        moment = time.monotonic()
        if len(self._local) > 10_000:
            self._local = {known: entry for known, entry in self._local.items() if entry[1] > moment}
        count, ends = self._local.get(name, (0, moment + window_s))
        if ends <= moment:
            count, ends = 0, moment + window_s
        self._local[name] = (count + 1, ends)
        return 0 if count < limit else max(1, round(ends - moment))


class RedisWakeups:
    """`Wakeups`: at once within this process, by publish to every other one. Never raises and never holds a commit up."""

    def __init__(self, client: aioredis.Redis) -> None:
        self._client = client
        self._breaker = Breaker()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._publishing: set[asyncio.Task[None]] = set()
        self._due: set[str] = set()
        self._published_at = 0.0
        self._listener: asyncio.Task[None] | None = None
        self._closed = False

    async def wake(self, topics: Iterable[str]) -> None:
        """Tell whoever waits on these topics. Others are told in the background: the caller may be holding the writer."""
        found = set(topics)
        self._wake_here(found)
        self._due |= found
        if self._due and not self._publishing:
            task = asyncio.create_task(self._publish(), name="wake")
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    def _wake_here(self, topics: Iterable[str]) -> None:
        for topic in topics:
            for event in self._waiting.get(topic, ()):
                event.set()

    async def _publish(self) -> None:
        # One publish carries everything that was woken while the last was on its way, and within a few milliseconds of it.
        while self._due:
            await asyncio.sleep(self._published_at + PUBLISH_STEP_S - time.monotonic())
            self._published_at = time.monotonic()
            message, self._due = " ".join(sorted(self._due)), set()
            try:
                await self._breaker.call(lambda: self._client.publish(CHANNEL, message))  # noqa: B023 - awaited here
            except RedisDown:
                return

    @contextlib.contextmanager
    def waiting(self, *topics: str) -> Any:
        """An asyncio.Event that is set when one of the topics is woken, here or elsewhere: clear it, look, wait."""
        event = asyncio.Event()
        for topic in topics:
            self._waiting.setdefault(topic, set()).add(event)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen(), name="wakeups")
        try:
            yield event
        finally:
            for topic in topics:
                self._waiting[topic].discard(event)

    async def wait(self, topic: str, *, timeout_s: float) -> bool:
        """True when the topic was woken within `timeout_s`. For loops, `waiting` loses nothing between two waits."""
        with self.waiting(topic) as event:
            return await waited(event, timeout_s)

    async def _listen(self) -> None:
        """Hear other processes; after a break, come back and wake everybody once, because hints were missed."""
        told = False
        while not self._closed:
            pubsub = self._client.pubsub(ignore_subscribe_messages=True)
            try:
                async with asyncio.timeout(TIMEOUT_S * 2):
                    await pubsub.subscribe(CHANNEL)
                if told:
                    log.info("wake-ups from other processes are back")
                    self._wake_here(self._waiting)
                told = False
                while not self._closed:
                    message = await pubsub.get_message(timeout=30)
                    if message and message["type"] == "message":
                        self._wake_here(str(message["data"], "utf-8", "replace").split())
            except (RedisError, OSError, TimeoutError) as error:
                if not told:
                    log.warning("no wake-ups from other processes: looking by the clock", reason=type(error).__name__)
                told = True
            finally:
                with contextlib.suppress(RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(TIMEOUT_S):
                        await pubsub.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(REST_S)

    async def close(self) -> None:
        """Stop hearing."""
        self._closed = True
        await end_tasks([*self._publishing, *([self._listener] if self._listener else [])], again_s=TIMEOUT_S)
        self._listener = None


async def waited(event: asyncio.Event, timeout_s: float) -> bool:
    """True when the event was set within `timeout_s`; it is cleared."""
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
