"""Campaigns: one bulk send, its states, its content versions, and the guarded way from one state to another.

draft → scheduled → materialising → ready → running → finishing → finished; running → pausing → paused(reason) → running;
side exits cancelled, failed, missed. Decides when a campaign may start, stops and is over; sending is sender.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import Field, col, select

from campaigns import brakes, content, counts, deliveries
from campaigns.deliveries import IN_FLIGHT, WAITING, DeliveryState
from crm_core import accounts, events
from crm_core.addresses import PointKind
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.errors import IllegalTransition, Invalid, NotFound
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, key, one_of, ref, text, word
from crm_core.texts import Text

GRACE = timedelta(
    minutes=15
)  # a campaign that could not start within this of its time waits for a person (invariant 19)
PURPOSES = (Purpose.MARKETING, Purpose.SERVICE, Purpose.TRANSACTIONAL)
# Which kind of address a channel writes to.
POINT_OF: dict[str, PointKind] = {"sms": PointKind.PHONE, "email": PointKind.EMAIL}
TOPIC = "bulk"


class CampaignState(StrEnum):
    """Where a campaign stands."""

    DRAFT = "draft"
    SCHEDULED = "scheduled"
    MATERIALISING = "materialising"  # the audience is being frozen
    READY = "ready"  # frozen and looked at once by the gate; nobody was written to
    RUNNING = "running"
    PAUSING = "pausing"  # no new claim; rows in flight come to a known state
    PAUSED = "paused"
    FINISHING = "finishing"  # all handed over; doubtful rows are examined
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"
    MISSED = "missed"  # its start time passed while nothing ran


_S = CampaignState
ALLOWED: dict[CampaignState, frozenset[CampaignState]] = {
    _S.DRAFT: frozenset({_S.SCHEDULED, _S.MATERIALISING, _S.CANCELLED}),
    _S.SCHEDULED: frozenset({_S.DRAFT, _S.MATERIALISING, _S.MISSED, _S.CANCELLED}),
    _S.MISSED: frozenset({_S.SCHEDULED, _S.MATERIALISING, _S.CANCELLED}),
    _S.MATERIALISING: frozenset({_S.READY, _S.FAILED, _S.CANCELLED}),
    _S.READY: frozenset({_S.RUNNING, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.PAUSING, _S.PAUSED, _S.FINISHING, _S.FINISHED, _S.CANCELLED}),
    _S.PAUSING: frozenset({_S.PAUSED, _S.CANCELLED}),
    _S.PAUSED: frozenset({_S.RUNNING, _S.CANCELLED}),
    _S.FINISHING: frozenset({_S.RUNNING, _S.FINISHED, _S.CANCELLED}),
    _S.FINISHED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.FAILED: frozenset({_S.CANCELLED}),
}
EDITABLE = frozenset({_S.DRAFT, _S.SCHEDULED, _S.READY, _S.PAUSED, _S.MISSED})  # content may change
OVER = frozenset({_S.FINISHED, _S.CANCELLED, _S.FAILED})

_DUE_WHERE = "due_at IS NOT NULL"


class Campaign(Table, table=True):
    """One bulk send over one channel account. `version` rises with every change of state or settings."""

    __tablename__ = "campaigns"
    __table_args__ = (
        one_of("state", CampaignState),
        Index("ix_campaigns_due", "due_at", sqlite_where=sql_text(_DUE_WHERE), postgresql_where=sql_text(_DUE_WHERE)),
    )

    id: str = key()
    name: str = text()
    channel: str = text()  # of the account
    purpose: Purpose = word(Purpose)
    account_id: str = ref("channel_accounts.id")  # the sender
    state: CampaignState = word(CampaignState, default=CampaignState.DRAFT)
    reason: str = text()  # why paused, failed, missed or cancelled: a sentence
    brake: str = text()  # which brake paused it; empty when a person did
    brake_base: dict[str, Any] = doc()  # counts when it last started: brakes look at what came after
    audience: dict[str, Any] = doc()  # {"import": id} or {"tag": word}
    cursor: str = text()  # freezing: the last recipient taken
    autostart: bool = False  # run as soon as the audience is frozen
    content_version: int = 0  # the version sent from now on; 0 = none yet
    rate_per_minute: int = 0  # own cap; 0 = only the sender's
    start_at: datetime | None = at(nullable=True)
    due_at: datetime | None = at(nullable=True)  # when a worker must look next; null = nothing to do
    created_by: str = text()
    started_at: datetime | None = at(nullable=True)
    finished_at: datetime | None = at(nullable=True)
    created_at: datetime = at()
    version: int = 1

    @property
    def point_kind(self) -> PointKind:
        """What its addresses are."""
        return POINT_OF[self.channel]


class CampaignContent(Table, table=True):
    """One version of what a campaign says; never changed. Each delivery records the version it was made from."""

    __tablename__ = "campaign_contents"

    campaign_id: str = ref("campaigns.id", primary_key=True)
    number: int = Field(primary_key=True)
    subject: str = text()
    body: str = text()  # plain text: the message, or the text part of a mail
    html: str = text()
    created_by: str = text()
    created_at: datetime = at()


_GET = fixed(select(Campaign).where(Campaign.id == bindparam("id")))
# The share lock makes a pause wait for claims that are being committed: after its commit none begins (invariant 17).
_HELD = fixed(select(Campaign).where(Campaign.id == bindparam("id")).with_for_update(read=True))
_LOCKED = fixed(select(Campaign).where(Campaign.id == bindparam("id")).with_for_update())


async def find(tx: Tx, campaign_id: str) -> Campaign | None:
    """The campaign, or None."""
    found: Campaign | None = await tx.one(_GET, id=campaign_id)
    return found


async def get(tx: Tx, campaign_id: str) -> Campaign:
    """The campaign, or NotFound."""
    found = await find(tx, campaign_id)
    if found is None:
        raise NotFound("There is no such campaign.")
    return found


async def hold(tx: Tx, campaign_id: str) -> Campaign:
    """The campaign, its state fixed until this transaction ends; NotFound."""
    found: Campaign | None = await tx.one(_HELD, id=campaign_id)
    if found is None:
        raise NotFound("There is no such campaign.")
    return found


async def _lock(tx: Tx, campaign_id: str) -> Campaign:
    found: Campaign | None = await tx.one(_LOCKED, id=campaign_id)
    if found is None:
        raise NotFound("There is no such campaign.")
    return found


async def list_page(tx: Tx, *, after: str = "", limit: int = 50) -> list[Campaign]:
    """Campaigns, newest first, from below the id `after`."""
    statement = select(Campaign)
    if after:
        statement = statement.where(col(Campaign.id) < after)
    return await tx.all(statement.order_by(col(Campaign.id).desc()).limit(min(limit, 200)))


async def create(
    tx: Tx,
    *,
    name: str,
    account_id: str,
    purpose: Purpose,
    user_id: str,
    now: datetime,
    audience: dict[str, Any] | None = None,
    rate_per_minute: int = 0,
) -> Campaign:
    """A draft. Invalid when the name is empty, the purpose is not one of bulk mail, or the account cannot send bulk."""
    if not name.strip():
        raise Invalid("A campaign needs a name.", fields={"name": "Give a name."})
    if purpose not in PURPOSES:
        raise Invalid(
            "A campaign is marketing, service or transactional.", fields={"purpose": "Choose one of the three."}
        )
    account = await accounts.get(tx, account_id)
    if account.channel not in POINT_OF:
        raise Invalid(
            "This account cannot send to many people.", fields={"account_id": "Choose an SMS number or a mailbox."}
        )
    if not 0 <= rate_per_minute <= 600_000:
        raise Invalid("This rate is not possible.", fields={"rate_per_minute": "Between 0 and 600,000."})
    campaign = Campaign(
        id=new_id(now), name=name.strip()[:200], channel=account.channel, purpose=purpose, account_id=account_id,
        audience=audience or {}, rate_per_minute=rate_per_minute, created_by=user_id, created_at=now,
    )  # fmt: skip
    await tx.add(campaign)
    await events.emit(tx, "campaign.changed", campaign.id, now=now, version=1, state=campaign.state)
    return campaign


async def advance(tx: Tx, campaign: Campaign, to: CampaignState, *, now: datetime, **changes: Any) -> Campaign:
    """Move to another state, guarded by version; IllegalTransition when impossible, Conflict when somebody was first."""
    if to not in ALLOWED[campaign.state]:
        raise IllegalTransition(
            "A campaign that is %(from_text)s cannot become %(to_text)s.", from_text=campaign.state, to_text=to
        )
    values = {**changes, "state": to, "version": campaign.version + 1}
    guard = update(Campaign).where(
        col(Campaign.id) == campaign.id,
        col(Campaign.version) == campaign.version,
        col(Campaign.state) == campaign.state,
    )
    await tx.hit(guard.values(**values))
    campaign.__dict__.update(values)
    await events.emit(tx, "campaign.changed", campaign.id, now=now, version=campaign.version, state=to)
    tx.wake(TOPIC)
    return campaign


async def edit(tx: Tx, campaign_id: str, *, version: int, now: datetime, **changes: Any) -> Campaign:
    """Change name, audience, account_id, purpose (drafts) or rate_per_minute (until it is over); Conflict on another version."""
    campaign = await get(tx, campaign_id)
    allowed = {"name", "rate_per_minute"}
    if campaign.state in (CampaignState.DRAFT, CampaignState.SCHEDULED, CampaignState.MISSED):
        allowed |= {"audience", "purpose"}
    if campaign.state in OVER or changes.keys() - allowed:
        raise IllegalTransition("A campaign that is %(state_text)s cannot be changed so.", state_text=campaign.state)
    guard = update(Campaign).where(col(Campaign.id) == campaign_id, col(Campaign.version) == version)
    await tx.hit(guard.values(**changes, version=version + 1))
    await events.emit(tx, "campaign.changed", campaign_id, now=now, version=version + 1, state=campaign.state)
    return await get(tx, campaign_id)


async def set_content(
    tx: Tx, campaign_id: str, *, subject: str, body: str, html: str, user_id: str, now: datetime, fields: frozenset[str]
) -> CampaignContent:
    """Save a new version of the content. `fields` are the merge fields of its audience (audience.list_fields).

    Invalid with a sentence per part when a template cannot be used, names an unknown field, or lacks what its purpose needs.
    """
    campaign = await _lock(tx, campaign_id)
    if campaign.state not in EDITABLE:
        raise IllegalTransition(
            "A campaign that is %(state_text)s cannot get new content; pause it first.", state_text=campaign.state
        )
    content.check(
        content.Source(subject, body, html), kind=campaign.point_kind, marketing=campaign.purpose == Purpose.MARKETING,
        fields=fields,
    )  # fmt: skip
    row = CampaignContent(
        campaign_id=campaign_id, number=campaign.content_version + 1, subject=subject, body=body, html=html,
        created_by=user_id, created_at=now,
    )  # fmt: skip
    await tx.add(row)
    guard = update(Campaign).where(col(Campaign.id) == campaign_id, col(Campaign.version) == campaign.version)
    await tx.hit(guard.values(content_version=row.number, version=campaign.version + 1))
    await events.emit(tx, "campaign.changed", campaign_id, now=now, version=campaign.version + 1, state=campaign.state)
    return row


async def get_content(tx: Tx, campaign_id: str, number: int) -> CampaignContent:
    """One version of the content, or NotFound."""
    statement = select(CampaignContent).where(
        CampaignContent.campaign_id == campaign_id, CampaignContent.number == number
    )
    found = await tx.one(statement)
    if found is None:
        raise NotFound("This campaign has no content yet.")
    return found


def _startable(campaign: Campaign) -> None:
    missing = {}
    if not campaign.content_version:
        missing["content"] = "Write what to send."
    if not campaign.audience:
        missing["audience"] = "Choose who shall get it."
    if missing:
        raise Invalid("This campaign is not complete.", fields=missing)


async def prepare(tx: Tx, campaign_id: str, *, now: datetime) -> Campaign:
    """Freeze the audience and forecast what the gate will say, without sending: draft → materialising → ready."""
    campaign = await _lock(tx, campaign_id)
    _startable(campaign)
    return await advance(tx, campaign, CampaignState.MATERIALISING, now=now, autostart=False, due_at=now, reason="")


async def start(tx: Tx, campaign_id: str, *, now: datetime, start_at: datetime | None = None) -> Campaign:
    """Start now, or at `start_at`. From ready it runs; from draft the audience is frozen first.

    Invalid when content or audience is missing or `start_at` has passed.
    """
    campaign = await _lock(tx, campaign_id)
    _startable(campaign)
    if start_at is not None:
        if start_at <= now:
            raise Invalid("The start time has passed.", fields={"start_at": "Choose a later time."})
        return await advance(
            tx,
            campaign,
            CampaignState.SCHEDULED,
            now=now,
            start_at=start_at,
            due_at=start_at,
            autostart=True,
            reason="",
        )
    if campaign.state == CampaignState.READY:
        return await _run(tx, campaign, now=now)
    return await advance(tx, campaign, CampaignState.MATERIALISING, now=now, autostart=True, due_at=now, reason="")


async def unschedule(tx: Tx, campaign_id: str, *, now: datetime) -> Campaign:
    """Back from scheduled to draft."""
    campaign = await _lock(tx, campaign_id)
    return await advance(tx, campaign, CampaignState.DRAFT, now=now, start_at=None, due_at=None, autostart=False)


async def scheduled_due(tx: Tx, campaign_id: str, *, now: datetime) -> Campaign:
    """The start time has come: begin, or note that it was missed by more than fifteen minutes and wait for a person."""
    campaign = await _lock(tx, campaign_id)
    if campaign.state != CampaignState.SCHEDULED or campaign.start_at is None or campaign.start_at > now:
        return campaign
    if now - campaign.start_at > GRACE:
        reason = Text("The hub did not run at the start time %(start_at)s.", start_at=campaign.start_at)
        return await advance(tx, campaign, CampaignState.MISSED, now=now, reason=reason, due_at=None)
    return await advance(tx, campaign, CampaignState.MATERIALISING, now=now, autostart=True, due_at=now)


async def frozen(tx: Tx, campaign: Campaign, *, now: datetime) -> Campaign:
    """The audience is complete: ready, and on to running when it was started. Failed when it is empty."""
    found = await counts.read(tx, campaign.id)
    if not sum(found.values()):
        reason = "Nobody is in the audience."
        return await advance(tx, campaign, CampaignState.FAILED, now=now, reason=reason, due_at=None)
    campaign = await advance(tx, campaign, CampaignState.READY, now=now, due_at=None)
    return await _run(tx, campaign, now=now) if campaign.autostart else campaign


async def _run(tx: Tx, campaign: Campaign, *, now: datetime) -> Campaign:
    base = {**await counts.read(tx, campaign.id), **await counts.read(tx, campaign.id, kind=counts.EVENT)}
    return await advance(
        tx, campaign, CampaignState.RUNNING, now=now, due_at=now, reason="", brake="", brake_base=base,
        started_at=campaign.started_at or now,
    )  # fmt: skip


async def pause(tx: Tx, campaign_id: str, *, now: datetime, reason: str, brake: str = "") -> Campaign:
    """No new claim begins after this commits; rows in flight come to a known state, then it is paused. Idempotent."""
    campaign = await _lock(tx, campaign_id)
    if campaign.state in (CampaignState.PAUSING, CampaignState.PAUSED):
        return campaign
    await advance(tx, campaign, CampaignState.PAUSING, now=now, reason=reason, brake=brake, due_at=now)
    return await settle(tx, campaign, now=now)


async def look_at_brakes(tx: Tx, campaign_id: str, *, now: datetime) -> str:
    """Pause a running campaign when a brake is pulled; the sentence, or empty."""
    campaign = await get(tx, campaign_id)
    if campaign.state != CampaignState.RUNNING:
        return ""
    found = {**await counts.read(tx, campaign_id), **await counts.read(tx, campaign_id, kind=counts.EVENT)}
    verdict = brakes.pulled(found, campaign.brake_base)
    if verdict is None:
        return ""
    name, sentence = verdict
    await pause(tx, campaign_id, now=now, reason=sentence, brake=name)
    return sentence


async def resume(tx: Tx, campaign_id: str, *, now: datetime) -> Campaign:
    """Go on with the rows that wait; nothing that was handed over or is doubtful is touched."""
    return await _run(tx, await _lock(tx, campaign_id), now=now)


async def cancel(tx: Tx, campaign_id: str, *, now: datetime, reason: str = "") -> Campaign:
    """Stop for good. Waiting rows become cancelled in batches (`cancel_batch`); rows in flight come to a known state."""
    campaign = await _lock(tx, campaign_id)
    return await advance(tx, campaign, CampaignState.CANCELLED, now=now, reason=reason, due_at=now, finished_at=now)


async def cancel_batch(tx: Tx, campaign_id: str, *, now: datetime, limit: int = 200) -> int:
    """Cancel up to `limit` waiting rows of a cancelled campaign; how many were found."""
    campaign = await hold(tx, campaign_id)
    if campaign.state != CampaignState.CANCELLED:
        return 0
    delta = counts.Delta(campaign_id)
    rows = await deliveries.list_claimable(tx, campaign_id, now=datetime.max.replace(tzinfo=now.tzinfo), limit=limit)
    for row in rows:
        await deliveries.move(
            tx, row, DeliveryState.CANCELLED, now=now, delta=delta, reason="The campaign was cancelled."
        )
    await delta.write(tx)
    return len(rows)


async def settle(tx: Tx, campaign: Campaign, *, now: datetime) -> Campaign:
    """Draw the conclusion from the counts: pausing → paused, running → finishing → finished; plan the next look.

    Finished only when no row is open and every doubtful one was examined (invariant 16).
    """
    found = await counts.read(tx, campaign.id)
    in_flight = sum(found.get(state, 0) for state in IN_FLIGHT)
    waiting = sum(found.get(state, 0) for state in WAITING)
    if campaign.state == CampaignState.PAUSING and not in_flight:
        return await advance(tx, campaign, CampaignState.PAUSED, now=now, due_at=None)
    if campaign.state == CampaignState.RUNNING and not in_flight and not waiting:
        campaign = await advance(tx, campaign, CampaignState.FINISHING, now=now, due_at=now)
    if campaign.state == CampaignState.FINISHING:
        if waiting or in_flight:
            return await advance(tx, campaign, CampaignState.RUNNING, now=now, due_at=now)
        if not found.get(DeliveryState.UNKNOWN) or not await deliveries.count_unexamined(tx, campaign.id):
            return await advance(tx, campaign, CampaignState.FINISHED, now=now, due_at=None, finished_at=now)
    if campaign.state == CampaignState.CANCELLED and not waiting and not in_flight:
        await look_again(tx, campaign.id, at=None)
    return campaign


async def look_again(tx: Tx, campaign_id: str, *, at: datetime | None) -> None:
    """Set when a worker must look next; no new version, because nothing that people see changes."""
    await tx.run(update(Campaign).where(col(Campaign.id) == campaign_id).values(due_at=at))


_DUE = fixed(
    select(Campaign.id)
    .where(sql_text(f"campaigns.{_DUE_WHERE}"), Campaign.due_at <= bindparam("now"))
    .order_by(col(Campaign.due_at))
    .limit(500)
)


async def list_due(tx: Tx, *, now: datetime) -> list[str]:
    """Ids of campaigns that a worker must look at now."""
    return await tx.all(_DUE, now=now)


async def progress(tx: Tx, campaign_id: str) -> dict[str, dict[str, int]]:
    """The figures of the campaign page: `state` (their sum is the audience), `forecast` by rule, `event` counts."""
    return {
        kind: await counts.read(tx, campaign_id, kind=kind) for kind in (counts.STATE, counts.FORECAST, counts.EVENT)
    }
