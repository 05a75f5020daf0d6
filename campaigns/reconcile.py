"""After a crash or an unclear answer: expired claims go back, expired submissions become unknown, and unknown ones are
settled by evidence of the provider, or stay unknown by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from sqlalchemy import bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import col, or_, select

from campaigns import campaigns, content, deliveries, sender, unsubscribe
from campaigns.campaigns import Campaign
from campaigns.counts import Delta
from campaigns.deliveries import Delivery, DeliveryState
from campaigns.reports import STATES, raise_to
from campaigns.sender import Sending
from channels.contract import OutboundText
from channels.errors import ChannelError
from crm_core.addresses import PointKind
from crm_core.db import Database, Tx
from crm_core.statements import fixed
from crm_core.texts import Text

# A status callback with our key comes within seconds, the provider's list knows a message within minutes.
FIRST_LOOK = timedelta(seconds=30)
EXAMINE_FOR = timedelta(minutes=10)


@runtime_checkable
class FindsSent(Protocol):
    """An adapter that can ask its provider what was sent: by sender, recipient and text."""

    async def find_sent(self, message: OutboundText, *, limit: int = 50) -> list[tuple[str, str]]:
        """(provider's id, our status), newest first."""
        ...


async def release_expired(tx: Tx, *, now: datetime, limit: int = 200) -> set[str]:
    """Rows whose worker is gone: claimed ones are planned again, submitting ones are unknown. The campaigns concerned."""
    touched: dict[str, Delta] = {}
    for row in await deliveries.list_expired(tx, now=now, limit=limit):
        delta = touched.setdefault(row.campaign_id, Delta(row.campaign_id))
        if row.state == DeliveryState.CLAIMED:
            reserved = row.touch_id
            if await deliveries.move(tx, row, DeliveryState.PLANNED, now=now, delta=delta, due_at=now, touch_id=None):
                await sender.give_back_touch(tx, reserved)
        else:
            why = "The worker ended between handing over and the answer."
            await deliveries.move(tx, row, DeliveryState.UNKNOWN, now=now, delta=delta, unknown_at=now, error=why)
    for campaign_id, delta in sorted(touched.items()):
        await delta.write(tx)
        await campaigns.look_again(tx, campaign_id, at=now)
    if touched:
        tx.wake(campaigns.TOPIC)
    return set(touched)


_TO_EXAMINE = fixed(
    select(Delivery)
    .where(
        Delivery.campaign_id == bindparam("campaign_id"),
        sql_text("deliveries.state = 'unknown'"),
        col(Delivery.examined_at).is_(None),
        Delivery.unknown_at <= bindparam("before"),
    )
    .order_by(col(Delivery.id))
    .limit(50)
)


@dataclass(frozen=True, slots=True)
class Examined:
    """What one round found. `left` are still looked for."""

    settled: int
    given_up: int
    left: int


async def examine(db: Database, campaign_id: str, *, sending: Sending) -> Examined:
    """Look for evidence about doubtful rows; those older than ten minutes without any stay unknown for people to see."""
    now = sending.clock.now()
    async with db.reading() as tx:
        campaign = await campaigns.get(tx, campaign_id)
        rows = await tx.all(_TO_EXAMINE, campaign_id=campaign_id, before=now - FIRST_LOOK)
    settled = given_up = 0
    for row in rows:
        found = await _look(db, campaign, row, sending)
        if found is not None:
            settled += await _settle(db, row, *found, now=now)
        elif row.unknown_at is not None and now - row.unknown_at >= EXAMINE_FOR:
            given_up += await _give_up(db, row, now=now)
    async with db.reading() as tx:
        left = await deliveries.count_unexamined(tx, campaign_id)
    return Examined(settled, given_up, left)


async def _look(db: Database, campaign: Campaign, row: Delivery, sending: Sending) -> tuple[str, str] | None:
    """(provider's id, status) of the message that this row's attempt became, when exactly that can be shown."""
    channel = sending.channel
    if row.kind != PointKind.PHONE or not isinstance(channel, FindsSent):
        return None
    async with db.reading() as tx:
        version = await campaigns.get_content(tx, campaign.id, row.content_version)
    template = content.Template(content.Source(version.subject, version.body, version.html))
    url = unsubscribe.link(sending.public_url, sending.secret, row.id)
    try:
        body = template.render({**row.fields, content.UNSUBSCRIBE_FIELD: url}).body
        message = OutboundText(sending.account.address, row.value, body, row.our_key)
        candidates = await channel.find_sent(message)
    except (content.ContentError, ChannelError):
        return None
    async with db.reading() as tx:
        free = [(found, status) for found, status in candidates if not await _taken(tx, found, row.id)]
    # The same text may have gone to this number by another campaign: one free message is proof, two are not.
    return free[0] if len(free) == 1 else None


_TAKEN = fixed(
    select(Delivery.id)
    .where(
        Delivery.external_id == bindparam("external_id"), sql_text("deliveries.external_id <> ''"),
        Delivery.id != bindparam("own"),
    )
    .limit(1)
)  # fmt: skip


async def _taken(tx: Tx, external_id: str, own: str) -> bool:
    return await tx.one(_TAKEN, external_id=external_id, own=own) is not None


async def _settle(db: Database, row: Delivery, external_id: str, status: str, *, now: datetime) -> bool:
    async def unit(tx: Tx) -> bool:
        if await _taken(tx, external_id, row.id):
            return False
        fresh = await deliveries.get(tx, row.id)
        return await raise_to(tx, fresh, STATES[status], now=now, external_id=external_id)

    return await db.write(unit)


async def _give_up(db: Database, row: Delivery, *, now: datetime) -> bool:
    async def unit(tx: Tx) -> bool:
        still = update(Delivery).where(
            col(Delivery.id) == row.id,
            col(Delivery.state) == DeliveryState.UNKNOWN,
            col(Delivery.examined_at).is_(None),
        )
        return await tx.run(still.values(examined_at=now)) == 1

    return await db.write(unit)


async def decide(tx: Tx, delivery_id: str, *, went: bool, user_id: str, now: datetime) -> bool:
    """A person knows what became of a doubtful one: it went, or it certainly did not.

    Then it is planned again, or failed where the campaign is over: a finished campaign has no open row.
    """
    row = await deliveries.get(tx, delivery_id)
    campaign = await campaigns.hold(tx, row.campaign_id)
    delta = Delta(row.campaign_id)
    again = DeliveryState.FAILED if campaign.state in campaigns.OVER else DeliveryState.PLANNED
    to = DeliveryState.ACCEPTED if went else again
    if to == DeliveryState.PLANNED:
        await sender.give_back_touch(tx, row.touch_id)
    changes = {"due_at": now, "touch_id": None} if to == DeliveryState.PLANNED else {}
    moved = await deliveries.move(
        tx, row, to, now=now, delta=delta, error=Text("Decided by %(user)s.", user=user_id), **changes
    )
    await delta.write(tx)
    await campaigns.look_again(tx, row.campaign_id, at=now)
    tx.wake(campaigns.TOPIC)
    return moved


async def list_doubtful(tx: Tx, *, limit: int = 200) -> Sequence[Delivery]:
    """Every doubtful row of every campaign, for the minute's check and the alarm."""
    statement = select(Delivery).where(
        sql_text("deliveries.state = 'unknown'"), or_(col(Delivery.examined_at).is_(None))
    )
    return await tx.all(statement.order_by(col(Delivery.id)).limit(limit))
