"""API: campaigns and call lists."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from campaigns import audience, call_lists, campaigns, deliveries, explain, lists
from campaigns.call_lists import ListEntry
from campaigns.campaigns import Campaign
from campaigns.deliveries import DeliveryState
from crm_core.addresses import PointKind, address
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.users import Role
from hub import rights
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, operation

MARKETERS = frozenset({Role.MARKETER, Role.ADMIN})
CALLERS = frozenset({Role.TELEMARKETER})
LIST_READERS = frozenset({Role.TELEMARKETER, Role.SUPERVISOR, Role.ADMIN})
LIST_MANAGERS = frozenset({Role.SUPERVISOR, Role.ADMIN})


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

    start_at: datetime | None = None


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


class EntryShown(Shown):
    """One number of a call list, in hand."""

    id: str
    list_id: str
    contact_id: str | None
    number: str
    state: str
    attempts: int
    rule: str
    reason: str


class ListShown(Shown):
    """A call list and its counts."""

    id: str
    name: str
    state: str
    purpose: str
    max_attempts: int
    counts: dict[str, int]


class ListPage(Shown):
    """One page, newest first."""

    items: list[ListShown]
    next: str | None


class ListIn(Strict):
    """A new call list from the contacts with a tag."""

    name: str = Field(min_length=1, max_length=200)
    account_id: str = Field(max_length=40)
    tag: str = Field(min_length=1, max_length=50)
    script: str = Field("", max_length=20_000)
    max_attempts: int = Field(6, ge=1, le=50)


class DisposeIn(Strict):
    """What became of the number."""

    disposition: str = Field(max_length=100)
    callback_at: datetime | None = None
    notes: str = Field("", max_length=20_000)


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
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)

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
    reason = call.body.reason or f"Paused by {call.user.name}."

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


async def shown_list(tx: Tx, row: call_lists.CallList) -> ListShown:
    """A list with its counts."""
    fields = row.model_dump(include=set(ListShown.model_fields) - {"counts"})
    return ListShown(**fields, counts=await call_lists.progress(tx, row.id))


def shown_entry(entry: ListEntry) -> EntryShown:
    """For output."""
    return EntryShown(
        id=entry.id,
        list_id=entry.list_id,
        contact_id=entry.contact_id,
        number=entry.value,
        state=entry.state,
        attempts=entry.attempts,
        rule=entry.rule,
        reason=entry.reason,
    )


@operation("GET", "/api/v1/lists", "Call lists", scope="lists:read", roles=LIST_READERS, query=After, answer=ListPage)
async def list_lists(call: Call[After, Nothing]) -> ListPage:
    """Newest first."""
    async with call.runtime.db.reading() as tx:
        rows = await call_lists.list_page(tx, after=call.query.after, limit=call.query.limit)
        items = [await shown_list(tx, row) for row in rows]
    return ListPage(items=items, next=rows[-1].id if len(rows) == call.query.limit else None)


@operation(
    "POST",
    "/api/v1/lists",
    "Create a call list",
    scope="lists:write",
    roles=LIST_MANAGERS,
    body=ListIn,
    answer=ListShown,
    status=201,
)
async def create_list(call: Call[Nothing, ListIn]) -> ListShown:
    """Built in the background from the contacts with the tag."""
    body = call.body

    async def unit(tx: Tx) -> ListShown:
        made = await call_lists.create(
            tx,
            name=body.name,
            account_id=body.account_id,
            user_id=call.user.id,
            now=call.now,
            script=body.script,
            max_attempts=body.max_attempts,
        )
        await call_lists.build(tx, made.id, source={"tag": body.tag}, now=call.now)
        return await shown_list(tx, await call_lists.get(tx, made.id))

    return await call.runtime.db.write(unit)


@operation(
    "POST", "/api/v1/lists/{id}/next", "Take the next number", scope="lists:work", roles=CALLERS, answer=EntryShown
)
async def next_number(call: Call[Nothing, Nothing]) -> EntryShown:
    """The same one until it is released or disposed. 404 when nothing can be called now."""
    entry = await call.runtime.db.write(
        lambda tx: lists.claim_next(tx, call.path["id"], user_id=call.user.id, now=call.now)
    )
    if entry is None:
        raise NotFound("Nobody on this list can be called now.")
    return shown_entry(entry)


@operation(
    "POST", "/api/v1/list-entries/{id}/release", "Give a number back", scope="lists:work", roles=CALLERS, answer=None
)
async def release_number(call: Call[Nothing, Nothing]) -> None:
    """For somebody else to take."""
    await call.runtime.db.write(lambda tx: lists.release(tx, call.path["id"], user_id=call.user.id, now=call.now))


@operation(
    "POST",
    "/api/v1/list-entries/{id}/dispose",
    "Say what became of a number",
    scope="lists:work",
    roles=CALLERS,
    body=DisposeIn,
    answer=None,
)
async def dispose_number(call: Call[Nothing, DisposeIn]) -> None:
    """Drives what happens next: retry, callback, never again."""
    body = call.body
    moment = body.callback_at
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    await call.runtime.db.write(
        lambda tx: lists.dispose(
            tx,
            call.path["id"],
            user_id=call.user.id,
            disposition=body.disposition,
            now=call.now,
            callback_at=moment,
            notes=body.notes,
        )
    )


@operation(
    "GET",
    "/api/v1/list-entries/{id}/why",
    "Why can this number (not) be called now",
    scope="lists:read",
    roles=LIST_READERS,
    answer=WhyAnswer,
)
async def why_number(call: Call[Nothing, Nothing]) -> WhyAnswer:
    """Every rule and what it says at this instant. Telemarketers: the number in hand; supervisors: any."""
    async with call.runtime.db.reading() as tx:
        entry = await call_lists.get_entry(tx, call.path["id"])
        if entry.user_id != call.user.id and not rights.sees_everything(call.user):
            raise NotFound("There is no such entry.")
        told = await lists.explain_entry(tx, entry.id, now=call.now)
    lines = [WhyLine(check=check, passed=passed, text=text) for check, passed, text in told.lines]
    answer = "It can be called now." if told.callable_now else "It cannot be called now."
    return WhyAnswer(answer=answer, got_it=told.callable_now, lines=lines)


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
    list_lists,
    create_list,
    next_number,
    release_number,
    dispose_number,
    why_number,
]
