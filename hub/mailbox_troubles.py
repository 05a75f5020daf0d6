"""Mailboxes that cannot be read now, since when and why, for those who look after them.

A hint in Redis: the reading process notes it at each try that fails and clears it as soon as the mailbox is open again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from crm_core.texts import Text

KEPT_S = 900  # longer than the longest wait between two tries
PATIENCE_S = 0.5  # a silent Redis keeps no mailbox waiting and no page


def _key(account_id: str) -> str:
    return f"mailbox:{account_id}:trouble"


def _parts(kept: bytes | str) -> tuple[str, str]:
    since, _, reason = (kept.decode() if isinstance(kept, bytes) else kept).partition("\n")
    return since, reason


async def note(client: aioredis.Redis, account_id: str, reason: str, *, now: datetime) -> None:
    """It could not be read just now; what stood there since an earlier try keeps its instant."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            before = await client.get(_key(account_id))
            since = _parts(before)[0] if before else now.isoformat()
            await client.set(_key(account_id), f"{since}\n{reason}", ex=KEPT_S)
    except (RedisError, OSError, TimeoutError):
        return


async def clear(client: aioredis.Redis, account_id: str) -> None:
    """It is read again."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await client.delete(_key(account_id))
    except (RedisError, OSError, TimeoutError):
        return


async def read(client: aioredis.Redis, account_ids: Sequence[str]) -> dict[str, Text]:
    """A sentence for each of these mailboxes that is not read now; none without Redis."""
    if not account_ids:
        return {}
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await client.mget([_key(one) for one in account_ids])
    except (RedisError, OSError, TimeoutError):
        return {}
    told = {}
    for account_id, kept in zip(account_ids, found, strict=True):
        if kept:
            since, reason = _parts(kept)
            told[account_id] = Text(
                "Not read since %(since_at)s: %(reason_text)s",
                since_at=datetime.fromisoformat(since), reason_text=reason,
            )  # fmt: skip
    return told
