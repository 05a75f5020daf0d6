"""Which browser has the sound of an agent's call: an agent signed in on two machines has one call, and only one of them joins it.

The machine that took the call keeps it, through reloads, until its leg is gone or the agent takes the call to the other one. A
hint in Redis: without it every browser may join, and the last one that does has the call.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import redis.asyncio as aioredis

from crm_core.calls import CallLeg
from hub.redis_ports import hint

KEPT_S = 12 * 3600
BACK = timedelta(seconds=3)  # a page that reloads has joined again by then


def _key(call_id: str, user_id: str) -> str:
    return f"phone:{call_id}:{user_id}"


async def take(client: aioredis.Redis, call_id: str, user_id: str, device: str) -> None:
    """This browser has the call from now on."""
    if device:
        await hint(lambda: client.set(_key(call_id, user_id), device, ex=KEPT_S))


async def may_join(
    client: aioredis.Redis, call_id: str, user_id: str, device: str, *, leg: CallLeg | None, now: datetime
) -> bool:
    """Whether this browser may join the call; if so it has it. `leg`: the agent's newest one in this call."""
    if not device:
        return True

    async def join() -> bool:
        holder = await client.get(_key(call_id, user_id))
        gone = leg is not None and leg.left_at is not None and leg.left_at + BACK < now
        if holder not in (None, device, device.encode()) and not gone:
            return False
        await take(client, call_id, user_id, device)
        return True

    return await hint(join) is not False  # a silent Redis keeps no agent from a customer
