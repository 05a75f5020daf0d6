"""What a transaction offers (`Tx`), and what an open database does (`Database`). Import them from `crm_core.db`.

Here only so that the engines and `db.py`, which chooses one, need not import each other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar, overload

from sqlalchemy import Executable
from sqlalchemy.sql.dml import UpdateBase
from sqlmodel.sql.expression import Select, SelectOfScalar

from crm_core.errors import Conflict
from crm_core.ports import Wakeups
from crm_core.statements import Compiler, Fixed, RowMaker
from crm_core.tables import Table

R = TypeVar("R")
T = TypeVar("T", bound=Table)
Statement = Executable | UpdateBase | Fixed[Any]
Unit = Callable[["Tx"], Awaitable[R]]
Settle = Callable[["Tx", Sequence[tuple[tuple[str, ...], int]]], Awaitable[None]]


class DuplicateRow(Conflict):
    """There is such a row already."""


class DatabaseUnavailable(Exception):
    """The database did not answer; nothing was committed as far as this process knows."""


class Rerun(Exception):
    """The engine gave this transaction up (deadlock, serialization): let it pass, `Database.write` runs the unit again."""


class Driver(Protocol):
    """What an engine gives a transaction: run SQL, get raw rows or a row count."""

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Sequence[Any]]: ...

    async def execute(self, sql: str, arguments: Sequence[Any]) -> int: ...

    async def execute_many(self, sql: str, arguments: Sequence[Sequence[Any]]) -> None: ...

    def savepoint(self) -> AbstractAsyncContextManager[None]: ...


class Tx:
    """One transaction. Rows come back as SQLModel objects, single values, or plain tuples for several columns."""

    __slots__ = ("_compiler", "_driver", "_sums", "_wakes")

    def __init__(self, driver: Driver, compiler: Compiler) -> None:
        self._driver = driver
        self._compiler = compiler
        self._wakes: set[str] = set()
        self._sums: dict[Settle, dict[tuple[str, ...], int]] = {}

    @overload
    async def one(self, statement: SelectOfScalar[R], **params: Any) -> R | None: ...
    @overload
    async def one(self, statement: Select[R], **params: Any) -> R | None: ...
    @overload
    async def one(self, statement: Statement, **params: Any) -> Any: ...
    async def one(self, statement: Any, **params: Any) -> Any:
        """The first row, or None."""
        sql, arguments, make = self._compiler.prepare(statement, params)
        rows = await self._driver.fetch(sql, arguments)
        return _maker(make, sql)(rows[0]) if rows else None

    @overload
    async def all(self, statement: SelectOfScalar[R], **params: Any) -> list[R]: ...
    @overload
    async def all(self, statement: Select[R], **params: Any) -> list[R]: ...
    @overload
    async def all(self, statement: Statement, **params: Any) -> list[Any]: ...
    async def all(self, statement: Any, **params: Any) -> list[Any]:
        """Every row, in the statement's order. Bound it: no list in the hub is unbounded."""
        sql, arguments, make = self._compiler.prepare(statement, params)
        read = _maker(make, sql)
        return [read(row) for row in await self._driver.fetch(sql, arguments)]

    async def run(self, statement: Statement, **params: Any) -> int:
        """Run an UPDATE, DELETE or INSERT; the number of rows it touched."""
        sql, arguments, _ = self._compiler.prepare(statement, params)
        return await self._driver.execute(sql, arguments)

    async def hit(self, statement: Statement, **params: Any) -> None:
        """Run a guarded UPDATE that must touch exactly one row; Conflict when somebody was first."""
        if await self.run(statement, **params) != 1:
            raise Conflict

    async def change(self, table: type[Table], values: Mapping[str, Any], **where: Any) -> int:
        """UPDATE of plain columns where plain columns have these values; the number of rows it touched.

        The same columns are compiled once: a tenth of the cost of building an `update()` each time. For everything else
        (other comparisons, expressions) there is `run`.
        """
        sql, arguments, _ = self._compiler.prepare_change(table, values, where)
        return await self._driver.execute(sql, arguments)

    async def add(self, row: T) -> T:
        """Insert one row; gives it back."""
        plan = self._compiler.insert_plan(type(row))
        await self._driver.execute(plan.sql, plan.bind(row.__dict__))
        return row

    async def add_all(self, rows: Sequence[Table]) -> None:
        """Insert many rows of one table."""
        if rows:
            plan = self._compiler.insert_plan(type(rows[0]))
            await self._driver.execute_many(plan.sql, [plan.bind(row.__dict__) for row in rows])

    async def add_new(self, row: Table, *, unique: Iterable[str]) -> bool:
        """Insert unless a row with the same `unique` columns is there; True when it was new."""
        plan = self._compiler.insert_plan(type(row), f"ON CONFLICT ({', '.join(unique)}) DO NOTHING")
        return await self._driver.execute(plan.sql, plan.bind(row.__dict__)) == 1

    async def put(
        self, row: Table, *, unique: Iterable[str], update: Iterable[str] = (), add: Iterable[str] = ()
    ) -> None:
        """Insert, or on the same `unique` columns set `update` columns to the new values and add up `add` columns."""
        name = row.__tablename__
        changes = [f"{c} = excluded.{c}" for c in update] + [f"{c} = {name}.{c} + excluded.{c}" for c in add]
        tail = f"ON CONFLICT ({', '.join(unique)}) DO UPDATE SET {', '.join(changes)}"
        plan = self._compiler.insert_plan(type(row), tail)
        await self._driver.execute(plan.sql, plan.bind(row.__dict__))

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """What is done inside is undone alone when it raises (its wake-ups too); the error passes on to the caller.

        `Rerun` must not be caught: it says that the whole transaction is lost and will be run again.
        """
        woken = set(self._wakes)
        sums = {settle: dict(parts) for settle, parts in self._sums.items()}
        try:
            async with self._driver.savepoint():
                yield
        except BaseException:
            self._wakes.intersection_update(woken)
            self._sums = sums
            raise

    def wake(self, topic: str) -> None:
        """After the commit, and only then, hint that there is work: `router`, `outbox`, `events`, `bulk` …"""
        self._wakes.add(topic)

    def add_up(self, settle: Settle, key: tuple[str, ...], by: int) -> None:
        """Keep a sum until just before the commit, when `settle` writes all of them, sorted by key.

        For counters that many transactions share: each row is locked once, last, and by everybody in one order, so that
        parallel transactions wait for microseconds and never deadlock.
        """
        parts = self._sums.setdefault(settle, {})
        parts[key] = parts.get(key, 0) + by

    async def settle(self) -> None:
        """Write the sums; the engines call it at the end of each unit."""
        while self._sums:
            settle, parts = self._sums.popitem()
            await settle(self, [(key, by) for key, by in sorted(parts.items()) if by])

    def forget_sums(self) -> None:
        """The unit was undone, and its sums with it."""
        self._sums.clear()

    @property
    def wakes(self) -> set[str]:
        """Topics asked for so far."""
        return self._wakes


def _maker(make: RowMaker | None, sql: str) -> RowMaker:
    if make is None:
        raise TypeError(f"statement gives no rows: {sql}")
    return make


class Database(Protocol):
    """An open database. `dialect` is for search and migrations only."""

    dialect: str
    wakeups: Wakeups | None

    async def write(self, unit: Unit[R]) -> R:
        """Run `unit` as a transaction and return its value after the COMMIT; its error undoes only that unit.

        On SQLite units run serially, each in its own SAVEPOINT, and share one COMMIT (at most 32 units or 5 ms); a unit does
        no I/O except through its `tx`. On PostgreSQL each is its own transaction, retried at most three times after a
        serialization failure or deadlock, so a unit may run more than once.
        """
        ...

    def reading(self, *, slow: bool = False) -> AbstractAsyncContextManager[Tx]:
        """A transaction that only reads. `slow` (reports, search, admin lists) keeps the event loop free on SQLite."""
        ...

    async def close(self) -> None:
        """Finish what is queued and close every connection."""
        ...
