"""Whether the database of HUB_DATABASE_URL can be used, told in one sentence before anything depends on it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from crm_core.texts import Text

OLDEST_POSTGRES = 14
CONNECT_S = 5.0


class DatabaseUnusable(Exception):
    """The database cannot be used; the text is one sentence for the operator."""


async def probe_database(url: str) -> str:
    """What it is, such as `PostgreSQL 15.18`; DatabaseUnusable with one sentence when it cannot be used."""
    if url.startswith("sqlite:///"):
        return await asyncio.to_thread(probe_sqlite, Path(url.removeprefix("sqlite:///")))
    return await probe_postgres(url)


def probe_sqlite(path: Path) -> str:
    """Open the file and take the writing lock for a moment."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnusable(
            Text(
                "Cannot make the folder of the database %(path)s: %(detail)s.",
                path=path,
                detail=error.strerror,
            )
        ) from error
    try:
        with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise DatabaseUnusable(
                    Text(
                        "The folder of %(path)s does not support SQLite's write-ahead log (a network drive?); "
                        "set HUB_DATA_DIR to a local folder.",
                        path=path,
                    )
                )
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text:
            raise DatabaseUnusable(
                Text("The database %(path)s is locked by another program; close it and try again.", path=path)
            ) from error
        raise DatabaseUnusable(
            Text(
                "Cannot write to the database %(path)s (%(text)s); give this user the file.",
                path=path,
                text=text,
            )
        ) from error
    except sqlite3.DatabaseError as error:
        raise DatabaseUnusable(
            Text(
                "The file %(path)s is not a usable database (%(detail)s); move it away or restore a backup.",
                path=path,
                detail=error,
            )
        ) from error
    return f"SQLite {sqlite3.sqlite_version}"


async def probe_postgres(url: str) -> str:
    """Connect, ask the version and whether tables may be made."""
    import asyncpg

    where = shown(url)
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_S)
    except asyncpg.InvalidPasswordError as error:
        raise DatabaseUnusable(
            Text(
                "PostgreSQL at %(where)s refused the user or password in HUB_DATABASE_URL.",
                where=where,
            )
        ) from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise DatabaseUnusable(
            Text(
                "PostgreSQL at %(where)s does not admit the user in HUB_DATABASE_URL.",
                where=where,
            )
        ) from error
    except asyncpg.InvalidCatalogNameError as error:
        name = urlsplit(url).path.strip("/")
        raise DatabaseUnusable(
            Text(
                "PostgreSQL at %(where)s has no database %(name_r)s: create it (createdb %(name)s).",
                where=where,
                name_r=repr(name),
                name=name,
            )
        ) from error
    except asyncpg.TooManyConnectionsError as error:
        raise DatabaseUnusable(
            Text(
                "PostgreSQL at %(where)s has no connection left; raise max_connections.",
                where=where,
            )
        ) from error
    except asyncpg.CannotConnectNowError as error:
        raise DatabaseUnusable(
            Text(
                "PostgreSQL at %(where)s is just starting or stopping; try again in a moment.",
                where=where,
            )
        ) from error
    except (OSError, TimeoutError) as error:
        raise DatabaseUnusable(
            Text("PostgreSQL at %(where)s does not answer; start it or correct HUB_DATABASE_URL.", where=where)
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise DatabaseUnusable(
            Text(
                "PostgreSQL at %(where)s cannot be used (%(detail)s); correct HUB_DATABASE_URL.",
                where=where,
                detail=type(error).__name__,
            )
        ) from error
    try:
        version = connection.get_server_version()
        if version.major < OLDEST_POSTGRES:
            raise DatabaseUnusable(
                Text(
                    "PostgreSQL at %(where)s is version %(major)s; the hub needs %(oldest_postgres)s or later.",
                    where=where,
                    major=version.major,
                    oldest_postgres=OLDEST_POSTGRES,
                )
            )
        may = await connection.fetchval(
            "SELECT has_schema_privilege(current_schema(), 'CREATE') AND NOT pg_is_in_recovery()"
        )
        if not may:
            raise DatabaseUnusable(
                Text(
                    "PostgreSQL at %(where)s lets this user make no tables; grant CREATE on the schema, or name the primary.",
                    where=where,
                )
            )
    finally:
        await connection.close()
    return f"PostgreSQL {version.major}.{version.minor}"


def shown(url: str) -> str:
    """Host and port of a database URL: no user, no password."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host", [""])[0]
    return folder or parts.netloc.rpartition("@")[2] or "localhost"
