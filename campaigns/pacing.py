"""How fast: token-bucket arithmetic and forecasts of when a campaign is through. Pure; the shared buckets are RateTokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from crm_core.addresses import PointKind

# One second's worth may go at once: a smooth stream for the provider, and still whole batches for us.
BURST_S = 1.0
# Where the account's row names no rate. Ten text messages a second suits a registered sender; carriers set lower ones
# per sender (one a second for a plain US number: Twilio, "Understanding rate limits", read 2026-11).
DEFAULT_RATE = {PointKind.PHONE: 10.0, PointKind.EMAIL: 50.0}


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens at an instant. A new one is empty, so that losing it cannot let a burst through."""

    tokens: float
    counted_at: datetime

    @classmethod
    def empty(cls, now: datetime) -> Bucket:
        """A bucket nobody has used yet."""
        return cls(0.0, now)


def take(bucket: Bucket, *, rate_per_s: float, burst: float, want: int, now: datetime) -> tuple[Bucket, int, float]:
    """The bucket afterwards, how many of `want` were granted, and the seconds until one more is there.

    A clock that steps back adds nothing.
    """
    if rate_per_s <= 0 or want <= 0:
        return bucket, 0, math.inf if rate_per_s <= 0 else 0.0
    passed = max(0.0, (now - bucket.counted_at).total_seconds())
    tokens = min(max(burst, 1.0), bucket.tokens + passed * rate_per_s)
    granted = min(want, math.floor(tokens + 1e-9))
    left = tokens - granted
    counted_at = max(now, bucket.counted_at)
    return Bucket(left, counted_at), granted, max(0.0, 1.0 - left) / rate_per_s


def burst_of(rate_per_s: float) -> float:
    """How many may go at once at this rate."""
    return max(1.0, rate_per_s * BURST_S)


def account_rate(kind: PointKind, settings: dict[str, object]) -> float:
    """The sender's rate per second: its row's `rate_per_s`, or the default of its kind."""
    written = settings.get("rate_per_s")
    if isinstance(written, int | float) and not isinstance(written, bool) and 0 < written <= 10_000:
        return float(written)
    return DEFAULT_RATE[kind]


def through_at(*, waiting: int, rates: list[float], now: datetime) -> datetime:
    """When `waiting` messages are handed over at the slowest of these rates; rates of 0 do not limit."""
    slowest = min((rate for rate in rates if rate > 0), default=0.0)
    return now + timedelta(seconds=waiting / slowest) if slowest else now


class LocalTokens:
    """`RateTokens` within one process: for tests, and for tools that run alone."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    async def take(self, bucket: str, *, rate_per_s: float, burst: float, want: int, now: datetime) -> int:
        """See `RateTokens`."""
        known = self._buckets.get(bucket, Bucket.empty(now))
        self._buckets[bucket], granted, _ = take(known, rate_per_s=rate_per_s, burst=burst, want=want, now=now)
        return granted
