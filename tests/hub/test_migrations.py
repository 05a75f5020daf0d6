"""The chain from zero equals the models, on both engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from hub.migrations import migrate
from hub.models import metadata


def _differences(connection: Any) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": False})
    return list(compare_metadata(context, metadata))


def test_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/m.db"
    migrate(url)
    migrate(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        assert _differences(connection) == []
        checks = connection.execute(text("SELECT count(*) FROM sqlite_master WHERE sql LIKE '%CHECK%'")).scalar()
        assert checks is not None
        assert checks >= 10
    engine.dispose()


async def test_postgresql(pg_empty_url: str) -> None:
    migrate(pg_empty_url)
    engine = create_async_engine(make_url(pg_empty_url).set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
    await engine.dispose()
