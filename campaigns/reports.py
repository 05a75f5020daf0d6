"""What providers say afterwards: delivery reports, bounces, complaints. Rank only rises; late, repeated and unordered reports
change nothing. A report that carries our key settles a doubtful row.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import bindparam
from sqlmodel import select

from campaigns import campaigns, counts, deliveries
from campaigns.brakes import REJECTED
from campaigns.counts import Delta
from campaigns.deliveries import RANK, Delivery, DeliveryState
from channels.contract import DeliveryReport
from crm_core import consent, events
from crm_core.addresses import PointKind
from crm_core.consent import SuppressionReason
from crm_core.db import Tx
from crm_core.statements import fixed

STATES: dict[str, DeliveryState] = {
    "queued": DeliveryState.ACCEPTED,
    "sent": DeliveryState.SENT,
    "delivered": DeliveryState.DELIVERED,
    "read": DeliveryState.DELIVERED,
    "undelivered": DeliveryState.UNDELIVERED,
    "failed": DeliveryState.FAILED,
}
_BY_EXTERNAL = fixed(select(Delivery).where(Delivery.external_id == bindparam("external_id")).limit(1))


async def find_reported(tx: Tx, *, our_key: str, external_id: str) -> Delivery | None:
    """The delivery a report is about: by our key, else by the provider's id."""
    delivery_id = deliveries.id_of_key(our_key)
    if delivery_id:
        return await deliveries.find(tx, delivery_id)
    if not external_id:
        return None
    found: Delivery | None = await tx.one(_BY_EXTERNAL, external_id=external_id)
    return found


async def apply_report(tx: Tx, event: DeliveryReport, *, now: datetime) -> bool:
    """Apply what a provider says of a message; True when it was one of a campaign, even if it changed nothing."""
    row = await find_reported(tx, our_key=event.our_key, external_id=event.external_id)
    if row is None:
        return False
    to = STATES[event.status]
    if event.error_class == "recipient_invalid" and to == DeliveryState.FAILED:
        to = DeliveryState.UNDELIVERED
    # Of two messages of one row (an attempt that was refused, and the next) the one that went counts.
    own = event.external_id in ("", row.external_id) or not row.external_id
    if not own and RANK[to] <= RANK[DeliveryState.SENT]:
        return True
    changes: dict[str, Any] = {"external_id": event.external_id or row.external_id}
    if event.error_code:
        changes |= {"error_code": event.error_code, "error": event.error_class.replace("_", " ")}
    await raise_to(tx, row, to, now=now, **changes)
    reason = {
        "recipient_invalid": SuppressionReason.DEAD,
        "recipient_opted_out": SuppressionReason.SENDER_STOP,
    }.get(event.error_class)
    if reason is not None:
        await _suppress(tx, row, reason, code=event.error_code, text=event.error_class, now=now)
    if event.error_class == "content_rejected":
        delta = Delta(row.campaign_id)
        delta.add(REJECTED, kind=counts.EVENT)
        await delta.write(tx)
        await campaigns.look_at_brakes(tx, row.campaign_id, now=now)
    return True


async def raise_to(tx: Tx, row: Delivery, to: DeliveryState, *, now: datetime, **changes: Any) -> bool:
    """Move a row up when `to` has a higher rank and can follow; False when it changes nothing."""
    if to not in deliveries.ALLOWED[row.state] or RANK[to] <= RANK[row.state]:
        return False
    delta = Delta(row.campaign_id)
    if not await deliveries.move(tx, row, to, now=now, delta=delta, **changes):
        # A worker moved it in the same instant: look at the newer row once.
        fresh = await deliveries.get(tx, row.id)
        if to not in deliveries.ALLOWED[fresh.state] or RANK[to] <= RANK[fresh.state]:
            return False
        if not await deliveries.move(tx, fresh, to, now=now, delta=delta, **changes):
            return False
    await delta.write(tx)
    campaign = await campaigns.get(tx, row.campaign_id)
    await campaigns.look_at_brakes(tx, row.campaign_id, now=now)
    await events.emit(
        tx,
        "campaign.changed",
        row.campaign_id,
        now=now,
        version=campaign.version,
        delivery=row.id,
        state=campaign.state,
    )
    tx.wake(campaigns.TOPIC)
    return True


def id_of_message(message_id: str) -> str:
    """The delivery that a Message-ID of ours names (sender.message_id), or empty."""
    local = message_id.strip().lstrip("<").partition("@")[0]
    head, dot, tail = local.partition(".")
    return head if dot and tail == "campaign" and len(head) == 26 else ""


async def apply_bounce(tx: Tx, *, message_id: str, code: str, text: str, permanent: bool, now: datetime) -> bool:
    """A mail server reports that our mail with this Message-ID was not delivered; True when it was a campaign's.

    `code` is the enhanced status (RFC 3463). Permanent 5.1.x say that the address is dead; other permanent ones (full, policy)
    end this delivery only. Temporary reports change nothing: the server goes on trying.
    """
    delivery_id = id_of_message(message_id)
    row = await deliveries.find(tx, delivery_id) if delivery_id else None
    if row is None:
        return False
    if permanent:
        await raise_to(tx, row, DeliveryState.BOUNCED, now=now, error_code=code, error=text[:500])
        if code.startswith("5.1."):
            await _suppress(tx, row, SuppressionReason.DEAD, code=code, text=text, now=now)
    return True


async def apply_complaint(tx: Tx, *, message_id: str, text: str, now: datetime) -> bool:
    """The recipient reported our mail as spam (RFC 5965): no more marketing to them, and the brake hears it."""
    delivery_id = id_of_message(message_id)
    row = await deliveries.find(tx, delivery_id) if delivery_id else None
    if row is None:
        return False
    await raise_to(tx, row, DeliveryState.COMPLAINED, now=now, error=text[:500])
    await consent.opt_out(
        tx, row.address, reason=SuppressionReason.COMPLAINT, source="complaint", actor="provider", now=now,
        evidence={"delivery": row.id, "text": text[:500]}, contact_id=row.contact_id,
    )  # fmt: skip
    return True


async def _suppress(tx: Tx, row: Delivery, reason: SuppressionReason, *, code: str, text: str, now: datetime) -> None:
    campaign = await campaigns.get(tx, row.campaign_id)
    stopped = reason == SuppressionReason.SENDER_STOP
    # A mailbox that is gone is gone for every sender; a stopped sender is stopped alone.
    channel = campaign.channel if row.kind == PointKind.PHONE or stopped else "*"
    await consent.opt_out(
        tx, row.address, channel=channel, reason=reason, source="provider", actor="provider", now=now,
        sender=campaign.account_id if stopped else "", evidence={"delivery": row.id, "code": code, "text": text[:500]},
        contact_id=row.contact_id,
    )  # fmt: skip
