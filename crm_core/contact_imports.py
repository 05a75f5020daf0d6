"""Contacts out of a file: the file's row, what would become of each line, and every line that was refused, with why.

Decides who a line is: the person with that id, the only person with that proven address, or one with that address and that
name; anybody else's address is never shared by an import. Reading bytes is csv_files.py, columns are contact_files.py, what
becomes of the person is contact_taking.py, and how all of it is taken back contact_undo.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import update
from sqlmodel import Field, col, func, select

from crm_core import audit, contact_files, contact_taking, contacts, events, users
from crm_core.addresses import Address
from crm_core.contact_lines import Person, country_of, read_person
from crm_core.contact_taking import Source
from crm_core.contacts import Contact
from crm_core.csv_files import ImportState, Look, Row
from crm_core.db import Tx
from crm_core.errors import Invalid, NotFound
from crm_core.ids import new_id
from crm_core.tables import Table, at, doc, docs, key, one_of, ref, text, word
from crm_core.texts import Text


class ContactImport(Table, table=True):
    """One uploaded file of contacts."""

    __tablename__ = "contact_imports"
    __table_args__ = (one_of("state", ImportState),)

    id: str = key()
    file_key: str = text()  # in the object store
    file_name: str = text()
    country: str = text()  # reads national numbers of lines that name none
    overwrite: bool = False  # values of the file win; else only what is empty is filled in
    state: ImportState = word(ImportState, default=ImportState.UPLOADED)
    encoding: str = text()
    delimiter: str = text()
    headers: list[str] = docs()  # as written
    mapping: dict[str, Any] = doc()  # header → a use of contact_files, or a custom field's name; empty = left out
    total_count: int = 0  # lines of the file
    cursor: int = 0  # last line taken; a killed worker goes on behind it
    new_count: int = 0
    matched_count: int = 0
    refused_count: int = 0
    consent_count: int = 0  # grants recorded
    error: str = text()  # why the whole file failed
    due_at: datetime | None = at(nullable=True, index=True)  # a worker goes on with it then: reading, or undoing
    created_by: str = text()
    created_at: datetime = at()
    ended_at: datetime | None = at(nullable=True)  # of the reading
    undo_asked_at: datetime | None = at(nullable=True)
    undone_by: str | None = text(default=None)
    undone_at: datetime | None = at(nullable=True)
    version: int = 1


class ContactImportFault(Table, table=True):
    """One line that was refused, or taken with a remark, as it was written."""

    __tablename__ = "contact_import_faults"

    import_id: str = ref("contact_imports.id", primary_key=True)
    row: int = Field(primary_key=True)  # data row, 1 = first below the header
    line: int = 0  # of the file, where the row ends
    column: str = text()  # the use that is at fault, empty = the whole line
    message: str = text()
    taken: bool = False  # a remark only
    cells: list[str] = docs()


class Fate(StrEnum):
    """What becomes of a line."""

    NEW = "new"
    MATCHED = "matched"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What would become of a line, and why."""

    fate: Fate
    reason: str = ""
    column: str = ""
    contact: Contact | None = None
    person: Person | None = None


# --- who it is -------------------------------------------------------------------------------------------------------


async def judge(tx: Tx, found: ContactImport, row: Row) -> Verdict:
    """What would become of this line now. Changes nothing."""
    if row.fault:
        return Verdict(Fate.REFUSED, row.fault)
    uses = [found.mapping.get(header, "") for header in found.headers]
    try:
        person = read_person(list(zip(uses, row.cells, strict=False)), country=found.country)
    except Invalid as error:
        return Verdict(Fate.REFUSED, error.message, next(iter(error.fields), ""))
    if person.owner and await users.find_login(tx, person.owner) is None:
        told = Text("There is no colleague “%(login)s”.", login=person.owner[:60])
        return Verdict(Fate.REFUSED, told, contact_files.OWNER)
    return await _who(tx, person)


async def _who(tx: Tx, person: Person) -> Verdict:
    def no(reason: str, column: str = "") -> Verdict:
        return Verdict(Fate.REFUSED, reason, column, person=person)

    owners: dict[Address, dict[str, Contact]] = {}
    proven: dict[str, Contact] = {}
    for point in person.points:
        pairs = await contacts.list_owners(tx, point)
        owners[point] = {contact.id: contact for contact, _ in pairs}
        if len(pairs) == 1 and pairs[0][1].verified_at is not None:
            proven[pairs[0][0].id] = pairs[0][0]
    candidates = {one.id: one for theirs in owners.values() for one in theirs.values()}
    chosen = await contacts.find(tx, person.id) if person.id else None
    if chosen is not None and chosen.erased_at is not None:
        return no(Text("This person asked to be forgotten."), contact_files.ID)
    if chosen is None:
        if not person.points:
            return no(Text("The line has neither a phone number nor a mail address."))
        if not candidates:
            return Verdict(Fate.NEW, person=person)
        same = [one for one in candidates.values() if _folded(one.name) == _folded(person.name)]
        if len(proven) > 1:
            return no(Text("Its addresses belong to different people: %(names)s.", names=_names(proven)))
        if proven:
            chosen = next(iter(proven.values()))
        elif len(same) == 1:
            chosen = same[0]
        elif len(candidates) == 1 and not person.name:
            chosen = next(iter(candidates.values()))
        elif len(candidates) == 1:
            return no(
                Text(
                    "Its address belongs to %(names)s, which nobody has proven, and the name is another.",
                    names=_names(candidates),
                )
            )
        else:
            return no(Text("Its address is shared by several people: %(names)s.", names=_names(candidates)))
    for point, theirs in owners.items():
        if theirs and chosen.id not in theirs:
            told = Text(
                "%(address)s belongs to %(names)s, not to %(name)s.", address=point.value, names=_names(theirs),
                name=chosen.name,
            )  # fmt: skip
            return no(told, point.kind)
    return Verdict(Fate.MATCHED, contact=chosen, person=person)


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())


def _names(people: Mapping[str, Contact]) -> list[str]:
    return sorted(one.name for one in people.values())[:5]


@dataclass(slots=True)
class Preview:
    """Verdicts on lines of which none has been carried out: a line that an earlier one would make counts as matched."""

    seen: dict[Address, str] = field(default_factory=dict)  # address → the name that it would belong to

    async def judge(self, tx: Tx, found: ContactImport, row: Row) -> Verdict:
        verdict = await judge(tx, found, row)
        if verdict.person is None or verdict.fate != Fate.NEW:
            return verdict
        name = verdict.person.name
        points = [replace(point, raw="", extension="") for point in verdict.person.points]
        earlier = {self.seen[point] for point in points if point in self.seen}
        if earlier and name and earlier != {_folded(name)}:
            told = Text("Its address stands in an earlier line, with another name.")
            return Verdict(Fate.REFUSED, told, person=verdict.person)
        self.seen |= dict.fromkeys(points, _folded(name))
        return replace(verdict, fate=Fate.MATCHED) if earlier else verdict


# --- the import ------------------------------------------------------------------------------------------------------


async def get(tx: Tx, import_id: str) -> ContactImport:
    """The import, or NotFound."""
    found = await tx.one(select(ContactImport).where(ContactImport.id == import_id))
    if found is None:
        raise NotFound("There is no such import.")
    return found


async def register(
    tx: Tx, look: Look, *, file_key: str, file_name: str, total_count: int, country: str, overwrite: bool, user_id: str,
    now: datetime,
) -> ContactImport:  # fmt: skip
    """Note an uploaded file; nothing is taken over before `begin`. Invalid for a country that is none."""
    row = ContactImport(
        id=new_id(now), file_key=file_key, file_name=file_name[:200], country=country_of(country.strip()), overwrite=overwrite,
        encoding=look.encoding, delimiter=look.delimiter, headers=look.headers, mapping=look.mapping,
        total_count=total_count, created_by=user_id, created_at=now,
    )  # fmt: skip
    return await tx.add(row)


def checked_mapping(headers: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """A mapping as chosen, for these headers. Invalid when nobody could be told by it or a use is given twice."""
    mapping = {header: str(given.get(header, ""))[:60] for header in headers}
    chosen = [use for use in mapping.values() if use]
    if not {contact_files.ID, contact_files.PHONE, contact_files.EMAIL} & set(chosen):
        raise Invalid(
            "No column holds a phone number or a mail address.",
            fields={"mapping": "Choose the column with the phone number or the mail address."},
        )
    if doubled := sorted({use for use in chosen if chosen.count(use) > 1} - set(contact_files.SEVERAL)):
        raise Invalid(
            "Two columns are both %(uses)s.", uses=doubled, fields={"mapping": Text("Each use belongs to one column.")}
        )
    return mapping


async def choose(tx: Tx, import_id: str, *, mapping: Mapping[str, str], country: str, overwrite: bool) -> ContactImport:
    """Correct the mapping before anything is taken over. Invalid as `checked_mapping`; Conflict when it has begun."""
    found = await get(tx, import_id)
    return await change(
        tx, found, ImportState.UPLOADED, mapping=checked_mapping(found.headers, mapping), country=country_of(country.strip()),
        overwrite=overwrite,
    )  # fmt: skip


async def begin(tx: Tx, import_id: str, *, actor: str, now: datetime, due_at: datetime | None = None) -> ContactImport:
    """Have it taken over in the background, from `due_at` on. Invalid as `checked_mapping`; Conflict when it has begun."""
    found = await get(tx, import_id)
    checked_mapping(found.headers, found.mapping)
    await change(tx, found, ImportState.UPLOADED, state=ImportState.READING, due_at=due_at or now)
    await audit.record(
        tx, actor=actor, action="contacts.imported", subject=f"import:{found.id}", now=now, file=found.file_name,
        lines=found.total_count, overwrite=found.overwrite,
    )  # fmt: skip
    await events.emit(tx, "import.changed", import_id, now=now, version=found.version, state=found.state)
    tx.wake("bulk")
    return found


async def take_rows(tx: Tx, import_id: str, rows: Sequence[Row], *, now: datetime, last: bool) -> ContactImport:
    """Carry out lines behind the cursor, all in this transaction; `last` ends it. Conflict when another worker was first."""
    found = await get(tx, import_id)
    if found.state != ImportState.READING:
        return found
    fresh = [row for row in rows if row.number > found.cursor]
    source = Source(found.id, found.file_name, found.created_by, overwrite=found.overwrite)
    counted = dict.fromkeys(Fate, 0)
    granted = 0
    for row in fresh:
        verdict = await judge(tx, found, row)
        counted[verdict.fate] += 1
        reason, column = verdict.reason, verdict.column
        if verdict.fate != Fate.REFUSED and verdict.person is not None:
            grants, reason = await contact_taking.take(tx, source, verdict.person, verdict.contact, now=now)
            granted += grants
        if reason:
            fault = ContactImportFault(
                import_id=found.id, row=row.number, line=row.line, column=column, message=reason[:500],
                taken=verdict.fate != Fate.REFUSED, cells=row.cells,
            )  # fmt: skip
            await tx.add_new(fault, unique=["import_id", "row"])
    values: dict[str, Any] = {
        "cursor": fresh[-1].number if fresh else found.cursor,
        "new_count": found.new_count + counted[Fate.NEW],
        "matched_count": found.matched_count + counted[Fate.MATCHED],
        "refused_count": found.refused_count + counted[Fate.REFUSED],
        "consent_count": found.consent_count + granted,
    }
    if last:
        values |= {"state": ImportState.READ, "ended_at": now, "due_at": None}
    await change(tx, found, ImportState.READING, **values)
    await events.emit(tx, "import.changed", import_id, now=now, version=found.version, state=found.state)
    return found


async def fail(tx: Tx, import_id: str, *, error: str, now: datetime) -> None:
    """The rest of the file cannot be read."""
    found = await get(tx, import_id)
    await change(tx, found, ImportState.READING, state=ImportState.FAILED, error=error, ended_at=now, due_at=None)
    await events.emit(tx, "import.changed", import_id, now=now, version=found.version, state=found.state)


async def change(tx: Tx, found: ContactImport, expected: ImportState, **values: Any) -> ContactImport:
    """New values for an import that is still as it was found; Conflict when somebody was first."""
    values["version"] = found.version + 1
    guard = update(ContactImport).where(
        col(ContactImport.id) == found.id,
        col(ContactImport.version) == found.version,
        col(ContactImport.state) == expected,
    )
    await tx.hit(guard.values(**values))
    found.__dict__.update(values)
    return found


async def list_due(tx: Tx, *, now: datetime) -> list[str]:
    """Ids of imports that a worker must go on with now, reading or undoing."""
    return await tx.all(select(ContactImport.id).where(col(ContactImport.due_at) <= now).limit(100))


async def list_recent(tx: Tx, *, after: str = "", limit: int = 20) -> list[ContactImport]:
    """Imports, newest first, from behind the id `after`."""
    statement = select(ContactImport).order_by(col(ContactImport.id).desc()).limit(min(limit, 200))
    return await tx.all(statement.where(col(ContactImport.id) < after) if after else statement)


async def list_faults(
    tx: Tx, import_id: str, *, taken: bool, after: int = 0, limit: int = 200
) -> list[ContactImportFault]:
    """Lines that were refused (or, `taken`, carry a remark), in the file's order, from behind row `after`."""
    statement = select(ContactImportFault).where(
        ContactImportFault.import_id == import_id,
        ContactImportFault.taken == taken,
        col(ContactImportFault.row) > after,
    )
    return await tx.all(statement.order_by(col(ContactImportFault.row)).limit(min(limit, 1000)))


async def count_remarks(tx: Tx, import_id: str) -> int:
    """Lines that were taken with a remark."""
    statement = select(func.count()).select_from(ContactImportFault)
    return int(await tx.one(statement.where(ContactImportFault.import_id == import_id, ContactImportFault.taken)) or 0)
