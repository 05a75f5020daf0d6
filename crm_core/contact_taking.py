"""What a line of a file brings about: the person made or filled in, firm and owner, stops, consents; and what it did, kept.

Fills in what is empty, changes what is there only when asked to, and treats consent as consent_columns.py does. What was
there before is kept for as long as the file, so that contact_undo.py can give it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, Text
from sqlmodel import Field, select

from crm_core import consent, consent_columns, contact_lines, contacts, users
from crm_core.contact_files import CONSENTS
from crm_core.contact_lines import Person
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.errors import Conflict
from crm_core.tables import Table, at, doc, docs, one_of, ref, word


class Deed(StrEnum):
    """What an import did to a contact; of several lines the first that holds."""

    MADE = "made"
    CHANGED = "changed"
    CONSENTED = "consented"  # recorded a consent, and changed nothing


class Undo(StrEnum):
    """What became of it when the import was undone: taken back, or left alone, and why."""

    OPEN = "open"
    UNDONE = "undone"
    GONE = "gone"  # there is no such contact any more
    ERASED = "erased"
    MERGED = "merged"
    CHANGED = "changed"  # by somebody, since
    USED = "used"  # talked with, written to, or work since
    CONSENT = "consent"  # other consent was given or withdrawn since


class ContactImportChange(Table, table=True):
    """What one import did to one contact."""

    __tablename__ = "contact_import_changes"
    __table_args__ = (
        one_of("deed", Deed),
        one_of("undo", Undo),
        Index("ix_contact_import_changes_undo", "import_id", "undo", "contact_id"),
    )

    import_id: str = ref("contact_imports.id", primary_key=True)
    contact_id: str = Field(primary_key=True, sa_type=Text, index=True)  # no reference: it outlives who is removed
    deed: Deed = word(Deed)
    before: dict[str, Any] = doc()  # column → what stood there
    linked: list[list[str]] = docs()  # addresses added to somebody who was there: kind, value
    granted: list[list[str]] = docs()  # consents recorded: kind, value, channel, purpose
    was: int = 0  # the contact's version before, 0 = there was none
    version: int = 0  # and after: another one now means that somebody changed it since
    undo: Undo = word(Undo, default=Undo.OPEN)
    taken_at: datetime = at()  # the first line that speaks of them


@dataclass(frozen=True, slots=True)
class Source:
    """The import that a line belongs to."""

    import_id: str
    file_name: str
    actor: str
    overwrite: bool

    @property
    def origin(self) -> str:
        """As contacts, links and consents name it."""
        return origin_of(self.import_id)


def origin_of(import_id: str) -> str:
    """What an import's contacts, links and consents have as their source."""
    return f"import:{import_id}"


async def take(tx: Tx, source: Source, person: Person, contact: Contact | None, *, now: datetime) -> tuple[int, str]:
    """Make the person, or fill in `contact`; (grants recorded, remark)."""
    before: dict[str, Any] = {}
    linked: list[list[str]] = []
    was = contact.version if contact else 0
    if contact is None:
        made = {name: value for name, value in person.values.items() if name != "name"}
        made |= {"tags": list(person.tags), "fields": person.fields, **await _references(tx, person, now=now)}
        contact = await contacts.create(
            tx, name=person.name or person.organisation or person.points[0].value, now=now, source=source.origin,
            points=person.points, **made,
        )  # fmt: skip
    else:
        theirs = {(point.kind, point.value) for point, _ in await contacts.list_points(tx, contact.id)}
        for point in person.points:
            if (point.kind, point.value) not in theirs:
                await contacts.link_point(tx, contact.id, point, now=now, source=source.origin)
                linked.append([point.kind, point.value])
        changes = _changes(contact, person, overwrite=source.overwrite)
        for name, value in (await _references(tx, person, now=now)).items():
            if not getattr(contact, name) or (source.overwrite and getattr(contact, name) != value):
                changes[name] = value
        if changes:
            before = {name: getattr(contact, name) for name in changes}
            contact = await contacts.edit(tx, contact.id, version=contact.version, now=now, **changes)
    await _stop(tx, source, person, contact, now=now)
    granted, remark = await _consents(tx, source, person, contact, now=now)
    deed = Deed.MADE if not was else Deed.CHANGED if before or linked else Deed.CONSENTED
    if deed != Deed.CONSENTED or granted:
        done = ContactImportChange(
            import_id=source.import_id, contact_id=contact.id, deed=deed, before=before, linked=linked, granted=granted,
            was=was, version=contact.version, taken_at=now,
        )  # fmt: skip
        await _keep(tx, done)
    return len(granted), remark


async def _keep(tx: Tx, done: ContactImportChange) -> None:
    """One row for each contact, whose first line may have been followed by others."""
    if await tx.add_new(done, unique=["import_id", "contact_id"]):
        return
    held = await tx.one(
        select(ContactImportChange).where(
            ContactImportChange.import_id == done.import_id, ContactImportChange.contact_id == done.contact_id
        )
    )
    if held is None:
        raise Conflict
    values: dict[str, Any] = {"granted": [*held.granted, *done.granted]}
    if held.deed == Deed.CONSENTED:
        values |= done.model_dump(include={"deed", "before", "linked", "was", "version"})
    elif done.deed != Deed.CONSENTED:
        values |= {"before": {**done.before, **held.before}, "linked": [*held.linked, *done.linked]}
        # Changed by somebody between two lines: the version that we left is kept, and is not found again.
        values |= {"version": done.version} if done.was == held.version else {}
    await tx.change(ContactImportChange, values, import_id=done.import_id, contact_id=done.contact_id)


async def _references(tx: Tx, person: Person, *, now: datetime) -> dict[str, str]:
    """The rows that the line names: its firm, made if need be, and its owner."""
    named: dict[str, str] = {}
    if person.organisation:
        named["organisation_id"] = (await contacts.get_organisation(tx, person.organisation, now=now)).id
    owner = await users.find_login(tx, person.owner) if person.owner else None
    if owner is not None:
        named["owner_id"] = owner.id
    return named


def _changes(contact: Contact, person: Person, *, overwrite: bool) -> dict[str, Any]:
    changes = {
        name: value
        for name, value in person.values.items()
        if getattr(contact, name) != value and (overwrite or not getattr(contact, name))
    }
    tags = list(dict.fromkeys([*contact.tags, *person.tags]))
    fields = {**contact.fields, **person.fields} if overwrite else {**person.fields, **contact.fields}
    return (
        changes
        | ({"tags": tags} if tags != contact.tags else {})
        | ({"fields": fields} if fields != contact.fields else {})
    )


async def _stop(tx: Tx, source: Source, person: Person, contact: Contact, *, now: datetime) -> None:
    """Whom another system was not to write to, we do not write to. What is stopped here already stays as it is."""
    for point in person.points if person.stopped else ():
        active, _ = await consent.list_for(tx, point)
        for channel in sorted({"*"} & person.stopped or person.stopped & set(contact_lines.CHANNELS[point.kind])):
            if not any(row.channel in ("*", channel) for row in active):
                await consent.opt_out(
                    tx, point, channel=channel, source=source.origin, evidence={"file": source.file_name},
                    actor=source.actor, now=now, contact_id=contact.id,
                )  # fmt: skip


async def _consents(
    tx: Tx, source: Source, person: Person, contact: Contact, *, now: datetime
) -> tuple[list[list[str]], str]:
    granted: list[list[str]] = []
    remark = ""
    for column, claim in person.claims:
        kind, channel, purpose = CONSENTS[column]
        point = next((one for one in person.points if one.kind == kind), None)
        if point is None or await consent.has_consent(tx, point, channel=channel, purpose=purpose):
            continue
        recorded, told = await consent_columns.take(
            tx, point, claim, channel=channel, purpose=purpose, file_name=source.file_name, origin=source.origin,
            actor=source.actor, now=now, contact_id=contact.id,
        )  # fmt: skip
        if recorded:
            granted.append([point.kind, point.value, channel, purpose])
        remark = remark or told
    return granted, remark
