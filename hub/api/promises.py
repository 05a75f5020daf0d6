"""API: callbacks and leads."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from crm_core import contacts, leads
from crm_core.addresses import phone
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.leads import Lead, LeadStage
from crm_core.users import Role
from hub import rights
from hub.api.operation import Call, Instant, Nothing, Operation, Shown, Strict, Version, operation
from routing import callbacks
from routing.callbacks import Callback

AGENTS = frozenset({Role.AGENT, Role.TELEMARKETER, Role.SUPERVISOR})
READERS = AGENTS | {Role.ADMIN}


class CallbackShown(Shown):
    """A promise to phone somebody."""

    id: str
    contact_id: str | None
    number_e164: str
    queue_id: str
    state: str
    owner_id: str | None
    origin: str
    due_at: datetime
    until_at: datetime | None
    attempts: int
    max_attempts: int
    rule: str
    note: str
    version: int


class CallbackList(Shown):
    """Open callbacks."""

    items: list[CallbackShown]


class CallbackIn(Strict):
    """Promise a call."""

    number: str = Field(max_length=50)
    country: str = Field("", max_length=2)
    queue_id: str = Field(max_length=40)
    due_at: Instant
    until_at: Instant | None = None
    contact_id: str | None = Field(None, max_length=40)
    mine: bool = Field(default=False, description="offer it to me first")
    note: str = Field("", max_length=2000)


class LeadShown(Shown):
    """An enquiry."""

    id: str
    contact_id: str
    source: str
    stage: str
    owner_id: str | None
    score: int
    fields: dict[str, Any]
    created_at: datetime
    version: int


class LeadPage(Shown):
    """One page, newest first."""

    items: list[LeadShown]
    next: str | None


class LeadQuery(Strict):
    """By stage, by cursor."""

    stage: LeadStage | None = None
    after: str = Field("", max_length=40)
    limit: int = Field(50, ge=1, le=200)


class LeadChange(Strict):
    """Fields to change; `version` is the one you saw."""

    version: Version
    stage: LeadStage | None = None
    score: int | None = Field(None, ge=0, le=1000)


def shown_callback(row: Callback) -> CallbackShown:
    """For output."""
    return CallbackShown.model_validate(row.model_dump(include=set(CallbackShown.model_fields)))


def shown_lead(row: Lead) -> LeadShown:
    """For output."""
    return LeadShown.model_validate(row.model_dump(include=set(LeadShown.model_fields)))


@operation("GET", "/api/v1/callbacks", "Open callbacks", scope="callbacks:read", roles=READERS, answer=CallbackList)
async def list_callbacks(call: Call[Nothing, Nothing]) -> CallbackList:
    """Agents see those of the queues they serve and their own; supervisors all."""
    async with call.runtime.db.reading() as tx:
        rows = await callbacks.list_open(tx)
        served = await rights.queues_served(tx, call.user)
    everything = rights.sees_everything(call.user)
    seen = [row for row in rows if everything or row.queue_id in served or row.owner_id == call.user.id]
    return CallbackList(items=[shown_callback(row) for row in seen])


@operation(
    "POST",
    "/api/v1/callbacks",
    "Promise a callback",
    scope="callbacks:write",
    roles=AGENTS,
    body=CallbackIn,
    answer=CallbackShown,
    status=201,
)
async def create_callback(call: Call[Nothing, CallbackIn]) -> CallbackShown:
    """One open promise per number and queue: a second one joins the first."""
    body = call.body
    to = phone(body.number, country=body.country)
    if body.until_at is not None and body.until_at <= max(body.due_at, call.now):
        raise Invalid("The promised time is over before it begins.", fields={"until_at": "must be later"})

    async def unit(tx: Tx) -> CallbackShown:
        contact_id = (await contacts.get(tx, body.contact_id)).id if body.contact_id is not None else None
        made = await callbacks.request(
            tx,
            number=to,
            queue_id=body.queue_id,
            due_at=body.due_at,
            origin="api",
            now=call.now,
            contact_id=contact_id,
            owner_id=call.user.id if body.mine else None,
            until_at=body.until_at,
            note=body.note,
            created_by=call.user.id,
        )
        return shown_callback(made)

    return await call.runtime.db.write(unit)


@operation(
    "GET",
    "/api/v1/leads",
    "List leads",
    scope="leads:read",
    roles=READERS | {Role.MARKETER},
    query=LeadQuery,
    answer=LeadPage,
)
async def list_leads(call: Call[LeadQuery, Nothing]) -> LeadPage:
    """Newest first."""
    query = call.query
    async with call.runtime.db.reading(slow=True) as tx:
        rows = await leads.list_page(tx, stage=query.stage or "", after=query.after, limit=query.limit)
    return LeadPage(items=[shown_lead(row) for row in rows], next=rows[-1].id if len(rows) == query.limit else None)


@operation(
    "GET", "/api/v1/leads/{id}", "Get a lead", scope="leads:read", roles=READERS | {Role.MARKETER}, answer=LeadShown
)
async def get_lead(call: Call[Nothing, Nothing]) -> LeadShown:
    """What they asked for, and how far it is."""
    async with call.runtime.db.reading() as tx:
        return shown_lead(await leads.get(tx, call.path["id"]))


@operation(
    "PATCH", "/api/v1/leads/{id}", "Change a lead", scope="leads:write", roles=AGENTS, body=LeadChange, answer=LeadShown
)
async def change_lead(call: Call[Nothing, LeadChange]) -> LeadShown:
    """409 when it has another version than the one you saw."""
    changes = call.body.model_dump(exclude={"version"}, exclude_none=True)

    async def unit(tx: Tx) -> LeadShown:
        lead = await leads.get(tx, call.path["id"])
        if lead.version != call.body.version:
            raise Conflict("This lead changed meanwhile.")
        if changes:
            await leads.change(tx, lead, now=call.now, **changes)
        return shown_lead(lead)

    return await call.runtime.db.write(unit)


@operation(
    "GET", "/api/v1/callbacks/{id}", "Get a callback", scope="callbacks:read", roles=READERS, answer=CallbackShown
)
async def get_callback(call: Call[Nothing, Nothing]) -> CallbackShown:
    """404 unless it is yours or of a queue you serve."""
    from sqlmodel import select

    async with call.runtime.db.reading() as tx:
        row = await tx.one(select(Callback).where(Callback.id == call.path["id"]))
        served = await rights.queues_served(tx, call.user)
    if row is None or not (rights.sees_everything(call.user) or row.queue_id in served or row.owner_id == call.user.id):
        raise NotFound("There is no such callback.")
    return shown_callback(row)


OPERATIONS: list[Operation] = [
    list_callbacks,
    create_callback,
    get_callback,
    list_leads,
    get_lead,
    change_lead,
]
