"""Recipients from a CSV file: the file's row, the people read from it, and every row that could not be read, with why.

Reading bytes is csv_files.py. Decides: who becomes a recipient, whom it matches, and what an import may do to consent:
it may add a grant that carries its evidence, and never anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlmodel import Field, col, select

from crm_core import addresses, consent_columns, contacts, csv_files, events
from crm_core.addresses import Address, PointKind
from crm_core.consent import Purpose
from crm_core.consent_columns import Claim
from crm_core.contacts import Contact
from crm_core.csv_files import ImportState, Row
from crm_core.db import Tx
from crm_core.errors import Invalid, NotFound
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, docs, key, one_of, ref, text, word
from crm_core.texts import Text

MAX_FAULTS = 1_000  # listed; all are counted
CHANNEL_OF = {PointKind.PHONE: "sms", PointKind.EMAIL: "email"}  # what a consent column speaks of


class RecipientImport(Table, table=True):
    """One uploaded file of recipients."""

    __tablename__ = "recipient_imports"
    __table_args__ = (one_of("state", ImportState),)

    id: str = key()
    file_key: str = text()  # in the object store
    file_name: str = text()
    kind: PointKind = word(PointKind)  # which address makes a recipient
    country: str = text()  # reads national numbers
    state: ImportState = word(ImportState, default=ImportState.UPLOADED)
    encoding: str = text()
    delimiter: str = text()
    headers: list[str] = docs()  # as written
    mapping: dict[str, Any] = doc()  # header → address, name, …, or field name; empty = left out
    cursor: int = 0  # last data row taken; a killed worker goes on behind it
    rows_count: int = 0
    good_count: int = 0
    duplicate_count: int = 0
    fault_count: int = 0
    created_count: int = 0  # contacts made
    consent_count: int = 0  # grants recorded
    error: str = text()  # why the whole file failed
    due_at: datetime | None = at(nullable=True, index=True)
    created_by: str = text()
    created_at: datetime = at()
    ended_at: datetime | None = at(nullable=True)
    version: int = 1


class Recipient(Table, table=True):
    """One person of a file, once per address."""

    __tablename__ = "recipients"
    __table_args__ = (Index("uq_recipients_address", "import_id", "kind", "value", unique=True),)

    id: str = key()
    import_id: str = ref("recipient_imports.id", index=False)
    row: int = 0
    kind: PointKind = word(PointKind)
    value: str = text()
    name: str = text()
    contact_id: str | None = text(default=None)
    fields: dict[str, Any] = doc()  # merge fields: flat, strings only


Index("ix_recipients_import", Recipient.import_id, Recipient.id)


class RecipientFault(Table, table=True):
    """One row that could not be taken, or was taken with a remark."""

    __tablename__ = "recipient_faults"

    import_id: str = ref("recipient_imports.id", primary_key=True)
    row: int = Field(primary_key=True)  # line of the file where the row ends
    column: str = text()
    message: str = text()
    taken: bool = False  # a remark only


_GET = fixed(select(RecipientImport).where(RecipientImport.id == bindparam("id")))


async def get(tx: Tx, import_id: str) -> RecipientImport:
    """The import, or NotFound."""
    found: RecipientImport | None = await tx.one(_GET, id=import_id)
    if found is None:
        raise NotFound("There is no such import.")
    return found


async def register(
    tx: Tx,
    *,
    file_key: str,
    file_name: str,
    kind: PointKind,
    encoding: str,
    delimiter: str,
    headers: Sequence[str],
    mapping: Mapping[str, str],
    country: str,
    user_id: str,
    now: datetime,
) -> RecipientImport:
    """Note an uploaded file whose head was read (csv_files.look); it is read when `begin` says so."""
    row = RecipientImport(
        id=new_id(now), file_key=file_key, file_name=file_name[:200], kind=kind, country=country, encoding=encoding,
        delimiter=delimiter, headers=list(headers), mapping=dict(mapping), created_by=user_id, created_at=now,
    )  # fmt: skip
    return await tx.add(row)


async def begin(
    tx: Tx, import_id: str, *, now: datetime, mapping: Mapping[str, str] | None = None, country: str | None = None
) -> RecipientImport:
    """Start reading, with the mapping as corrected by the user. Invalid when no column is the address."""
    row = await get(tx, import_id)
    chosen = dict(mapping if mapping is not None else row.mapping)
    if "address" not in chosen.values():
        raise Invalid("No column holds the address.", fields={"mapping": "Choose the column with the address."})
    if doubled := {word for word in chosen.values() if word and list(chosen.values()).count(word) > 1}:
        raise Invalid(
            "Two columns are both %(uses)s.",
            uses=sorted(doubled),
            fields={"mapping": Text("Each use belongs to one column.")},
        )
    values: dict[str, Any] = {
        "mapping": chosen,
        "state": ImportState.READING,
        "due_at": now,
        "version": row.version + 1,
    }
    if country is not None:
        values["country"] = country
    guard = update(RecipientImport).where(
        col(RecipientImport.id) == import_id,
        col(RecipientImport.version) == row.version,
        col(RecipientImport.state) == ImportState.UPLOADED,
    )
    await tx.hit(guard.values(**values))
    row.__dict__.update(values)
    await events.emit(tx, "import.changed", import_id, now=now, version=row.version, state=row.state)
    tx.wake("bulk")
    return row


async def list_faults(tx: Tx, import_id: str, *, after: int = 0, limit: int = 100) -> list[RecipientFault]:
    """Rows that were not taken or carry a remark, by line."""
    statement = select(RecipientFault).where(RecipientFault.import_id == import_id, col(RecipientFault.row) > after)
    return await tx.all(statement.order_by(col(RecipientFault.row)).limit(min(limit, 1000)))


async def list_recipients(tx: Tx, import_id: str, *, after: str = "", limit: int = 100) -> list[Recipient]:
    """People of the file by id, from behind `after`."""
    statement = select(Recipient).where(Recipient.import_id == import_id, col(Recipient.id) > after)
    return await tx.all(statement.order_by(col(Recipient.id)).limit(min(limit, 1000)))


async def list_due(tx: Tx, *, now: datetime) -> list[str]:
    """Ids of imports that a worker must read on now."""
    statement = select(RecipientImport.id).where(
        RecipientImport.state == ImportState.READING, col(RecipientImport.due_at) <= now
    )
    return await tx.all(statement.limit(100))


# --- reading ---------------------------------------------------------------------------------------------------------


class _Counted:
    """What one batch adds to the import's figures."""

    __slots__ = ("consents", "created", "duplicates", "faults", "good", "rows")

    def __init__(self) -> None:
        self.rows = self.good = self.duplicates = self.faults = self.created = self.consents = 0


async def take_rows(tx: Tx, import_id: str, rows: Sequence[Row], *, now: datetime, last: bool) -> RecipientImport:
    """Take rows behind the cursor, all in this transaction; `last` ends the import.

    Rows at or before the cursor were taken by a worker that died after its commit: they are left out. Conflict when another
    worker took these rows meanwhile.
    """
    found = await get(tx, import_id)
    if found.state != ImportState.READING:
        return found
    fresh = [row for row in rows if row.number > found.cursor]
    counted = _Counted()
    uses = [found.mapping.get(header, "") for header in found.headers]
    for row in fresh:
        counted.rows += 1
        fault, column = row.fault, ""
        if not fault:
            fault, column = await _take(tx, found, dict(zip(uses, row.cells, strict=False)), row, counted, now=now)
        if fault:
            counted.faults += 1
            await _note(tx, found, row, column, fault, taken=False, listed=found.fault_count + counted.faults)
    values: dict[str, Any] = {
        "cursor": fresh[-1].number if fresh else found.cursor,
        "rows_count": found.rows_count + counted.rows,
        "good_count": found.good_count + counted.good,
        "duplicate_count": found.duplicate_count + counted.duplicates,
        "fault_count": found.fault_count + counted.faults,
        "created_count": found.created_count + counted.created,
        "consent_count": found.consent_count + counted.consents,
        "version": found.version + 1,
    }
    if last:
        values |= {"state": ImportState.READ, "ended_at": now, "due_at": None}
    guard = update(RecipientImport).where(
        col(RecipientImport.id) == import_id, col(RecipientImport.version) == found.version
    )
    await tx.hit(guard.values(**values))
    found.__dict__.update(values)
    if last or fresh:
        await events.emit(tx, "import.changed", import_id, now=now, version=found.version, state=found.state)
    return found


async def fail(tx: Tx, import_id: str, *, error: str, now: datetime) -> None:
    """The whole file cannot be read."""
    found = await get(tx, import_id)
    guard = update(RecipientImport).where(
        col(RecipientImport.id) == import_id, col(RecipientImport.version) == found.version
    )
    await tx.hit(
        guard.values(state=ImportState.FAILED, error=error, ended_at=now, due_at=None, version=found.version + 1)
    )
    await events.emit(tx, "import.changed", import_id, now=now, version=found.version + 1, state=ImportState.FAILED)


async def _note(
    tx: Tx, found: RecipientImport, row: Row, column: str, message: str, *, taken: bool, listed: int
) -> None:
    if listed <= MAX_FAULTS:
        fault = RecipientFault(import_id=found.id, row=row.line, column=column, message=message[:500], taken=taken)
        await tx.add_new(fault, unique=["import_id", "row"])


async def _take(
    tx: Tx, found: RecipientImport, cells: dict[str, str], row: Row, counted: _Counted, *, now: datetime
) -> tuple[str, str]:
    """Make one row a recipient; (why not, column) or empty."""
    country = cells.get(csv_files.COUNTRY, "").strip().upper()
    country = country if len(country) == 2 else found.country
    try:
        address = addresses.address(found.kind, cells.get(csv_files.ADDRESS, ""), country=country)
    except Invalid as error:
        return error.message, csv_files.ADDRESS
    first, last = cells.get(csv_files.FIRST, ""), cells.get(csv_files.LAST, "")
    name = (cells.get(csv_files.NAME, "") or f"{first} {last}".strip())[:200]
    fields = {use: value for use, value in cells.items() if use and use not in csv_files.RESERVED}
    if first:
        fields["first_name"] = first
    if last:
        fields["last_name"] = last
    recipient = Recipient(
        id=new_id(now),
        import_id=found.id,
        row=row.number,
        kind=address.kind,
        value=address.value,
        name=name,
        fields=fields,
    )
    if not await tx.add_new(recipient, unique=["import_id", "kind", "value"]):
        counted.duplicates += 1
        return "", ""
    counted.good += 1
    contact = await _match(tx, found, address, name, country, counted, now=now)
    if contact is not None:
        await tx.run(
            update(Recipient)
            .where(col(Recipient.id) == recipient.id)
            .values(contact_id=contact.id, name=name or contact.name)
        )
    words = (csv_files.CONSENT, csv_files.CONSENT_AT, csv_files.CONSENT_SOURCE, csv_files.CONSENT_TEXT)
    granted, remark = await consent_columns.take(
        tx, address, Claim(*(cells.get(word, "") for word in words)), channel=CHANNEL_OF[address.kind],
        purpose=Purpose.MARKETING, file_name=found.file_name, origin=f"import:{found.id}", actor=found.created_by, now=now,
        contact_id=contact.id if contact else None,
    )  # fmt: skip
    counted.consents += granted
    if remark:
        await _note(
            tx, found, row, csv_files.CONSENT, remark, taken=True, listed=found.fault_count + counted.faults + 1
        )
    return "", ""


async def _match(
    tx: Tx, found: RecipientImport, address: Address, name: str, country: str, counted: _Counted, *, now: datetime
) -> Contact | None:
    """The person with this address, made if nobody has it; of several only the one with the same name, else nobody."""
    owners = [contact for contact, _ in await contacts.list_owners(tx, address)]
    if len(owners) == 1:
        return owners[0]
    if owners:
        same = [contact for contact in owners if contact.name.casefold() == name.casefold()]
        return same[0] if len(same) == 1 else None
    counted.created += 1
    return await contacts.create(
        tx, name=name or address.value, now=now, source=f"import:{found.id}", points=[address], country=country
    )
