"""Mailboxes that cannot be read now, since when and why, for those who look after them.

A hint in Redis: the reading process notes it at each try that fails and clears it as soon as the mailbox is open again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import redis.asyncio as aioredis

from crm_core.texts import Text
from hub.redis_ports import hint

KEPT_S = 900  # longer than the longest wait between two tries


def _key(account_id: str) -> str:
    return f"mailbox:{account_id}:trouble"


def _parts(kept: bytes | str) -> tuple[str, str]:
    since, _, reason = (kept.decode() if isinstance(kept, bytes) else kept).partition("\n")
    return since, reason


async def note(client: aioredis.Redis, account_id: str, reason: str, *, now: datetime) -> None:
    """It could not be read just now; what stood there since an earlier try keeps its instant."""

    async def keep() -> None:
        before = await client.get(_key(account_id))
        since = _parts(before)[0] if before else now.isoformat()
        await client.set(_key(account_id), f"{since}\n{reason}", ex=KEPT_S)

    await hint(keep)


async def clear(client: aioredis.Redis, account_id: str) -> None:
    """It is read again."""
    await hint(lambda: client.delete(_key(account_id)))


async def read(client: aioredis.Redis, account_ids: Sequence[str]) -> dict[str, Text]:
    """A sentence for each of these mailboxes that is not read now; none without Redis."""
    if not account_ids:
        return {}
    found = await hint(lambda: client.mget([_key(one) for one in account_ids]))
    if found is None:
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
