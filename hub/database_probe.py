"""Whether the database of HUB_DATABASE_URL can be used, told in one sentence before anything depends on it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

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
        raise DatabaseUnusable(f"Cannot make the folder of the database {path}: {error.strerror}.") from error
    try:
        with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise DatabaseUnusable(
                    f"The folder of {path} does not support SQLite's write-ahead log (a network drive?); "
                    "set HUB_DATA_DIR to a local folder."
                )
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text:
            raise DatabaseUnusable(
                f"The database {path} is locked by another program; close it and try again."
            ) from error
        raise DatabaseUnusable(f"Cannot write to the database {path} ({text}); give this user the file.") from error
    except sqlite3.DatabaseError as error:
        raise DatabaseUnusable(
            f"The file {path} is not a usable database ({error}); move it away or restore a backup."
        ) from error
    return f"SQLite {sqlite3.sqlite_version}"


async def probe_postgres(url: str) -> str:
    """Connect, ask the version and whether tables may be made."""
    import asyncpg

    where = shown(url)
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_S)
    except asyncpg.InvalidPasswordError as error:
        raise DatabaseUnusable(f"PostgreSQL at {where} refused the user or password in HUB_DATABASE_URL.") from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise DatabaseUnusable(f"PostgreSQL at {where} does not admit the user in HUB_DATABASE_URL.") from error
    except asyncpg.InvalidCatalogNameError as error:
        name = urlsplit(url).path.strip("/")
        raise DatabaseUnusable(
            f"PostgreSQL at {where} has no database {name!r}: create it (createdb {name})."
        ) from error
    except asyncpg.TooManyConnectionsError as error:
        raise DatabaseUnusable(f"PostgreSQL at {where} has no connection left; raise max_connections.") from error
    except asyncpg.CannotConnectNowError as error:
        raise DatabaseUnusable(f"PostgreSQL at {where} is just starting or stopping; try again in a moment.") from error
    except (OSError, TimeoutError) as error:
        raise DatabaseUnusable(
            f"PostgreSQL at {where} does not answer; start it or correct HUB_DATABASE_URL."
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise DatabaseUnusable(
            f"PostgreSQL at {where} cannot be used ({type(error).__name__}); correct HUB_DATABASE_URL."
        ) from error
    try:
        version = connection.get_server_version()
        if version.major < OLDEST_POSTGRES:
            raise DatabaseUnusable(
                f"PostgreSQL at {where} is version {version.major}; the hub needs {OLDEST_POSTGRES} or later."
            )
        may = await connection.fetchval(
            "SELECT has_schema_privilege(current_schema(), 'CREATE') AND NOT pg_is_in_recovery()"
        )
        if not may:
            raise DatabaseUnusable(
                f"PostgreSQL at {where} lets this user make no tables; grant CREATE on the schema, or name the primary."
            )
    finally:
        await connection.close()
    return f"PostgreSQL {version.major}.{version.minor}"


def shown(url: str) -> str:
    """Host and port of a database URL: no user, no password."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host", [""])[0]
    return folder or parts.netloc.rpartition("@")[2] or "localhost"
