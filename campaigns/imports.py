"""Recipients from a CSV file: the file's row, the people read from it, and every row that could not be read, with why.

Reading bytes is csv_files.py. Decides: who becomes a recipient, whom it matches, and what an import may do to consent:
it may add a grant that carries its evidence, and never anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlmodel import Field, col, select

from crm_core import events
from crm_core.addresses import PointKind
from crm_core.db import Tx
from crm_core.errors import Invalid, NotFound
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, docs, key, one_of, ref, text, word

MAX_FAULTS = 1_000  # listed; all are counted


class ImportState(StrEnum):
    """Where an import stands."""

    UPLOADED = "uploaded"  # the mapping may still change
    READING = "reading"
    READ = "read"
    FAILED = "failed"


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


Index("ix_recipients_import", Recipient.import_id, Recipient.id)  # type: ignore[arg-type]


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
            f"Two columns are both {', '.join(sorted(doubled))}.", fields={"mapping": "Each use belongs to one column."}
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
