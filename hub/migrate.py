"""`hub migrate`: the database brought up to date, and in the sandbox the demo company put into an empty one."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from hub.database_probe import DatabaseUnusable, probe_database, probe_sqlite
from hub.settings import Settings
from hub.twin import LOGINS_FILE


async def run_migrate(settings: Settings) -> int:
    """0 when every table is as this version wants it; what is wrong is one sentence on stderr."""
    try:
        await probe_database(settings.database_url)
        current, newest = await schema_state(settings.database_url)
    except DatabaseUnusable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if current is not None and current not in known_revisions():
        sys.stderr.write(
            f"The database was made by a later version of the hub (revision {current}); "
            "update the hub, or restore the backup taken before the update.\n"
        )
        return 1
    if current != newest:
        from hub.migrations import migrate

        await asyncio.to_thread(migrate, settings.database_url)
    if settings.sandbox and (current is None or not (settings.data_dir / LOGINS_FILE).exists()):
        await make_demo(settings)
    return 0


def is_up_to_date(settings: Settings) -> bool:
    """True when a look at the file shows that `run_migrate` has nothing to do. False when in doubt, and for PostgreSQL."""
    path = Path(settings.database_url.removeprefix("sqlite:///"))
    if not settings.database_url.startswith("sqlite:///") or not path.exists():
        return False
    if settings.sandbox and not (settings.data_dir / LOGINS_FILE).exists():
        return False
    try:
        probe_sqlite(path)
        return stored_in_file(path) == max(known_revisions())
    except (DatabaseUnusable, sqlite3.Error):
        return False  # run_migrate says what is wrong


async def make_demo(settings: Settings) -> None:
    """The demo company, in a database that holds nobody yet."""
    from crm_core.clock import SystemClock
    from crm_core.db import open_database
    from hub.demo import seed_demo

    db = await open_database(settings.database_url)
    try:
        await seed_demo(db, settings, now=SystemClock().now())
    finally:
        await db.close()


async def schema_state(url: str) -> tuple[str | None, str]:
    """The database's revision (None: empty) and the newest of this version."""
    return await stored_revision(url), max(known_revisions())


def known_revisions() -> set[str]:
    """The revisions of this version, by the names of their files: nothing heavy is imported when all is done."""
    folder = Path(__file__).parent / "migrations" / "versions"
    return {path.name.partition("_")[0] for path in folder.glob("[0-9]*_*.py")}


async def stored_revision(url: str) -> str | None:
    """What the database says of itself; None when it has no tables yet."""
    if url.startswith("sqlite:///"):
        return stored_in_file(Path(url.removeprefix("sqlite:///")))
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        value = await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        return None
    finally:
        await connection.close()
    return None if value is None else str(value)


def stored_in_file(path: Path) -> str | None:
    """The same of an SQLite file."""
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        try:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:
            return None
    return str(found[0]) if found else None
