"""Everything that runs by itself, together, in one process: a real database file, a real Valkey, no provider."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from sqlmodel import col, select

from crm_core import audit, events
from crm_core.audit import AuditEntry
from crm_core.clock import SystemClock
from crm_core.leases import Lease
from hub.pollers import start_background
from hub.publisher import STREAM
from hub.runtime import running
from hub.settings import read_settings


async def test_background_takes_its_leases_works_and_gives_them_up(
    sqlite_url: str, valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    settings = read_settings(
        {
            "HUB_DATABASE_URL": sqlite_url,
            "HUB_REDIS_URL": valkey_url,
            "HUB_DATA_DIR": str(tmp_path / "data"),
            "HUB_SECRET_KEY": "k" * 40,
            "HUB_SANDBOX": "0",
        }
    )
    now = SystemClock().now()
    async with running(settings) as runtime:
        stop = await start_background(runtime)
        await runtime.db.write(lambda tx: events.emit(tx, "test.thing", "a", now=now))
        await runtime.db.write(lambda tx: audit.record(tx, actor="system", action="test.done", subject="x:1", now=now))
        async with asyncio.timeout(60):
            while True:
                async with runtime.db.reading() as tx:
                    sealed = await tx.one(select(AuditEntry.number))
                    held = await tx.all(select(Lease.name).where(Lease.holder != "").order_by(col(Lease.name)))
                if sealed == 1 and await runtime.redis.xlen(STREAM) == 1:
                    break
                await asyncio.sleep(0.05)
        assert {"audit", "cleaner", "invariants", "mailboxes", "publisher", "receipts", "router"} <= set(held)
        await stop()
        async with runtime.db.reading() as tx:
            assert await tx.all(select(Lease.name).where(Lease.holder != "")) == []
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
