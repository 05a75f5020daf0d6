"""Bring a database up to the models of this release: one chain of Alembic revisions for both engines.

Development: `python3 run.py migration "what changed"` writes the next revision by comparing models and chain.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, pool
from sqlalchemy.engine import make_url

HERE = Path(__file__).parent


def config_for(url: str) -> Config:
    """Alembic's configuration for this database, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade to the newest revision, or to this one; does nothing when it is there already."""
    if url.startswith("sqlite"):
        engine = create_engine(make_url(url), poolclass=pool.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            _upgrade(connection, url, revision)
        return
    import asyncio

    from sqlalchemy.ext.asyncio import create_async_engine

    async def upgrade() -> None:
        engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), poolclass=pool.NullPool)
        async with engine.connect() as connection:
            await connection.run_sync(lambda sync: _upgrade(sync, url, revision))
        await engine.dispose()

    # In a thread of its own, because callers may already be in a loop and Alembic is synchronous.
    import threading

    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(upgrade())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _upgrade(connection: Connection, url: str, revision: str) -> None:
    config = config_for(url)
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    connection.commit()
