"""Mails per second through the whole path: IMAP fetch, parse in children, files stored, receipt, conversation, cursor.

    python -m bench.mail_intake [--mails 2000] [--rounds 3] [--database postgresql://…] [--profile]
    python -m bench.mail_intake --backlog 100000        a long mailbox: memory at each tenth, a kill in the middle, numbered anew

The floor, taken before and after each round, is a bare loop over the same mailbox: fetch fifty at a time and parse each with the
standard library, keeping nothing. Exit code 1 when the goal (250 mails/s) is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import email
import email.policy
import os
import pstats
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvloop
from sqlmodel import func, select

from channels.imap import UIDS_PER_FETCH, ImapSettings, Mailbox
from crm_core.accounts import ChannelAccount
from crm_core.interactions import Interaction
from hub import mailboxes
from hub.runtime import Runtime, running
from hub.settings import read_settings
from hub.tasks import end_tasks
from hub.valkey import ensure_valkey
from routing.queues import Queue
from tests.databases import ddl
from webhooks.receipts import WebhookReceipt

ROOT = Path(__file__).parents[1]
GOAL = 250.0
ACCOUNT = "mailbox"


@contextlib.contextmanager
def mail_server(count: int, *, uidvalidity: int = 1) -> Iterator[int]:
    """A mailbox of `count` mails on a port of this machine."""
    command = [sys.executable, "-m", "bench.mail_server", str(count), str(uidvalidity)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def floor(port: int, count: int) -> float:
    """Mails a second of a loop that fetches and parses, and keeps nothing."""
    box = Mailbox(ImapSettings("127.0.0.1", port, "support", "bench", "none"))
    await box.open()
    began, parsed = time.perf_counter(), 0
    try:
        uids = await box.uids_after(0)
        for start in range(0, min(len(uids), count), UIDS_PER_FETCH):
            raws = await box.bodies(uids[start : start + UIDS_PER_FETCH], bytes_expected=2**20)
            for raw in raws.values():
                message = email.message_from_bytes(raw, policy=email.policy.compat32)
                parts = [one for one in message.walk() if not one.is_multipart()]
                parsed += bool([one.get_payload(decode=True) for one in parts] and message["From"])
    finally:
        await box.close()
    return parsed / (time.perf_counter() - began)


@contextlib.asynccontextmanager
async def hub(folder: Path, database_url: str, redis_url: str) -> AsyncIterator[Runtime]:
    """A runtime over one database; the mailbox's row is there."""
    settings = read_settings(
        {
            "HUB_DATA_DIR": str(folder), "HUB_DATABASE_URL": database_url, "HUB_REDIS_URL": redis_url, "HUB_SANDBOX": "1",
            "HUB_SECRET_KEY": "bench bench bench bench bench bench",
        }
    )  # fmt: skip
    async with running(settings) as runtime:
        yield runtime


async def add_mailbox(runtime: Runtime, port: int) -> None:
    async def unit(tx: Any) -> None:
        await tx.add(Queue(id="queue", name="Support"))
        await tx.add(
            ChannelAccount(
                id=ACCOUNT, channel="email", name="Support", address="support@example.test", queue_id="queue",
                settings={"backlog_days": "all"}, sealed=sealed(runtime, port), created_at=runtime.clock.now(),
            )
        )  # fmt: skip

    await runtime.db.write(unit)


def sealed(runtime: Runtime, port: int) -> str:
    return runtime.channels.seal({"imap_url": f"imap://support:bench@127.0.0.1:{port}"})


async def count_of(runtime: Runtime, table: Any) -> int:
    async with runtime.db.reading() as tx:
        return int(await tx.one(select(func.count()).select_from(table)) or 0)


async def until(runtime: Runtime, count: int, *, table: Any = WebhookReceipt) -> None:
    """Wait until so many are in."""
    while await count_of(runtime, table) < count:
        await asyncio.sleep(0.1)


def made(url: str) -> None:
    """An empty SQLite database with every table."""
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        for statement in ddl("sqlite://"):
            connection.execute(statement)


def cpu_s() -> float:
    """Processor seconds of this process and of the children that have ended."""
    return sum(
        one.ru_utime + one.ru_stime for one in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def memory_mb() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def round_of(
    folder: Path, url: str, redis_url: str, count: int, *, profile: bool
) -> tuple[float, float, float, float]:
    """(mails/s, floor before, floor after, processor ms a mail in the hub's process)."""
    with mail_server(count) as port:
        before = await floor(port, count)
        async with hub(folder, url, redis_url) as runtime:
            await add_mailbox(runtime, port)
            profiler = cProfile.Profile() if profile else None
            spent, began = time.process_time(), time.perf_counter()
            if profiler is not None:
                profiler.enable()
            polling = asyncio.create_task(mailboxes.poll_account(runtime, ACCOUNT))
            await until(runtime, count)
            rate, spent = count / (time.perf_counter() - began), time.process_time() - spent
            if profiler is not None:
                profiler.disable()
                pstats.Stats(profiler).sort_stats("cumtime").print_stats(
                    "routing|crm_core|webhooks|hub|campaigns|channels|aioimap", 60
                )
            await end_tasks([polling])
            assert await count_of(runtime, Interaction) == count, "every mail is an interaction"
        after = await floor(port, count)
    return rate, before, after, spent / count * 1000


async def measure(options: argparse.Namespace) -> int:
    rates: list[float] = []
    ratios: list[float] = []
    # All rounds' files go at the end: ext4 makes new ones several times as slowly where many were deleted a moment ago.
    with tempfile.TemporaryDirectory(prefix="bench-mail-") as name:
        for number in range(options.rounds):
            folder = Path(name) / str(number)
            folder.mkdir()
            valkey = ensure_valkey(folder)
            url = options.database or f"sqlite:///{folder}/hub.db"
            if not options.database:
                made(url)
            try:
                rate, before, after, cpu = await round_of(
                    folder, url, valkey.url, options.mails, profile=options.profile
                )
            finally:
                valkey.stop()
            ratio = rate / statistics.mean([before, after])
            rates.append(rate)
            ratios.append(ratio)
            print(
                f"round {number + 1}: {rate:.0f} mails/s, floor {before:.0f} and {after:.0f}, ratio {ratio:.3f}, "
                f"{cpu:.2f} cpu ms a mail in the hub's process, {memory_mb():.0f} MB, load {os.getloadavg()[0]:.1f}", flush=True,
            )  # fmt: skip
            if options.database:
                break  # one round to an empty database that is given
    rate = statistics.median(rates)
    print(f"median {rate:.0f} mails/s, ratio {statistics.median(ratios):.3f}, goal {GOAL:.0f}")
    return 0 if rate >= GOAL else 1


READER = """
import asyncio, sys
from pathlib import Path
from bench.mail_intake import ACCOUNT, hub
from hub import mailboxes

async def main():
    async with hub(Path(sys.argv[1]), sys.argv[2], sys.argv[3]) as runtime:
        await mailboxes.poll_account(runtime, ACCOUNT)

asyncio.run(main())
"""


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def backlog(count: int) -> int:
    """A mailbox of `count` mails read by a process of its own that is killed half-way; then the mailbox is numbered anew."""
    with tempfile.TemporaryDirectory(prefix="bench-mail-") as name:
        folder = Path(name)
        valkey = ensure_valkey(folder)
        url = f"sqlite:///{folder}/hub.db"
        made(url)
        arguments = [sys.executable, "-c", READER, str(folder), url, valkey.url]
        reader = None
        began = time.perf_counter()
        try:
            async with hub(folder, url, valkey.url) as runtime:
                with mail_server(count) as port:
                    await add_mailbox(runtime, port)
                    reader = subprocess.Popen(arguments, cwd=ROOT)
                    for tenth in range(1, 11):
                        await until(runtime, count * tenth // 10)
                        done = await count_of(runtime, WebhookReceipt)
                        seconds = time.perf_counter() - began
                        print(f"{done} in after {seconds:.0f} s, reader {resident_mb(reader.pid):.0f} MB", flush=True)
                        if tenth == 5:
                            reader.kill()
                            reader.wait()
                            print("killed with -9, started again", flush=True)
                            reader = subprocess.Popen(arguments, cwd=ROOT)
                    reader.kill()
                    reader.wait()
                conversations = await count_of(runtime, Interaction)
                assert conversations == count, f"{conversations} instead of {count}"
                few = min(count, 5000)
                with mail_server(few, uidvalidity=2) as port:  # the same mails under new numbers, as after a restore
                    from sqlmodel import update

                    await runtime.db.write(
                        lambda tx: tx.run(update(ChannelAccount).values(sealed=sealed(runtime, port)))
                    )
                    reader = subprocess.Popen(arguments, cwd=ROOT)
                    began = time.perf_counter()
                    while await cursor(runtime) != {"uidvalidity": 2, "last_uid": few}:
                        await asyncio.sleep(0.2)
                    print(f"numbered anew: {few} looked at again in {time.perf_counter() - began:.0f} s", flush=True)
                assert await count_of(runtime, Interaction) == count, "none twice"
        finally:
            if reader is not None:
                reader.kill()
                reader.wait()
            valkey.stop()
    print(f"{count} mails: none lost, none twice")
    return 0


async def cursor(runtime: Runtime) -> dict[str, Any]:
    async with runtime.db.reading() as tx:
        return dict(await tx.one(select(ChannelAccount.cursor)) or {})


def main() -> int:
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("--mails", type=int, default=2000)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--database", default="")
    asked.add_argument("--profile", action="store_true")
    asked.add_argument("--backlog", type=int, default=0)
    options = asked.parse_args()
    return uvloop.run(backlog(options.backlog) if options.backlog else measure(options))


if __name__ == "__main__":
    sys.exit(main())
