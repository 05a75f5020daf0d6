"""The twin's own clock. It shares none with the product on purpose: the outside world keeps its own time."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from email.utils import format_datetime


class Clock:
    """Wall time, elapsed time and waiting; a test may hand in another one."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def rfc2822(moment: datetime) -> str:
    """`Thu, 01 Jun 2017 20:48:32 +0000`, the form of every date in Twilio's REST answers and callbacks."""
    return format_datetime(moment.astimezone(UTC))
