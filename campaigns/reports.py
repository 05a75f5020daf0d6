"""What providers say afterwards: delivery reports, bounces, complaints. Rank only rises; late, repeated and unordered reports
change nothing. A report that carries our key settles a doubtful row.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import col, select

from campaigns import campaigns, counts, deliveries
from campaigns.brakes import REJECTED, UNSUBSCRIBED
from campaigns.campaigns import Campaign
from campaigns.counts import Delta
from campaigns.deliveries import AFTER_SUBMIT, RANK, Delivery, DeliveryState
from channels.contract import DeliveryReport
from crm_core import consent, events, mail_tokens
from crm_core.addresses import Address, PointKind
from crm_core.consent import SuppressionReason
from crm_core.db import Tx
from crm_core.mail_tokens import MailMark
from crm_core.statements import fixed

STATES: dict[str, DeliveryState] = {
    "queued": DeliveryState.ACCEPTED,
    "sent": DeliveryState.SENT,
    "delivered": DeliveryState.DELIVERED,
    "read": DeliveryState.DELIVERED,
    "undelivered": DeliveryState.UNDELIVERED,
    "failed": DeliveryState.FAILED,
}
_BY_EXTERNAL = fixed(
    select(Delivery)
    .where(Delivery.external_id == bindparam("external_id"), sql_text("deliveries.external_id <> ''"))
    .limit(1)
)


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
    reason = SuppressionReason.DEAD if event.dead else None
    if event.error_class == "recipient_opted_out":
        reason = SuppressionReason.SENDER_STOP
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
    await _tell(tx, campaign, row, now=now)
    tx.wake(campaigns.TOPIC)
    return True


async def _tell(tx: Tx, campaign: Campaign, row: Delivery, *, now: datetime) -> None:
    """Screens that show this campaign or this row look again."""
    await events.emit(
        tx, "campaign.changed", campaign.id, now=now, version=campaign.version, delivery=row.id, state=campaign.state
    )


def proven(mark: MailMark, *, secret: str) -> str:
    """The delivery that a mark of ours names, or empty when we did not sign it: whoever knows it has held that very mail."""
    right = mark.kind == mail_tokens.CAMPAIGN and bool(secret)
    return (
        mark.subject_id if right and mail_tokens.same(mail_tokens.signed(secret, mark.subject_id), mark.proof) else ""
    )


async def apply_bounce(
    tx: Tx,
    delivery_id: str,
    *,
    code: str,
    text: str,
    failed: bool,
    dead: bool,
    addresses: Sequence[str] = (),
    now: datetime,
) -> bool:
    """A mail server reports on our mail; True when it was a campaign's. The caller has seen the proof (`proven`).

    `failed`: it will not be delivered, whether for good (5.x.x) or after days of trying (4.x.x). `dead`: there is no such
    address; believed only of the address that we wrote to, which is among `addresses` or none is told: a list or an alias behind
    it may have dead members. A delay changes nothing, except that a doubtful mail is known to have gone.
    """
    row = await deliveries.find(tx, delivery_id)
    if row is None:
        return False
    if not failed:
        if row.state == DeliveryState.UNKNOWN:
            await raise_to(tx, row, DeliveryState.ACCEPTED, now=now)
        return True
    await raise_to(tx, row, DeliveryState.BOUNCED, now=now, error_code=code, error=text[:500])
    told = [address for address in addresses if address]
    if dead and (not told or row.value in told):
        await _suppress(tx, row, SuppressionReason.DEAD, code=code, text=text, now=now)
    return True


async def apply_complaint(tx: Tx, delivery_id: str, *, text: str, now: datetime) -> bool:
    """The recipient reported our mail as spam (RFC 5965): no more marketing to them, and the brake hears it."""
    row = await deliveries.find(tx, delivery_id)
    if row is None:
        return False
    await raise_to(tx, row, DeliveryState.COMPLAINED, now=now, error=text[:500])
    await consent.opt_out(
        tx, row.address, reason=SuppressionReason.COMPLAINT, source="complaint", actor="provider", now=now,
        evidence={"delivery": row.id, "text": text[:500]}, contact_id=row.contact_id,
    )  # fmt: skip
    return True


# An opt-out within these days of a campaign's message is taken as an answer to it.
OPT_OUT_WINDOW = timedelta(days=7)
_LATEST = fixed(
    select(Delivery)
    .join(Campaign, col(Campaign.id) == col(Delivery.campaign_id))
    .where(
        Delivery.value == bindparam("value"),
        Delivery.kind == bindparam("kind"),
        Delivery.submitted_at > bindparam("since"),
        col(Delivery.state).in_([*AFTER_SUBMIT, DeliveryState.SUBMITTING, DeliveryState.UNKNOWN]),
        Campaign.account_id == bindparam("account_id"),
    )
    .order_by(col(Delivery.submitted_at).desc(), col(Delivery.id).desc())
    .limit(1)
)


async def note_opt_out(tx: Tx, address: Address, *, account_id: str, now: datetime) -> bool:
    """Somebody opted out by writing to this sender: the latest campaign that wrote to them from it within a week counts it, on
    its page and for its brake. True when one did; each delivery counts once, by whatever road.
    """
    row: Delivery | None = await tx.one(
        _LATEST, value=address.value, kind=address.kind, since=now - OPT_OUT_WINDOW, account_id=account_id
    )
    return row is not None and await count_opt_out(tx, row, now=now)


async def count_opt_out(tx: Tx, row: Delivery, *, now: datetime) -> bool:
    """Count an opt-out for this delivery's campaign; False when it was counted before."""
    first = update(Delivery).where(col(Delivery.id) == row.id, col(Delivery.unsubscribed_at).is_(None))
    if await tx.run(first.values(unsubscribed_at=now)) != 1:
        return False
    delta = Delta(row.campaign_id)
    delta.add(UNSUBSCRIBED, kind=counts.EVENT)
    await delta.write(tx)
    await campaigns.look_at_brakes(tx, row.campaign_id, now=now)
    campaign = await campaigns.get(tx, row.campaign_id)
    await _tell(tx, campaign, row, now=now)
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
