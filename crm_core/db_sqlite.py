"""The embedded engine: one writing connection per process, driven from the event loop, with group commit.

WAL, synchronous FULL, foreign keys on, COMMIT in a thread because it waits for the disk, everything else on the loop (about 7 µs
a statement; a thread hop per statement costs a hundred times that).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from crm_core.failpoints import failpoint
from crm_core.ports import Wakeups
from crm_core.statements import InsertPlan, only_reads, sqlite_compiler
from crm_core.tx import DatabaseUnavailable, DuplicateRow, Part, Tx, Unit
from crm_core.write_groups import Appends, Refused, combined

R = TypeVar("R")

GROUP_UNITS = 32
GROUP_S = 0.005
GROUP_MAX_S = 0.02
BUSY_MS = 10_000
# Pages are kept by each connection for itself. A crowd of desktops opens many readers at once; the system's own cache serves
# them all, so theirs are small, and few are kept for the next crowd.
WRITER_MIB = 64
READER_MIB = 4
READERS_KEPT = 8
BUSY_STEP_S = 0.001
# SQLite's lock is not fair: a process whose queue is never empty would take it again before the others have asked. Who waits
# leaves a mark; who sees one made during its own group stays away for longer than the others' step.
GIVE_WAY_S = 0.002
# A bulk process rests four times as long as it held the lock: one fifth of the time, whatever the number of processes,
# because they also share one file lock while they hold or rest.
BULK_REST = 4
# What the file or the disk cannot do now, as opposed to what a statement should not have asked for.
UNABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_BUSY,
}
INBOUND_ACTIVE_S = 1.0
INBOUND_MARK_S = 0.1


class _Direct:
    """Statements on the loop: each is a few microseconds."""

    __slots__ = ("connection",)
    alone = False  # a savepoint costs microseconds here

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Sequence[Any]]:
        return self.connection.execute(sql, arguments).fetchall()

    async def execute(self, sql: str, arguments: Sequence[Any]) -> int:
        try:
            return self.connection.execute(sql, arguments).rowcount
        except sqlite3.IntegrityError as error:
            raise _explain(error) from error

    async def execute_many(self, sql: str, arguments: Sequence[Sequence[Any]]) -> None:
        try:
            self.connection.executemany(sql, arguments)
        except sqlite3.IntegrityError as error:
            raise _explain(error) from error

    async def write_parts(self, parts: Sequence[Part], *, last: bool = False) -> None:
        for what, arguments in parts:
            if isinstance(what, str):
                await self.execute(what, arguments)
            elif len(arguments) == 1:
                await self.execute(what.sql, arguments[0])
            else:
                await self.execute_many(what.sql, arguments)

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        # Names nest: ROLLBACK TO and RELEASE mean the innermost one of that name.
        self.connection.execute("SAVEPOINT inner")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK TO inner")
            self.connection.execute("RELEASE inner")
            raise
        self.connection.execute("RELEASE inner")


class _Ahead:
    """Reads what is committed before the writer's turn. Whoever wants to lock or to write at once has to wait for it: Refused."""

    __slots__ = ("connection", "left")
    alone = True

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.left: Appends = ()

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Sequence[Any]]:
        if not only_reads(sql):
            raise Refused("it locks")
        return self.connection.execute(sql, arguments).fetchall()

    async def execute(self, sql: str, arguments: Sequence[Any]) -> int:
        raise Refused("it writes")

    async def execute_many(self, sql: str, arguments: Sequence[Sequence[Any]]) -> None:
        raise Refused("it writes")

    async def write_parts(self, parts: Sequence[Part], *, last: bool = False) -> None:
        if not last or not all(isinstance(what, InsertPlan) for what, _ in parts):
            raise Refused("it writes")
        self.left = cast(Appends, parts)

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        yield


def _unable(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in UNABLE


def _explain(error: sqlite3.IntegrityError) -> Exception:
    return DuplicateRow(str(error)) if "UNIQUE" in str(error) else error


class _Threaded:
    """Statements in a thread: for reports and search, which may take long."""

    __slots__ = ("connection", "pool")
    alone = False

    def __init__(self, connection: sqlite3.Connection, pool: ThreadPoolExecutor) -> None:
        self.connection = connection
        self.pool = pool

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Sequence[Any]]:
        work = lambda: self.connection.execute(sql, arguments).fetchall()  # noqa: E731 - two lines of def say no more
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    async def execute(self, sql: str, arguments: Sequence[Any]) -> int:
        raise TypeError("this transaction only reads")

    async def execute_many(self, sql: str, arguments: Sequence[Sequence[Any]]) -> None:
        raise TypeError("this transaction only reads")

    async def write_parts(self, parts: Sequence[Part], *, last: bool = False) -> None:
        raise TypeError("this transaction only reads")

    def savepoint(self) -> contextlib.AbstractAsyncContextManager[None]:
        raise TypeError("this transaction only reads")


def connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection with the hub's pragmas. `read_only` is enforced by SQLite itself."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=500)
    connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA cache_size=-{(READER_MIB if read_only else WRITER_MIB) * 1024}")
    connection.execute("PRAGMA temp_store=MEMORY")
    if read_only:
        connection.execute("PRAGMA query_only=ON")
    return connection


def _drive(work: Coroutine[Any, Any, R]) -> R:
    """Run a unit to its end without the loop: it may await nothing but its own `tx`."""
    try:
        work.send(None)
    except StopIteration as finished:
        return cast(R, finished.value)
    work.close()
    raise RuntimeError("a unit of work awaited something other than its tx: no I/O inside a transaction")


async def _whole(unit: Unit[R], tx: Tx) -> R:
    value = await unit(tx)
    await tx.settle()
    return value


class _Answer:
    """What a unit of work gave, or what one that ran ahead leaves to be written, kept until its group is committed."""

    __slots__ = ("appends", "failure", "future", "value")

    def __init__(self, future: asyncio.Future[Any], appends: Appends = ()) -> None:
        self.future = future
        self.appends = appends
        self.value: Any = None
        self.failure: BaseException | None = None

    def give(self) -> None:
        if self.future.done():
            return
        if self.failure is None:
            self.future.set_result(self.value)
        else:
            self.future.set_exception(self.failure)


_Item = tuple[Unit[Any] | None, _Answer]  # without a unit: only what the answer appends


class SqliteDatabase:
    """See `crm_core.db.Database`."""

    dialect = "sqlite"

    def __init__(self, path: str, *, bulk: bool) -> None:
        self.path = path
        self.wakeups: Wakeups | None = None
        self._compiler = sqlite_compiler()
        self._connection = connect(path)
        self._connection.execute("PRAGMA busy_timeout=0")  # `_begin` does the waiting, without a thread
        self._bulk = bulk
        self._inbound_mark = Path(path + "-inbound")
        self._marked_at = 0.0
        self._waiting_mark = path + "-waiting"
        self._bulk_lock: IO[str] | None = open(path + "-bulk", "w") if bulk and path != ":memory:" else None  # noqa: SIM115
        self._queue: asyncio.Queue[_Item | None] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "commit")
        self._group_s = GROUP_S
        self._readers: list[sqlite3.Connection] = []
        self._slow_pool = ThreadPoolExecutor(2, "read")
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: str, *, bulk: bool = False) -> SqliteDatabase:
        """Open or create the file; raises DatabaseUnavailable."""
        try:
            database = cls(path, bulk=bulk)
        except (sqlite3.Error, OSError) as error:
            raise DatabaseUnavailable(f"The database file {path} cannot be opened: {error}.") from error
        database._task = asyncio.create_task(database._write_loop(), name="sqlite-writer")
        return database

    async def write(self, unit: Unit[R], *, appends: bool = False) -> R:
        """See `Database.write`."""
        if appends and not self._bulk and self.path != ":memory:":
            with contextlib.suppress(Refused):
                return await self._write_ahead(unit)
        answer: R = await self._queued(unit)
        return answer

    async def _write_ahead(self, unit: Unit[R]) -> R:
        """Run a unit beside others; only what it appends waits for the writing lock. Refused when it does more."""
        with self._reader() as connection:
            driver = _Ahead(connection)
            tx = Tx(driver, self._compiler)
            value = _drive(_whole(unit, tx))
        if driver.left:
            await self._queued(None, driver.left)
        if tx.wakes and self.wakeups is not None:
            await self.wakeups.wake(tx.wakes)
        return value

    async def _queued(self, unit: Unit[R] | None, appends: Appends = ()) -> Any:
        if self._task is None or self._task.done():
            raise DatabaseUnavailable("The database is closed.")
        answer = _Answer(asyncio.get_running_loop().create_future(), appends)
        self._queue.put_nowait((unit, answer))
        return await answer.future

    async def _write_loop(self) -> None:
        while (first := await self._queue.get()) is not None:
            if not first[1].future.cancelled() and await self._group(first):
                break
        while not self._queue.empty():
            if (left := self._queue.get_nowait()) is not None:
                left[1].failure = DatabaseUnavailable("The database is closed.")
                left[1].give()

    async def _begin(self) -> None:
        """Take the writing lock. Asked for again each millisecond: SQLite's own waiting sleeps up to 100 ms at a time."""
        until = time.monotonic() + BUSY_MS / 1000
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            if not self._bulk:
                self._mark_waiting()
            await asyncio.sleep(BUSY_STEP_S)

    def _mark_waiting(self) -> None:
        now = time.time_ns()
        try:
            os.utime(self._waiting_mark, ns=(now, now))
        except FileNotFoundError:
            Path(self._waiting_mark).touch()

    async def _give_way(self, since_ns: int) -> None:
        """Let another process in that has asked since then; with nothing more to do, it gets in by itself."""
        if self._queue.empty():
            return
        with contextlib.suppress(OSError):
            if os.stat(self._waiting_mark).st_mtime_ns > since_ns:
                await asyncio.sleep(GIVE_WAY_S)

    def _rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")

    async def _group(self, first: _Item) -> bool:
        """One BEGIN IMMEDIATE, up to 32 units or 5 ms, one COMMIT; True when the queue was closed meanwhile.

        Everybody in the group is answered, whatever breaks: a full disk makes SQLite roll back by itself, in any statement.
        """
        answers = [first[1]]
        tx = Tx(_Direct(self._connection), self._compiler)
        started, began_ns = time.monotonic(), time.time_ns()
        stop = False
        try:
            if self._bulk:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._bulk_acquire)
            else:
                self._mark_inbound()
            await self._begin()
            started, began_ns = time.monotonic(), time.time_ns()
            stop = self._fill(first, answers, tx, started)
            self._append([answer for answer in answers if answer.appends and not answer.future.cancelled()])
            await self._commit()
        except Exception as error:  # an engine's or our own fault: the writer lives on, and nobody waits for it in vain
            self._rollback()
            known = isinstance(error, (sqlite3.Error, OSError))
            refused = DatabaseUnavailable(f"The database refused to write: {error}.") if known else error
            for answer in answers:
                answer.failure = answer.failure or refused
        else:
            if tx.wakes and self.wakeups is not None:
                await self.wakeups.wake(tx.wakes)
        for answer in answers:
            answer.give()
        if self._bulk:
            await self._bulk_rest(time.monotonic() - started)
        else:
            await self._give_way(began_ns)
        return stop

    def _fill(self, first: _Item, answers: list[_Answer], tx: Tx, started: float) -> bool:
        """Run the first unit and those that wait behind it; True when the queue was closed."""
        unit, answer = first
        while True:
            if unit is not None and not answer.future.cancelled():
                answer.value, answer.failure = self._one(unit, tx)
            if len(answers) >= GROUP_UNITS or time.monotonic() - started > self._group_s or self._queue.empty():
                return False
            item = self._queue.get_nowait()
            if item is None:
                return True
            unit, answer = item
            answers.append(answer)

    def _append(self, answers: Sequence[_Answer]) -> None:
        """Write what units that ran ahead have left, together; where a constraint refuses, each by itself."""
        if not answers:
            return
        self._connection.execute("SAVEPOINT unit")
        try:
            for plan, rows in combined([answer.appends for answer in answers]):
                self._connection.executemany(plan.sql, rows)
        except sqlite3.IntegrityError as error:
            self._connection.execute("ROLLBACK TO unit")
            if len(answers) == 1:
                answers[0].failure = Refused(str(error))
            else:
                for answer in answers:
                    self._append([answer])
        self._connection.execute("RELEASE unit")

    async def _commit(self) -> None:
        failpoint("db.before_commit")
        committing = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.execute, "COMMIT")
        failpoint("db.after_commit")
        # On a slow disk a group may take as long as a commit does: the commits become fewer, nobody waits twice as long.
        self._group_s = min(max(GROUP_S, time.monotonic() - committing), GROUP_MAX_S)

    def _one(self, unit: Unit[Any], tx: Tx) -> tuple[Any, BaseException | None]:
        wakes = set(tx.wakes)
        self._connection.execute("SAVEPOINT unit")
        try:
            value = _drive(_whole(unit, tx))
        except Exception as error:
            tx.forget()
            self._connection.execute("ROLLBACK TO unit")
            self._connection.execute("RELEASE unit")
            tx.wakes.intersection_update(wakes)
            if _unable(error):
                return None, DatabaseUnavailable(f"The database refused to write: {error}.")
            return None, error
        self._connection.execute("RELEASE unit")
        return value, None

    def _mark_inbound(self) -> None:
        now = time.monotonic()
        if now - self._marked_at > INBOUND_MARK_S and self.path != ":memory:":
            self._marked_at = now
            self._inbound_mark.touch()

    def _bulk_acquire(self) -> None:
        if self._bulk_lock is not None:
            fcntl.flock(self._bulk_lock, fcntl.LOCK_EX)

    async def _bulk_rest(self, held_s: float) -> None:
        if self._bulk_lock is None:
            return
        try:
            marked = os.stat(self._inbound_mark).st_mtime
        except OSError:
            marked = 0.0
        if time.time() - marked < INBOUND_ACTIVE_S:
            await asyncio.sleep(held_s * BULK_REST)
        fcntl.flock(self._bulk_lock, fcntl.LOCK_UN)

    @contextlib.asynccontextmanager
    async def reading(self, *, slow: bool = False, snapshot: bool = True) -> AsyncIterator[Tx]:
        """See `Database.reading`. One snapshot for as long as it is open."""
        with self._reader(kept=slow) as connection:
            if snapshot:
                connection.execute("BEGIN")
            yield Tx(_Threaded(connection, self._slow_pool) if slow else _Direct(connection), self._compiler)

    @contextlib.contextmanager
    def _reader(self, *, kept: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection of one's own that only reads. `kept`: it is not closed afterwards, however many there are."""
        try:
            connection = self._readers.pop() if self._readers else connect(self.path, read_only=True)
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"The database cannot be opened: {error}.") from error
        try:
            yield connection
        except sqlite3.Error as error:
            if _unable(error):
                raise DatabaseUnavailable(f"The database cannot be read: {error}.") from error
            raise
        finally:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            if kept or len(self._readers) < READERS_KEPT:
                # A slow one may still be read from by its thread when its asker has gone.
                self._readers.append(connection)
            else:
                connection.close()

    async def close(self) -> None:
        """See `Database.close`."""
        if self._task is not None and not self._task.done():
            self._queue.put_nowait(None)
            await self._task
        self._thread.shutdown()
        self._slow_pool.shutdown()
        for connection in (*self._readers, self._connection):
            connection.close()
        if self._bulk_lock is not None:
            self._bulk_lock.close()
