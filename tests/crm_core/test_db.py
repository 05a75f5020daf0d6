"""The one way to the data, on both engines: units of work, their errors, group commit, plain rows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, func, update
from sqlmodel import col, select

from crm_core.audit import AuditEntry
from crm_core.db import Database, DuplicateRow, Rerun, open_database
from crm_core.errors import Conflict
from crm_core.events import Event
from crm_core.statements import fixed
from crm_core.tables import metadata

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
BY_KIND = fixed(select(Event).where(Event.kind == bindparam("kind")).order_by(col(Event.id)))


def event(key: str, kind: str = "t", **data: Any) -> Event:
    return Event(id=key, kind=kind, subject_id="s", data=data, created_at=NOW)


async def test_rows_come_back_as_they_went_in(db: Database) -> None:
    await db.write(lambda tx: tx.add(event("a", n=1, deep={"é": [1, None]})))
    async with db.reading() as tx:
        row = await tx.one(select(Event).where(Event.id == "a"))
        assert row is not None
        assert row.model_dump() == event("a", n=1, deep={"é": [1, None]}).model_dump()
        assert row.created_at == NOW
        assert await tx.one(select(Event.id, Event.created_at)) == ("a", NOW)
        assert await tx.one(select(func.count()).select_from(Event)) == 1
        assert await tx.all(BY_KIND, kind="t") == [row]
        assert await tx.all(BY_KIND, kind="u") == []
        assert await tx.one(select(Event).where(col(Event.id).in_(["a", "b"]))) == row
        assert await tx.one(select(Event).where(col(Event.id).in_(["b"]))) is None


async def test_an_error_undoes_its_unit_only_and_wakes_nobody(db: Database) -> None:
    woken: list[str] = []

    class Wakes:
        async def wake(self, topics: Any) -> None:
            woken.extend(topics)

    db.wakeups = Wakes()

    async def good(tx: Any) -> str:
        await tx.add(event("good"))
        tx.wake("good")
        return "kept"

    async def bad(tx: Any) -> None:
        await tx.add(event("bad"))
        tx.wake("bad")
        raise ValueError("no")

    results = await asyncio.gather(db.write(good), db.write(bad), return_exceptions=True)
    assert results[0] == "kept"
    assert isinstance(results[1], ValueError)
    async with db.reading() as tx:
        assert await tx.all(select(Event.id)) == ["good"]
    assert woken == ["good"]


async def test_no_update_is_lost_under_concurrency(db: Database) -> None:
    await db.write(lambda tx: tx.add(event("n", n=0)))

    async def more(tx: Any) -> None:
        row = await tx.one(select(Event).where(Event.id == "n").with_for_update())
        await tx.run(update(Event).where(col(Event.id) == "n").values(data={"n": row.data["n"] + 1}))

    await asyncio.gather(*(db.write(more) for _ in range(50)))
    async with db.reading() as tx:
        row = await tx.one(select(Event))
        assert row is not None
        assert row.data == {"n": 50}


async def test_guarded_update_must_hit(db: Database) -> None:
    await db.write(lambda tx: tx.add(event("g")))
    guarded = update(Event).where(col(Event.id) == "g", col(Event.kind) == "t").values(kind="u")
    await db.write(lambda tx: tx.hit(guarded))
    with pytest.raises(Conflict):
        await db.write(lambda tx: tx.hit(guarded))


async def test_duplicates_are_told_apart(db: Database) -> None:
    assert await db.write(lambda tx: tx.add_new(event("d"), unique=["id"]))
    assert not await db.write(lambda tx: tx.add_new(event("d"), unique=["id"]))
    with pytest.raises(DuplicateRow):
        await db.write(lambda tx: tx.add(event("d")))


async def test_a_naive_time_is_refused(db: Database) -> None:
    row = event("z")
    row.__dict__["created_at"] = datetime(2026, 1, 1)  # noqa: DTZ001 - the point of the test
    with pytest.raises(ValueError, match="naive"):
        await db.write(lambda tx: tx.add(row))


async def test_put_adds_up(db: Database) -> None:
    from crm_core.tallies import Tally

    row = Tally(day=NOW.date().isoformat(), queue_id="q", state="waiting", shard=0, number=2)
    await db.write(lambda tx: tx.put(row, unique=["day", "queue_id", "state", "shard"], add=["number"]))
    await db.write(lambda tx: tx.put(row, unique=["day", "queue_id", "state", "shard"], add=["number"]))
    async with db.reading() as tx:
        assert await tx.one(select(Tally.number)) == 4


async def test_a_unit_may_do_no_io_on_sqlite(tmp_path: Path) -> None:
    db = await open_database(f"sqlite:///{tmp_path}/io.db")

    async def sleeps(tx: Any) -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="no I/O"):
        await db.write(sleeps)
    await db.close()


async def test_readers_see_one_snapshot(db: Database) -> None:
    await db.write(lambda tx: tx.add(event("1")))
    async with db.reading() as tx:
        assert await tx.all(select(Event.id)) == ["1"]
        await db.write(lambda tx: tx.add(event("2")))
        assert await tx.all(select(Event.id)) == ["1"]
    async with db.reading(slow=True) as tx:
        assert await tx.all(select(Event.id).order_by(Event.id)) == ["1", "2"]


async def test_time_order_is_text_order(db: Database) -> None:
    times = [NOW + timedelta(microseconds=n) for n in (0, 1, 999_999, 1_000_000)]
    for n, moment in enumerate(times):
        row = Event(id=str(n), kind="t", subject_id="", created_at=moment)
        await db.write(lambda tx, row=row: tx.add(row))
    async with db.reading() as tx:
        assert await tx.all(select(Event.created_at).order_by(col(Event.created_at).desc())) == times[::-1]


def test_audit_has_its_own_table() -> None:
    assert AuditEntry.__tablename__ in metadata.tables


async def test_a_savepoint_undoes_only_what_is_inside_it(db: Database) -> None:
    woken: list[str] = []

    class Wakes:
        async def wake(self, topics: Any) -> None:
            woken.extend(topics)

    db.wakeups = Wakes()

    async def unit(tx: Any) -> str:
        await tx.add(event("before"))
        tx.wake("outer")
        async with tx.savepoint():
            await tx.add(event("kept"))
            with pytest.raises(DuplicateRow):  # noqa: PT012 - the block is what the savepoint undoes
                async with tx.savepoint():
                    await tx.add(event("inner"))
                    tx.wake("inner")
                    await tx.add(event("inner"))
        with pytest.raises(ValueError, match="no"):  # noqa: PT012
            async with tx.savepoint():
                await tx.add(event("undone"))
                raise ValueError("no")
        await tx.add(event("after"))
        return "done"

    assert await db.write(unit) == "done"
    async with db.reading() as tx:
        assert [row.id for row in await tx.all(select(Event).order_by(col(Event.id)))] == ["after", "before", "kept"]
    assert woken == ["outer"]


async def test_a_deadlock_inside_a_savepoint_runs_the_whole_unit_again(pg_url: str) -> None:
    database = await open_database(pg_url)
    try:
        await database.write(lambda tx: tx.add_all([event("a"), event("b")]))
        gates = {"a": asyncio.Event(), "b": asyncio.Event()}
        runs: list[str] = []

        async def cross(tx: Any, first: str, second: str) -> None:
            runs.append(first)
            try:
                async with tx.savepoint():
                    await tx.run(update(Event).where(col(Event.id) == first).values(version=Event.version + 1))
                    gates[first].set()
                    await gates[second].wait()
                    await tx.run(update(Event).where(col(Event.id) == second).values(version=Event.version + 1))
            except Rerun:
                raise
            except Exception as error:  # what an intake does with failed effects
                raise AssertionError("the deadlock was taken for a failed effect") from error

        await asyncio.gather(
            database.write(lambda tx: cross(tx, "a", "b")), database.write(lambda tx: cross(tx, "b", "a"))
        )
        async with database.reading() as tx:
            assert await tx.all(select(Event.version).order_by(col(Event.id))) == [2, 2]
        assert len(runs) >= 3
    finally:
        await database.close()
