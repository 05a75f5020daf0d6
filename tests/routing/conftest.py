"""The floor, on each engine or on SQLite alone."""

from __future__ import annotations

import pytest

from crm_core.clock import FixedClock
from crm_core.db import Database
from tests.routing.floor import Floor


@pytest.fixture
def floor(db: Database, clock: FixedClock) -> Floor:
    """An empty floor on each engine in turn."""
    return Floor(db, clock)


@pytest.fixture
def small_floor(sqlite_db: Database, clock: FixedClock) -> Floor:
    """An empty floor on SQLite, for tests whose subject is not the data."""
    return Floor(sqlite_db, clock)
