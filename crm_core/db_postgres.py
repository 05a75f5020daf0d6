"""The production engine: asyncpg, one transaction per unit, retried after a serialization failure or deadlock."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import asyncpg

from crm_core.failpoints import failpoint
from crm_core.ports import Wakeups
from crm_core.statements import postgres_compiler
from crm_core.tx import DatabaseUnavailable, DuplicateRow, Rerun, Tx, Unit

R = TypeVar("R")

RETRIES = 3
TIMEOUTS = {
    "statement_timeout": "30000",
    "lock_timeout": "5000",
    "idle_in_transaction_session_timeout": "30000",
    "application_name": "hub",
}


LOST = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


class _Connection:
    """One asyncpg connection as a `Driver`."""

    __slots__ = ("connection",)

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = await self.connection.fetch(sql, *arguments)
        return rows

    async def execute(self, sql: str, arguments: Sequence[Any]) -> int:
        try:
            status: str = await self.connection.execute(sql, *arguments)
        except asyncpg.UniqueViolationError as error:
            raise DuplicateRow(str(error)) from error
        return int(status.rsplit(" ", 1)[1])

    async def execute_many(self, sql: str, arguments: Sequence[Sequence[Any]]) -> None:
        try:
            await self.connection.executemany(sql, arguments)
        except asyncpg.UniqueViolationError as error:
            raise DuplicateRow(str(error)) from error

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        try:
            async with self.connection.transaction():
                yield
        except LOST as error:
            raise Rerun(str(error)) from error


class PostgresDatabase:
    """See `crm_core.db.Database`."""

    dialect = "postgresql"

    def __init__(self, pool: Any) -> None:
        self.wakeups: Wakeups | None = None
        self._pool = pool
        self._compiler = postgres_compiler()

    @classmethod
    async def open(cls, url: str, *, pool_size: int = 10) -> PostgresDatabase:
        """Connect; raises DatabaseUnavailable."""
        try:
            pool = await asyncpg.create_pool(
                url, min_size=1, max_size=pool_size, timeout=10, statement_cache_size=1000, server_settings=TIMEOUTS
            )
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            raise DatabaseUnavailable(f"PostgreSQL does not answer: {error or type(error).__name__}.") from error
        return cls(pool)

    async def write(self, unit: Unit[R]) -> R:
        """See `Database.write`."""
        for attempt in range(RETRIES + 1):
            try:
                return await self._once(unit)
            except (*LOST, Rerun):
                if attempt == RETRIES:
                    raise
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter, not a secret
            except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
                raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}.") from error
        raise AssertionError("unreachable")

    async def _once(self, unit: Unit[R]) -> R:
        async with self._pool.acquire() as connection:
            tx = Tx(_Connection(connection), self._compiler)
            async with connection.transaction():
                value = await unit(tx)
                await tx.settle()
                failpoint("db.before_commit")
        failpoint("db.after_commit")
        if tx.wakes and self.wakeups is not None:
            await self.wakeups.wake(tx.wakes)
        return value

    @contextlib.asynccontextmanager
    async def reading(self, *, slow: bool = False) -> AsyncIterator[Tx]:
        """See `Database.reading`: one snapshot (REPEATABLE READ, read only)."""
        try:
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                yield Tx(_Connection(connection), self._compiler)
        except (OSError, asyncpg.PostgresConnectionError) as error:
            raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}.") from error

    async def close(self) -> None:
        """See `Database.close`."""
        await self._pool.close()
