"""What a command works with: the provider account and the mailboxes as the hub itself uses them, rows before environment."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.db import open_database
from hub.channel_set import PROVIDER, ChannelSet
from hub.sealing import Sealer
from hub.settings import Settings, TwilioAccount


@contextlib.asynccontextmanager
async def channels_of(settings: Settings) -> AsyncIterator[tuple[ChannelSet, list[ChannelAccount]]]:
    """The channels as a process of the hub would build them, and the mailboxes in use. Raises what the database raises."""
    db = await open_database(settings.database_url, pool_size=1)
    try:
        async with db.reading() as tx:
            providers = await accounts.list_channel(tx, PROVIDER)
            mailboxes = [row for row in await accounts.list_channel(tx, "email") if row.enabled]
    finally:
        await db.close()
    channels = ChannelSet(settings, Sealer(settings.secret_key))
    channels.adopt(next((row for row in providers if row.enabled), None))
    try:
        yield channels, mailboxes
    finally:
        await channels.close()


async def provider_in_use(settings: Settings) -> tuple[TwilioAccount | None, bool]:
    """The account that calls and texts go over, and whether an administrator entered it; the environment's when the
    database cannot be read."""
    try:
        async with channels_of(settings) as (channels, _):
            return channels.twilio, channels.provider_from_row
    except Exception:
        # Before the first migration, or with the database away: others of these looks say so.
        return settings.twilio, False
