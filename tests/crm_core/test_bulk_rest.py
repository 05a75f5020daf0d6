"""Bulk writers leave room while calls come in, on PostgreSQL as on SQLite."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlmodel import select

from crm_core import db_postgres
from crm_core.db import open_database
from crm_core.tallies import Tally


async def nothing(tx: Any) -> None:
    """A unit that does nothing."""


async def test_bulk_rests_only_while_others_are_at_work(pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []

    async def pause(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(db_postgres, "pause", pause)
    monkeypatch.setattr(db_postgres, "BULK_LOOK_S", -1.0)
    web, bulk = await open_database(pg_url), await open_database(pg_url, bulk=True)
    await bulk.write(nothing)
    assert rests == []

    begun, over = asyncio.Barrier(3), asyncio.Event()

    async def call(tx: Any) -> None:
        # A unit that asks nothing, or reads only, is no transaction yet.
        await tx.all(select(Tally.number).limit(1).with_for_update())
        await begun.wait()
        await over.wait()

    calls = [asyncio.create_task(web.write(call)) for _ in range(2)]
    async with asyncio.timeout(60):
        await begun.wait()
    await bulk.write(nothing)
    assert len(rests) == 1
    assert 0 < rests[0] <= db_postgres.BULK_REST_MAX_S
    await web.write(nothing)  # who is at work never rests
    assert len(rests) == 1
    over.set()
    await asyncio.gather(*calls)
    monkeypatch.setattr(db_postgres, "AT_WORK", db_postgres.AT_WORK.replace("0.1 second", "0 seconds"))
    await bulk.write(nothing)
    assert len(rests) == 1
    await bulk.close()
    await web.close()
