"""A mailbox is polled as its row says now: a change of its servers, password or state takes hold without a restart."""

from __future__ import annotations

import asyncio

from crm_core import accounts
from crm_core.accounts import ChannelAccount
from hub import mailboxes
from hub.log import get_logger
from hub.runtime import Runtime
from hub.tasks import end_tasks

log = get_logger(__name__)

LOOK_S = 5.0


async def poll_as_set(runtime: Runtime, account_id: str) -> None:
    """Poll for ever, begun anew whenever the row's version rises; rest while it is switched off. Cancel to stop."""
    while True:
        account = await _read(runtime, account_id)
        if not account.enabled:
            await asyncio.sleep(LOOK_S)
            continue
        polling = asyncio.create_task(mailboxes.poll_account(runtime, account_id), name=f"poll-{account_id}")
        try:
            while not polling.done():
                await asyncio.wait({polling}, timeout=LOOK_S)
                now = await _read(runtime, account_id)
                if now.version != account.version:
                    log.info("mailbox: changed, polled anew", account=account_id, enabled=now.enabled)
                    break
            else:
                await polling  # what broke it goes to whoever runs this
        finally:
            await end_tasks([polling])


async def _read(runtime: Runtime, account_id: str) -> ChannelAccount:
    async with runtime.db.reading() as tx:
        return await accounts.get(tx, account_id)
