"""Who gets a campaign: people of a file or of a tag, frozen when it starts into one delivery per address.

Freezing goes in batches, each one transaction that also moves the cursor, so that a killed worker's successor goes on where
the last commit was. The gate looks at everybody once here (the forecast); the look that binds is sender.py's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from campaigns import call_lists, campaigns, content, imports
from campaigns.call_lists import CallList, ListState
from campaigns.campaigns import Campaign, CampaignState
from campaigns.counts import FORECAST, Delta
from campaigns.deliveries import Delivery, DeliveryState
from campaigns.imports import Recipient
from channels.segments import segments
from crm_core import consent, contacts, events
from crm_core.addresses import Address, PointKind
from crm_core.contacts import Contact
from crm_core.csv_files import ImportState, slug
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.ids import new_id

BATCH = 100  # about ten milliseconds of SQLite's write lock, gate included (bench/campaign.py)
ALLOWED_WORD = "allowed"


@dataclass(frozen=True, slots=True)
class Person:
    """One who may become a recipient or an entry."""

    address: Address
    name: str
    contact_id: str | None
    fields: dict[str, str]


async def next_people(
    tx: Tx, source: Mapping[str, Any], *, kind: PointKind, cursor: str, limit: int
) -> tuple[list[Person], str]:
    """People of a source behind `cursor`, and the new cursor; an empty cursor means that there are no more."""
    if "import" in source:
        rows = await tx.all(
            select(Recipient)
            .where(Recipient.import_id == source["import"], col(Recipient.id) > cursor)
            .order_by(col(Recipient.id))
            .limit(limit)
        )
        people = [
            Person(Address(row.kind, row.value, row.value), row.name, row.contact_id, _strings(row.fields))
            for row in rows
            if row.kind == kind
        ]
        return people, rows[-1].id if len(rows) == limit else ""
    if "tag" in source:
        tag = str(source["tag"])
        page = await contacts.list_page(tx, after=cursor, limit=limit, tag=tag)
        found = [await _of_contact(tx, contact, kind) for contact in page if _tagged(contact, tag)]
        return [person for person in found if person is not None], page[-1].id if len(page) == limit else ""
    raise Invalid("Choose who shall get it.", fields={"audience": "Choose a file or a tag."})


def _strings(fields: Mapping[str, Any]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in fields.items()}


def _fold(word: str) -> str:
    return unicodedata.normalize("NFKC", word).strip().casefold()


def _tagged(contact: Contact, tag: str) -> bool:
    # The search index also knows words of names; only the tag itself counts here.
    return _fold(tag) in {_fold(word) for word in contact.tags}


async def _of_contact(tx: Tx, contact: Contact, kind: PointKind) -> Person | None:
    """By their first address of this kind, a verified one before others."""
    points = [(point, link) for point, link in await contacts.list_points(tx, contact.id) if point.kind == kind]
    if not points:
        return None
    point = min(points, key=lambda pair: pair[1].verified_at is None)[0]
    fields = {slug(name): str(value) for name, value in contact.fields.items() if slug(name)}
    return Person(Address(kind, point.value, point.value), contact.name, contact.id, fields)


async def list_fields(tx: Tx, campaign: Campaign) -> frozenset[str]:
    """Merge fields that this audience has, beside content.BASE_FIELDS."""
    source = campaign.audience
    if "import" in source:
        found = await imports.get(tx, source["import"])
        reserved = {"address", "country", "consent", "consent_at", "consent_source", "consent_text", "name", ""}
        return frozenset(str(use) for use in found.mapping.values()) - reserved
    if "tag" in source:
        page = await contacts.list_page(tx, limit=200, tag=str(source["tag"]))
        return frozenset(slug(name) for contact in page for name in contact.fields if slug(name))
    return frozenset()


def merge_fields(person: Person, known: frozenset[str]) -> dict[str, str]:
    """The flat dict of strings that a template sees; a field that the audience has but this person lacks is empty."""
    first, _, last = person.name.partition(" ")
    base = {"name": person.name, "first_name": first, "last_name": last, "address": person.address.value}
    return content.clean({**dict.fromkeys(known, ""), **base, **person.fields})


async def freeze_batch(tx: Tx, campaign_id: str, *, now: datetime, limit: int = BATCH) -> CampaignState:
    """Freeze up to `limit` more people; the campaign's state afterwards (`materialising` while there are more).

    Conflict when another worker froze these meanwhile. A file that is still being read is waited for.
    """
    campaign = await campaigns.get(tx, campaign_id)
    if campaign.state != CampaignState.MATERIALISING:
        return campaign.state
    if "import" in campaign.audience:
        file = await imports.get(tx, campaign.audience["import"])
        if file.state in (ImportState.UPLOADED, ImportState.FAILED):
            reason = file.error or "The file of recipients was never read."
            failed = await campaigns.advance(tx, campaign, CampaignState.FAILED, now=now, reason=reason, due_at=None)
            return failed.state
        if file.state == ImportState.READING:
            return campaign.state
    known = await list_fields(tx, campaign)
    people, cursor = await next_people(
        tx, campaign.audience, kind=campaign.point_kind, cursor=campaign.cursor, limit=limit
    )
    found = await contacts.list_by_ids(tx, sorted({person.contact_id for person in people if person.contact_id}))
    delta = Delta(campaign_id)
    for person in people:
        await _plan(tx, campaign, person, known, found.get(person.contact_id or ""), delta, now=now)
    await delta.write(tx)
    guard = update(Campaign).where(
        col(Campaign.id) == campaign_id,
        col(Campaign.cursor) == campaign.cursor,
        col(Campaign.version) == campaign.version,
    )
    if await tx.run(guard.values(cursor=cursor, due_at=now, version=campaign.version + 1)) != 1:
        raise Conflict("Another worker froze these meanwhile.")
    campaign.__dict__.update(cursor=cursor, version=campaign.version + 1)
    if cursor:
        return campaign.state
    return (await campaigns.frozen(tx, campaign, now=now)).state


async def _plan(
    tx: Tx,
    campaign: Campaign,
    person: Person,
    known: frozenset[str],
    contact: Contact | None,
    delta: Delta,
    *,
    now: datetime,
) -> None:
    verdict = await consent.may_contact(
        tx, purpose=campaign.purpose, channel=campaign.channel, address=person.address, now=now, contact=contact,
        sender=campaign.account_id, spend=False,
    )  # fmt: skip
    row = Delivery(
        id=new_id(now), campaign_id=campaign.id, kind=person.address.kind, value=person.address.value,
        contact_id=person.contact_id, name=person.name, fields=merge_fields(person, known), forecast=verdict.rule,
        due_at=now, updated_at=now,
    )  # fmt: skip
    if await tx.add_new(row, unique=["campaign_id", "kind", "value"]):
        delta.add(DeliveryState.PLANNED)
        delta.add(verdict.rule or ALLOWED_WORD, kind=FORECAST)


async def build_batch(tx: Tx, list_id: str, *, now: datetime, limit: int = BATCH) -> ListState:
    """Add up to `limit` more people to a call list that is being built; active once there are no more."""
    row = await call_lists.get(tx, list_id)
    if row.state != ListState.BUILDING:
        return row.state
    if "import" in row.source and (await imports.get(tx, row.source["import"])).state == ImportState.READING:
        return row.state
    people, cursor = await next_people(tx, row.source, kind=PointKind.PHONE, cursor=row.cursor, limit=limit)
    delta = Delta(list_id)
    for person in people:
        await call_lists.add_entry(
            tx, row, person.address, now=now, delta=delta, name=person.name, contact_id=person.contact_id,
            fields=person.fields,
        )  # fmt: skip
    await delta.write(tx)
    if cursor:
        guard = update(CallList).where(col(CallList.id) == list_id, col(CallList.version) == row.version)
        await tx.hit(guard.values(cursor=cursor, version=row.version + 1))
        await events.emit(tx, "list.changed", list_id, now=now, version=row.version + 1)
        return row.state
    return (await call_lists.advance(tx, row, ListState.ACTIVE, now=now, cursor="", due_at=None)).state


@dataclass(frozen=True, slots=True)
class Preview:
    """What one recipient would get; `error` when it cannot be made. `parts` counts SMS segments, 0 for mail."""

    name: str
    address: str
    subject: str
    body: str
    html: str
    parts: int
    error: str


async def preview(
    tx: Tx, campaign: Campaign, source: content.Source, *, limit: int = 5, link: str = "https://example.com/u/…"
) -> list[Preview]:
    """The content rendered for the first people of the audience; nothing is stored. Invalid when the template is."""
    template = content.Template(source)
    known = await list_fields(tx, campaign)
    people: Sequence[Person] = ()
    if campaign.audience:
        people, _ = await next_people(tx, campaign.audience, kind=campaign.point_kind, cursor="", limit=limit)
    shown = []
    for person in people:
        fields = {**merge_fields(person, known), content.UNSUBSCRIBE_FIELD: link}
        try:
            made = template.render(fields)
        except content.ContentError as error:
            shown.append(Preview(person.name, person.address.value, "", "", "", 0, error.message))
            continue
        parts = segments(made.body).parts if campaign.point_kind == PointKind.PHONE else 0
        shown.append(Preview(person.name, person.address.value, made.subject, made.body, made.html, parts, ""))
    return shown
