"""What state machines over a database have in common: a loop, a clock, and for each run a database of its own."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from sqlalchemy import delete

from crm_core.clock import FixedClock
from crm_core.db import Database, open_database
from hub.models import metadata
from tests.databases import START


class DatabaseMachine(RuleBasedStateMachine):
    """`source`: a SQLite file with the tables, copied for each run, or a PostgreSQL database, emptied before each."""

    source = ""
    db: Database

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.mkdtemp()
        self.clock = FixedClock(START)

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def open_database(self) -> None:
        """Sets `db`."""
        target = self.source
        if self.source.startswith("sqlite"):
            shutil.copy(self.source.removeprefix("sqlite:///"), Path(self.folder) / "hub.db")
            target = f"sqlite:///{self.folder}/hub.db"
        self.db = await open_database(target)
        if not self.source.startswith("sqlite"):
            await empty(self.db)

    async def settle(self) -> None:
        """What a run ends with, while its database is open."""

    def teardown(self) -> None:
        try:
            if hasattr(self, "db"):
                try:
                    self.wait(self.settle())
                finally:
                    self.wait(self.db.close())
        finally:
            self.runner.close()
            shutil.rmtree(self.folder)


async def empty(db: Any) -> None:
    """Every table of the test's database, emptied."""

    async def unit(tx: Any) -> None:
        for table in reversed(metadata.sorted_tables):
            await tx.run(delete(table))

    await db.write(unit)


def play(machine: type[RuleBasedStateMachine], *, examples: int, steps: int) -> None:
    """Run a machine: so many examples in the suite, always the same; fifty times as many, drawn anew, in the profile `night`."""
    many = examples if settings().derandomize else examples * 50
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine, settings=settings(max_examples=many, stateful_step_count=steps, suppress_health_check=checks)
    )
