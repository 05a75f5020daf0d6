"""The `db` fixture: a fresh database with every table, once on SQLite and once on a real PostgreSQL."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_mock_engine

from crm_core.clock import FixedClock
from crm_core.db import Database, open_database

START = datetime(2026, 11, 18, 10, 0, tzinfo=UTC)  # a Wednesday, ten in the morning in London


def ddl(url: str) -> list[str]:
    """CREATE statements of every table for the dialect of `url`."""
    from hub.models import metadata

    statements: list[str] = []

    def keep(statement: Any, *_: Any, **__: Any) -> None:
        statements.append(str(statement.compile(dialect=engine.dialect)).strip())

    engine = create_mock_engine(url, keep)
    metadata.create_all(engine, checkfirst=False)
    return statements


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database file with every table."""
    path = tmp_path_factory.mktemp("template") / "hub.db"
    with sqlite3.connect(path) as connection:
        for statement in ddl("sqlite://"):
            connection.execute(statement)
    connection.close()
    return path


@pytest.fixture(scope="session")
def pg_template(pg_server: Any) -> str:
    """Name of a PostgreSQL database with every table, to be copied."""
    url: str = pg_server.create()
    pg_server.server.psql(f"\\c {_name(url)}\n" + ";\n".join(ddl("postgresql+asyncpg://")) + ";")
    return _name(url)


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite database."""
    shutil.copy(sqlite_template, tmp_path / "hub.db")
    return f"sqlite:///{tmp_path}/hub.db"


@pytest.fixture
def pg_url(pg_server: Any, pg_template: str) -> Iterator[str]:
    """A fresh PostgreSQL database."""
    url: str = pg_server.create(template=pg_template)
    yield url
    pg_server.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def db_url(request: pytest.FixtureRequest) -> str:
    """A fresh database of each engine in turn."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "pg_url"))


@pytest.fixture
async def db(db_url: str) -> AsyncIterator[Database]:
    """An open, empty database with every table, of each engine in turn."""
    database = await open_database(db_url)
    yield database
    await database.close()


@pytest.fixture
async def sqlite_db(sqlite_url: str) -> AsyncIterator[Database]:
    """SQLite only, for tests whose subject is not the data."""
    database = await open_database(sqlite_url)
    yield database
    await database.close()


@pytest.fixture
def clock() -> FixedClock:
    """Stands still at START until told."""
    return FixedClock(START)
