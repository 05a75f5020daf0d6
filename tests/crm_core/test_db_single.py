"""PostgreSQL: a unit that reads and puts off what it writes is two statements and no explicit transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlmodel import col, func, select

from crm_core import tallies
from crm_core.db import Database, DatabaseUnavailable, DuplicateRow, open_database
from crm_core.events import Event
from crm_core.tallies import Tally

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


def event(key: str, kind: str = "t") -> Event:
    return Event(id=key, kind=kind, subject_id="s", created_at=NOW)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements as they go out."""
    sent: list[str] = []
    for name in ("execute", "fetch"):
        real = getattr(asyncpg.Connection, name)

        async def noted(self: Any, sql: str, *arguments: Any, real: Any = real, **more: Any) -> Any:
            sent.append(sql)
            return await real(self, sql, *arguments, **more)

        monkeypatch.setattr(asyncpg.Connection, name, noted)
    return sent


@pytest.fixture
async def pg(pg_url: str, sent: list[str]) -> AsyncIterator[Database]:
    db = await open_database(pg_url)
    await db.write(lambda tx: tx.add(event("there")))
    sent.clear()
    yield db
    await db.close()


async def kinds(db: Database) -> dict[str, str]:
    async with db.reading() as tx:
        return dict(await tx.all(select(Event.id, Event.kind)))


async def test_a_read_and_what_is_put_off_are_two_statements(pg: Database, sent: list[str]) -> None:
    async def unit(tx: Any) -> int:
        number = await tx.one(select(func.count()).select_from(Event))
        async with tx.savepoint():
            tx.later(event("a"))
            tx.later(event("b"))
        await tallies.add(tx, day=NOW, queue_id="q", state="waiting", by=2)
        tx.wake("events")
        return int(number)

    assert await pg.write(unit) == 1
    assert [sql.split()[0] for sql in sent] == ["SELECT", "WITH"]
    assert await kinds(pg) == {"there": "t", "a": "t", "b": "t"}
    async with pg.reading() as tx:
        assert await tx.one(select(func.sum(Tally.number))) == 2


async def test_a_lock_or_a_write_at_once_makes_it_a_transaction(pg: Database, sent: list[str]) -> None:
    async def locks(tx: Any) -> None:
        await tx.one(select(Event).where(Event.id == "there").with_for_update())
        tx.later(event("a"))

    async def writes(tx: Any) -> None:
        await tx.add(event("b"))
        tx.later(event("c"))

    for unit in (locks, writes):
        sent.clear()
        await pg.write(unit)
        assert (sent[0], sent[-1]) == ("BEGIN", "COMMIT")
    assert await kinds(pg) == {"there": "t", "a": "t", "b": "t", "c": "t"}


async def test_what_is_refused_is_found_by_its_savepoint(pg: Database) -> None:
    """The one statement fails as a whole; run again with savepoints, the unit undoes just what it would have undone."""
    turns: list[str] = []

    async def unit(tx: Any) -> str:
        await tx.one(select(func.count()).select_from(Event))
        try:
            async with tx.savepoint():
                tx.later(event("there", "second"))
                tx.later(event("with it"))
        except DuplicateRow:
            turns.append("undone")
            tx.later(event("instead"))
            return "instead"
        turns.append("taken for new")
        return "new"

    assert await pg.write(unit) == "instead"
    assert turns == ["taken for new", "undone"]
    assert await kinds(pg) == {"there": "t", "instead": "t"}


async def test_a_refused_statement_without_a_savepoint_is_the_units_error(pg: Database) -> None:
    async def unit(tx: Any) -> None:
        tx.later(event("new"))
        tx.later(event("there", "second"))

    with pytest.raises(DuplicateRow):
        await pg.write(unit)
    assert await kinds(pg) == {"there": "t"}


async def test_an_error_in_a_savepoint_that_wrote_nothing_sends_nothing(pg: Database, sent: list[str]) -> None:
    async def unit(tx: Any) -> None:
        with pytest.raises(ValueError, match="no"):  # noqa: PT012 - the block is what the savepoint undoes
            async with tx.savepoint():
                tx.later(event("undone"))
                raise ValueError("no")
        tx.later(event("kept"))

    await pg.write(unit)
    assert len(sent) == 1
    assert await kinds(pg) == {"there": "t", "kept": "t"}


async def test_fifty_at_once_with_one_key_are_one_row(pg: Database) -> None:
    async def unit(tx: Any) -> bool:
        if await tx.one(select(Event.id).where(Event.id == "only")) is not None:
            return False
        tx.later(event("only"))
        await tallies.add(tx, day=NOW, queue_id="q", state="waiting", by=1)
        return True

    results = await asyncio.gather(*(pg.write(unit) for _ in range(50)), return_exceptions=True)
    assert results.count(True) == 1
    assert all(one in (True, False) or isinstance(one, DuplicateRow) for one in results)
    async with pg.reading() as tx:
        assert await tx.one(select(func.sum(Tally.number))) == 1
        assert await tx.all(select(Event.id).where(col(Event.id) == "only")) == ["only"]


async def test_a_single_look_is_one_round_trip_and_still_cannot_write(pg: Database, sent: list[str]) -> None:
    async with pg.reading(snapshot=False) as tx:
        assert await tx.all(select(Event.id)) == ["there"]
    assert len(sent) == 1
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        async with pg.reading(snapshot=False) as tx:
            await tx.add(event("not here"))
    async with pg.reading() as tx:
        assert await tx.all(select(Event.id)) == ["there"]
