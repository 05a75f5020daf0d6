"""Which browser has the sound of an agent's call: an agent signed in on two machines has one call, and only one of them joins it.

The machine that took the call keeps it, through reloads, until its leg is gone or the agent takes the call to the other one. A
hint in Redis: without it every browser may join, and the last one that does has the call.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from crm_core.calls import CallLeg

KEPT_S = 12 * 3600
BACK = timedelta(seconds=3)  # a page that reloads has joined again by then
PATIENCE_S = 0.5  # a silent Redis must not keep an agent from a customer


def _key(call_id: str, user_id: str) -> str:
    return f"phone:{call_id}:{user_id}"


async def take(client: aioredis.Redis, call_id: str, user_id: str, device: str) -> None:
    """This browser has the call from now on."""
    if not device:
        return
    try:
        async with asyncio.timeout(PATIENCE_S):
            await client.set(_key(call_id, user_id), device, ex=KEPT_S)
    except (RedisError, OSError, TimeoutError):
        return


async def may_join(
    client: aioredis.Redis, call_id: str, user_id: str, device: str, *, leg: CallLeg | None, now: datetime
) -> bool:
    """Whether this browser may join the call; if so it has it. `leg`: the agent's newest one in this call."""
    if not device:
        return True
    try:
        async with asyncio.timeout(PATIENCE_S):
            holder = await client.get(_key(call_id, user_id))
    except (RedisError, OSError, TimeoutError):
        return True
    gone = leg is not None and leg.left_at is not None and leg.left_at + BACK < now
    if holder not in (None, device, device.encode()) and not gone:
        return False
    await take(client, call_id, user_id, device)
    return True
