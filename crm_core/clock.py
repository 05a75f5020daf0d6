"""The only reader of the time. Everything else is handed `now` (aware UTC) or a Clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time; a test hands in one that stands still."""

    def now(self) -> datetime:
        """The instant, aware UTC, microseconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The instant, aware UTC, microseconds."""
        return datetime.now(UTC)


class FixedClock:
    """A clock that moves only when told: for tests and for replay."""

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """The instant it was last set to."""
        return self._now

    def tick(self, seconds: float) -> datetime:
        """Move on by `seconds`; returns the new instant."""
        self._now += timedelta(seconds=seconds)
        return self._now
