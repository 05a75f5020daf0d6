"""One chunk of a campaign: claim (the gate looks now) → commit → commit the keys → network → record → commit.

Three outcomes of a send: the provider took it, it certainly did not, or nobody can know. The third is `unknown` and is never
repeated from here. A worker may die anywhere: what it had claimed becomes planned again, what it was submitting unknown.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable

from sqlalchemy import update
from sqlmodel import col

from campaigns import campaigns, content, counts, deliveries, pacing, unsubscribe
from campaigns.brakes import REJECTED
from campaigns.campaigns import Campaign, CampaignState
from campaigns.counts import Delta
from campaigns.deliveries import Delivery, DeliveryState
from channels.contract import OutboundMail, OutboundText, SendReceipt, Sends
from channels.errors import (
    ChannelError,
    ContentRejected,
    Misconfigured,
    RecipientInvalid,
    RecipientOptedOut,
    Throttled,
    Unavailable,
)
from channels.segments import segments
from crm_core import consent, contacts, events, mail_tokens, outgoing, outgoing_rules, touches
from crm_core.accounts import ChannelAccount
from crm_core.addresses import PointKind
from crm_core.clock import Clock
from crm_core.consent import Purpose, SuppressionReason, Verdict
from crm_core.contacts import Contact
from crm_core.db import Database, Tx
from crm_core.failpoints import failpoint
from crm_core.mail_tokens import MailMark
from crm_core.ports import RateTokens
from crm_core.texts import Text
from crm_core.touches import Direction, Touch

CHUNK = 100  # claimed in one transaction: about ten milliseconds of SQLite's write lock (bench/campaign.py)
AT_ONCE = 20  # keys committed together and sent side by side: at most so many are doubtful after a kill
LEASE_S = 60
SEND_S = 30  # the whole of one send, whatever the adapter does
# Backoff after a definite refusal "not now": five tries within about five and a half hours.
BACKOFF_S = (60, 300, 900, 3600, 14_400)
HOLD_MAX = timedelta(days=7)  # a campaign's text is stale after that


@runtime_checkable
class KeepsLines(Protocol):
    """An adapter that can hand many messages over on one kept connection."""

    def line(self) -> Any:
        """A connection, opened with the first message; has `close()`."""
        ...

    async def send_on(self, line: Any, message: Any) -> SendReceipt:
        """`send` on that connection."""
        ...


@dataclass(frozen=True, slots=True)
class Sending:
    """What a worker sends with."""

    channel: Sends
    account: ChannelAccount
    tokens: RateTokens
    clock: Clock
    public_url: str
    secret: str = field(repr=False)
    worker: str = "worker"
    at_once: int = AT_ONCE
    templates: dict[tuple[str, int], content.Template] = field(default_factory=dict, repr=False)
    idle_lines: list[Any] = field(default_factory=list, repr=False)

    async def send(self, message: Any) -> SendReceipt:
        """Hand one message over, on a kept connection where the adapter keeps some."""
        if not isinstance(self.channel, KeepsLines):
            return await self.channel.send(message)
        line = self.idle_lines.pop() if self.idle_lines else self.channel.line()
        try:
            return await self.channel.send_on(line, message)
        finally:
            self.idle_lines.append(line)

    async def close(self) -> None:
        """Close the kept connections; the adapter itself is its maker's to close."""
        while self.idle_lines:
            await self.idle_lines.pop().close()


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one chunk did. `again_at`: when to look next; None when the campaign needs no worker now."""

    state: CampaignState
    claimed: int
    handed_over: int
    doubtful: int
    again_at: datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one send ended."""

    state: DeliveryState
    external_id: str = ""
    code: str = ""
    error: str = ""
    rule: str = ""
    again_s: float = 0.0  # deferred: seconds until the next try
    suppress: SuppressionReason | None = None
    stop: str = ""  # the sender itself is wrong: pause the campaign and say why
    throttled_s: float = 0.0  # the provider asks everybody to wait
    rejected: bool = False


async def send_chunk(db: Database, campaign_id: str, *, sending: Sending, limit: int = CHUNK) -> Chunk:
    """Send up to `limit` due rows of a running campaign, at the rates of the campaign and its sender."""
    granted = await _tokens(db, campaign_id, sending, limit)
    if granted:
        granted = await _room(db, campaign_id, granted, sending)
    if granted == 0:
        now = sending.clock.now()
        return await _conclude(db, campaign_id, now=now, least=now + timedelta(seconds=0.5))
    failpoint("sender.before_claim")
    campaign, rows = await _claim(db, campaign_id, sending, granted)
    failpoint("sender.after_claim")
    handed = doubtful = 0
    wait_s = 0.0
    while rows and not wait_s:
        some, rows = rows[: sending.at_once], rows[sending.at_once :]
        outcomes = await _submit_and_send(db, campaign, some, sending)
        if outcomes is None:
            break
        handed += sum(1 for _, outcome in outcomes if outcome.state == DeliveryState.ACCEPTED)
        doubtful += sum(1 for _, outcome in outcomes if outcome.state == DeliveryState.UNKNOWN)
        wait_s = max((outcome.throttled_s for _, outcome in outcomes), default=0.0)
    claimed = handed + doubtful + len(rows)
    if rows:
        await _release(db, campaign_id, rows, clock=sending.clock)
    now = sending.clock.now()
    found = await _conclude(db, campaign_id, now=now, least=now + timedelta(seconds=wait_s))
    return Chunk(found.state, claimed, handed, doubtful, found.again_at)


async def _tokens(db: Database, campaign_id: str, sending: Sending, want: int) -> int:
    """How many may go now. The campaign's own bucket first: a capped campaign must not use up its sender's tokens."""
    now = sending.clock.now()
    async with db.reading() as tx:
        campaign = await campaigns.get(tx, campaign_id)
        due = await deliveries.next_due(tx, campaign_id)
    if campaign.state != CampaignState.RUNNING or due is None or due > now:
        return 0
    if campaign.rate_per_minute > 0:
        own = campaign.rate_per_minute / 60
        burst = pacing.burst_of(own)
        want = await sending.tokens.take(f"campaign:{campaign_id}", rate_per_s=own, burst=burst, want=want, now=now)
    rate = pacing.account_rate(campaign.point_kind, sending.account.settings)
    return await sending.tokens.take(
        f"account:{campaign.account_id}", rate_per_s=rate, burst=pacing.burst_of(rate), want=want, now=now
    )


async def _room(db: Database, campaign_id: str, want: int, sending: Sending) -> int:
    """How many the company's limits leave; at none the campaign is paused and says why, for an administrator must act."""
    now = sending.clock.now()
    async with db.reading() as tx:
        campaign = await campaigns.get(tx, campaign_id)
        if campaign.channel not in outgoing_rules.CHANNELS:
            return want
        guard = await outgoing.load(tx, now=now)
    room = guard.room(campaign.channel)
    if room > 0:
        return min(want, room)
    stop, used_up = guard.stopped(campaign.channel), guard.reached(campaign.channel)
    told = Text(
        "%(what_text)s are stopped: %(reason_text)s An administrator can let them go on (Administration, Spending).",
        what_text=outgoing.WORDS[campaign.channel],
        reason_text=stop["reason"] if stop else used_up[0] if used_up else "",
    )
    await db.write(lambda tx: campaigns.pause(tx, campaign_id, now=now, reason=told, brake=outgoing.STOPPED))
    return 0


# --- claim -----------------------------------------------------------------------------------------------------------


async def _claim(db: Database, campaign_id: str, sending: Sending, limit: int) -> tuple[Campaign, list[Delivery]]:
    async def unit(tx: Tx) -> tuple[Campaign, list[Delivery]]:
        now = sending.clock.now()
        campaign = await campaigns.hold(tx, campaign_id)
        if campaign.state != CampaignState.RUNNING:
            return campaign, []
        rows = await deliveries.list_claimable(tx, campaign_id, now=now, limit=limit)
        people = await contacts.list_by_ids(tx, sorted({row.contact_id for row in rows if row.contact_id}))
        delta = Delta(campaign_id)
        counted = campaign.channel in outgoing_rules.CHANNELS
        guard = await outgoing.load(tx, now=now, spend_on=campaign.channel) if counted else None
        if guard is not None:
            rows = rows[: guard.room(campaign.channel)]
        claimed = [
            row
            for row in rows
            if await _claim_one(
                tx, campaign, row, people.get(row.contact_id or ""), sending.worker, delta, now=now, guard=guard
            )
        ]
        await delta.write(tx)
        return campaign, claimed

    return await db.write(unit)


async def _claim_one(
    tx: Tx, campaign: Campaign, row: Delivery, contact: Contact | None, worker: str, delta: Delta, *, now: datetime,
    guard: outgoing.Guard | None,
) -> bool:  # fmt: skip
    """The binding look of the gate and the claim, in one transaction: a suppression committed before it always wins."""
    verdict = await consent.may_contact(
        tx, purpose=campaign.purpose, channel=campaign.channel, address=row.address, now=now, contact=contact,
        sender=campaign.account_id, guard=guard,
    )  # fmt: skip
    told: dict[str, Any] = {"rule": verdict.rule, "reason": verdict.reason, "verdict": verdict.as_doc()}
    if verdict.allowed:
        lease = now + timedelta(seconds=LEASE_S)
        # The touch is reserved here, so that caps over all channels count it; it is given back if nothing was sent.
        touch = await _touch(tx, campaign, row, verdict, now=now)
        return await deliveries.move(
            tx,
            row,
            DeliveryState.CLAIMED,
            now=now,
            delta=delta,
            lease_until=lease,
            worker=worker,
            touch_id=touch.id,
            **told,
        )
    if verdict.until is None:
        await _touch(tx, campaign, row, verdict, now=now)
        await deliveries.move(tx, row, DeliveryState.SUPPRESSED, now=now, delta=delta, **told)
    elif verdict.until - (campaign.started_at or now) > HOLD_MAX:
        await deliveries.move(tx, row, DeliveryState.EXPIRED, now=now, delta=delta, **told)
    else:
        await deliveries.move(tx, row, DeliveryState.HELD, now=now, delta=delta, due_at=verdict.until, **told)
    return False


async def _touch(tx: Tx, campaign: Campaign, row: Delivery, verdict: Verdict, *, now: datetime) -> Touch:
    return await touches.record(
        tx, row.address, direction=Direction.OUTBOUND, channel=campaign.channel, now=now, purpose=campaign.purpose,
        verdict=verdict.as_doc(), contact_id=row.contact_id, delivery_id=row.id,
    )  # fmt: skip


async def give_back_touch(tx: Tx, touch_id: str | None) -> None:
    """The reserved touch did not happen: caps must not count it."""
    if touch_id:
        await tx.run(update(Touch).where(col(Touch.id) == touch_id).values(allowed=False, rule="released"))


async def _release(db: Database, campaign_id: str, rows: Sequence[Delivery], *, clock: Clock) -> None:
    async def unit(tx: Tx) -> None:
        delta = Delta(campaign_id)
        for row in rows:
            fresh = deliveries.copy(row)
            if await deliveries.move(tx, fresh, DeliveryState.PLANNED, now=clock.now(), delta=delta, touch_id=None):
                await give_back_touch(tx, row.touch_id)
        await delta.write(tx)

    await db.write(unit)


# --- submit and send ---------------------------------------------------------------------------------------------------


async def _submit_and_send(
    db: Database, campaign: Campaign, rows: Sequence[Delivery], sending: Sending
) -> list[tuple[Delivery, Outcome]] | None:
    """Send some claimed rows side by side; None when the campaign was stopped: then they were given back."""
    template = await _template(db, campaign, sending)
    made = [(row, _compose(template, campaign, row, sending)) for row in rows]
    submitted = await _submit(db, campaign, made, sending)
    if submitted is None:
        await _release(db, campaign.id, rows, clock=sending.clock)
        return None
    outcomes = await asyncio.gather(*(_send(row, message, sending) for row, message in submitted))
    failpoint("sender.before_record")
    pairs = [(row, outcome) for (row, _), outcome in zip(submitted, outcomes, strict=True) if outcome is not None]
    await _record(db, campaign, pairs, sending)
    return pairs


async def _template(db: Database, campaign: Campaign, sending: Sending) -> content.Template:
    known = sending.templates.get((campaign.id, campaign.content_version))
    if known is None:
        async with db.reading() as tx:
            row = await campaigns.get_content(tx, campaign.id, campaign.content_version)
        known = content.Template(content.Source(row.subject, row.body, row.html))
        sending.templates[campaign.id, campaign.content_version] = known
    return known


def _compose(
    template: content.Template, campaign: Campaign, row: Delivery, sending: Sending
) -> OutboundText | OutboundMail | content.ContentError:
    url = unsubscribe.link(sending.public_url, sending.secret, row.id)
    try:
        made = template.render({**row.fields, content.UNSUBSCRIBE_FIELD: url})
        content.check_length(made, kind=row.kind)
    except content.ContentError as error:
        return error
    our_key = deliveries.key_of(row.id, row.attempt + 1)
    if row.kind == PointKind.PHONE:
        return OutboundText(from_address=sending.account.address, to_address=row.value, body=made.body, our_key=our_key)
    settings = sending.account.settings
    marketing = campaign.purpose == Purpose.MARKETING
    mark = mark_of(row.id, sending.secret)
    marked = bool(settings.get("signed_return_path"))
    return OutboundMail(
        from_address=sending.account.address, from_name=str(settings.get("from_name") or sending.account.name),
        to_address=row.value, to_name=row.name, subject=made.subject, text=made.body, html=made.html,
        message_id=message_id(row, sending.account, sending.secret), reply_to=str(settings.get("reply_to") or ""),
        headers=unsubscribe.headers(url) if marketing else {},
        envelope_from=mail_tokens.return_address(mark, address=sending.account.address) if marked else None,
    )  # fmt: skip


def mark_of(delivery_id: str, secret: str) -> MailMark:
    """What proves a campaign's mail ours when it comes back."""
    return MailMark(delivery_id, mail_tokens.signed(secret, delivery_id), mail_tokens.CAMPAIGN)


def message_id(row: Delivery, account: ChannelAccount, secret: str) -> str:
    """The Message-ID of a campaign mail: names the delivery, signed, the same over all attempts."""
    mark = mark_of(row.id, secret)
    return mail_tokens.message_id(row.id, mark.proof, mark.kind, address=account.address)


async def _submit(
    db: Database,
    campaign: Campaign,
    made: Sequence[tuple[Delivery, OutboundText | OutboundMail | content.ContentError]],
    sending: Sending,
) -> list[tuple[Delivery, OutboundText | OutboundMail]] | None:
    """Commit the key of every row before its first network byte. Rows lost meanwhile are left out."""

    async def unit(tx: Tx) -> list[tuple[Delivery, OutboundText | OutboundMail]] | None:
        now = sending.clock.now()
        held = await campaigns.hold(tx, campaign.id)
        if held.state != CampaignState.RUNNING:
            return None
        delta = Delta(campaign.id)
        ready: list[tuple[Delivery, OutboundText | OutboundMail]] = []
        for row, message in made:
            fresh = deliveries.copy(row)
            if fresh.lease_until is None or fresh.lease_until <= now:
                continue
            if isinstance(message, content.ContentError):
                if await deliveries.move(
                    tx, fresh, DeliveryState.SKIPPED, now=now, delta=delta, rule="content", reason=message.message
                ):
                    await give_back_touch(tx, fresh.touch_id)
                continue
            attempt = fresh.attempt + 1
            if await deliveries.move(
                tx, fresh, DeliveryState.SUBMITTING, now=now, delta=delta, attempt=attempt, submitted_at=now,
                our_key=deliveries.key_of(fresh.id, attempt), content_version=campaign.content_version,
                lease_until=now + timedelta(seconds=LEASE_S + SEND_S),
            ):  # fmt: skip
                ready.append((fresh, message))
                if isinstance(message, OutboundText):
                    more = max(0, segments(message.body).parts - 1)  # the touch counted one part
                    await outgoing.count(tx, campaign.channel, fresh.value, now=now, number=0, units=more)
        await delta.write(tx)
        return ready

    return await db.write(unit)


async def _send(row: Delivery, message: OutboundText | OutboundMail, sending: Sending) -> Outcome | None:
    """One send, once. None when this worker slept so long that the row may be somebody else's: nothing was sent."""
    if row.lease_until is None or sending.clock.now() >= row.lease_until - timedelta(seconds=SEND_S):
        return None
    failpoint("sender.before_call")
    try:
        async with asyncio.timeout(SEND_S):
            receipt = await sending.send(message)
    except ChannelError as error:
        return outcome_of(error, attempt=row.attempt)
    except Exception as error:  # whatever went wrong, the message may have gone: that is the outcome
        return Outcome(
            DeliveryState.UNKNOWN,
            code="unclear",
            error=Text("No clear answer: %(detail)s.", detail=type(error).__name__),
        )
    failpoint("sender.after_call")
    return Outcome(DeliveryState.ACCEPTED, external_id=receipt.external_id)


def outcome_of(error: ChannelError, *, attempt: int) -> Outcome:
    """What a refusal means for the row. Only what certainly did not go may be tried again."""
    told: dict[str, Any] = {"code": error.code, "error": error.message}
    match error:
        case RecipientInvalid():
            # No way from this sender to them, say, ends this delivery; only a dead address is never used again.
            return Outcome(DeliveryState.BOUNCED, suppress=SuppressionReason.DEAD if error.dead else None, **told)
        case RecipientOptedOut():
            return Outcome(DeliveryState.SUPPRESSED, rule="sender_stop", suppress=SuppressionReason.SENDER_STOP, **told)
        case ContentRejected():
            return Outcome(DeliveryState.FAILED, rejected=True, **told)
        case Misconfigured():
            return Outcome(DeliveryState.PLANNED, stop=error.message, **told)
        case Throttled() | Unavailable():
            if attempt > len(BACKOFF_S):
                return Outcome(DeliveryState.FAILED, **told)
            again = BACKOFF_S[attempt - 1] * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
            asked = error.retry_after_s or 0.0
            wait = (asked or 5.0) if isinstance(error, Throttled) else 0.0
            return Outcome(DeliveryState.DEFERRED, again_s=max(again, asked), throttled_s=wait, **told)
        case _:
            return Outcome(DeliveryState.UNKNOWN, **told)


# --- record ------------------------------------------------------------------------------------------------------------


async def _record(
    db: Database, campaign: Campaign, pairs: Sequence[tuple[Delivery, Outcome]], sending: Sending
) -> None:
    async def unit(tx: Tx) -> None:
        now = sending.clock.now()
        delta = Delta(campaign.id)
        for row, outcome in pairs:
            await _record_one(tx, campaign, deliveries.copy(row), outcome, delta, now=now)
        await delta.write(tx)
        stop = next((outcome.stop for _, outcome in pairs if outcome.stop), "")
        if stop:
            held = await campaigns.get(tx, campaign.id)
            if held.state == CampaignState.RUNNING:
                await campaigns.pause(tx, campaign.id, now=now, reason=stop, brake="sender")
        else:
            await campaigns.look_at_brakes(tx, campaign.id, now=now)

    await db.write(unit)


async def _record_one(
    tx: Tx, campaign: Campaign, row: Delivery, outcome: Outcome, delta: Delta, *, now: datetime
) -> None:
    values: dict[str, Any] = {"error_code": outcome.code, "error": outcome.error}
    if outcome.external_id:
        values["external_id"] = outcome.external_id
    if outcome.rule:
        values |= {"rule": outcome.rule, "reason": outcome.error}
    if outcome.state == DeliveryState.UNKNOWN:
        values["unknown_at"] = now
    if outcome.state in (DeliveryState.DEFERRED, DeliveryState.PLANNED):
        values |= {"due_at": now + timedelta(seconds=outcome.again_s), "touch_id": None}
    reserved = row.touch_id
    if not await deliveries.move(tx, row, outcome.state, now=now, delta=delta, **values):
        # A report overtook us (or the lease ran out): its state stands, only the provider's id may still be missing.
        missing = update(Delivery).where(col(Delivery.id) == row.id, col(Delivery.external_id) == "")
        if outcome.external_id:
            await tx.run(missing.values(external_id=outcome.external_id))
        return
    if outcome.state not in (DeliveryState.ACCEPTED, DeliveryState.UNKNOWN):
        await give_back_touch(tx, reserved)
    if outcome.rejected:
        delta.add(REJECTED, kind=counts.EVENT)
    if outcome.suppress is not None:
        await consent.opt_out(
            tx, row.address, channel=campaign.channel, reason=outcome.suppress, source="provider", actor="provider", now=now,
            sender=campaign.account_id if outcome.suppress == SuppressionReason.SENDER_STOP else "",
            evidence={"delivery": row.id, "code": outcome.code, "text": outcome.error[:500]}, contact_id=row.contact_id,
        )  # fmt: skip


async def _conclude(db: Database, campaign_id: str, *, now: datetime, least: datetime) -> Chunk:
    """Settle the campaign and plan the next look, not before `least`; screens hear once per chunk."""

    async def unit(tx: Tx) -> Chunk:
        campaign = await campaigns.settle(tx, await campaigns.get(tx, campaign_id), now=now)
        again: datetime | None = None
        if campaign.state == CampaignState.RUNNING:
            due = await deliveries.next_due(tx, campaign_id)
            # Rows in flight elsewhere, and none waiting: look when their lease has run out.
            again = max(due, least) if due is not None else now + timedelta(seconds=LEASE_S)
            await campaigns.look_again(tx, campaign_id, at=again)
            await events.emit(
                tx, "campaign.changed", campaign_id, now=now, version=campaign.version, state=campaign.state
            )
        return Chunk(campaign.state, 0, 0, 0, again if again is not None else campaign.due_at)

    return await db.write(unit)
