"""One step of whatever a campaign or a list being built needs next. Jobs and the sweep call it again and again;
every step may run twice or be killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial

from campaigns import audience, call_lists, campaigns, imports, lists, reconcile, sender
from campaigns.campaigns import Campaign, CampaignState
from campaigns.sender import Sending
from channels.errors import Misconfigured
from crm_core.clock import Clock
from crm_core.db import Database, Tx
from crm_core.errors import Conflict

LOOK_AGAIN = timedelta(seconds=5)
Prepare = Callable[[Campaign], Awaitable[Sending]]


async def step(db: Database, campaign_id: str, *, prepare: Prepare, clock: Clock) -> datetime | None:
    """Do what the campaign needs next; when to look again, None when nothing is left to do now.

    `prepare` gives what it is sent with; Misconfigured pauses the campaign.
    """
    async with db.reading() as tx:
        campaign = await campaigns.get(tx, campaign_id)
    now = clock.now()
    try:
        match campaign.state:
            case CampaignState.SCHEDULED:
                found = await db.write(lambda tx: campaigns.scheduled_due(tx, campaign_id, now=clock.now()))
                return found.due_at
            case CampaignState.MATERIALISING:
                before = campaign.cursor
                state = await db.write(lambda tx: audience.freeze_batch(tx, campaign_id, now=clock.now()))
                if state != CampaignState.MATERIALISING:
                    return now
                async with db.reading() as tx:
                    moved = (await campaigns.get(tx, campaign_id)).cursor != before
                return now if moved else now + LOOK_AGAIN
            case CampaignState.RUNNING:
                try:
                    sending = await prepare(campaign)
                except Misconfigured as error:
                    await db.write(partial(_stop, campaign_id=campaign_id, why=error.message, now=clock.now()))
                    return now
                return (await sender.send_chunk(db, campaign_id, sending=sending)).again_at
            case CampaignState.PAUSING | CampaignState.FINISHING:
                return await _bring_to_rest(db, campaign, prepare, clock)
            case CampaignState.CANCELLED:
                if await db.write(lambda tx: campaigns.cancel_batch(tx, campaign_id, now=clock.now())):
                    return now
                settled = await db.write(lambda tx: _settle(tx, campaign_id, clock.now()))
                return now + LOOK_AGAIN if settled else None
            case _:
                await db.write(lambda tx: campaigns.look_again(tx, campaign_id, at=None))
                return None
    except Conflict:
        return now  # another worker was first; what it did is there to see


async def _stop(tx: Tx, *, campaign_id: str, why: str, now: datetime) -> None:
    if (await campaigns.get(tx, campaign_id)).state == CampaignState.RUNNING:
        await campaigns.pause(tx, campaign_id, now=now, reason=why, brake="sender")


async def _settle(tx: Tx, campaign_id: str, now: datetime) -> bool:
    """True while rows of a cancelled campaign are still in flight."""
    campaign = await campaigns.settle(tx, await campaigns.get(tx, campaign_id), now=now)
    return (await campaigns.get(tx, campaign.id)).due_at is not None


async def _bring_to_rest(db: Database, campaign: Campaign, prepare: Prepare, clock: Clock) -> datetime | None:
    await db.write(lambda tx: reconcile.release_expired(tx, now=clock.now()))
    if campaign.state == CampaignState.FINISHING:
        with contextlib.suppress(Misconfigured):  # a channel that is off shows no evidence; reports may still come
            await reconcile.examine(db, campaign.id, sending=await prepare(campaign))

    async def unit(tx: Tx) -> datetime | None:
        now = clock.now()
        found = await campaigns.settle(tx, await campaigns.get(tx, campaign.id), now=now)
        resting = found.state not in (CampaignState.PAUSING, CampaignState.FINISHING)
        again = found.due_at if resting else now + LOOK_AGAIN
        await campaigns.look_again(tx, campaign.id, at=again)
        return again

    return await db.write(unit)


async def build_list(db: Database, list_id: str, *, clock: Clock, until: datetime) -> bool:
    """Add entries to a list that is being built until there are no more or `until`; True when it is done."""
    while True:
        async with db.reading() as tx:
            before = (await call_lists.get(tx, list_id)).cursor
        try:
            state = await db.write(lambda tx: audience.build_batch(tx, list_id, now=clock.now()))
        except Conflict:
            return False
        if state != call_lists.ListState.BUILDING:
            return True
        async with db.reading() as tx:
            moved = (await call_lists.get(tx, list_id)).cursor != before
        if not moved or clock.now() >= until:
            return False


async def sweep(db: Database, *, clock: Clock) -> tuple[list[str], list[str], list[str]]:
    """Free what the dead left behind; ids of campaigns, imports and lists that need a worker now."""
    await db.write(lambda tx: reconcile.release_expired(tx, now=clock.now()))
    await db.write(lambda tx: lists.release_expired(tx, now=clock.now()))
    now = clock.now()
    async with db.reading() as tx:
        return (
            await campaigns.list_due(tx, now=now),
            await imports.list_due(tx, now=now),
            await call_lists.list_building(tx, now=now),
        )
