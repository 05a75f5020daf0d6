"""What one process of the hub works with: built once at its entrance, handed on, closed at its end. No globals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

import redis.asyncio as aioredis

from crm_core import accounts, failpoints
from crm_core.clock import Clock, SystemClock
from crm_core.db import Database, open_database
from hub.channel_set import PROVIDER, ChannelSet
from hub.files import Files
from hub.log import get_logger
from hub.metrics import Metrics
from hub.redis_ports import RedisTokens, RedisWakeups
from hub.sealing import Sealer
from hub.settings import Settings
from hub.tasks import end_tasks
from hub.valkey import socket_path
from hub.vault import AccountVault
from routing.refusals import Refusals

log = get_logger(__name__)

REDIS_TIMEOUT_S = 0.5
PROVIDER_LOOK_S = 3.0  # within which every process uses a changed provider account


@dataclass(slots=True)
class Runtime:
    """One process's parts."""

    settings: Settings
    db: Database
    redis: aioredis.Redis
    wakeups: RedisWakeups
    tokens: RedisTokens
    files: Files
    channels: ChannelSet
    sealer: Sealer
    refusals: Refusals
    clock: Clock = field(default_factory=SystemClock)
    metrics: Metrics = field(default_factory=Metrics)

    async def adopt_provider(self) -> None:
        """Use the provider account as its row says now, in this process; the others look every few seconds."""
        await adopt_provider(self.db, self.channels)


def redis_url(settings: Settings) -> str:
    """The Redis of this hub: the operator's, or the private server of the data folder."""
    return settings.redis_url or f"unix://{socket_path(settings.data_dir / 'valkey')}"


@contextlib.asynccontextmanager
async def running(settings: Settings, *, bulk: bool = False, clock: Clock | None = None) -> AsyncIterator[Runtime]:
    """A runtime for as long as the block lasts. Raises DatabaseUnavailable; an absent Redis is not an error here."""
    failpoints.arm(settings.failpoints)
    db = await open_database(settings.database_url, bulk=bulk)
    # Every call to Redis is bounded by who makes it: it holds hints only, and inbound must never wait for a hint. Not by the
    # client's own socket_timeout: it is kept with asyncio.wait_for, which swallows cancellations before Python 3.12.
    client: aioredis.Redis = aioredis.Redis.from_url(
        redis_url(settings), socket_timeout=None, socket_connect_timeout=REDIS_TIMEOUT_S
    )
    wakeups = RedisWakeups(client)
    db.wakeups = wakeups
    sealer = Sealer(settings.secret_key)
    channels = ChannelSet(settings, sealer)
    channels.vault_of = partial(AccountVault, db, channels)
    await adopt_provider(db, channels)
    watch = None if bulk else asyncio.create_task(_watch_provider(db, channels), name="provider")
    try:
        yield Runtime(
            settings=settings,
            db=db,
            redis=client,
            wakeups=wakeups,
            tokens=RedisTokens(client),
            files=Files(settings.files_url),
            channels=channels,
            sealer=sealer,
            refusals=Refusals(db),
            clock=clock or SystemClock(),
        )
    finally:
        if watch is not None:
            await end_tasks([watch])
        await channels.close()
        await wakeups.close()
        await client.aclose()
        await db.close()


async def adopt_provider(db: Database, channels: ChannelSet) -> None:
    """Use the provider account as its row says now. A database that cannot be read changes nothing."""
    try:
        async with db.reading() as tx:
            rows = await accounts.list_channel(tx, PROVIDER)
    except Exception as error:
        # Also before the first migration: the environment's account serves until the row can be read.
        log.warning("provider account not read", error=type(error).__name__)
        return
    if channels.adopt(next((row for row in rows if row.enabled), None)):
        log.info("provider account taken over", from_row=channels.provider_from_row)


async def _watch_provider(db: Database, channels: ChannelSet) -> None:
    while True:
        await asyncio.sleep(PROVIDER_LOOK_S)
        await adopt_provider(db, channels)
