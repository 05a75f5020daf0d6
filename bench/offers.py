"""The router: the pure core on a full floor, offers and their release end to end, and two leaders at once.

    python -m bench.offers                              core and both engines
    python -m bench.offers --only core
    python -m bench.offers --engine postgresql

Core: one pass over 500 agents, 20 queues and 2,000 waiting pieces of work. End to end, in two processes as they are deployed: the
leader (`engine.tick`) reads the floor, decides and offers whenever it is told that somebody is free; where the agents are, each
refuses what it is offered as soon as it is seen (`Refusals`, as the desktop does it): a pair. The floor is the least that
reserves anybody durably: SELECT the longest idle agent FOR UPDATE SKIP LOCKED, mark, commit; unmark, commit (SQLite: BEGIN
IMMEDIATE). Goal: half of its pairs per second. Then two leaders, each with a connection of its own, look at one floor at
once: no agent may have two offers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from sqlmodel import select

from bench.intake import database
from channels.contract import CallArrived
from crm_core.accounts import ChannelAccount
from crm_core.clock import SystemClock
from crm_core.db import Database, Tx, open_database
from crm_core.statements import fixed
from crm_core.users import User
from hub.app import spare_the_collector
from routing import core, desk, engine, queues, router
from routing.agents import Activity
from routing.offers import IS_LIVE, Offer
from routing.queues import Lane, Queue
from routing.refusals import Refusals

NUMBER = "+442079460001"
AGENTS = 100
PAIRS = 1500
ROUNDS = 12  # of two leaders
CLOCK = SystemClock()


def full_floor() -> core.Snapshot:
    """500 agents with three of ten skills, each in two of 20 queues; 2,000 waiting; two thirds of the agents are busy."""
    chance, now = random.Random(11), datetime.now(UTC)
    skills = [f"s{n}" for n in range(10)]
    workers = {
        f"a{n}": core.Worker(
            user_id=f"a{n}", activity=Activity.AVAILABLE, idle_since=now - timedelta(seconds=chance.randrange(900)),
            seen_at=now, live_load=int(n % 3 != 0), skills={skill: chance.randint(1, 5) for skill in chance.sample(skills, 3)},
        )
        for n in range(500)
    }  # fmt: skip
    rules = {
        f"q{n}": core.Rules(
            id=f"q{n}", skills={chance.choice(skills): 1},
            members={f"a{m}": chance.randint(1, 3) for m in range(500) if n in (m % 20, (m * 7 + 3) % 20)},
        )
        for n in range(20)
    }  # fmt: skip
    work = [
        core.Work(
            id=f"w{n}", queue_id=f"q{n % 20}", lane=Lane.LIVE, weight=1, order_at=now - timedelta(seconds=2000 - n),
            entered_at=now - timedelta(seconds=2000 - n),
        )
        for n in range(2000)
    ]  # fmt: skip
    return core.Snapshot(work=work, workers=workers, queues=rules)


def run_core() -> dict[str, Any]:
    """Milliseconds of one pass, and what it decided."""
    snapshot, now, times = full_floor(), datetime.now(UTC), []
    for _ in range(15):
        began = time.process_time()
        decided = core.decide(snapshot, now)
        times.append((time.process_time() - began) * 1000)
    return {
        "core": {
            "agents": 500, "queues": 20, "waiting": 2000, "offers": len(decided.offers), "cpu_ms": round(median(times), 1),
            "max_ms": round(max(times), 1),
        }
    }  # fmt: skip


async def seed(db: Database) -> None:
    """One queue, its number, agents who are ready, twice as many calls."""
    now = CLOCK.now()

    async def floor(tx: Tx) -> None:
        queue = await tx.add(Queue(id="q", name="Bench", refusal_cooloff_s=0, offer_timeout_s=600))
        await tx.add(
            ChannelAccount(
                id="n", channel="voice", name="n", address=NUMBER, country="GB", queue_id=queue.id, created_at=now
            )
        )

    await db.write(floor)
    for n in range(AGENTS):

        async def hire(tx: Tx, name: str = f"a{n:03d}") -> None:
            await tx.add(User(id=name, login=name, name=name, created_at=now))
            await queues.put_member(tx, "q", name)
            await desk.heartbeat(tx, name, voice_ready=True, now=now)
            await desk.set_activity(tx, name, "available", now=now)

        await db.write(hire)
    for n in range(2 * AGENTS):
        event = CallArrived(f"CA{n:032d}", f"+1202555{100 + n:04d}", NUMBER, f"CA{n:032d}:arrived", {}, {})
        steps = await db.write(lambda tx, event=event: router.call_arrived(tx, event, now=CLOCK.now()))  # type: ignore[misc]
        assert steps


STANDING = fixed(select(Offer.id, Offer.agent_id, Offer.entry_id).where(IS_LIVE).limit(1000))


async def live(db: Database) -> list[tuple[str, str, str]]:
    """Offers that stand, each with its agent and its work."""
    async with db.reading(snapshot=False) as tx:
        return await tx.all(STANDING)


async def lead(url: str) -> None:
    """The leader: looks whenever it is told something, and says when it has looked."""
    db = await open_database(url)
    spare_the_collector()
    while await asyncio.to_thread(os.read, sys.stdin.fileno(), 4096):
        await engine.tick(db, clock=CLOCK, holder="bench")
        print(flush=True)
    await db.close()


@asynccontextmanager
async def leader(url: str) -> AsyncIterator[Process]:
    """`lead` in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.offers", "--lead", url, stdin=PIPE, stdout=PIPE
    )
    try:
        yield process
    finally:
        process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        await process.wait()


async def pairs(db: Database, leading: Process) -> float:
    """Offers made and released, per second."""
    assert leading.stdin is not None
    assert leading.stdout is not None
    wake, looked = leading.stdin.write, leading.stdout.read
    refusals, refused = Refusals(db), 0
    asked: set[str] = set()

    async def refuse(offer_id: str, agent_id: str) -> None:
        nonlocal refused
        await refusals.refuse(offer_id, agent_id=agent_id, now=CLOCK.now())
        refused += 1
        wake(b".")

    for number in range(AGENTS):  # whoever is not heard of for half a minute gets no work
        await db.write(lambda tx, name=f"a{number:03d}": desk.heartbeat(tx, name, voice_ready=True, now=CLOCK.now()))  # type: ignore[misc]
    began = time.perf_counter()
    wake(b".")
    async with asyncio.timeout(60), asyncio.TaskGroup() as agents:
        while refused < PAIRS and await looked(4096):
            for offer_id, agent_id, _ in await live(db):
                if offer_id not in asked:
                    asked.add(offer_id)
                    agents.create_task(refuse(offer_id, agent_id))
    return refused / (time.perf_counter() - began)


async def two_leaders(url: str, db: Database) -> dict[str, int]:
    """Both look at once, over and over; how often an agent had two offers, and how many offers were made."""
    other, refusals, doubles, made = await open_database(url), Refusals(db), 0, 0
    for _ in range(ROUNDS):
        await asyncio.gather(
            engine.tick(db, clock=CLOCK, holder="one"),
            engine.tick(other, clock=CLOCK, holder="two"),
            return_exceptions=False,
        )
        standing = await live(db)
        made += len(standing)
        for each in (Counter(agent_id for _, agent_id, _ in standing), Counter(entry_id for *_, entry_id in standing)):
            doubles += sum(1 for count in each.values() if count > 1)
        await asyncio.gather(
            *(refusals.refuse(one, agent_id=agent_id, now=CLOCK.now()) for one, agent_id, _ in standing)
        )
    await other.close()
    return {"offers": made, "doubles": doubles}


async def bare(url: str, folder: Path) -> float:
    """Pairs per second of the least that reserves durably, for as long as a second and a half."""
    done, until = 0, time.perf_counter() + 1.5
    began = time.perf_counter()
    if url.startswith("sqlite"):
        link = sqlite3.connect(folder / "floor.db", isolation_level=None)
        for sql in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "DROP TABLE IF EXISTS a",
            "CREATE TABLE a (id INTEGER PRIMARY KEY, idle REAL, busy INTEGER)",
        ):
            link.execute(sql)
        link.executemany("INSERT INTO a VALUES (?, ?, 0)", [(n, n) for n in range(200)])
        while time.perf_counter() < until:
            link.execute("BEGIN IMMEDIATE")
            key = link.execute("SELECT id FROM a WHERE busy = 0 ORDER BY idle LIMIT 1").fetchone()[0]
            link.execute("UPDATE a SET busy = 1 WHERE id = ?", (key,))
            link.execute("COMMIT")
            link.execute("BEGIN IMMEDIATE")
            link.execute("UPDATE a SET busy = 0, idle = ? WHERE id = ?", (time.time(), key))
            link.execute("COMMIT")
            done += 1
        link.close()
        return done / (time.perf_counter() - began)
    import asyncpg

    pool = await asyncpg.create_pool(url, min_size=10, max_size=10)
    await pool.execute("DROP TABLE IF EXISTS floor_agents")
    await pool.execute("CREATE TABLE floor_agents (id int PRIMARY KEY, idle double precision, busy bool)")
    await pool.executemany("INSERT INTO floor_agents VALUES ($1, $2, false)", [(n, float(n)) for n in range(200)])

    async def one() -> int:
        count = 0
        while time.perf_counter() < until:
            async with pool.acquire() as link:
                async with link.transaction():
                    key = await link.fetchval(
                        "SELECT id FROM floor_agents WHERE NOT busy ORDER BY idle LIMIT 1 FOR UPDATE SKIP LOCKED"
                    )
                    await link.execute("UPDATE floor_agents SET busy = true WHERE id = $1", key)
                async with link.transaction():
                    await link.execute(
                        "UPDATE floor_agents SET busy = false, idle = $2 WHERE id = $1", key, time.time()
                    )
            count += 1
        return count

    began = time.perf_counter()
    done = sum(await asyncio.gather(*(one() for _ in range(10))))
    took = time.perf_counter() - began
    await pool.close()
    return done / took


async def run_engine(url: str, folder: Path) -> dict[str, Any]:
    """Floor, ours, floor; then the two leaders."""
    db = await open_database(url)
    await seed(db)
    spare_the_collector()
    async with leader(url) as leading:
        await pairs(db, leading)  # what is planned and cached once
        floors, rates = [await bare(url, folder)], []
        for _ in range(3):
            rates.append(await pairs(db, leading))
            floors.append(await bare(url, folder))
    leaders = await two_leaders(url, db)
    await db.close()
    return {
        "pairs": round(median(rates)), "runs": [round(rate) for rate in rates], "floor": [round(one) for one in floors],
        "ratio": round(median(rates) / (median(floors)), 3), "two_leaders": leaders, "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--lead", default="", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["core", "engines"], default="")
    asked = parser.parse_args()
    if asked.lead:
        uvloop.run(lead(asked.lead))
        return 0
    missed = False
    if asked.only != "engines":
        print(json.dumps(run_core()))
    for engine_name in (asked.engine or ["sqlite", "postgresql"]) if asked.only != "core" else []:
        with tempfile.TemporaryDirectory(prefix="offers-") as name, database(engine_name, Path(name)) as url:
            found = uvloop.run(run_engine(url, Path(name)))
        print(json.dumps({"engine": engine_name, **found}))
        missed |= found["two_leaders"]["doubles"] > 0 or found["ratio"] < 0.5
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
