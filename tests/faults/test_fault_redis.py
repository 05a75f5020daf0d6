"""Redis emptied, gone for ten minutes, silent, slow: no fact changes, nobody waits for it, and it is made good afterwards."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aioredis
from sqlmodel import func, select

from crm_core import events
from crm_core.clock import FixedClock
from crm_core.interactions import Interaction
from hub.app import serving
from hub.publisher import STREAM, Publisher
from hub.runtime import Runtime, running
from hub.settings import read_settings
from routing import desk, engine
from routing.checks import check_invariants
from tests.apps import AUTH_TOKEN, test_environment
from tests.faults.wire import Line, broken_line
from tests.routing.floor import Floor
from tests.webhooks.signing import call_fields, signature

PATH = "/webhooks/twilio/voice"


@dataclass
class Wired:
    """A hub whose Redis can be lost."""

    runtime: Runtime
    floor: Floor
    line: Line
    clock: FixedClock
    real: aioredis.Redis
    http: aiohttp.ClientSession
    url: str

    async def call(self, number: int) -> None:
        """A signed call: answered with TwiML, whatever Redis does."""
        fields = call_fields(number)
        signed = {"X-Twilio-Signature": signature(self.runtime.settings.public_url + PATH, fields, AUTH_TOKEN)}
        async with self.http.post(self.url + PATH, data=fields, headers=signed) as answer:
            assert answer.status == 200
            assert "<Enqueue" in await answer.text()

    async def readyz(self) -> dict[str, str]:
        async with self.http.get(self.url + "/readyz") as answer:
            assert answer.status == 200, "a hub without Redis still takes everything in"
            told: dict[str, str] = await answer.json()
            return told

    async def calls(self) -> int:
        async with self.runtime.db.reading() as tx:
            return int(await tx.one(select(func.count()).select_from(Interaction)) or 0)

    async def stream_is_whole(self, publisher: Publisher) -> None:
        """Within the minute that is allowed, and without one missing or twice."""
        async with asyncio.timeout(60):
            while True:
                await publisher.publish()
                async with self.runtime.db.reading() as tx:
                    newest = await events.last_number(tx)
                held = [int(entry[0].split(b"-")[0]) for entry in await self.real.xrange(STREAM)]
                if held and held == list(range(held[0], newest + 1)):
                    return
                await asyncio.sleep(0.05)


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hub-l-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def wired(
    sqlite_url: str, valkey_url: str, socket_folder: Path, tmp_path: Path, clock: FixedClock
) -> AsyncIterator[Wired]:
    listen = socket_folder / "r.sock"
    real: aioredis.Redis = aioredis.Redis.from_url(valkey_url)
    async with broken_line(valkey_url.removeprefix("unix://").partition("?")[0], listen) as line:
        settings = read_settings(test_environment(tmp_path / "data", sqlite_url, f"unix://{listen}"))
        async with (
            running(settings, clock=clock) as runtime,
            serving(runtime, host="127.0.0.1", port=0) as (_, port),
            aiohttp.ClientSession() as http,
        ):
            floor = Floor(runtime.db, clock)
            await floor.open("kim")
            yield Wired(runtime, floor, line, clock, real, http, f"http://127.0.0.1:{port}")
            line.mend()
    await real.aclose()


async def test_emptied_in_the_middle_of_a_shift(wired: Wired) -> None:
    publisher = Publisher(wired.runtime.db, wired.runtime.redis, wired.runtime.wakeups)
    for number in range(1, 4):
        await wired.call(number)
    await engine.tick(wired.runtime.db, clock=wired.clock, holder="router")
    (offer,) = await wired.floor.live_offers()
    await publisher.publish()
    before = await wired.floor.conservation()
    await wired.real.flushall()
    assert await wired.floor.conservation() == before
    assert [one.id for one in await wired.floor.live_offers()] == [offer.id]
    await wired.floor.accept("kim", offer.id)
    await wired.call(4)
    assert await wired.calls() == 4
    await wired.stream_is_whole(publisher)
    await wired.floor.check()


@pytest.mark.parametrize("way", ["gone", "silent"])
async def test_away_for_ten_minutes(wired: Wired, way: str) -> None:
    """Stopped, or there and saying nothing: calls are taken, routed, offered and accepted by the rows alone."""
    publisher = Publisher(wired.runtime.db, wired.runtime.redis, wired.runtime.wakeups)
    await wired.call(1)
    await publisher.publish()
    if way == "gone":
        wired.line.cut()
    else:
        wired.line.hang()
    async with asyncio.timeout(60):
        for number in range(2, 12):
            await wired.call(number)
            wired.clock.tick(60)
            await wired.floor.beat("kim")
            await engine.tick(wired.runtime.db, clock=wired.clock, holder="router")
            for offer in await wired.floor.live_offers("kim"):
                await wired.runtime.db.write(
                    lambda tx, offer=offer: desk.refuse(tx, offer.id, agent_id="kim", now=wired.clock.now())  # type: ignore[misc]
                )
        assert (await wired.readyz())["redis"] != "ok"
        assert await publisher.publish(), "events are numbered in the rows all the same"
        attempts = [
            await wired.runtime.tokens.take_or_wait("sender", rate_per_s=100, burst=100, want=10) for _ in range(20)
        ]
        assert {granted for granted, _ in attempts} == {0}, "no rate is promised to others that nobody counts"
    assert await wired.calls() == 11
    wired.line.mend()
    async with asyncio.timeout(60):
        while (await wired.readyz())["redis"] != "ok":
            await asyncio.sleep(0.05)
    await wired.call(12)
    await wired.stream_is_whole(publisher)
    async with wired.runtime.db.reading() as tx:
        assert await check_invariants(tx, now=wired.clock.now()) == []
    assert await wired.calls() == 12


async def test_so_slow_that_every_answer_comes_too_late(wired: Wired) -> None:
    wired.line.delay_s = 2.0
    publisher = Publisher(wired.runtime.db, wired.runtime.redis, wired.runtime.wakeups)
    async with asyncio.timeout(60):
        await asyncio.gather(*(wired.call(number) for number in range(1, 21)))
        await publisher.publish()
        assert (await wired.readyz())["redis"] != "ok"
    assert await wired.calls() == 20
    wired.line.delay_s = 0.0
    await wired.stream_is_whole(publisher)


@pytest.mark.parametrize("way", ["gone", "silent", "slow"])
async def test_closing_does_not_wait_for_it(
    sqlite_url: str, valkey_url: str, socket_folder: Path, tmp_path: Path, clock: FixedClock, way: str
) -> None:
    listen = socket_folder / "r.sock"
    break_it: dict[str, Callable[[Line], Any]] = {
        "gone": lambda line: line.cut(), "silent": lambda line: line.hang(),
        "slow": lambda line: setattr(line, "delay_s", 5.0),
    }  # fmt: skip
    async with broken_line(valkey_url.removeprefix("unix://").partition("?")[0], listen) as line:
        settings = read_settings(test_environment(tmp_path / "data", sqlite_url, f"unix://{listen}"))
        async with asyncio.timeout(60):
            async with running(settings, clock=clock) as runtime:
                with runtime.wakeups.waiting("router"):
                    await runtime.redis.ping()
                    break_it[way](line)
                    await runtime.wakeups.wake({"router"})
