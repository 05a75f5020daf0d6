"""A file that may not grow: everybody in the group is told so, nobody waits for ever, and later units work again."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from crm_core.db import DatabaseUnavailable, open_database
from crm_core.db_sqlite import SqliteDatabase
from crm_core.events import Event
from tests.databases import ddl

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


async def _opened(path: Path) -> SqliteDatabase:
    db = await open_database(f"sqlite:///{path}/full.db")
    assert isinstance(db, SqliteDatabase)
    for statement in ddl("sqlite://"):
        db._connection.execute(statement)
    return db


def _limit(db: SqliteDatabase, more: int) -> None:
    pages = db._connection.execute("PRAGMA page_count").fetchone()[0]
    db._connection.execute(f"PRAGMA max_page_count={pages + more}")


def _adds(key: str, size: int) -> Any:
    return lambda tx: tx.add(Event(id=key, kind="t", subject_id="s", data={"x": "x" * size}, created_at=NOW))


async def test_a_full_disk_answers_everybody_and_keeps_what_was_committed(tmp_path: Path) -> None:
    db = await _opened(tmp_path)
    await db.write(_adds("before", 10))
    _limit(db, 20)
    units = [_adds(f"small{n}", 10) if n % 2 else _adds(f"big{n}", 200_000) for n in range(12)]
    async with asyncio.timeout(60):
        results = await asyncio.gather(*(db.write(unit) for unit in units), return_exceptions=True)
    assert any(isinstance(one, DatabaseUnavailable) for one in results)
    assert all(isinstance(one, Event | DatabaseUnavailable) for one in results)
    _limit(db, 1_000_000)
    await db.write(_adds("after", 10))
    acknowledged = {f"small{n}" if n % 2 else f"big{n}" for n, one in enumerate(results) if isinstance(one, Event)}
    async with db.reading() as tx:
        assert set(await tx.all(select(Event.id))) == {"before", "after", *acknowledged}
    await db.close()


async def test_a_commit_that_fails_takes_its_whole_group_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = await _opened(tmp_path)
    fails = iter([True, False])

    async def commit(real: Any = db._commit) -> None:
        if next(fails):
            raise sqlite3.OperationalError("disk I/O error")
        await real()

    monkeypatch.setattr(db, "_commit", commit)
    async with asyncio.timeout(60):
        results = await asyncio.gather(db.write(_adds("a", 1)), db.write(_adds("b", 1)), return_exceptions=True)
    assert [type(one) for one in results] == [DatabaseUnavailable, DatabaseUnavailable]
    await db.write(_adds("c", 1))
    async with db.reading() as tx:
        assert await tx.all(select(Event.id)) == ["c"]
    await db.close()


async def test_a_fault_of_ours_is_told_and_the_writer_lives_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = await _opened(tmp_path)
    with monkeypatch.context() as patched:

        async def breaks() -> None:
            raise RuntimeError("a fault of ours")

        patched.setattr(db, "_commit", breaks)
        async with asyncio.timeout(60):
            results = await asyncio.gather(*(db.write(_adds(f"{n}", 1)) for n in range(3)), return_exceptions=True)
        assert [type(one) for one in results] == [RuntimeError] * 3
    await db.write(_adds("later", 1))
    async with db.reading() as tx:
        assert await tx.all(select(Event.id)) == ["later"]
    await db.close()


async def test_who_comes_behind_the_close_is_answered(tmp_path: Path) -> None:
    db = await _opened(tmp_path)
    closing = asyncio.create_task(db.close())
    await asyncio.sleep(0)
    with pytest.raises(DatabaseUnavailable):
        async with asyncio.timeout(60):
            await db.write(_adds("late", 1))
    await closing


async def test_a_damaged_file_is_told_as_such(tmp_path: Path) -> None:
    db = await _opened(tmp_path)
    await db.write(_adds("kept", 1))
    db._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = (tmp_path / "full.db").stat().st_size
    with (tmp_path / "full.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(DatabaseUnavailable):
        async with db.reading() as tx:
            await tx.all(select(Event))
    await db.close()
