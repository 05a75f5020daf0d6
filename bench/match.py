"""Matching a caller by number among ten thousand and among a million contacts, against the raw driver's SELECT.

    python -m bench.match                             both engines
    python -m bench.match --engine sqlite --contacts 100000

Ours is what a page or a webhook does: open a reading, ask `contacts.list_owners`, conclude with `matching.match`. The floor is
the same SELECT with the same columns, by the bare driver on one open connection, its rows left as they come. Both ask for numbers
in one shuffled order, one after the other, in turns with a second database of ten thousand contacts, seven times; medians. Two
ratios: ours to the floor among all contacts (goal 0.5), and ours among all to ours among ten thousand (goal 0.8), beside what the
floor itself keeps.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import resource
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.intake import database
from crm_core import contacts
from crm_core.addresses import Address
from crm_core.contacts import PointKind
from crm_core.db import Database, open_database
from routing.matching import match

SMALL = 10_000
BATCH = 20_000
LOOKS = 4_000
ROUNDS = 7
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
SELECT = """SELECT c.id, c.name, c.organisation_id, c.job_title, c.language, c.zone, c.country, c.tags, c.fields, c.addresses,
 c.notes, c.vip, c.born_on, c.owner_id, c.merged_into, c.erased_at, c.source, c.created_at, c.updated_at, c.version,
 l.id, l.point_id, l.contact_id, l.label, l.raw, l.extension, l.verified_at, l.verified_by, l.source, l.valid_from, l.valid_until
 FROM contact_points p JOIN contact_links l ON l.point_id = p.id JOIN contacts c ON c.id = l.contact_id
 WHERE p.kind = {0} AND p.value = {1} AND l.valid_until IS NULL AND c.merged_into IS NULL AND c.erased_at IS NULL
 ORDER BY l.verified_at DESC, l.id LIMIT 20"""


def number(n: int) -> str:
    """The nth person's number."""
    return f"+4915{n:09d}"


def rows(first: int, last: int, *, when: Any, empty: Any) -> dict[str, list[tuple[Any, ...]]]:
    """Contacts, their numbers and the links between, as the tables' columns have them."""
    people, points, links = [], [], []
    for n in range(first, last):
        key = f"{n:026d}"
        people.append(
            (
                key,
                f"Person {n}",
                "",
                "",
                "",
                "",
                empty("[]"),
                empty("{}"),
                empty("{}"),
                "",
                False,
                "bench",
                when,
                when,
                1,
            )
        )
        points.append((key, "phone", number(n), when))
        links.append((key, key, key, "", number(n), "", "", "bench", when))
    return {
        "contacts (id, name, job_title, language, zone, country, tags, fields, addresses, notes, vip, source, created_at,"
        " updated_at, version)": people,
        "contact_points (id, kind, value, created_at)": points,
        "contact_links (id, point_id, contact_id, label, raw, extension, verified_by, source, valid_from)": links,
    }


async def fill(url: str, first: int, last: int) -> None:
    """More people, past every layer: filling is not what is measured."""
    if url.startswith("sqlite"):
        link = sqlite3.connect(url.removeprefix("sqlite:///"))
        link.execute("PRAGMA synchronous=OFF")
        for start in range(first, last, BATCH):
            for into, batch in rows(start, min(last, start + BATCH), when=WHEN.isoformat(" "), empty=str).items():
                marks = ", ".join("?" * len(batch[0]))
                link.executemany(f"INSERT INTO {into} VALUES ({marks})", batch)
            link.commit()
        link.execute("ANALYZE")
        link.close()
        return
    import asyncpg

    made = await asyncpg.connect(url)
    for start in range(first, last, BATCH):
        for into, batch in rows(start, min(last, start + BATCH), when=WHEN, empty=str).items():
            table, _, columns = into.partition(" ")
            names = [name.strip() for name in columns.strip("()").split(",")]
            await made.copy_records_to_table(table, records=batch, columns=names)
    await made.execute("ANALYZE")
    await made.close()


async def rate(look: Callable[[str], Awaitable[int]], numbers: list[str]) -> dict[str, float]:
    """Looks per second, and the latencies."""
    took = []
    gc.collect()
    began = time.perf_counter()
    for one in numbers:
        before = time.perf_counter()
        assert await look(one) == 1, one
        took.append(time.perf_counter() - before)
    whole = time.perf_counter() - began
    took.sort()
    return {
        "rate": len(numbers) / whole,
        "p50_ms": took[len(took) // 2] * 1000,
        "p99_ms": took[int(len(took) * 0.99)] * 1000,
    }


async def floor(url: str, numbers: list[str]) -> dict[str, float]:
    """The bare driver."""
    if url.startswith("sqlite"):
        link = sqlite3.connect(url.removeprefix("sqlite:///"))
        sql = SELECT.format("?", "?")

        async def look(value: str) -> int:
            return len(link.execute(sql, ("phone", value)).fetchall())

        try:
            return await rate(look, numbers)
        finally:
            link.close()
    import asyncpg

    made = await asyncpg.connect(url)
    sql = SELECT.format("$1", "$2")

    async def ask(value: str) -> int:
        return len(await made.fetch(sql, "phone", value))

    try:
        return await rate(ask, numbers)
    finally:
        await made.close()


async def ours(db: Database, numbers: list[str]) -> dict[str, float]:
    """A reading, the owners, the conclusion."""

    async def look(value: str) -> int:
        address = Address(PointKind.PHONE, value, value)
        async with db.reading(snapshot=False) as tx:
            owners = await contacts.list_owners(tx, address)
        return int(match(address, owners).level == "exact")

    return await rate(look, numbers)


def drawn(people: int) -> list[str]:
    """Numbers in one shuffled order."""
    chance = random.Random(7)
    return [number(chance.randrange(people)) for _ in range(LOOKS)]


async def run(small_url: str, url: str, people: int) -> dict[str, Any]:
    """Fill both, then ask in turns: what the machine does meanwhile falls on all four alike."""
    await fill(small_url, 0, SMALL)
    await fill(url, 0, people)
    few, many = await open_database(small_url), await open_database(url)
    near, far = drawn(SMALL), drawn(people)
    asks: dict[str, Callable[[], Awaitable[dict[str, float]]]] = {
        "floor": lambda: floor(url, far), "ours": lambda: ours(many, far),
        "ours_small": lambda: ours(few, near), "floor_small": lambda: floor(small_url, near),
    }  # fmt: skip
    for ask in asks.values():
        await ask()  # the pages are read in before anybody is measured
    found: dict[str, list[dict[str, float]]] = {name: [] for name in asks}
    for _ in range(ROUNDS):
        for name, ask in asks.items():
            found[name].append(await ask())
    await few.close()
    await many.close()
    rates = {name: median(one["rate"] for one in rounds) for name, rounds in found.items()}
    p50, p99 = (median(one[name] for one in found["ours"]) for name in ("p50_ms", "p99_ms"))
    return {
        "contacts": people, "rates": {name: round(rate) for name, rate in rates.items()},
        "rounds": [round(one["rate"]) for one in found["ours"]], "p50_ms": round(p50, 3), "p99_ms": round(p99, 3),
        "ratio": round(rates["ours"] / rates["floor"], 3), "to_10k": round(rates["ours"] / rates["ours_small"], 3),
        "floor_to_10k": round(rates["floor"] / rates["floor_small"], 3),
        "rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--contacts", type=int, default=1_000_000)
    asked = parser.parse_args()
    missed = False
    for engine in asked.engine or ["sqlite", "postgresql"]:
        with contextlib.ExitStack() as stack:
            folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="match-"))) for _ in range(2)]
            small, large = [stack.enter_context(database(engine, folder)) for folder in folders]
            found = {"engine": engine, **uvloop.run(run(small, large, asked.contacts))}
        print(json.dumps(found))
        missed |= found["ratio"] < 0.5 or found["to_10k"] < 0.8
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
