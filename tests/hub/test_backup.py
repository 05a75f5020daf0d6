"""`hub backup` and `hub restore` on both engines: the same rows and bytes, while the hub works; and what can go wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text as sql_text
from sqlmodel import select

from campaigns.call_lists import CallList
from campaigns.campaigns import Campaign
from crm_core import outbox, users
from crm_core.clock import FixedClock
from crm_core.contacts import Contact, Organisation
from crm_core.db import Database, Tx, open_database
from crm_core.ids import new_id
from crm_core.outbox import OutboxState, OutboxTask
from crm_core.users import User
from hub.archives import MANIFEST, SIGNATURE, SIGNED, opened
from hub.backup import run_backup
from hub.doctor import Verdict, look_at_backup
from hub.files import Files
from hub.migrate import known_revisions
from hub.migrations import migrate
from hub.models import metadata
from hub.restore import run_restore
from hub.runtime import running
from hub.sealing import Sealer
from hub.settings import Settings, read_settings
from tests.apps import test_environment
from tests.databases import START
from tests.desktop import one_of_each

pytestmark = pytest.mark.timeout(300)

KEY = "tests tests tests tests tests tests"
# What a restore changes on purpose; everything else is the same, row by row.
HELD = {"outbox", "campaigns", "call_lists", "sessions", "user_links", "leases", "audit"}


async def stamped(url: str) -> str:
    """Tables made by the models look migrated."""
    newest = max(known_revisions())
    statements = (
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        f"INSERT INTO alembic_version VALUES ('{newest}')",
    )
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)
        return url
    server = await asyncpg.connect(url)
    for statement in statements:
        await server.execute(statement)
    await server.close()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
async def urls(request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path) -> AsyncIterator[tuple[str, str]]:
    """Two databases of one engine: with every table, where the hub is; and empty, where the backup goes."""
    (tmp_path / "there").mkdir()
    if request.param == "sqlite":
        shutil.copy(sqlite_template, tmp_path / "here.db")
        yield await stamped(f"sqlite:///{tmp_path}/here.db"), f"sqlite:///{tmp_path}/there/hub.db"
        return
    server, template = request.getfixturevalue("pg_server"), request.getfixturevalue("pg_template")
    made = server.create(template=template), server.create()
    await stamped(made[0])
    yield made
    for url in made:
        server.drop(url)


def settings_for(folder: Path, url: str, redis_url: str = "redis://127.0.0.1:9/0", **more: str) -> Settings:
    return read_settings({**test_environment(folder, url, redis_url), **more})


@pytest.fixture
async def house(urls: tuple[str, str], tmp_path: Path, valkey_url: str, clock: FixedClock) -> Settings:
    """The demo company with one of each thing and files, closed again."""
    settings = settings_for(tmp_path / "data", urls[0], valkey_url)
    async with running(settings, clock=clock) as runtime:
        await one_of_each.fill(runtime)
    return settings


async def hashes(url: str, *, but: set[str] = frozenset()) -> dict[str, tuple[int, str]]:  # type: ignore[assignment]
    """Rows and a hash of each table, whatever the order."""
    db = await open_database(url)
    found = {}
    async with db.reading() as tx:
        for name, table in metadata.tables.items():
            if name not in but:
                rows = sorted(repr(row) for row in await tx.all(select(*table.columns)))
                found[name] = (len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest())
    await db.close()
    return found


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


async def ask(url: str, statement: Any) -> list[Any]:
    db = await open_database(url)
    async with db.reading() as tx:
        found = await tx.all(statement)
    await db.close()
    return list(found)


async def write(url: str, unit: Any) -> None:
    db = await open_database(url)
    await db.write(unit)
    await db.close()


async def set_going(tx: Tx) -> None:
    """What must not go on by itself in a house that was restored."""
    await tx.run(sql_text("UPDATE campaigns SET state = 'running'"))
    row = await tx.one(select(Campaign).limit(1))
    values = {name: getattr(row, name) for name in Campaign.model_fields}
    await tx.add(Campaign(**{**values, "id": new_id(START), "state": "scheduled", "name": "Later"}))
    await tx.run(sql_text("UPDATE call_lists SET state = 'active'"))
    ada = await tx.one(select(User).where(User.login == "ada"))
    await users.open_session(
        tx, ada, secret="s" * 40, now=START, address="127.0.0.1", browser="b", lifetime=timedelta(hours=1)
    )
    await outbox.ask(tx, "message.send", "m1", lane="reply", now=START)
    await outbox.ask(tx, "message.send", "m2", lane="reply", now=START, due_at=START + timedelta(hours=1))


async def backed_up_at_work(house: Settings, url: str, archive: Path, clock: FixedClock) -> int:
    """Back up while three workers write pairs of rows, each in one unit; how many pairs there were at most."""
    stop, written = asyncio.Event(), 0

    async def work(db: Database, worker: int) -> None:
        nonlocal written
        while not stop.is_set():
            written += 1
            name = f"pair {worker} {written}"

            async def unit(tx: Tx, name: str = name) -> None:
                await tx.add(Organisation(id=new_id(START), name=name, created_at=START))
                await tx.add(Contact(id=new_id(START), name=name, created_at=START, updated_at=START))

            await db.write(unit)
            await asyncio.sleep(0.001)

    db = await open_database(url)
    workers = [asyncio.create_task(work(db, number)) for number in range(3)]
    async with asyncio.timeout(60):
        while written < 20:
            await asyncio.sleep(0.01)
        code = await run_backup(house, archive, clock=clock)
    at_end = written
    stop.set()
    await asyncio.gather(*workers)
    await db.close()
    assert code == 0
    return at_end


async def test_a_working_house_comes_back_as_of_one_instant_and_held(
    house: Settings, urls: tuple[str, str], tmp_path: Path, clock: FixedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, there = tmp_path / "b.zip", settings_for(tmp_path / "there", urls[1])
    await write(urls[0], set_going)
    pairs = {"organisations", "contacts"}
    before = await hashes(urls[0], but=HELD | pairs)
    most = await backed_up_at_work(house, urls[0], archive, clock)
    assert archive.stat().st_mode & 0o077 == 0, "for this user alone"
    with zipfile.ZipFile(archive) as looked:
        assert not any(KEY.encode() in looked.read(name) for name in looked.namelist())
        assert "secrets.env" not in looked.namelist()
    assert await run_restore(there, archive, clock=clock) == 0, capsys.readouterr().err

    assert await hashes(urls[1], but=HELD | pairs) == before, "row by row, counts of the day among them"
    assert sum(count for count, _ in before.values()) > 500
    files = bytes_of(tmp_path / "data" / "files")
    assert len(files) >= 4
    assert bytes_of(tmp_path / "there" / "files") == files
    halves = [
        set(await ask(urls[1], select(table.name).where(table.name.like("pair %")))) for table in (Organisation, Contact)
    ]  # fmt: skip
    assert halves[0] == halves[1], "both rows of a unit or neither"
    assert 10 <= len(halves[0]) <= most

    campaigns = await ask(urls[1], select(Campaign))
    assert {(one.name, str(one.state)) for one in campaigns} >= {("Later", "missed"), ("Autumn", "pausing")}
    assert "running" not in {str(one.state) for one in campaigns}
    assert all(one.reason.startswith("Restored from a backup of 2026-11-18") for one in campaigns)
    assert set(await ask(urls[1], select(CallList.state))) == {"paused"}
    assert not await ask(urls[1], select(users.Session))
    db, later = await open_database(urls[1]), START + timedelta(hours=2)
    ready, doubtful = await db.write(lambda tx: outbox.claim(tx, lane="reply", now=later))
    await db.close()
    assert not ready, "nothing is sent as if it had never been tried"
    assert {task.subject_id for task in doubtful} >= {"m1", "m2"}
    assert await ask(urls[0], select(OutboxTask.id).where(OutboxTask.state == OutboxState.PENDING)), (
        "the source goes on"
    )
    assert (await look_at_backup(replace(house, sandbox=False), clock)).verdict is Verdict.OK


async def test_a_place_that_holds_data_is_left_alone(
    urls: tuple[str, str], tmp_path: Path, clock: FixedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "b.zip"
    assert await run_backup(settings_for(tmp_path / "data", urls[0]), archive, clock=clock) == 0
    url = urls[0]  # where the backup came from holds data now
    there = settings_for(tmp_path / "there", url)
    await write(url, lambda tx: tx.add(users.Team(id="t", name="Ours")))
    before = await hashes(url)
    assert await run_restore(there, archive, clock=clock) == 1
    assert "holds data" in capsys.readouterr().err
    forced = await run_restore(there, archive, force=True, clock=clock) if url.startswith("postgresql") else 1
    assert forced == 1, "on PostgreSQL an empty database is one command away"
    assert await hashes(url) == before
    if url.startswith("postgresql"):
        return
    db = await open_database(url)
    assert await run_restore(there, archive, force=True, clock=clock) == 1
    assert "Another program works with" in capsys.readouterr().err
    await db.close()
    assert await hashes(url) == before
    assert await run_restore(there, archive, force=True, clock=clock) == 0
    aside = next(tmp_path.glob("here.db.before-restore-*"))
    assert await hashes(f"sqlite:///{aside}") == before, "nothing is deleted"
    assert not await ask(url, select(users.Team.id).where(users.Team.id == "t"))


async def test_a_database_somebody_works_with_is_not_restored_over(
    pg_server: Any,
    pg_empty_url: str,
    pg_url: str,
    tmp_path: Path,
    clock: FixedClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = tmp_path / "b.zip"
    assert await run_backup(settings_for(tmp_path / "data", await stamped(pg_url)), archive, clock=clock) == 0
    somebody = await asyncpg.connect(pg_empty_url)
    assert await run_restore(settings_for(tmp_path / "there", pg_empty_url), archive, clock=clock) == 1
    assert "Another program is connected" in capsys.readouterr().err
    await somebody.close()


async def test_a_backup_of_an_older_revision_is_brought_up_to_date(
    pg_server: Any, pg_empty_url: str, tmp_path: Path, clock: FixedClock
) -> None:
    old = pg_server.create()
    await asyncio.to_thread(migrate, old, "0001")
    await write(old, lambda tx: tx.add(users.Team(id="t", name="Ours")))
    assert await run_backup(settings_for(tmp_path / "data", old), tmp_path / "b.zip", clock=clock) == 0
    assert await run_restore(settings_for(tmp_path / "there", pg_empty_url), tmp_path / "b.zip", clock=clock) == 0
    assert await ask(pg_empty_url, select(users.Team.name)) == ["Ours"]
    assert len(await hashes(pg_empty_url)) == len(metadata.tables), "every table of this version is there"
    pg_server.drop(old)


@pytest.fixture
async def small(sqlite_url: str, tmp_path: Path, clock: FixedClock) -> tuple[Settings, Path, Settings]:
    """A little SQLite hub with files, its backup, and where it may go."""
    url = await stamped(sqlite_url)
    await write(url, lambda tx: tx.add(users.Team(id="t", name="Ours")))
    settings = settings_for(tmp_path / "data", url)

    for number in range(3):
        await Files(settings.files_url).put(bytes([number]) * 5000, folder="mails", now=clock.now())
    assert await run_backup(settings, tmp_path / "b.zip", clock=clock) == 0
    return settings, tmp_path / "b.zip", settings_for(tmp_path / "there", f"sqlite:///{tmp_path}/there/hub.db")


async def test_a_damaged_archive_changes_nothing(
    small: tuple[Settings, Path, Settings], clock: FixedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    _, archive, there = small
    whole, chance = archive.read_bytes(), random.Random(20261122)
    broken: list[bytes] = [whole[: len(whole) // 2], whole[:-10], b"", b"no archive at all" * 100]
    for _ in range(25):
        at = chance.randrange(len(whole))
        broken.append(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
    refused = 0
    for content in broken:
        archive.write_bytes(content)
        capsys.readouterr()
        code = await run_restore(there, archive, check_only=True, clock=clock)
        if code == 0:  # a bit that carries nothing, such as a time or an attribute of the archive itself
            with opened(archive, Sealer(KEY)) as still:
                still.verify()
            continue
        refused += 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1, told
        assert "Traceback" not in told
        assert await run_restore(there, archive, clock=clock) == 1
        assert not (there.data_dir / "hub.db").exists()
        assert not (there.data_dir / "files").exists()
    assert refused >= 20


def resigned(archive: Path, **changes: Any) -> None:
    """The archive with another manifest, signed by somebody who has the key."""
    with zipfile.ZipFile(archive) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    told = json.loads(parts[MANIFEST])
    if "members" in changes:
        changes["members"] = [*told["members"], *changes["members"]]
    parts[MANIFEST] = json.dumps({**told, **changes}).encode()
    parts[SIGNATURE] = Sealer(KEY).sign(hashlib.sha256(parts[MANIFEST]).hexdigest(), purpose=SIGNED).encode()
    for member in changes.get("members", []):
        parts.setdefault(member["name"], b"x")
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in parts.items():
            new.writestr(name, content)


async def test_what_does_not_fit_is_refused_in_a_sentence(
    small: tuple[Settings, Path, Settings], tmp_path: Path, clock: FixedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, archive, there = small
    whole = archive.read_bytes()

    async def refused(sentence: str, **how: Any) -> None:
        assert await run_restore(how.pop("settings", there), archive, clock=clock, **how) == 1
        assert sentence in capsys.readouterr().err
        assert not (there.data_dir / "hub.db").exists()
        archive.write_bytes(whole)

    resigned(archive, revision="9999")
    await refused("made by a later version of the hub (revision 9999)")
    resigned(archive, version=2)
    await refused("which this version of the hub cannot read")
    sha = hashlib.sha256(b"x").hexdigest()
    resigned(archive, members=[{"name": "files/../../../evil", "size": 1, "sha256": sha}])
    await refused("not in the store")
    assert not (tmp_path / "evil").exists()
    resigned(archive, made_at="2026'; DROP TABLE users; --")
    await refused("manifest cannot be read")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("files/mails/2026/01/01/" + "a" * 43, b"slipped in")
    await refused("does not hold what its manifest names")
    other = settings_for(there.data_dir, there.database_url, HUB_SECRET_KEY="another " * 6)
    await refused("under another HUB_SECRET_KEY", settings=other)
    await refused("holds no secrets", with_secrets=True)
    assert await run_backup(settings, archive, clock=clock) == 1, "an archive is never written over"
    assert "is there already" in capsys.readouterr().err
    assert await run_restore(other, archive, other_key=True, clock=clock) == 0


async def test_secrets_travel_only_when_asked_for(
    small: tuple[Settings, Path, Settings], tmp_path: Path, clock: FixedClock
) -> None:
    settings, _, _ = small
    archive = tmp_path / "secret.zip"
    given = {"HUB_SMTP_URL": "smtp://u:hushhush@mail.example.com:587", "HUB_LOG_LEVEL": "INFO", "HUB_SECRET_KEY": KEY}
    assert await run_backup(settings, archive, with_secrets=True, clock=clock, environ=given) == 0
    with zipfile.ZipFile(archive) as looked:
        assert looked.read("settings.env") == b"HUB_LOG_LEVEL=INFO\n"
        assert "hushhush" in looked.read("secrets.env").decode()
    new = read_settings({"HUB_DATA_DIR": str(tmp_path / "new"), "HUB_SANDBOX": "0"})
    assert new.secret_key != KEY
    assert await run_restore(new, archive, with_secrets=True, clock=clock) == 0
    assert read_settings({"HUB_DATA_DIR": str(tmp_path / "new"), "HUB_SANDBOX": "0"}).secret_key == KEY
    assert list((tmp_path / "new").glob("secret.key.before-restore-*"))


def hub(*words: str, folder: Path, failpoints: str = "") -> int:
    """The command as a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HUB_", "TWILIO_"))}
    environ = {"HUB_DATA_DIR": str(folder), "HUB_SANDBOX": "0", "HUB_SECRET_KEY": KEY, "HUB_FAILPOINTS": failpoints}
    return subprocess.run(
        [sys.executable, "-m", "hub", *words], env=clean | environ, capture_output=True, check=False
    ).returncode


@pytest.mark.timeout(400)
async def test_a_kill_leaves_no_half_backup_and_no_half_hub(
    sqlite_template: Path, tmp_path: Path, clock: FixedClock
) -> None:
    here, there, archive = tmp_path / "here", tmp_path / "there", tmp_path / "b.zip"
    settings = settings_for(here, f"sqlite:///{here}/hub.db")
    shutil.copy(sqlite_template, here / "hub.db")
    url = await stamped(settings.database_url)
    await write(url, lambda tx: tx.add(users.Team(id="t", name="Ours")))
    for number in range(3):
        await Files(settings.files_url).put(bytes([number]) * 5000, folder="mails", now=clock.now())
    for where in ("backup.file:2", "backup.before_finish:1"):
        assert await asyncio.to_thread(hub, "backup", str(archive), folder=here, failpoints=where) == -signal.SIGKILL
        assert not archive.exists(), where
    assert await asyncio.to_thread(hub, "backup", str(archive), folder=here) == 0
    assert sorted(path.name for path in tmp_path.glob("b.zip*")) == ["b.zip"], "nothing is left of the killed ones"
    for where in ("restore.file:2", "restore.before_rename:1"):
        assert await asyncio.to_thread(hub, "restore", str(archive), folder=there, failpoints=where) == -signal.SIGKILL
        assert not (there / "hub.db").exists(), where
    assert await asyncio.to_thread(hub, "restore", str(archive), folder=there) == 0
    with closing(sqlite3.connect(there / "hub.db")) as connection:
        assert connection.execute("SELECT name FROM teams").fetchall() == [("Ours",)]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert bytes_of(there / "files") == bytes_of(here / "files")
