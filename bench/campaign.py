"""How fast a campaign is frozen and sent, and how long its transactions hold the database.

    .venv/bin/python bench/campaign.py [--people 10000] [--database postgresql://…] [--smtp 127.0.0.1:2525]

Without --smtp the adapter is a function that answers at once: what is measured is the ledger alone (gate, claim, keys, records).
Each figure is the median of three runs over fresh databases; the longest write transaction is shown beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from campaigns import audience, campaigns, counts, deliveries, runner
from campaigns.campaigns import CampaignState
from campaigns.sender import AT_ONCE
from channels import registry
from channels.contract import AccountConfig
from crm_core.clock import FixedClock
from crm_core.db import Database, open_database
from tests.campaigns import cast
from tests.databases import ddl

NOON = datetime(2026, 11, 18, 16, 0, tzinfo=UTC)


@dataclass
class Figures:
    """One run."""

    freeze_per_s: float
    send_per_s: float
    p99_ms: float
    longest_ms: float


class Timed:
    """A database whose write transactions are timed, waiting for the lock left out as far as units go."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.spent: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    async def write(self, unit: Any) -> Any:
        async def timed(tx: Any) -> Any:
            began = time.perf_counter()
            try:
                return await unit(tx)
            finally:
                self.spent.append(time.perf_counter() - began)

        return await self._db.write(timed)


async def fresh(folder: Path, number: int, url: str) -> Database:
    """An empty database with every table."""
    if url:
        return await open_database(url, bulk=True)
    path = folder / f"{number}.db"
    with sqlite3.connect(path) as connection:
        for statement in ddl("sqlite://"):
            connection.execute(statement)
    connection.close()
    return await open_database(f"sqlite:///{path}", bulk=True)


async def once(folder: Path, number: int, arguments: argparse.Namespace) -> Figures:
    db = Timed(await fresh(folder, number, arguments.database))
    clock = FixedClock(NOON)
    kind = "email" if arguments.smtp else "sms"
    people = [cast.mailbox(n) if kind == "email" else cast.mobile(n) for n in range(arguments.people)]
    row, ours = await cast.campaign(db, people, now=NOON, channel=kind)  # type: ignore[arg-type]
    db.spent.clear()
    began = time.perf_counter()
    await db.write(lambda tx: campaigns.prepare(tx, row.id, now=NOON))
    while await db.write(lambda tx: audience.freeze_batch(tx, row.id, now=NOON)) == CampaignState.MATERIALISING:
        pass
    froze = time.perf_counter() - began
    await db.write(lambda tx: campaigns.start(tx, row.id, now=NOON))
    line: Any = cast.Line()
    if arguments.smtp:
        line = registry.build(AccountConfig("email", "news@example.test", {"smtp_url": f"smtp://{arguments.smtp}"}))
    sending = cast.sending(line, ours, clock, at_once=arguments.at_once)

    async def prepare(_: Any) -> Any:
        return sending

    began = time.perf_counter()
    again: Any = NOON
    while again is not None and again <= NOON:
        again = await runner.step(db, row.id, prepare=prepare, clock=clock)  # type: ignore[arg-type]
    spent = time.perf_counter() - began
    await sending.close()
    async with db.reading() as tx:
        kept, true = await counts.read(tx, row.id), await deliveries.count_rows(tx, row.id)
    assert kept == true == {"accepted": arguments.people}, (kept, true)
    await db.close()
    return Figures(
        arguments.people / froze,
        arguments.people / spent,
        statistics.quantiles(db.spent, n=100)[98] * 1000,
        max(db.spent) * 1000,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=10_000)
    parser.add_argument(
        "--database", default="", help="an empty PostgreSQL with every table; default: SQLite, made here"
    )
    parser.add_argument("--smtp", default="", help="host:port of an SMTP sink")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            await once(Path(folder), number, arguments) for number in range(1 if arguments.database else arguments.runs)
        ]
    print(f"people {arguments.people}, at once {arguments.at_once}, {'smtp' if arguments.smtp else 'no network'}")
    print(f"frozen  {statistics.median(one.freeze_per_s for one in runs):8.0f} a second")
    print(f"sent    {statistics.median(one.send_per_s for one in runs):8.0f} a second")
    print(f"p99     {statistics.median(one.p99_ms for one in runs):8.1f} ms of the write transactions")
    print(f"longest {max(one.longest_ms for one in runs):8.1f} ms in one write transaction")
    print(f"memory  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MB at most")


if __name__ == "__main__":
    asyncio.run(main())
