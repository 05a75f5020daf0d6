"""Mailboxes that cannot be read or written from now, since when and why, for those who look after them.

A hint in Redis: noted at each try that fails, cleared by the first that works. Reading is tried all the time; a fault of sending
stands until a mail goes out again, or for a day.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from itertools import product
from typing import Any

import redis.asyncio as aioredis

from channels.errors import ChannelError, Misconfigured, Unavailable
from crm_core.clock import Clock
from crm_core.outbox import OutboxTask
from crm_core.texts import Text
from hub.files import AWAY
from hub.redis_ports import hint
from hub.relay import Executor


class Half(StrEnum):
    """What does not work."""

    READING = "reading"
    SENDING = "sending"


KEPT_S = {Half.READING: 900, Half.SENDING: 86_400}  # the first: longer than the longest wait between two tries


def _key(account_id: str, half: Half) -> str:
    return f"mailbox:{account_id}:{half}"


def _parts(kept: bytes | str) -> tuple[str, str]:
    since, _, reason = (kept.decode() if isinstance(kept, bytes) else kept).partition("\n")
    return since, reason


async def note(
    client: aioredis.Redis, account_id: str, reason: str, *, now: datetime, half: Half = Half.READING
) -> None:
    """It did not work just now; what stood there since an earlier try keeps its instant."""

    async def keep() -> None:
        before = await client.get(_key(account_id, half))
        since = _parts(before)[0] if before else now.isoformat()
        await client.set(_key(account_id, half), f"{since}\n{reason}", ex=KEPT_S[half])

    await hint(keep)


async def clear(client: aioredis.Redis, account_id: str, half: Half = Half.READING) -> None:
    """It works again."""
    await hint(lambda: client.delete(_key(account_id, half)))


async def read(client: aioredis.Redis, account_ids: Sequence[str]) -> dict[str, list[Text]]:
    """The sentences for those of these mailboxes that do not work now; none without Redis."""
    asked = list(product(account_ids, Half))
    found = await hint(lambda: client.mget([_key(*one) for one in asked])) if asked else None
    told: dict[str, list[Text]] = {}
    for (account_id, half), kept in zip(asked, found or [], strict=False):
        if kept:
            told.setdefault(account_id, []).append(_sentence(half, *_parts(kept)))
    return told


def _sentence(half: Half, since: str, reason: str) -> Text:
    since_at = datetime.fromisoformat(since)
    if half == Half.READING:
        return Text("Not read since %(since_at)s: %(reason_text)s", since_at=since_at, reason_text=reason)
    return Text("Mails do not go out since %(since_at)s: %(reason_text)s", since_at=since_at, reason_text=reason)


def of_the_server(error: ChannelError) -> bool:
    """Whether no mail could have gone: a log-in refused, no connection. What a server says of one mail is none of it."""
    lost = isinstance(error, Unavailable) and not error.code[:1].isdigit() and error.code != AWAY
    return lost or isinstance(error, Misconfigured)


def watched(executor: Executor, client: aioredis.Redis, clock: Clock) -> Executor:
    """The executor that sends mails (its task comes with `account`), noting when none goes out, and when they go again."""
    send: Callable[[OutboxTask, Any], Awaitable[Any]] = executor.call

    async def call(task: OutboxTask, prepared: Any) -> Any:
        account_id = prepared.account.id
        try:
            sent = await send(task, prepared)
        except ChannelError as error:
            if of_the_server(error):
                await note(client, account_id, error.message, now=clock.now(), half=Half.SENDING)
            raise
        await clear(client, account_id, Half.SENDING)
        return sent

    return replace(executor, call=call)
