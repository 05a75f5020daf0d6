"""API: contacts, their addresses, consent and timeline."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from crm_core import consent, contacts, interactions
from crm_core.addresses import Address, PointKind, address
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.interactions import Interaction
from crm_core.users import Role
from hub import rights
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, Version, operation
from hub.web import STAFF

WRITERS = frozenset(STAFF)


class PointIn(Strict):
    """An address to add."""

    kind: PointKind
    value: str = Field(max_length=320)
    label: str = Field("", max_length=50)


class PointShown(Shown):
    """An address of a contact."""

    kind: PointKind
    value: str
    label: str
    verified_at: datetime | None
    shared: bool


class ContactIn(Strict):
    """A new contact."""

    name: str = Field(min_length=1, max_length=200)
    points: list[PointIn] = Field(default_factory=list, max_length=20)
    job_title: str = Field("", max_length=200)
    language: str = Field("", max_length=35)
    zone: str = Field("", max_length=64)
    country: str = Field("", max_length=2, description="ISO 3166, also reads national phone numbers")
    tags: list[str] = Field(default_factory=list, max_length=50)
    notes: str = ""


class ContactChange(Strict):
    """Fields to change; `version` is the one you saw."""

    version: Version
    name: str | None = Field(None, min_length=1, max_length=200)
    job_title: str | None = Field(None, max_length=200)
    language: str | None = Field(None, max_length=35)
    zone: str | None = Field(None, max_length=64)
    country: str | None = Field(None, max_length=2)
    tags: list[str] | None = Field(None, max_length=50)
    notes: str | None = None
    vip: bool | None = None


class ContactShown(Shown):
    """A contact."""

    id: str
    name: str
    job_title: str
    language: str
    zone: str
    country: str
    tags: list[str]
    notes: str
    vip: bool
    source: str
    created_at: datetime
    updated_at: datetime
    version: int
    points: list[PointShown]


class ContactLine(Shown):
    """A contact in a list."""

    id: str
    name: str
    tags: list[str]
    vip: bool
    version: int


class ContactPage(Shown):
    """One page; `next` is the `after` of the following one, or null at the end."""

    items: list[ContactLine]
    next: str | None


class ContactQuery(Strict):
    """Search by words or any notation of a number; or walk through all, newest first."""

    q: str = Field("", max_length=200)
    tag: str = Field("", max_length=50)
    after: str = Field("", max_length=40)
    limit: int = Field(50, ge=1, le=200)


class InteractionShown(Shown):
    """One interaction."""

    id: str
    conversation_id: str
    contact_id: str | None
    channel: str
    direction: str
    state: str
    outcome: str
    from_address: str
    to_address: str
    subject: str
    body: str
    disposition: str
    delivery: str
    delivery_error: str
    agent_id: str | None
    match: dict[str, Any]
    first_arrival_at: datetime
    connected_at: datetime | None
    ended_at: datetime | None
    version: int


class InteractionPage(Shown):
    """One page, newest first."""

    items: list[InteractionShown]
    next: str | None


class Paging(Strict):
    """A page of a list."""

    before: str = Field("", max_length=40)
    limit: int = Field(50, ge=1, le=200)


class SuppressionShown(Shown):
    """An address that must not be used."""

    kind: PointKind
    value: str
    reason: str
    channel: str
    purpose: str
    sender: str
    source: str
    since_at: datetime


class ConsentShown(Shown):
    """An entry of the consent ledger."""

    kind: PointKind
    value: str
    channel: str
    purpose: str
    action: str
    source: str
    evidence: dict[str, Any]
    at: datetime


class ConsentState(Shown):
    """What is known about permission for a contact's addresses."""

    suppressions: list[SuppressionShown]
    ledger: list[ConsentShown]


class OptOutIn(Strict):
    """Stop using one address."""

    kind: PointKind
    value: str = Field(max_length=320)
    channel: str = Field("*", pattern=r"^(\*|sms|email|voice)$")
    purpose: str = Field("*", pattern=r"^(\*|marketing|telemarketing|service)$")
    do_not_call: bool = False
    said: str = Field("", max_length=2000, description="what they said or wrote")


class GrantIn(Strict):
    """Consent with its proof."""

    kind: PointKind
    value: str = Field(max_length=320)
    channel: str = Field(pattern=r"^(\*|sms|email|voice)$")
    purpose: str = Field(pattern=r"^(marketing|telemarketing)$")
    evidence: dict[str, str] = Field(min_length=1, max_length=20, description="text version, where and how they agreed")


def shown_interaction(row: Interaction) -> InteractionShown:
    """For output."""
    return InteractionShown.model_validate(row.model_dump(include=set(InteractionShown.model_fields)))


async def shown(tx: Tx, contact: Contact) -> ContactShown:
    """A contact with its addresses."""
    points = []
    for point, link in await contacts.list_points(tx, contact.id):
        owners = await contacts.list_owners(tx, Address(point.kind, point.value, point.value))
        points.append(
            PointShown(
                kind=point.kind,
                value=point.value,
                label=link.label,
                verified_at=link.verified_at,
                shared=len(owners) > 1,
            )
        )
    fields = contact.model_dump(include=set(ContactShown.model_fields) - {"points"})
    return ContactShown(**fields, points=points)


@operation(
    "GET",
    "/api/v1/contacts",
    "List or search contacts",
    scope="contacts:read",
    roles=STAFF,
    query=ContactQuery,
    answer=ContactPage,
)
async def list_contacts(call: Call[ContactQuery, Nothing]) -> ContactPage:
    """With `q`: the best matches, one page only. Without: all, newest first, by cursor."""
    query = call.query
    async with call.runtime.db.reading(slow=True) as tx:
        if query.q:
            found, more = await contacts.search(tx, query.q, limit=query.limit), False
        else:
            found = await contacts.list_page(tx, after=query.after, limit=query.limit, tag=query.tag)
            more = len(found) == query.limit
    lines = [ContactLine.model_validate(row.model_dump(include=set(ContactLine.model_fields))) for row in found]
    return ContactPage(items=lines, next=found[-1].id if more else None)


@operation(
    "POST",
    "/api/v1/contacts",
    "Create a contact",
    scope="contacts:write",
    roles=WRITERS,
    body=ContactIn,
    answer=ContactShown,
    status=201,
)
async def create_contact(call: Call[Nothing, ContactIn]) -> ContactShown:
    """Duplicates are not refused: two people may share an address. Search first when in doubt."""
    body = call.body
    points = [address(point.kind, point.value, country=body.country) for point in body.points]
    fields = body.model_dump(exclude={"points", "name"})

    async def unit(tx: Tx) -> ContactShown:
        made = await contacts.create(tx, name=body.name, now=call.now, source="api", points=points, **fields)
        return await shown(tx, made)

    return await call.runtime.db.write(unit)


@operation("GET", "/api/v1/contacts/{id}", "Get a contact", scope="contacts:read", roles=STAFF, answer=ContactShown)
async def get_contact(call: Call[Nothing, Nothing]) -> ContactShown:
    """An id that was merged away answers with the contact it became."""
    async with call.runtime.db.reading() as tx:
        return await shown(tx, await contacts.get(tx, call.path["id"]))


@operation(
    "PATCH",
    "/api/v1/contacts/{id}",
    "Change a contact",
    scope="contacts:write",
    roles=WRITERS,
    body=ContactChange,
    answer=ContactShown,
)
async def change_contact(call: Call[Nothing, ContactChange]) -> ContactShown:
    """409 when the contact has another version than the one you saw."""
    changes = call.body.model_dump(exclude={"version"}, exclude_none=True)

    async def unit(tx: Tx) -> ContactShown:
        contact = await contacts.get(tx, call.path["id"])
        return await shown(tx, await contacts.edit(tx, contact.id, version=call.body.version, now=call.now, **changes))

    return await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/contacts/{id}/points",
    "Add an address",
    scope="contacts:write",
    roles=WRITERS,
    body=PointIn,
    answer=ContactShown,
    status=201,
)
async def add_point(call: Call[Nothing, PointIn]) -> ContactShown:
    """Adding one that is there changes nothing; adding another's makes it shared."""

    async def unit(tx: Tx) -> ContactShown:
        contact = await contacts.get(tx, call.path["id"])
        point = address(call.body.kind, call.body.value, country=contact.country)
        await contacts.link_point(tx, contact.id, point, now=call.now, source="api", label=call.body.label)
        return await shown(tx, contact)

    return await call.runtime.db.write(unit)


@operation(
    "DELETE",
    "/api/v1/contacts/{id}/points/{kind}/{value}",
    "End an address",
    scope="contacts:write",
    roles=WRITERS,
    answer=None,
)
async def remove_point(call: Call[Nothing, Nothing]) -> None:
    """The link ends; its history stays."""
    if call.path["kind"] not in list(PointKind):
        raise Invalid("The kind is phone or email.")
    point = address(PointKind(call.path["kind"]), call.path["value"])
    await call.runtime.db.write(lambda tx: contacts.unlink_point(tx, call.path["id"], point, now=call.now))


@operation(
    "GET",
    "/api/v1/contacts/{id}/timeline",
    "A contact's interactions",
    scope="contacts:read",
    roles=frozenset({Role.AGENT, Role.TELEMARKETER, Role.SUPERVISOR, Role.ADMIN}),
    query=Paging,
    answer=InteractionPage,
)
async def contact_timeline(call: Call[Paging, Nothing]) -> InteractionPage:
    """All channels, newest first, those that you may see."""
    async with call.runtime.db.reading() as tx:
        contact = await contacts.get(tx, call.path["id"])
        rows = await interactions.list_timeline(
            tx, contact_id=contact.id, before=call.query.before, limit=call.query.limit
        )
        served = await rights.queues_served(tx, call.user)
    everything = rights.sees_everything(call.user)
    seen = [row for row in rows if everything or row.agent_id == call.user.id or row.queue_id in served]
    last = rows[-1].id if len(rows) == call.query.limit else None
    return InteractionPage(items=[shown_interaction(row) for row in seen], next=last)


@operation(
    "GET",
    "/api/v1/contacts/{id}/consent",
    "Permission for a contact's addresses",
    scope="consent:read",
    roles=STAFF,
    answer=ConsentState,
)
async def contact_consent(call: Call[Nothing, Nothing]) -> ConsentState:
    """Active suppressions and the ledger, newest first, for each of the contact's addresses."""
    state = ConsentState(suppressions=[], ledger=[])
    async with call.runtime.db.reading() as tx:
        contact = await contacts.get(tx, call.path["id"])
        for point, _ in await contacts.list_points(tx, contact.id):
            suppressed, ledger = await consent.list_for(tx, Address(point.kind, point.value, point.value))
            state.suppressions += [SuppressionShown.model_validate(row.model_dump()) for row in suppressed]
            state.ledger += [ConsentShown.model_validate(row.model_dump()) for row in ledger]
    return state


@operation(
    "POST",
    "/api/v1/contacts/{id}/opt-outs",
    "Opt an address out",
    scope="consent:write",
    roles=WRITERS,
    body=OptOutIn,
    answer=None,
)
async def add_opt_out(call: Call[Nothing, OptOutIn]) -> None:
    """Takes effect at once, on every channel it names, for every queue, list and campaign."""
    body = call.body
    point = address(body.kind, body.value)
    reason = consent.SuppressionReason.DO_NOT_CALL if body.do_not_call else consent.SuppressionReason.OPT_OUT

    async def unit(tx: Tx) -> None:
        contact = await contacts.get(tx, call.path["id"])
        await consent.opt_out(
            tx,
            point,
            channel=body.channel,
            purpose=body.purpose,
            reason=reason,
            source="api",
            evidence={"said": body.said},
            actor=call.user.id,
            now=call.now,
            contact_id=contact.id,
        )

    await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/contacts/{id}/consents",
    "Record consent with its proof",
    scope="consent:write",
    roles=WRITERS,
    body=GrantIn,
    answer=None,
)
async def add_consent(call: Call[Nothing, GrantIn]) -> None:
    """Never lifts an opt-out that is wider than what is granted."""
    body = call.body
    point = address(body.kind, body.value)

    async def unit(tx: Tx) -> None:
        contact = await contacts.get(tx, call.path["id"])
        await consent.grant(
            tx,
            point,
            channel=body.channel,
            purpose=body.purpose,
            source="api",
            evidence=dict(body.evidence),
            actor=call.user.id,
            now=call.now,
            contact_id=contact.id,
        )

    await call.runtime.db.write(unit)


OPERATIONS: list[Operation] = [
    list_contacts,
    create_contact,
    get_contact,
    change_contact,
    add_point,
    remove_point,
    contact_timeline,
    contact_consent,
    add_opt_out,
    add_consent,
]
