"""PostgreSQL: what many look up at the same moment is asked once, and everybody is told their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy import bindparam
from sqlmodel import col, select

from crm_core.db import Database, DatabaseUnavailable, Tx, open_database
from crm_core.events import Event
from crm_core.statements import fixed

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
BY_SUBJECT = fixed(
    select(Event.id, Event.version)
    .where(Event.subject_id == bindparam("subject"), Event.version >= bindparam("least"))
    .order_by(col(Event.id)),
    together=True,
)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SELECTs as they go out."""
    sent: list[str] = []
    real = asyncpg.Connection.fetch

    async def noted(self: Any, sql: str, *arguments: Any, **more: Any) -> Any:
        sent.append(sql)
        return await real(self, sql, *arguments, **more)

    monkeypatch.setattr(asyncpg.Connection, "fetch", noted)
    return sent


@pytest.fixture
async def pg(pg_url: str, sent: list[str]) -> AsyncIterator[Database]:
    db = await open_database(pg_url, pool_size=2)

    async def seed(tx: Tx) -> None:
        for number in range(12):
            await tx.add(
                Event(id=f"e{number:02d}", kind="t", subject_id=f"s{number % 4}", version=number, created_at=NOW)
            )

    await db.write(seed)
    sent.clear()
    yield db
    await db.close()


async def look(db: Database, subject: str, least: int = 0) -> list[tuple[str, int]]:
    return await db.write(lambda tx: tx.all(BY_SUBJECT, subject=subject, least=least))


async def test_each_is_told_their_own_by_few_statements(pg: Database, sent: list[str]) -> None:
    told = await asyncio.gather(*(look(pg, f"s{number % 5}", number % 3) for number in range(60)))
    for number, rows in enumerate(told):
        subject, least = number % 5, number % 3
        wanted = [(f"e{n:02d}", n) for n in range(12) if subject == n % 4 and n >= least]
        assert rows == wanted, number
    assert len(sent) <= 4
    assert any("LATERAL" in sql for sql in sent)


async def test_one_alone_asks_the_plain_statement(pg: Database, sent: list[str]) -> None:
    assert await look(pg, "s1") == [("e01", 1), ("e05", 5), ("e09", 9)]
    assert len(sent) == 1
    assert "LATERAL" not in sent[0]


async def test_what_cannot_be_asked_fails_alone(pg: Database) -> None:
    told = await asyncio.gather(*(look(pg, subject) for subject in ("s0", "s1", "\x00", "s2")), return_exceptions=True)
    assert [len(each) if isinstance(each, list) else "failed" for each in told] == [3, 3, "failed", 3]


async def test_who_has_gone_harms_nobody(pg: Database) -> None:
    first, gone, stays = (asyncio.create_task(look(pg, subject)) for subject in ("s0", "s1", "s2"))
    await asyncio.sleep(0)
    gone.cancel()
    assert len(await first) == 3
    assert len(await stays) == 3
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_in_a_transaction_one_reads_what_one_wrote(pg: Database, sent: list[str]) -> None:
    async def unit(tx: Tx) -> list[Any]:
        await tx.add(Event(id="mine", kind="t", subject_id="s9", version=1, created_at=NOW))
        return await tx.all(BY_SUBJECT, subject="s9", least=0)

    assert await pg.write(unit) == [("mine", 1)]
    assert "LATERAL" not in sent[-1]


async def test_a_lost_server_is_told_as_such_to_everybody(pg: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(asyncpg.Connection, "fetch", broken)
    told = await asyncio.gather(*(look(pg, "s0") for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in told] == [DatabaseUnavailable] * 5
