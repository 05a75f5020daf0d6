"""A whole database out of a running hub and into an empty place, as of one instant, on both engines.

SQLite: its online backup API, one read transaction that disturbs no writer. PostgreSQL: COPY of every table in one
repeatable-read transaction, so that neither side needs a `pg_dump` that fits the server. Tables are known by name only: rows
of an older revision go back into tables of that revision, and the chain of migrations brings them up to date.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from crm_core.errors import HubError
from crm_core.texts import Text
from hub.archives import Damaged, Opened, Writer
from hub.files import rename_for_good

SQLITE_MEMBER = "database/hub.db"
REVISIONS = "alembic_version"
COPY_S = 6 * 3600.0


class NotEmpty(HubError):
    """There is something where the backup would go."""


class InUse(HubError):
    """A hub, or something else, works with this database."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied out."""

    engine_version: str
    revision: str
    tables: dict[str, int]
    order: list[str]


# What must not happen twice, and what must not go on by itself, when an older state comes back. Effects asked for count as begun:
# what may be repeated is repeated, a text or a mail that may have gone is named as doubtful (crm_core/outbox.py).
HOLDS: tuple[tuple[str, str], ...] = (
    ("outbox", "UPDATE outbox SET state = 'claimed', token = token + 1, lease_until = '{now}' "
     "WHERE state IN ('pending', 'claimed')"),
    ("campaigns", "UPDATE campaigns SET state = 'pausing', due_at = '{now}', reason = '{reason}', version = version + 1 "
     "WHERE state IN ('running', 'pausing')"),
    ("campaigns", "UPDATE campaigns SET state = 'missed', due_at = NULL, reason = '{reason}', version = version + 1 "
     "WHERE state = 'scheduled'"),
    ("campaigns", "UPDATE campaigns SET autostart = {false} WHERE state IN ('draft', 'materialising', 'ready', 'missed')"),
    ("call_lists", "UPDATE call_lists SET state = 'paused', version = version + 1 WHERE state = 'active'"),
    ("sessions", "DELETE FROM sessions"),
    ("user_links", "UPDATE user_links SET used_at = '{now}' WHERE used_at IS NULL"),
    ("leases", "DELETE FROM leases"),
)  # fmt: skip


def holds(tables: Mapping[str, int], *, made_at: datetime, now: datetime, sqlite: bool) -> list[str]:
    """Statements that hold what would otherwise go on by itself, of the tables that are there."""
    reason = Text(
        "Restored from a backup of %(made_at)s. Whom it wrote to after that is not known here.", made_at=made_at
    )
    values = {
        "now": now.isoformat(sep=" ", timespec="microseconds"), "reason": str(reason), "false": "0" if sqlite else "false",
    }  # fmt: skip
    return [statement.format(**values) for table, statement in HOLDS if table in tables]


# --- SQLite -------------------------------------------------------------------------------------------------------------


def copy_sqlite(source: Path, target: Path) -> Copied:
    """The file as of now into `target`, checked."""
    if not source.exists():
        raise Damaged(f"There is no database {source}.")
    target.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(source, timeout=30, isolation_level=None)) as live,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        live.execute("PRAGMA query_only=ON")
        live.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
        return _looked_at(copy)


def _looked_at(connection: sqlite3.Connection) -> Copied:
    try:
        sound = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        names = [
            str(row[0])
            for row in connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
            )
        ]
        counts = {
            name: int(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0])  # noqa: S608 - from the schema
            for name in names
            if name != REVISIONS
        }
        revision = connection.execute(f"SELECT version_num FROM {REVISIONS}").fetchone()  # noqa: S608 - a constant
    except sqlite3.DatabaseError as error:
        raise Damaged(f"The database is not usable ({error}).") from error
    if sound != "ok":
        raise Damaged(f"The database is damaged: {sound}.")
    return Copied(sqlite3.sqlite_version, str(revision[0]), counts, sorted(counts))


def refuse_full_sqlite(path: Path) -> None:
    """NotEmpty when there are rows; a database that was only migrated counts as empty. InUse when somebody has it open."""
    if _nothing(path):
        return
    try:
        with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
            full = any(_looked_at(connection).tables.values())
    except (Damaged, TypeError) as error:
        raise NotEmpty(f"{path} is there and is no empty database of the hub.") from error
    if full:
        raise NotEmpty(f"{path} holds data.")


def _nothing(path: Path) -> bool:
    """True for no file, and for one without a table, as it is when a file was only looked at."""
    if not path.exists():
        return True
    try:
        with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
            return connection.execute("SELECT name FROM sqlite_schema LIMIT 1").fetchone() is None
    except sqlite3.DatabaseError:
        return False


def move_aside(path: Path, *, stamp: str) -> Path | None:
    """Give a database file another name, with nothing of it left in a log beside it; None when there is none."""
    if _nothing(path):
        path.unlink(missing_ok=True)
        return None
    try:
        with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
            # Leaving the log needs the file for itself alone, so this also tells whether anybody else has it.
            connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.OperationalError as error:
        raise InUse(f"Another program works with {path}; stop the hub first.") from error
    except sqlite3.DatabaseError:
        pass  # whatever it is, it is kept as it is
    aside = path.with_name(f"{path.name}.before-restore-{stamp}")
    path.rename(aside)
    for ending in ("-wal", "-shm"):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + ending))
    return aside


def place_sqlite(opened: Opened, path: Path, *, now: datetime, migrate: Callable[[str], None]) -> None:
    """The archive's database beside `path`, checked, held, migrated: ready to be renamed into place by `put_in_place`."""
    fresh = restoring(path)
    for ending in ("", "-wal", "-shm", "-journal"):
        fresh.with_name(fresh.name + ending).unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as target, opened.open(SQLITE_MEMBER) as source:
        shutil.copyfileobj(source, target, 1 << 20)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        found = _looked_at(connection)
        if found.tables != opened.manifest.tables or found.revision != opened.manifest.revision:
            raise Damaged("The database in the backup does not hold the rows that its manifest counts.")
        if broken := connection.execute("PRAGMA foreign_key_check").fetchone():
            raise Damaged(f"The database in the backup has a row in {broken[0]} that refers to nothing.")
        connection.execute("BEGIN IMMEDIATE")
        for statement in holds(found.tables, made_at=opened.manifest.made_at, now=now, sqlite=True):
            connection.execute(statement)
        connection.execute("COMMIT")
    migrate(f"sqlite:///{fresh}")
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def restoring(path: Path) -> Path:
    """Where the database is while it is not yet in place."""
    return path.with_name(f"{path.name}.restoring")


def put_in_place(path: Path) -> None:
    """The one step in which the restored database appears, whole."""
    fresh = restoring(path)
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    rename_for_good(fresh, path)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------------


async def copy_postgres(url: str, writer: Writer) -> Copied:
    """Every table as CSV, all as of one instant; writers go on meanwhile."""
    import asyncpg

    connection = await asyncpg.connect(url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            order = await _order(connection)
            revision = await connection.fetchval(f"SELECT version_num FROM {REVISIONS}")  # noqa: S608 - a constant
            counts = {table: await _copy_out(connection, table, writer) for table in order}
        version = connection.get_server_version()
    except asyncpg.UndefinedTableError as error:
        raise Damaged("The database has no tables of the hub: run `hub migrate` first.") from error
    finally:
        await connection.close()
    return Copied(f"{version.major}.{version.minor}", str(revision), counts, order)


async def _copy_out(connection: Any, table: str, writer: Writer) -> int:
    with writer.member(member_of(table)) as write:

        async def take(piece: bytes) -> None:
            write(piece)

        said = await connection.copy_from_query(
            f'SELECT * FROM "{table}"',  # noqa: S608 - a name from the catalogue
            output=take, format="csv", header=True, encoding="utf-8", timeout=COPY_S,
        )  # fmt: skip
    return int(said.split()[-1])


def member_of(table: str) -> str:
    """Where a table's rows are in the archive."""
    return f"database/{table}.csv"


async def _tables(connection: Any) -> list[str]:
    rows = await connection.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename <> $1 ORDER BY 1", REVISIONS
    )
    return [str(row[0]) for row in rows]


async def _order(connection: Any) -> list[str]:
    """All tables, those that others refer to first."""
    rows = await connection.fetch(
        "SELECT child.relname, parent.relname FROM pg_constraint c JOIN pg_class child ON child.oid = c.conrelid "
        "JOIN pg_class parent ON parent.oid = c.confrelid JOIN pg_namespace n ON n.oid = child.relnamespace "
        "WHERE c.contype = 'f' AND n.nspname = current_schema() AND c.conrelid <> c.confrelid"
    )
    graph: TopologicalSorter[str] = TopologicalSorter({table: () for table in await _tables(connection)})
    for child, parent in rows:
        graph.add(str(child), str(parent))
    return list(graph.static_order())


async def refuse_full_postgres(url: str) -> None:
    """NotEmpty when there are rows, or tables of somebody else. InUse when anybody else is connected."""
    import asyncpg

    from hub.models import metadata

    connection = await asyncpg.connect(url, timeout=10)
    try:
        foreign = sorted(set(await _tables(connection)) - set(metadata.tables))
        if foreign:
            raise NotEmpty(f"The database has tables that are not the hub's: {', '.join(foreign[:3])}.")
        for table in await _tables(connection):
            if await connection.fetchval(f'SELECT EXISTS (SELECT 1 FROM "{table}")'):  # noqa: S608 - from the catalogue
                raise NotEmpty(f"The database holds data (in {table}).")
        others = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
        if others:
            raise InUse("Another program is connected to this database; stop the hub first.")
    finally:
        await connection.close()


async def place_postgres(opened: Opened, url: str, *, now: datetime, migrate: Callable[[str, str], Any]) -> None:
    """Tables of the backup's revision, its rows, and the holds, in one transaction for the last two; then up to date."""
    import asyncpg

    manifest = opened.manifest
    connection = await asyncpg.connect(url, timeout=10)
    try:
        # Empty (`refuse_full_postgres`), but perhaps of another revision than the rows that come.
        for table in [*await _tables(connection), REVISIONS]:
            await connection.execute(f'DROP TABLE IF EXISTS "{table}" CASCADE')
        await migrate(url, manifest.revision)
        async with connection.transaction():
            for table in manifest.order:
                await _copy_in(connection, table, opened, manifest.tables[table])
            for statement in holds(manifest.tables, made_at=manifest.made_at, now=now, sqlite=False):
                await connection.execute(statement)
        await connection.execute("ANALYZE")
    except asyncpg.PostgresError as error:
        raise Damaged(f"PostgreSQL does not take the rows of the backup ({error}).") from error
    finally:
        await connection.close()
    await migrate(url, "head")


async def _copy_in(connection: Any, table: str, opened: Opened, wanted: int) -> None:
    with opened.open(member_of(table)) as first:
        header = first.readline().decode().rstrip("\r\n")
    columns: Sequence[str] = [name.strip('"') for name in header.split(",")]
    with opened.open(member_of(table)) as source:
        said = await connection.copy_to_table(
            table, source=source, columns=columns, format="csv", header=True, encoding="utf-8", timeout=COPY_S
        )
    if int(said.split()[-1]) != wanted:
        raise Damaged(f"{table} in the backup does not hold the rows that its manifest counts.")
