"""What a transaction offers (`Tx`), and what an open database does (`Database`). Import them from `crm_core.db`.

Here only so that the engines and `db.py`, which chooses one, need not import each other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar, overload

from sqlalchemy import Executable
from sqlalchemy.sql.dml import UpdateBase
from sqlmodel.sql.expression import Select, SelectOfScalar

from crm_core.errors import Conflict
from crm_core.ports import Wakeups
from crm_core.statements import Compiler, Fixed, InsertPlan, Row, RowMaker
from crm_core.tables import Table

R = TypeVar("R")
T = TypeVar("T", bound=Table)
Statement = Executable | UpdateBase | Fixed[Any]
Unit = Callable[["Tx"], Awaitable[R]]
Settle = Callable[["Tx", Sequence[tuple[tuple[str, ...], int]]], Awaitable[None]]
# One part of a collected write: an insert with its rows, or one other statement with its arguments.
Part = tuple[InsertPlan, list[Row]] | tuple[str, list[Any]]


class DuplicateRow(Conflict):
    """There is such a row already."""


class DatabaseUnavailable(Exception):
    """The database did not answer; nothing was committed as far as this process knows."""


class Rerun(Exception):
    """The engine gave this transaction up (deadlock, serialization): let it pass, `Database.write` runs the unit again."""


class Driver(Protocol):
    """What an engine gives a transaction: run SQL, get raw rows or a row count.

    `alone`: nothing has been written or locked yet, so what was put off may go out as one statement, a transaction by itself.
    """

    @property
    def alone(self) -> bool: ...

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Sequence[Any]]: ...

    async def execute(self, sql: str, arguments: Sequence[Any]) -> int: ...

    async def execute_many(self, sql: str, arguments: Sequence[Sequence[Any]]) -> None: ...

    async def write_parts(self, parts: Sequence[Part], *, last: bool = False) -> None: ...

    def savepoint(self) -> AbstractAsyncContextManager[None]: ...


class Tx:
    """One transaction. Rows come back as SQLModel objects, single values, or plain tuples for several columns."""

    __slots__ = ("_compiler", "_driver", "_later", "_later_tables", "_sums", "_wakes")

    def __init__(self, driver: Driver, compiler: Compiler) -> None:
        self._driver = driver
        self._compiler = compiler
        self._wakes: set[str] = set()
        self._sums: dict[Settle, dict[tuple[str, ...], int]] = {}
        self._later: list[tuple[InsertPlan | str, list[Any]]] = []
        self._later_tables: set[str] = set()

    @overload
    async def one(self, statement: SelectOfScalar[R], **params: Any) -> R | None: ...
    @overload
    async def one(self, statement: Select[R], **params: Any) -> R | None: ...
    @overload
    async def one(self, statement: Statement, **params: Any) -> Any: ...
    async def one(self, statement: Any, **params: Any) -> Any:
        """The first row, or None."""
        sql, arguments, make = self._compiler.prepare(statement, params)
        if self._later and not self._later_tables.isdisjoint(self._compiler.tables_in(sql)):
            await self.flush()
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
        if self._later and not self._later_tables.isdisjoint(self._compiler.tables_in(sql)):
            await self.flush()
        read = _maker(make, sql)
        return [read(row) for row in await self._driver.fetch(sql, arguments)]

    async def run(self, statement: Statement, **params: Any) -> int:
        """Run an UPDATE, DELETE or INSERT; the number of rows it touched."""
        sql, arguments, _ = self._compiler.prepare(statement, params)
        return await self._execute(sql, arguments)

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
        return await self._execute(sql, arguments)

    async def add(self, row: T) -> T:
        """Insert one row; gives it back."""
        plan = self._compiler.insert_plan(type(row))
        await self._execute(plan.sql, plan.bind(row.__dict__))
        return row

    async def add_all(self, rows: Sequence[Table]) -> None:
        """Insert many rows of one table."""
        if rows:
            plan = self._compiler.insert_plan(type(rows[0]))
            await self._make_way(plan.sql)
            await self._driver.execute_many(plan.sql, [plan.bind(row.__dict__) for row in rows])

    async def add_new(self, row: Table, *, unique: Sequence[str]) -> bool:
        """Insert unless a row with the same `unique` columns is there; True when it was new."""
        plan = self._compiler.insert_plan(type(row), unique)
        return await self._execute(plan.sql, plan.bind(row.__dict__)) == 1

    async def put(
        self, row: Table, *, unique: Sequence[str], update: Sequence[str] = (), add: Sequence[str] = ()
    ) -> None:
        """Insert, or on the same `unique` columns set `update` columns to the new values and add up `add` columns."""
        plan = self._compiler.insert_plan(type(row), unique, update, add)
        await self._execute(plan.sql, plan.bind(row.__dict__))

    def later(self, row: T, *, unique: Sequence[str] = (), update: Sequence[str] = (), add: Sequence[str] = ()) -> T:
        """Insert one row by the end of the unit (or savepoint), together with others: on PostgreSQL one round trip for all.

        For rows whose insert is not expected to fail. Whoever reads or changes their table within the unit finds them there:
        they are written before. `unique`: a row that is there already stays, or has its `update` columns set and its `add`
        columns added up; a unit puts off one row of a key.
        """
        plan = self._compiler.insert_plan(type(row), unique, update, add)
        self._later.append((plan, plan.bind(row.__dict__)))
        self._later_tables.add(plan.table)
        return row

    async def run_later(self, statement: Statement, **params: Any) -> None:
        """Run an UPDATE of rows by their key at the end of the unit; how many it touched is not told."""
        sql, arguments, _ = self._compiler.prepare(statement, params)
        await self._make_way(sql)
        self._later.append((sql, arguments))
        self._later_tables |= self._compiler.tables_in(sql)

    async def _execute(self, sql: str, arguments: Sequence[Any]) -> int:
        if self._later:
            await self._make_way(sql)
        return await self._driver.execute(sql, arguments)

    async def _make_way(self, sql: str) -> None:
        """Write what was put off, if `sql` changes the same tables or might refer to it."""
        referred = self._compiler.referred_to
        tables = self._later_tables
        if not (tables.isdisjoint(self._compiler.tables_in(sql)) and tables.isdisjoint(referred)):
            await self.flush()

    async def flush(self, *, last: bool = False) -> None:
        """Write what was put off: rows that others refer to in their order, then the rest by table, then the changes.

        `last`: nothing follows but the commit.
        """
        if not self._later:
            return
        later, self._later, self._later_tables = self._later, [], set()
        referred = self._compiler.referred_to
        parents: list[Part] = []
        leaves: dict[InsertPlan, list[list[Any]]] = {}
        changes: list[Part] = []
        for what, arguments in later:
            if isinstance(what, str):
                changes.append((what, arguments))
            elif what.table not in referred:
                leaves.setdefault(what, []).append(arguments)
            elif parents and parents[-1][0] is what:
                parents[-1][1].append(arguments)
            else:
                parents.append((what, [arguments]))
        # One table twice in one statement (with and without ON CONFLICT) would be written in no certain order.
        twice = len({plan.table for plan in leaves}) != len(leaves)
        parts = [*parents, *leaves.items(), *changes]
        if twice:
            for part in parts:
                await self._driver.write_parts([part])
        else:
            await self._driver.write_parts(parts, last=last)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """What is done inside is undone alone when it raises (its wake-ups too); the error passes on to the caller.

        `Rerun` must not be caught: it says that the whole transaction is lost and will be run again.
        """
        await self.flush()  # what was put off before must outlive what is undone inside
        woken = set(self._wakes)
        sums = {settle: dict(parts) for settle, parts in self._sums.items()}
        try:
            async with self._driver.savepoint():
                yield
                if not self._driver.alone:
                    await self.flush()
        except BaseException:
            self._later, self._later_tables = [], set()
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
        """Write what was put off and the sums; the engines call it at the end of each unit."""
        refers = any(not isinstance(what, str) and what.refers for what, _ in self._later)
        if self._sums and refers and not self._driver.alone:
            # Their references lock rows that others hold: only when that is over, the counters, which many wait for.
            await self.flush()
        while self._sums:
            settle, parts = self._sums.popitem()
            await settle(self, [(key, by) for key, by in sorted(parts.items()) if by])
        await self.flush(last=True)

    def forget(self) -> None:
        """The unit was undone, and with it its sums and what it put off."""
        self._sums.clear()
        self._later, self._later_tables = [], set()

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

    async def write(self, unit: Unit[R], *, appends: bool = False) -> R:
        """Run `unit` as a transaction and return its value after the COMMIT; its error undoes only that unit.

        On SQLite units run serially, each in its own SAVEPOINT, and share one COMMIT (at most 32 units or 5 ms); a unit does
        no I/O except through its `tx`. On PostgreSQL each is its own transaction, retried at most three times after a
        serialization failure or deadlock, so a unit may run more than once.

        What a unit without locks puts off to its end is written together with that of others (write_groups.py). SQLite lets it
        run before the writing lock is taken when it `appends` as a rule; when it does more, it runs again under the lock.
        """
        ...

    def reading(self, *, slow: bool = False, snapshot: bool = True) -> AbstractAsyncContextManager[Tx]:
        """A transaction that only reads. `slow` (reports, search, admin lists) keeps the event loop free on SQLite.

        `snapshot=False`, for a single look: each statement sees what is committed then; on PostgreSQL it is one round trip, not
        three.
        """
        ...

    async def close(self) -> None:
        """Finish what is queued and close every connection."""
        ...
