"""Mailboxes: one task per account under a lease, each mail kept raw, then taken in with the cursor in one transaction.

A broken connection waits and comes back with the stored cursor; a mail that cannot be read or whose effects fail is kept and
named, and the next one follows: one mail never stops a mailbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from sqlmodel import select

from channels.email import NOT_READ, Portion
from channels.errors import ChannelError, Misconfigured
from channels.mail_pool import MailPool
from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.db import DatabaseUnavailable
from crm_core.errors import HubError
from crm_core.failpoints import failpoint
from hub import mailbox_troubles
from hub.log import get_logger
from hub.runtime import Runtime
from hub.tasks import end_tasks
from webhooks import mail, receipts

log = get_logger(__name__)

LEAST_WAIT_S, MOST_WAIT_S = 1.0, 300.0
LOOK_S = 10.0
SWEEP_AT_ONCE = 20


async def list_mailboxes(runtime: Runtime) -> list[ChannelAccount]:
    """Accounts that are polled."""
    async with runtime.db.reading() as tx:
        found = await tx.all(
            select(ChannelAccount).where(ChannelAccount.channel == "email", ChannelAccount.enabled == True)  # noqa: E712
        )
    return list(found)


async def poll_account(runtime: Runtime, account_id: str) -> None:
    """Fetch one account's mail for ever; cancel to stop. Ends when the account is switched off."""
    wait_s = LEAST_WAIT_S
    while True:
        async with runtime.db.reading() as tx:
            account = await accounts.get(tx, account_id)
        if not account.enabled:
            return
        began = asyncio.get_running_loop().time()
        try:
            await _read(runtime, account)
        except Misconfigured as error:
            if error.code == NOT_READ:  # it only sends, by choice
                await mailbox_troubles.clear(runtime.redis, account_id)
            else:
                log.warning("mailbox: not usable", account=account_id, reason=error.message)
                await mailbox_troubles.note(runtime.redis, account_id, error.message, now=runtime.clock.now())
            wait_s = MOST_WAIT_S
        except (HubError, DatabaseUnavailable, OSError, TimeoutError) as error:
            if asyncio.get_running_loop().time() - began > MOST_WAIT_S:
                wait_s = LEAST_WAIT_S
            log.warning("mailbox: connection lost", account=account_id, reason=f"{type(error).__name__}: {error}")
            if not isinstance(error, DatabaseUnavailable):  # that is no fault of the mailbox
                reason = str(error) or type(error).__name__
                await mailbox_troubles.note(runtime.redis, account_id, reason, now=runtime.clock.now())
        await asyncio.sleep(wait_s * random.uniform(0.7, 1.3))  # noqa: S311 - jitter, not a secret
        wait_s = min(wait_s * 2, MOST_WAIT_S)


async def _read(runtime: Runtime, account: ChannelAccount) -> None:
    channel = runtime.channels.mail(account)
    keeping: deque[list[asyncio.Task[list[mail.Fetched]]]] = deque()

    def keep(portion: Portion) -> None:
        # The disk keeps the files of later mails while earlier ones are taken in.
        starts = range(0, len(portion), mail.AT_ONCE)
        keeping.append([asyncio.create_task(_kept(runtime, portion[start : start + mail.AT_ONCE])) for start in starts])

    async def begun(cursor: Mapping[str, Any]) -> None:
        if "uidvalidity" not in account.cursor:
            await mail.begin(runtime.db, account, cursor)
        await mailbox_troubles.clear(runtime.redis, account.id)

    try:
        async with contextlib.aclosing(channel.portions(account.cursor, fetched=keep, begun=begun)) as portions:
            async for _ in portions:
                failpoint("mailbox.fetched")
                for kept in keeping[0]:
                    await _take(runtime, account, await kept)
                keeping.popleft()
    finally:
        await end_tasks([kept for portion in keeping for kept in portion])


async def _take(runtime: Runtime, account: ChannelAccount, found: Sequence[mail.Fetched]) -> None:
    answers = await mail.take_all(runtime.db, runtime.clock, account, found, secret=runtime.settings.secret_key)
    failpoint("mailbox.stored")
    for answer in answers:
        runtime.metrics.webhook("email", answer.outcome)


async def _kept(runtime: Runtime, some: Portion) -> list[mail.Fetched]:
    kept = await mail.keep_all(runtime.files, [one for one, _ in some], now=runtime.clock.now())
    return [mail.Fetched(one, stored, cursor) for (one, cursor), stored in zip(some, kept, strict=True)]


async def sweep_failed(runtime: Runtime) -> int:
    """Make the effects of mails that failed: read again from the raw bytes in the store; how many were looked at."""
    async with runtime.db.reading() as tx:
        owed = await receipts.list_unfinished(tx, now=runtime.clock.now(), limit=SWEEP_AT_ONCE)
    mails = [receipt for receipt in owed if receipt.kind == mail.KIND]
    if not mails:
        return 0
    for receipt in mails:
        await _again(runtime, runtime.channels.mail_pool, receipt)
    return len(mails)


async def _again(runtime: Runtime, pool: MailPool, receipt: receipts.WebhookReceipt) -> None:
    try:
        async with runtime.db.reading() as tx:
            account = await accounts.get(tx, receipt.headers[mail.ACCOUNT])
        raw = await runtime.files.get(receipt.headers[mail.RAW])
        read = await pool.read(raw, event_key=receipt.url)
        kept = await mail.keep(runtime.files, read, now=runtime.clock.now(), raw_key=receipt.headers[mail.RAW])
        answer = await mail.retry(
            runtime.db, runtime.clock, account, read, kept, receipt.id, secret=runtime.settings.secret_key
        )
        runtime.metrics.webhook("email", f"swept_{answer.outcome}")
    except (HubError, ChannelError) as error:
        reason = f"{type(error).__name__}: {error}"
        await runtime.db.write(lambda tx: receipts.fail(tx, receipt.id, error=reason, now=runtime.clock.now()))
