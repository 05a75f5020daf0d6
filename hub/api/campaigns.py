"""API: campaigns."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from campaigns import audience, campaigns, deliveries, explain
from campaigns.campaigns import Campaign
from campaigns.deliveries import DeliveryState
from crm_core.addresses import PointKind, address
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.texts import Text
from crm_core.users import Role
from hub.api.operation import Call, Instant, Nothing, Operation, Shown, Strict, operation

MARKETERS = frozenset({Role.MARKETER, Role.ADMIN})


class CampaignShown(Shown):
    """A campaign and its counts, which always add up to the audience."""

    id: str
    name: str
    channel: str
    purpose: str
    account_id: str
    state: str
    reason: str
    brake: str
    audience: dict[str, Any]
    content_version: int
    rate_per_minute: int
    start_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    version: int
    counts: dict[str, int]
    forecast: dict[str, int]


class CampaignLine(Shown):
    """A campaign in a list."""

    id: str
    name: str
    channel: str
    state: str
    version: int


class CampaignPage(Shown):
    """One page, newest first."""

    items: list[CampaignLine]
    next: str | None


class After(Strict):
    """A page of a list."""

    after: str = Field("", max_length=40)
    limit: int = Field(50, ge=1, le=200)


class CampaignIn(Strict):
    """A new campaign, as a draft."""

    name: str = Field(min_length=1, max_length=200)
    account_id: str = Field(max_length=40)
    purpose: Purpose
    tag: str = Field("", max_length=50, description="audience: contacts with this tag")
    subject: str = Field("", max_length=500)
    body: str = Field(min_length=1, max_length=100_000)
    html: str = ""


class StartIn(Strict):
    """Now, or at an instant."""

    start_at: Instant | None = None


class PauseIn(Strict):
    """Why, for whoever looks at it next."""

    reason: str = Field("", max_length=300)


class DeliveryShown(Shown):
    """One recipient's fate."""

    id: str
    address: str
    contact_id: str | None
    state: str
    rule: str
    reason: str


class DeliveryPage(Shown):
    """One page."""

    items: list[DeliveryShown]
    next: str | None


class DeliveryQuery(Strict):
    """By state, by cursor."""

    state: DeliveryState | None = None
    after: str = Field("", max_length=40)
    limit: int = Field(50, ge=1, le=200)


class WhyQuery(Strict):
    """Whose fate to explain."""

    address: str = Field(min_length=1, max_length=320)


class WhyLine(Shown):
    """One check."""

    check: str
    passed: bool
    text: str


class WhyAnswer(Shown):
    """Why somebody did or did not get it."""

    answer: str
    got_it: bool | None = Field(description="null: nobody knows")
    lines: list[WhyLine]


async def shown(tx: Tx, campaign: Campaign) -> CampaignShown:
    """A campaign with its counts."""
    progress = await campaigns.progress(tx, campaign.id)
    fields = campaign.model_dump(include=set(CampaignShown.model_fields) - {"counts", "forecast"})
    return CampaignShown(**fields, counts=progress["state"], forecast=progress["forecast"])


@operation(
    "GET",
    "/api/v1/campaigns",
    "List campaigns",
    scope="campaigns:read",
    roles=MARKETERS,
    query=After,
    answer=CampaignPage,
)
async def list_campaigns(call: Call[After, Nothing]) -> CampaignPage:
    """Newest first."""
    async with call.runtime.db.reading() as tx:
        rows = await campaigns.list_page(tx, after=call.query.after, limit=call.query.limit)
    lines = [CampaignLine.model_validate(row.model_dump(include=set(CampaignLine.model_fields))) for row in rows]
    return CampaignPage(items=lines, next=rows[-1].id if len(rows) == call.query.limit else None)


@operation(
    "POST",
    "/api/v1/campaigns",
    "Create a campaign",
    scope="campaigns:write",
    roles=MARKETERS,
    body=CampaignIn,
    answer=CampaignShown,
    status=201,
)
async def create_campaign(call: Call[Nothing, CampaignIn]) -> CampaignShown:
    """A draft with its content. 422 with a sentence per part for a template that cannot be used."""
    body = call.body

    async def unit(tx: Tx) -> CampaignShown:
        made = await campaigns.create(
            tx,
            name=body.name,
            account_id=body.account_id,
            purpose=body.purpose,
            user_id=call.user.id,
            now=call.now,
            audience={"tag": body.tag} if body.tag else None,
        )
        fields = await audience.list_fields(tx, made)
        await campaigns.set_content(
            tx,
            made.id,
            subject=body.subject,
            body=body.body,
            html=body.html,
            user_id=call.user.id,
            now=call.now,
            fields=fields,
        )
        return await shown(tx, await campaigns.get(tx, made.id))

    return await call.runtime.db.write(unit)


@operation(
    "GET", "/api/v1/campaigns/{id}", "Get a campaign", scope="campaigns:read", roles=MARKETERS, answer=CampaignShown
)
async def get_campaign(call: Call[Nothing, Nothing]) -> CampaignShown:
    """With live counts."""
    async with call.runtime.db.reading() as tx:
        return await shown(tx, await campaigns.get(tx, call.path["id"]))


@operation(
    "POST",
    "/api/v1/campaigns/{id}/prepare",
    "Freeze the audience and forecast",
    scope="campaigns:write",
    roles=MARKETERS,
    answer=CampaignShown,
)
async def prepare_campaign(call: Call[Nothing, Nothing]) -> CampaignShown:
    """Goes on in the background; the state becomes `ready`."""

    async def unit(tx: Tx) -> CampaignShown:
        return await shown(tx, await campaigns.prepare(tx, call.path["id"], now=call.now))

    return await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/campaigns/{id}/start",
    "Start a campaign",
    scope="campaigns:send",
    roles=MARKETERS,
    body=StartIn,
    answer=CampaignShown,
)
async def start_campaign(call: Call[Nothing, StartIn]) -> CampaignShown:
    """At once or at `start_at`. A start missed by more than the grace period waits for a person."""
    moment = call.body.start_at

    async def unit(tx: Tx) -> CampaignShown:
        return await shown(tx, await campaigns.start(tx, call.path["id"], now=call.now, start_at=moment))

    return await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/campaigns/{id}/pause",
    "Pause a campaign",
    scope="campaigns:send",
    roles=MARKETERS,
    body=PauseIn,
    answer=CampaignShown,
)
async def pause_campaign(call: Call[Nothing, PauseIn]) -> CampaignShown:
    """Nothing new begins after this commit; what is on its way reaches a known state first."""
    reason = call.body.reason or Text("Paused by %(name)s.", name=call.user.name)

    async def unit(tx: Tx) -> CampaignShown:
        return await shown(tx, await campaigns.pause(tx, call.path["id"], now=call.now, reason=reason))

    return await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/campaigns/{id}/resume",
    "Resume a campaign",
    scope="campaigns:send",
    roles=MARKETERS,
    answer=CampaignShown,
)
async def resume_campaign(call: Call[Nothing, Nothing]) -> CampaignShown:
    """Touches only what was not sent."""

    async def unit(tx: Tx) -> CampaignShown:
        return await shown(tx, await campaigns.resume(tx, call.path["id"], now=call.now))

    return await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/campaigns/{id}/cancel",
    "Cancel a campaign",
    scope="campaigns:send",
    roles=MARKETERS,
    answer=CampaignShown,
)
async def cancel_campaign(call: Call[Nothing, Nothing]) -> CampaignShown:
    """What was not sent never will be."""

    async def unit(tx: Tx) -> CampaignShown:
        return await shown(tx, await campaigns.cancel(tx, call.path["id"], now=call.now))

    return await call.runtime.db.write(unit)


@operation(
    "GET",
    "/api/v1/campaigns/{id}/deliveries",
    "Recipients and their fate",
    scope="campaigns:read",
    roles=MARKETERS,
    query=DeliveryQuery,
    answer=DeliveryPage,
)
async def list_deliveries(call: Call[DeliveryQuery, Nothing]) -> DeliveryPage:
    """By state; `unknown` lists the doubtful by name."""
    query = call.query
    async with call.runtime.db.reading(slow=True) as tx:
        campaign = await campaigns.get(tx, call.path["id"])
        rows = await deliveries.list_page(tx, campaign.id, state=query.state, after=query.after, limit=query.limit)
    items = [
        DeliveryShown(id=r.id, address=r.value, contact_id=r.contact_id, state=r.state, rule=r.rule, reason=r.reason)
        for r in rows
    ]
    return DeliveryPage(items=items, next=rows[-1].id if len(rows) == query.limit else None)


@operation(
    "GET",
    "/api/v1/campaigns/{id}/why",
    "Why did or did not somebody get this",
    scope="campaigns:read",
    roles=MARKETERS,
    query=WhyQuery,
    answer=WhyAnswer,
)
async def why_delivery(call: Call[WhyQuery, Nothing]) -> WhyAnswer:
    """The ordered trace of the gate and of every attempt."""
    async with call.runtime.db.reading() as tx:
        campaign = await campaigns.get(tx, call.path["id"])
        told = await explain.why(tx, campaign.id, address(PointKind(campaign.point_kind), call.query.address))
    lines = [WhyLine(check=line.check, passed=bool(line.passed), text=line.text) for line in told.lines]
    return WhyAnswer(answer=told.answer, got_it=told.got_it, lines=lines)


OPERATIONS: list[Operation] = [
    list_campaigns,
    create_campaign,
    get_campaign,
    prepare_campaign,
    start_campaign,
    pause_campaign,
    resume_campaign,
    cancel_campaign,
    list_deliveries,
    why_delivery,
]
