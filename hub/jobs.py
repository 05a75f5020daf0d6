"""Background work in RQ: every entry point, the worker that runs them, and the sweep that offers what is due.

A job is a hint with a row's id, as JSON; the rows and their leases are the truth. So a job may be lost, run twice or be killed
at any point: the sweep offers the row again within seconds, also after Redis was flushed. Each job has an event loop and a
database of its own, works for at most half a minute, and gives way sooner when others wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import IO, Any

import redis as sync_redis
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from campaigns import campaigns, imports, runner
from campaigns.campaigns import Campaign
from campaigns.sender import Sending
from channels.contract import Sends
from channels.errors import Misconfigured
from crm_core import accounts, contact_imports, contact_undo, csv_reading
from crm_core.accounts import ChannelAccount
from crm_core.clock import Clock
from crm_core.db import Database, DatabaseUnavailable
from crm_core.failpoints import failpoint
from crm_core.texts import Text
from hub import models
from hub.channel_set import ChannelSet
from hub.log import get_logger
from hub.redis_ports import waited
from hub.runtime import Runtime, redis_url, running
from hub.settings import Settings, read_settings
from hub.valkey import die_with_parent

log = get_logger(__name__)

TABLES = models.metadata  # every table is known to a worker, also those that its jobs do not name: rows refer to them
SLICE_S = 25.0
GIVE_WAY_S = 3.0  # a slice ends after this when other jobs wait
NAP_S = 2.0  # waits shorter than this are sat out, not given back to the queue
OFFERED_S = 40  # for so long a row is not offered twice: a slice and its start
SWEEP_S = 2.0
TIMEOUT_S = 120  # RQ kills a job that ignores its slice
QUEUES = ("interactive", "bulk")

SENDERS: dict[str, Callable[[ChannelSet, ChannelAccount], Any]] = {
    "sms": lambda channels, _: channels.sms(),
    "email": lambda channels, account: channels.mail(account),
}

# --- entry points ----------------------------------------------------------------------------------------------------


def run_campaign(campaign_id: str) -> None:
    """Freeze, send, bring to rest or cancel: whatever this campaign needs, for one slice."""
    _work("bulk", "run_campaign", campaign_id, campaign_slice)


def read_import(import_id: str) -> None:
    """Read on in a file of recipients for one slice."""
    _work("interactive", "read_import", import_id, import_slice)


def read_contacts(import_id: str) -> None:
    """Go on with a file of contacts for one slice."""
    _work("interactive", "read_contacts", import_id, contacts_slice)


def build_list(list_id: str) -> None:
    """Add entries to a call list for one slice."""
    _work("interactive", "build_list", list_id, list_slice)


# --- slices ----------------------------------------------------------------------------------------------------------


class Slice:
    """The bounds of one job: its time, a wish to stop, and whether others wait."""

    def __init__(self, others_wait: Callable[[], bool]) -> None:
        self._started = time.monotonic()
        self._others_wait = others_wait
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End at the next safe point: the worker is told to end."""
        self._stopping.set()

    def over(self) -> bool:
        """True when this job should end now."""
        spent = time.monotonic() - self._started
        if self._stopping.is_set() or spent > SLICE_S:
            return True
        return spent > GIVE_WAY_S and self._others_wait()

    async def nap(self, seconds: float) -> None:
        """Sleep, unless told to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


async def campaign_slice(runtime: Runtime, campaign_id: str, bounds: Slice) -> None:
    """Step after step until nothing is due soon."""
    known: dict[tuple[str, int], Sending] = {}
    prepare = sending_for(runtime, known)
    try:
        while not bounds.over():
            again = await runner.step(runtime.db, campaign_id, prepare=prepare, clock=runtime.clock)
            wait_s = 0.0 if again is None else (again - runtime.clock.now()).total_seconds()
            if again is None or wait_s > NAP_S:
                return
            if wait_s > 0:
                await bounds.nap(wait_s)
    finally:
        for sending in known.values():
            await sending.close()


async def import_slice(runtime: Runtime, import_id: str, bounds: Slice) -> None:
    """A file of recipients."""
    await _file_slice(runtime, imports, import_id, bounds)


async def contacts_slice(runtime: Runtime, import_id: str, bounds: Slice) -> None:
    """A file of contacts, or what it did taken back."""
    async with runtime.db.reading() as tx:
        undoing = (await contact_imports.get(tx, import_id)).undo_asked_at is not None
    if not undoing:
        await _file_slice(runtime, contact_imports, import_id, bounds)
        return
    while not bounds.over():
        if await runtime.db.write(lambda tx: contact_undo.undo_some(tx, import_id, now=runtime.clock.now())):
            return


async def _file_slice(runtime: Runtime, kind: csv_reading.Imports, import_id: str, bounds: Slice) -> None:
    """The file comes out of the store into a temporary one, because rows are found by reading from the front."""
    async with runtime.db.reading() as tx:
        file_key = (await kind.get(tx, import_id)).file_key
    with tempfile.TemporaryFile() as file:
        async for chunk in runtime.files.stream(file_key):
            await asyncio.to_thread(file.write, chunk)
        while not bounds.over():
            until = runtime.clock.now() + timedelta(seconds=GIVE_WAY_S)
            if await csv_reading.read_on(
                runtime.db, kind, import_id, lambda: _chunks(file), clock=runtime.clock, until=until
            ):
                return


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(256 * 1024):
        yield chunk


async def list_slice(runtime: Runtime, list_id: str, bounds: Slice) -> None:
    """Batch after batch until the list is built."""
    while not bounds.over():
        until = runtime.clock.now() + timedelta(seconds=GIVE_WAY_S)
        if await runner.build_list(runtime.db, list_id, clock=runtime.clock, until=until):
            return
        await bounds.nap(0.5)


def sending_for(runtime: Runtime, known: dict[tuple[str, int], Sending]) -> Callable[[Campaign], Awaitable[Sending]]:
    """What a campaign is sent with, by its account's row; Misconfigured when its channel is off. `known` keeps them."""
    worker = f"{socket.gethostname()}:{os.getpid()}"

    async def prepare(campaign: Campaign) -> Sending:
        async with runtime.db.reading() as tx:
            account = await accounts.get(tx, campaign.account_id)
        if not account.enabled:
            raise Misconfigured(account.off_reason or Text("The account %(name)s is switched off.", name=account.name))
        if (account.id, account.version) not in known:
            channel = SENDERS[account.channel](runtime.channels, account)
            if not isinstance(channel, Sends):
                raise Misconfigured(Text("The channel %(channel)s cannot send.", channel=account.channel))
            known[account.id, account.version] = Sending(
                channel=channel, account=account, tokens=runtime.tokens, clock=runtime.clock,
                public_url=runtime.settings.public_url, secret=runtime.settings.secret_key, worker=worker,
            )  # fmt: skip
        return known[account.id, account.version]

    return prepare


async def work_slice(
    runtime: Runtime, row_id: str, slice_of: Callable[[Runtime, str, Slice], Awaitable[None]], bounds: Slice
) -> None:
    """What a worker does with a job: its slice. Who dies on the way leaves the row to whoever is offered it next."""
    failpoint("jobs.claimed")
    await slice_of(runtime, row_id, bounds)
    failpoint("jobs.before_end")


def _work(queue: str, kind: str, row_id: str, slice_of: Callable[[Runtime, str, Slice], Awaitable[None]]) -> None:
    """One job: a loop, a runtime, a slice. What is left is offered again by the sweep, at once when the mark is gone."""
    die_with_parent()
    settings = read_settings()
    client = _client(settings)
    mark = mark_of(kind, row_id)

    def others_wait() -> bool:
        with contextlib.suppress(RedisError):
            return _queue(queue, client).count > 0
        return False

    async def run() -> None:
        bounds = Slice(others_wait)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, bounds.stop)
        async with running(settings, bulk=True) as runtime:
            await work_slice(runtime, row_id, slice_of, bounds)

    with contextlib.suppress(RedisError):
        client.set(mark, "1", ex=OFFERED_S)
    try:
        asyncio.run(run())
    finally:
        with contextlib.suppress(RedisError):
            client.delete(mark)
        client.close()


# --- offering --------------------------------------------------------------------------------------------------------


def _client(settings: Settings) -> sync_redis.Redis:
    return sync_redis.Redis.from_url(redis_url(settings), socket_timeout=5, socket_connect_timeout=2)


def _queue(name: str, client: sync_redis.Redis) -> Queue:
    return Queue(name, connection=client, serializer=JSONSerializer, default_timeout=TIMEOUT_S)


def mark_of(kind: str, row_id: str) -> str:
    """The key in Redis that says: this row was offered, leave it for a while."""
    return f"hub:offered:{kind}:{row_id}"


def offer(client: sync_redis.Redis, queue: str, kind: str, row_ids: list[str]) -> int:
    """Put rows into a queue that were not offered in the last forty seconds; how many."""
    fresh = [row_id for row_id in row_ids if client.set(mark_of(kind, row_id), "1", ex=OFFERED_S, nx=True)]
    for row_id in fresh:
        _queue(queue, client).enqueue_call(
            f"hub.jobs.{kind}", (row_id,), timeout=TIMEOUT_S, result_ttl=0, failure_ttl=3600, ttl=600
        )
    return len(fresh)


async def enqueue_due(db: Database, client: sync_redis.Redis, *, clock: Clock) -> int:
    """Free what dead workers left, and offer every campaign, import and list that needs work now; how many were offered."""
    due_campaigns, due_imports, due_lists = await runner.sweep(db, clock=clock)
    async with db.reading() as tx:
        due_contacts = await contact_imports.list_due(tx, now=clock.now())

    def put() -> int:
        failpoint("jobs.before_offer")
        offered = offer(client, "interactive", "read_import", due_imports)
        offered += offer(client, "interactive", "read_contacts", due_contacts)
        offered += offer(client, "interactive", "build_list", due_lists)
        offered += offer(client, "bulk", "run_campaign", due_campaigns)
        failpoint("jobs.after_offer")
        return offered

    return await asyncio.to_thread(put) if due_campaigns or due_imports or due_contacts or due_lists else 0


async def sweep_jobs(runtime: Runtime) -> None:
    """Run `enqueue_due` every two seconds, and at once when something new was asked for; for ever."""
    client = _client(runtime.settings)
    told = False
    try:
        with runtime.wakeups.waiting(campaigns.TOPIC) as woken:
            while True:
                woken.clear()
                try:
                    await enqueue_due(runtime.db, client, clock=runtime.clock)
                    told = False
                except (RedisError, DatabaseUnavailable) as error:
                    if not told:
                        log.warning("background work is not offered", reason=type(error).__name__)
                    told = True
                await waited(woken, SWEEP_S)
                # Wake-ups come with every batch of a campaign; the rows need no look more often than this.
                await asyncio.sleep(0.1)
    finally:
        client.close()


# --- the worker ------------------------------------------------------------------------------------------------------


class HubWorker(Worker):
    """RQ's forking worker; when it is told to end, the job hears of it and ends at its next safe point."""

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGTERM)


def run_worker(settings: Settings, queue: str) -> int:
    """Work on one queue until told to stop; the exit code. Waits for a Redis that is away."""
    if queue not in QUEUES:
        sys.stderr.write(f"There is no queue {queue}; there are {' and '.join(QUEUES)}.\n")
        return 2
    stopping: list[int] = []
    told = False
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopping.append(got))
    while not stopping:
        # RQ waits longer than our own calls for the next job, so its client has its own time-outs.
        client = sync_redis.Redis.from_url(redis_url(settings), socket_connect_timeout=2)
        try:
            worker = HubWorker(
                [_queue(queue, client)], connection=client, serializer=JSONSerializer, maintenance_interval=30,
                worker_ttl=60, log_job_description=False,
            )  # fmt: skip
            log.info("working", queue=queue)
            worker.work(logging_level="WARNING")
            return 0
        except (RedisError, OSError) as error:
            if not told:
                log.warning("the worker waits for redis", queue=queue, reason=type(error).__name__)
            told = True
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda got, _: stopping.append(got))
            time.sleep(1.0)
        finally:
            client.close()
    return 0
