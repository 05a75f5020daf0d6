"""Contacts, organisations and contact points. Decides which rows make a person and how they are found; leaves matching
of an interaction (levels, candidates) to routing/matching.py and permission to consent.py.

A contact point is one normalised address, unique per (kind, value). Links tie it to people: one number may belong to several
of them, and one person has several points, each with its own proof and time.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import Date, Index, Text, bindparam, delete, exists, update
from sqlmodel import Field, col, select
from sqlmodel.sql.expression import SelectOfScalar

from crm_core import events
from crm_core.addresses import Address, PointKind, national
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, docs, key, one_of, ref, text, word


class Organisation(Table, table=True):
    """A firm that contacts belong to."""

    __tablename__ = "organisations"

    id: str = key()
    name: str = text(index=True)
    domain: str = text(index=True)
    created_at: datetime = at()


class Contact(Table, table=True):
    """A person. `version` rises with every change; edits quote it."""

    __tablename__ = "contacts"

    id: str = key()
    name: str = text()
    organisation_id: str | None = ref("organisations.id", nullable=True)
    job_title: str = text()
    language: str = text()  # BCP 47, empty = unknown
    zone: str = text()  # IANA, only when the person said so
    country: str = text()  # ISO 3166
    tags: list[str] = docs()
    fields: dict[str, Any] = doc()  # custom fields by name
    addresses: dict[str, Any] = doc()  # postal: billing, shipping → lines
    notes: str = text()
    vip: bool = False
    born_on: date | None = Field(default=None, sa_type=Date, nullable=True)
    owner_id: str | None = ref("users.id", nullable=True)
    merged_into: str | None = ref("contacts.id", nullable=True)  # set: this id resolves to that contact for ever
    erased_at: datetime | None = at(nullable=True)
    source: str = text()  # call, sms, email, form:<key>, import:<id>, api, agent
    created_at: datetime = at(index=True)
    updated_at: datetime = at()
    version: int = 1


class ContactPoint(Table, table=True):
    """One normalised address, once in the whole hub."""

    __tablename__ = "contact_points"
    __table_args__ = (one_of("kind", PointKind), Index("uq_contact_points_kind_value", "kind", "value", unique=True))

    id: str = key()
    kind: PointKind = word(PointKind)
    value: str = text()
    created_at: datetime = at()


class ContactLink(Table, table=True):
    """A point belongs to a contact, from then until then."""

    __tablename__ = "contact_links"
    __table_args__ = (Index("uq_contact_links_pair", "point_id", "contact_id", unique=True),)

    id: str = key()
    point_id: str = ref("contact_points.id")
    contact_id: str = ref("contacts.id")
    label: str = text()  # mobile, work …
    raw: str = text()  # as first written
    extension: str = text()
    verified_at: datetime | None = at(nullable=True)
    verified_by: str = text()  # what proved it
    source: str = text()
    valid_from: datetime = at()
    valid_until: datetime | None = at(nullable=True)  # set: no longer theirs (recycled number, left the firm)


class ContactTerm(Table, table=True):
    """Search words of a contact, lower case without accents; digits of numbers too. Prefix search on both engines."""

    __tablename__ = "contact_terms"

    term: str = Field(primary_key=True, sa_type=Text().with_variant(Text(collation="C"), "postgresql"))
    contact_id: str = ref("contacts.id", primary_key=True)


Index("ix_contact_terms_contact", ContactTerm.contact_id)

_LIVING = (col(Contact.merged_into).is_(None), col(Contact.erased_at).is_(None))
EDITABLE = frozenset(
    {"name", "organisation_id", "job_title", "language", "zone", "country", "tags", "fields", "addresses", "notes", "vip",
     "born_on", "owner_id"}
)  # fmt: skip


def words_of(*texts: str) -> set[str]:
    """Search words of free text: folded, accents dropped, at least two characters, at most forty."""
    folded = unicodedata.normalize("NFKD", " ".join(texts)).casefold()
    plain = "".join(c if c.isalnum() else " " for c in folded if not unicodedata.combining(c))
    return {word[:40] for word in plain.split() if len(word) > 1}


async def create(
    tx: Tx,
    *,
    name: str,
    now: datetime,
    source: str,
    points: Iterable[Address] = (),
    **fields: Any,
) -> Contact:
    """A new contact with its points linked. Duplicates are the caller's question, not asked here."""
    unknown = fields.keys() - EDITABLE
    if unknown:
        raise Invalid("A contact has no field %(names)s.", names=sorted(unknown))
    contact = Contact(id=new_id(now), name=name.strip()[:200], source=source, created_at=now, updated_at=now, **fields)
    await tx.add(contact)
    for point in points:
        await link_point(tx, contact.id, point, now=now, source=source, reindex=False)
    await reindex(tx, contact)
    await events.emit(tx, "contact.created", contact.id, now=now, version=1)
    return contact


_POINT = fixed(
    select(ContactPoint).where(ContactPoint.kind == bindparam("kind"), ContactPoint.value == bindparam("value"))
)


async def get_point(tx: Tx, address: Address, *, now: datetime) -> ContactPoint:
    """The one row of this address, made if need be."""
    point: ContactPoint | None = await tx.one(_POINT, kind=address.kind, value=address.value)
    if point is not None:
        return point
    fresh = ContactPoint(id=new_id(now), kind=address.kind, value=address.value, created_at=now)
    if await tx.add_new(fresh, unique=["kind", "value"]):
        return fresh
    point = await tx.one(_POINT, kind=address.kind, value=address.value)
    if point is None:
        raise Conflict
    return point


async def link_point(
    tx: Tx, contact_id: str, address: Address, *, now: datetime, source: str, label: str = "", reindex: bool = True
) -> None:
    """Tie an address to a contact; linking again revives a link that had ended."""
    point = await get_point(tx, address, now=now)
    link = ContactLink(
        id=new_id(now), point_id=point.id, contact_id=contact_id, label=label, raw=address.raw, extension=address.extension,
        source=source, valid_from=now,
    )  # fmt: skip
    if not await tx.add_new(link, unique=["point_id", "contact_id"]):
        again = update(ContactLink).where(
            col(ContactLink.point_id) == point.id, col(ContactLink.contact_id) == contact_id
        )
        await tx.run(again.values(valid_until=None))
    if reindex:
        await _reindex_by_id(tx, contact_id)


async def unlink_point(tx: Tx, contact_id: str, address: Address, *, now: datetime) -> None:
    """End a link; its history stays."""
    point = await tx.one(_POINT, kind=address.kind, value=address.value)
    if point is None:
        raise NotFound("That address is not on this contact.")
    guard = update(ContactLink).where(
        col(ContactLink.point_id) == point.id,
        col(ContactLink.contact_id) == contact_id,
        col(ContactLink.valid_until).is_(None),
    )
    if await tx.run(guard.values(valid_until=now)) == 0:
        raise NotFound("That address is not on this contact.")
    await _reindex_by_id(tx, contact_id)


_OWNERS = fixed(
    select(Contact, ContactLink)
    .join(ContactLink, col(ContactLink.contact_id) == col(Contact.id))
    .join(ContactPoint, col(ContactPoint.id) == col(ContactLink.point_id))
    .where(
        ContactPoint.kind == bindparam("kind"),
        ContactPoint.value == bindparam("value"),
        col(ContactLink.valid_until).is_(None),
        col(Contact.merged_into).is_(None),
        col(Contact.erased_at).is_(None),
    )
    .order_by(col(ContactLink.verified_at).desc(), col(ContactLink.id))
    .limit(20)
)


async def list_owners(tx: Tx, address: Address) -> list[tuple[Contact, ContactLink]]:
    """Everyone an address belongs to now; more than one means it is shared. At most twenty."""
    return await tx.all(_OWNERS, kind=address.kind, value=address.value)


_OWNERS_OF = fixed(
    select(ContactPoint.value, Contact, ContactLink)
    .join(ContactLink, col(ContactLink.point_id) == col(ContactPoint.id))
    .join(Contact, col(Contact.id) == col(ContactLink.contact_id))
    .where(
        ContactPoint.kind == bindparam("kind"),
        col(ContactPoint.value).in_(bindparam("values", expanding=True)),
        col(ContactLink.valid_until).is_(None),
        col(Contact.merged_into).is_(None),
        col(Contact.erased_at).is_(None),
    )
    .order_by(col(ContactLink.verified_at).desc(), col(ContactLink.id))
    .limit(1000)
)


async def list_owners_of(
    tx: Tx, kind: PointKind, values: Sequence[str]
) -> dict[str, list[tuple[Contact, ContactLink]]]:
    """`list_owners` of many normalised addresses of one kind; those that are nobody's are missing."""
    rows = await tx.all(_OWNERS_OF, kind=kind, values=values)
    if len(rows) == 1000:  # one that hundreds share would hide the owners of the others
        return {value: await list_owners(tx, Address(kind, value, value)) for value in set(values)}
    found: dict[str, list[tuple[Contact, ContactLink]]] = {}
    for value, contact, link in rows:
        owners = found.setdefault(value, [])
        if len(owners) < 20:
            owners.append((contact, link))
    return found


async def list_points(tx: Tx, contact_id: str, *, ended: bool = False) -> list[tuple[ContactPoint, ContactLink]]:
    """The contact's addresses, oldest link first; `ended` includes those no longer theirs."""
    statement = (
        select(ContactPoint, ContactLink)
        .join(ContactLink, col(ContactLink.point_id) == col(ContactPoint.id))
        .where(ContactLink.contact_id == contact_id)
        .order_by(col(ContactLink.id))
        .limit(100)
    )
    if not ended:
        statement = statement.where(col(ContactLink.valid_until).is_(None))
    return await tx.all(statement)


_GET = fixed(select(Contact).where(Contact.id == bindparam("id")))


async def find(tx: Tx, contact_id: str) -> Contact | None:
    """The contact, through merges: an old id resolves for ever. None when there is none."""
    for _ in range(20):
        contact: Contact | None = await tx.one(_GET, id=contact_id)
        if contact is None or contact.merged_into is None:
            return contact
        contact_id = contact.merged_into
    return None


async def get(tx: Tx, contact_id: str) -> Contact:
    """`find`, or NotFound."""
    contact = await find(tx, contact_id)
    if contact is None:
        raise NotFound("There is no such contact.")
    return contact


async def edit(tx: Tx, contact_id: str, *, version: int, now: datetime, **changes: Any) -> Contact:
    """Change fields of a contact that still has this `version`; Conflict when somebody was first."""
    unknown = changes.keys() - EDITABLE
    if unknown:
        raise Invalid("A contact has no field %(names)s.", names=sorted(unknown))
    if "name" in changes and not str(changes["name"]).strip():
        raise Invalid("A contact needs a name.", fields={"name": "Give a name."})
    guard = update(Contact).where(col(Contact.id) == contact_id, col(Contact.version) == version)
    if await tx.run(guard.values(**changes, version=version + 1, updated_at=now)) == 0:
        raise Conflict("Somebody changed this contact meanwhile; the newer values are shown.")
    contact = await get(tx, contact_id)
    await reindex(tx, contact)
    await events.emit(tx, "contact.changed", contact_id, now=now, version=contact.version)
    return contact


async def remove(tx: Tx, ids: Sequence[str], *, now: datetime) -> None:
    """Take contacts away for good, with the addresses that are nobody else's. Only those that nothing refers to."""
    points = await tx.all(select(ContactLink.point_id).where(col(ContactLink.contact_id).in_(ids)))
    await tx.run(delete(ContactTerm).where(col(ContactTerm.contact_id).in_(ids)))
    await tx.run(delete(ContactLink).where(col(ContactLink.contact_id).in_(ids)))
    lonely = ~exists().where(col(ContactLink.point_id) == col(ContactPoint.id))
    await tx.run(delete(ContactPoint).where(col(ContactPoint.id).in_(points), lonely))
    if await tx.run(delete(Contact).where(col(Contact.id).in_(ids))) != len(ids):
        raise Conflict
    for contact_id in ids:
        await events.emit(tx, "contact.removed", contact_id, now=now)


async def reindex(tx: Tx, contact: Contact) -> None:
    """Write the contact's search words anew."""
    organisation = contact.organisation_id and await tx.one(
        select(Organisation.name).where(Organisation.id == contact.organisation_id)
    )
    terms = words_of(contact.name, organisation or "", *contact.tags)
    for point, _ in await list_points(tx, contact.id):
        if point.kind == PointKind.PHONE:
            terms |= {point.value.lstrip("+"), national(point.value)}
        else:
            terms |= {point.value, *words_of(point.value.split("@")[0])}
    await tx.run(delete(ContactTerm).where(col(ContactTerm.contact_id) == contact.id))
    await tx.add_all([ContactTerm(term=term, contact_id=contact.id) for term in sorted(terms)])


async def _reindex_by_id(tx: Tx, contact_id: str) -> None:
    contact = await tx.one(_GET, id=contact_id)
    if contact is not None:
        await reindex(tx, contact)


async def search(tx: Tx, query: str, *, limit: int = 20) -> list[Contact]:
    """Contacts that have every word of `query` as the beginning of one of theirs; numbers in any notation."""
    statement = _found(select(Contact).where(*_LIVING), query)
    if statement is None:
        return []
    return await tx.all(statement.order_by(col(Contact.name), col(Contact.id)).limit(limit))


def _found(statement: SelectOfScalar[Contact], query: str) -> SelectOfScalar[Contact] | None:
    """Of these contacts those whom `query` finds; None when it holds nothing to look for."""
    digits = "".join(c for c in query if c.isdigit())
    typed = (
        [digits.lstrip("0")] if len(digits) >= 3 and not any(c.isalpha() for c in query) else sorted(words_of(query))
    )
    if "@" in query:
        typed = [query.strip().lower()]
    if not typed or not typed[0]:
        return None
    for prefix in typed[:6]:
        matching = select(ContactTerm.contact_id).where(
            col(ContactTerm.term) >= prefix, col(ContactTerm.term) < prefix + "\U0010ffff"
        )
        statement = statement.where(col(Contact.id).in_(matching))
    return statement


async def list_page(
    tx: Tx,
    *,
    after: str = "",
    limit: int = 50,
    tag: str = "",
    owner_id: str = "",
    oldest: bool = False,
    query: str = "",
) -> list[Contact]:
    """Contacts newest first (`oldest`: oldest first), from behind the id `after` (keyset); `query` as in `search`."""
    statement = select(Contact).where(*_LIVING)
    if query:
        narrowed = _found(statement, query)
        if narrowed is None:
            return []
        statement = narrowed
    if after:
        statement = statement.where(col(Contact.id) > after if oldest else col(Contact.id) < after)
    if owner_id:
        statement = statement.where(Contact.owner_id == owner_id)
    if tag:
        statement = statement.where(
            col(Contact.id).in_(select(ContactTerm.contact_id).where(col(ContactTerm.term).in_(sorted(words_of(tag)))))
        )
    order = col(Contact.id).asc() if oldest else col(Contact.id).desc()
    return await tx.all(statement.order_by(order).limit(min(limit, 200)))


async def get_organisation(tx: Tx, name: str, *, now: datetime) -> Organisation:
    """The organisation of this name, made if need be."""
    known = await tx.one(select(Organisation).where(Organisation.name == name.strip()))
    return known or await tx.add(Organisation(id=new_id(now), name=name.strip(), created_at=now))


async def list_by_ids(tx: Tx, ids: Sequence[str]) -> dict[str, Contact]:
    """Contacts by id, merges resolved only by `find`."""
    rows = await tx.all(select(Contact).where(col(Contact.id).in_(ids)))
    return {row.id: row for row in rows}
