"""`hub migrate`: the database brought up to date, and in the sandbox the demo company put into an empty one."""

from __future__ import annotations

import sys

from hub.database_probe import DatabaseUnusable, probe_database
from hub.settings import Settings


async def run_migrate(settings: Settings) -> int:
    """0 when every table is as this version wants it; what is wrong is one sentence on stderr."""
    try:
        await probe_database(settings.database_url)
    except DatabaseUnusable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    from hub.migrations import migrate

    migrate(settings.database_url)
    if settings.sandbox:
        await _make_demo(settings)
    return 0


async def _make_demo(settings: Settings) -> None:
    from crm_core.clock import SystemClock
    from crm_core.db import open_database
    from hub.demo import seed_demo

    db = await open_database(settings.database_url)
    try:
        await seed_demo(db, settings, now=SystemClock().now())
    finally:
        await db.close()
