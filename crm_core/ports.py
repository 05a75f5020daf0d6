"""What lower folders need from Redis, as two Protocols; `hub/redis_ports.py` implements them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol


class Wakeups(Protocol):
    """Hints that there is work. Losing one costs seconds, never work: every topic is also swept."""

    async def wake(self, topics: Iterable[str]) -> None:
        """Tell whoever waits on these topics, in any process."""
        ...


class RateTokens(Protocol):
    """Shared token buckets, per sender, provider, domain or carrier class."""

    async def take(self, bucket: str, *, rate_per_s: float, burst: float, want: int, now: datetime) -> int:
        """How many of `want` tokens were granted (0..want). A missing bucket starts empty, so a flush cannot burst."""
        ...
