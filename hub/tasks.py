"""Ending background tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from hub.log import get_logger

log = get_logger(__name__)

AGAIN_S = 2.0


async def end_tasks(tasks: Iterable[asyncio.Task[Any]], *, again_s: float = AGAIN_S) -> None:
    """Cancel the tasks and wait until all have ended; what they raise is theirs.

    They are cancelled again every `again_s` seconds, which is longer than their own tidying up may take: a library that gets its
    answer in the very instant of a cancellation may swallow it (redis-py when it has just connected, `asyncio.wait_for`
    before Python 3.12), and its task would run for ever.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_s)
        for task in left:
            log.warning("a task goes on after its cancellation: cancelled again", task=task.get_name())
