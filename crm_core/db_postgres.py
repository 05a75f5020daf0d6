"""The production engine: asyncpg, one transaction per unit, retried after a serialization failure or deadlock."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar, cast

import asyncpg

from crm_core import postgres_pool
from crm_core.failpoints import failpoint
from crm_core.look_ups import LookUps
from crm_core.ports import Wakeups
from crm_core.postgres_pool import UNABLE, Connections
from crm_core.postgres_sql import Merged
from crm_core.statements import InsertPlan, only_reads, postgres_compiler
from crm_core.tx import DatabaseUnavailable, DuplicateRow, Part, Rerun, Tx, Unit
from crm_core.write_groups import AT_ONCE, Appends, Groups, Refused, combined

R = TypeVar("R")

RETRIES = 3
TIMEOUTS = {
    "statement_timeout": "30000",
    "lock_timeout": "5000",
    "idle_in_transaction_session_timeout": "30000",
    "application_name": "hub",
    "jit": "off",
}
# Units of work look rows up by key. Without these two PostgreSQL plans each statement anew (a third of a call's cost), and as
# long as a young table has no statistics it reads all of it.
BY_KEY = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}

BULK_NAME = "hub-bulk"
# While others are at work, a bulk process rests four times as long as its transaction took, times the bulk processes there are:
# together they work a fifth of the time, as on SQLite. Who is at work is read from PostgreSQL itself, so that inbound pays
# nothing for it; a poller's look alone does not count.
BULK_REST = 4
BULK_REST_MAX_S = 1.0
BULK_LOOK_S = 0.1
BUSY_SESSIONS = 2
AT_WORK = """SELECT
 count(*) FILTER (WHERE application_name = 'hub'
  AND (state <> 'idle' OR state_change > clock_timestamp() - interval '0.1 second')),
 count(*) FILTER (WHERE application_name = 'hub-bulk'
  AND (state <> 'idle' OR state_change > clock_timestamp() - interval '2 seconds'))
FROM pg_stat_activity WHERE datname = current_database()"""

LOST = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


class _Connection:
    """A connection in a transaction, as a `Driver`.

    What only prepares (BEGIN, SAVEPOINT) is sent together, right before the first statement that needs it. While it stands
    `alone`, plain reads need none of it, and a unit that puts off all it writes leaves it in `left`, to be one statement: its
    own BEGIN and COMMIT.
    """

    __slots__ = (
        "_begun", "_broken", "_connection", "_connections", "_due", "_look_ups", "_merged", "_passed", "_savepoints",
        "_singly", "left",
    )  # fmt: skip

    def __init__(
        self, connections: Connections, merged: Merged, look_ups: LookUps | None = None, *, begin: str = "BEGIN",
        singly: bool = False,
    ) -> None:  # fmt: skip
        self._connections = connections
        self._connection: Any = None  # taken when it is first needed
        self._merged = merged
        self._look_ups = look_ups
        self._singly = singly
        self._begun = False
        self._due = [begin]
        self._broken = False  # what was due did not go through: the transaction is lost
        self._savepoints = 0
        self._passed = ""  # a savepoint that is done with and not released yet
        self.left: Sequence[Part] = ()

    @property
    def alone(self) -> bool:
        return self._singly and not self._begun

    @property
    def begun(self) -> bool:
        return self._begun

    async def _ready(self) -> Any:
        """The connection, with all sent that was due."""
        if self._connection is None:
            self._connection = await self._connections.take()
        if self._due:
            due, self._due, self._begun = self._due, [], True
            try:
                await self._connection.execute("; ".join(due))
            except BaseException:
                self._broken = True
                raise
        return self._connection

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]]
        try:
            if not (self.alone and only_reads(sql)):
                rows = await (await self._ready()).fetch(sql, *arguments)
            elif self._look_ups is not None and self._look_ups.knows(sql):
                rows = await self._look_ups.fetch(sql, arguments)
            else:
                if self._connection is None:
                    self._connection = await self._connections.take()
                rows = await self._connection.fetch(sql, *arguments)
        except UNABLE as error:
            # Said here already: a unit that stands alone could take it for a fault of its own, and still write that down.
            raise _unavailable(error) from error
        return rows

    async def execute(self, sql: str, arguments: Sequence[Any]) -> int:
        connection = await self._ready()
        try:
            status: str = await connection.execute(sql, *arguments)
        except asyncpg.UniqueViolationError as error:
            raise DuplicateRow(str(error)) from error
        return int(status.rsplit(" ", 1)[1])

    async def execute_many(self, sql: str, arguments: Sequence[Sequence[Any]]) -> None:
        connection = await self._ready()
        try:
            await connection.executemany(sql, arguments)
        except asyncpg.UniqueViolationError as error:
            raise DuplicateRow(str(error)) from error

    async def write_parts(self, parts: Sequence[Part], *, last: bool = False) -> None:
        if last and self.alone:
            self.left = parts
        else:
            await self.execute(*self._merged.merge(parts))

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        # Released with the next one, or by the COMMIT: a round trip less.
        if self._passed:
            self._due.append(f"RELEASE SAVEPOINT {self._passed}")
            self._passed = ""
        self._savepoints += 1
        name = f"hub_{self._savepoints}"
        start = f"SAVEPOINT {name}"
        self._due.append(start)
        try:
            yield
        except LOST as error:
            raise Rerun(str(error)) from error
        except Rerun:
            raise
        except BaseException:
            if start in self._due:
                self._due.remove(start)
            elif not self._broken:
                await (await self._ready()).execute(f"ROLLBACK TO SAVEPOINT {name}")
                self._passed = name
            raise
        if start in self._due:
            self._due.remove(start)
        else:
            self._passed = name

    async def commit(self) -> None:
        """Make it last; DatabaseUnavailable when PostgreSQL had given it up."""
        failpoint("db.before_commit")
        status = await self._connection.execute("COMMIT")
        self._begun = False
        if status != "COMMIT":
            raise DatabaseUnavailable("PostgreSQL undid the transaction instead of committing it.")

    async def __aenter__(self) -> _Connection:
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Undo what was not committed and give the connection back. One on which that fails is not used again."""
        if self._connection is None:
            return
        try:
            if self._begun:
                async with asyncio.timeout(postgres_pool.UNDO_S):
                    await self._connection.execute("ROLLBACK")
        except BaseException:
            self._connection.terminate()
            raise
        finally:
            await self._connections.give(self._connection, error)


async def pause(seconds: float) -> None:
    """Sleep; a name of its own for the tests."""
    await asyncio.sleep(seconds)


def _unavailable(error: Exception) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"PostgreSQL does not answer: {str(error) or type(error).__name__}.")


class PostgresDatabase:
    """See `crm_core.db.Database`."""

    dialect = "postgresql"

    def __init__(
        self, writing: Connections, together: Connections, reading: Connections, *, bulk: bool = False
    ) -> None:
        self.wakeups: Wakeups | None = None
        self._writing = writing
        self._together = together
        self._reading = reading
        self._bulk = bulk
        self._looked_at = 0.0
        self._rests = 0  # times as long as a transaction took; 0 while nobody else is at work
        self._compiler = postgres_compiler()
        self._merged = Merged()
        self._groups = Groups(self._append)
        self._look_ups = LookUps(together, self._compiler.together)

    @classmethod
    async def open(cls, url: str, *, bulk: bool = False, pool_size: int = 10) -> PostgresDatabase:
        """Connect; raises DatabaseUnavailable."""
        session = TIMEOUTS | ({"application_name": BULK_NAME} if bulk else {})
        try:
            writing = await Connections.open(url, max_size=pool_size, session=session if bulk else session | BY_KEY)
            async with writing.taken():
                pass  # it answers
            # What is done for several at once has few of its own: each knows its statements, and no long unit is in the way.
            together = await Connections.open(url, max_size=AT_ONCE + 2, session=session | BY_KEY)
            # Pages and reports choose their plans by what is asked.
            reading = await Connections.open(url, max_size=max(1, pool_size // 2), session=session)
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            raise DatabaseUnavailable(f"PostgreSQL does not answer: {str(error) or type(error).__name__}.") from error
        return cls(writing, together, reading, bulk=bulk)

    async def write(self, unit: Unit[R], *, appends: bool = False) -> R:
        """See `Database.write`."""
        singly = True
        for attempt in range(RETRIES + 2):
            try:
                return await self._once(unit, singly=singly)
            except Refused:
                singly = False
            except (*LOST, Rerun):
                if attempt >= RETRIES:
                    raise
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter, not a secret
            except UNABLE as error:
                raise _unavailable(error) from error
        raise AssertionError("unreachable")

    async def _once(self, unit: Unit[R], *, singly: bool) -> R:
        began = time.monotonic()
        async with _Connection(self._writing, self._merged, self._look_ups, singly=singly) as driver:
            tx = Tx(driver, self._compiler)
            value = await unit(tx)
            await tx.settle()
            if driver.begun:
                await driver.commit()
        if driver.left:
            await self._write_left(driver.left)
        failpoint("db.after_commit")
        if tx.wakes and self.wakeups is not None:
            await self.wakeups.wake(tx.wakes)
        if self._bulk:
            await self._rest(time.monotonic() - began)
        return value

    async def _write_left(self, parts: Sequence[Part]) -> None:
        """Write what a unit put off, as a transaction by itself; together with that of others when it only appends."""
        appends = [part for part in parts if isinstance(part[0], InsertPlan)]
        if len(appends) == len(parts):
            await self._groups.join(cast(Appends, appends))
        else:
            await self._alone(self._writing, *self._merged.merge(parts))

    async def _append(self, units: Sequence[Appends]) -> None:
        await self._alone(self._together, *self._merged.merge(combined(units), any_number=True))

    async def _alone(self, connections: Connections, sql: str, arguments: Sequence[Any]) -> None:
        """One statement that is its own BEGIN and COMMIT; Refused by a constraint."""
        async with connections.taken() as connection:
            failpoint("db.before_commit")
            try:
                await connection.execute(sql, *arguments)
            except (*LOST, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError):
                raise
            except asyncpg.PostgresError as error:
                raise Refused(str(error)) from error  # whose savepoint it was is found by running it with savepoints

    async def _rest(self, took_s: float) -> None:
        """Leave room for calls and agents. What was written is committed already."""
        if time.monotonic() - self._looked_at > BULK_LOOK_S:
            try:
                async with self._writing.taken() as connection:
                    others, bulk = await connection.fetchrow(AT_WORK)
                self._rests = BULK_REST * max(1, bulk) if others >= BUSY_SESSIONS else 0
            except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
                self._rests = 0  # the next unit will say what is wrong
            self._looked_at = time.monotonic()
        if self._rests:
            await pause(min(self._rests * took_s, BULK_REST_MAX_S))

    @contextlib.asynccontextmanager
    async def reading(self, *, slow: bool = False, snapshot: bool = True) -> AsyncIterator[Tx]:
        """See `Database.reading`: one snapshot (REPEATABLE READ, read only)."""
        try:
            begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
            async with _Connection(self._reading, self._merged, begin=begin, singly=not snapshot) as driver:
                yield Tx(driver, self._compiler)
        except UNABLE as error:
            raise _unavailable(error) from error

    async def close(self) -> None:
        """See `Database.close`. A server that says nothing more is not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(postgres_pool.CLOSE_S):
                await self._groups.close()
        for connections in (self._writing, self._together, self._reading):
            await connections.close()
