"""The one way to the data: `Tx` (one, all, run, add …), `Database.write` (a unit of work) and `Database.reading`.

This file and its two engines are the only ones that know which database it is. Decides: how units of work commit and what
is woken after a commit. Leaves to others: every statement, and when a transaction is opened (only entrances do that).
"""

from __future__ import annotations

from crm_core.db_postgres import PostgresDatabase
from crm_core.db_sqlite import SqliteDatabase
from crm_core.tables import metadata
from crm_core.tx import Database, DatabaseUnavailable, DuplicateRow, Rerun, Tx

__all__ = ["Database", "DatabaseUnavailable", "DuplicateRow", "Rerun", "Tx", "metadata", "open_database"]


async def open_database(url: str, *, bulk: bool = False, pool_size: int = 10) -> Database:
    """Open `sqlite:///path/file.db` or `postgresql://…`.

    `bulk` marks a process whose writes must not make inbound wait: its transactions are spaced out while inbound is active.
    All bulk processes together work a fifth of the time then: on SQLite under a lock, on PostgreSQL by counting each other.
    Raises DatabaseUnavailable with one sentence.
    """
    if url.startswith("sqlite:///"):
        return await SqliteDatabase.open(url.removeprefix("sqlite:///"), bulk=bulk)
    if url.startswith(("postgresql://", "postgres://")):
        return await PostgresDatabase.open(url, bulk=bulk, pool_size=pool_size)
    raise DatabaseUnavailable(
        f"HUB_DATABASE_URL must start with sqlite:/// or postgresql://, not {url.split(':', 1)[0]}:"
    )
