"""Two processes on one SQLite file: one that never stops writing lets the other in."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlmodel import func, select

from crm_core.db import open_database
from crm_core.events import Event
from tests.databases import ddl

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
FLOOD = 3_000  # units; about a hundred groups


async def test_who_always_has_work_lets_the_other_in(tmp_path: Path) -> None:
    flooded = await open_database(f"sqlite:///{tmp_path}/fair.db")
    for statement in ddl("sqlite://"):
        flooded._connection.execute(statement)  # type: ignore[attr-defined]
    other = await open_database(f"sqlite:///{tmp_path}/fair.db")

    def adds(key: str) -> Any:
        return lambda tx: tx.add(Event(id=key, kind="t", subject_id="s", data={}, created_at=NOW))

    flood = [asyncio.create_task(flooded.write(adds(f"f{n}"))) for n in range(FLOOD)]
    await asyncio.sleep(0)
    got_in = []
    for n in range(5):
        await other.write(adds(f"o{n}"))
        got_in.append(sum(task.done() for task in flood))
    # Within about two groups of 32 each time; without giving way it is many, and in another process perhaps never.
    assert max(later - earlier for earlier, later in pairwise([0, *got_in])) <= 4 * 32, got_in
    await asyncio.gather(*flood)
    async with other.reading() as tx:
        assert await tx.one(select(func.count()).select_from(Event)) == FLOOD + 5
    await other.close()
    await flooded.close()
