"""`hub migrate`: the database brought up to date, and in the sandbox the demo company put into an empty one."""

from __future__ import annotations

import inspect
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

    done = migrate(settings.database_url)
    if inspect.isawaitable(done):
        await done
    return 0
