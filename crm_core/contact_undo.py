"""An import of contacts taken back as a whole: what would happen, and a bounded part of it at a time.

Whom it made goes, whom it changed gets back what was there. Left alone, and named, is whoever somebody changed since, was in
touch with, has work for, or has heard other consent from. Consents that only its file proves end for all of them: their
basis is gone. Whoever the file said must not be contacted stays stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import bindparam, case, column, delete, exists, literal_column, or_, table, update
from sqlalchemy.orm import aliased
from sqlmodel import col, func, select

from crm_core import audit, consent_columns, contact_imports, contacts, events
from crm_core.addresses import Address, PointKind
from crm_core.consent import ConsentEvent
from crm_core.contact_imports import ContactImport
from crm_core.contact_taking import ContactImportChange, Deed, Undo, origin_of
from crm_core.contacts import Contact, ContactLink, ContactPoint
from crm_core.conversations import Conversation
from crm_core.csv_files import ImportState
from crm_core.csv_reading import ROWS
from crm_core.db import Tx
from crm_core.errors import Conflict, NotFound
from crm_core.interactions import Interaction, Note
from crm_core.leads import Lead
from crm_core.statements import fixed
from crm_core.tables import Word
from crm_core.texts import Text
from crm_core.touches import Touch

STOPPED = Text("Reading was stopped, because the import is undone.")
FORGET_AT_ONCE = 500


# --- what becomes of each --------------------------------------------------------------------------------------------

# Work of the folders above this one, by their tables' names. Deliveries and entries of lists are found by their address,
# because their tables are large and have no index by contact.
BY_CONTACT = ("callbacks",)
BY_ADDRESS = ("deliveries", "list_entries")


def _verdict() -> Any:
    """SQL: what an undo does now with a contact that the import did something to; a word of `Undo`."""
    change, contact, link, point = ContactImportChange, Contact, ContactLink, ContactPoint
    theirs = col(link.contact_id) == col(contact.id)
    brought = col(link.source) == bindparam("origin")
    at_point = col(point.id) == col(link.point_id)
    ended = col(link.valid_until).is_not(None)
    relinked = exists().where(theirs, brought == ended)

    def since(noun: Any) -> Any:
        """Of an address that the import brought, after its line."""
        same = (col(noun.kind) == point.kind, col(noun.value) == point.value)
        return exists().where(theirs, brought, at_point, *same, col(noun.at) > change.taken_at)

    heard = since(ConsentEvent).where(col(ConsentEvent.source) != bindparam("origin"))
    merged = aliased(contact)
    work = [
        exists().where(col(noun.contact_id) == contact.id) for noun in (Conversation, Interaction, Note, Lead, Touch)
    ]
    work.append(exists().where(col(merged.merged_into) == contact.id))
    for name in BY_CONTACT:
        work.append(exists().where(table(name, column("contact_id")).c.contact_id == contact.id))
    for name in BY_ADDRESS:
        rows = table(name, column("contact_id"), column("value")).c
        work.append(exists().where(theirs, at_point, rows.value == point.value, rows.contact_id == contact.id))
    made = col(change.deed) == Deed.MADE
    return case(
        (col(change.deed) == Deed.CONSENTED, _word(Undo.UNDONE)),
        (col(contact.id).is_(None), _word(Undo.GONE)),
        (col(contact.erased_at).is_not(None), _word(Undo.ERASED)),
        (col(contact.merged_into).is_not(None), _word(Undo.MERGED)),
        (or_(col(contact.version) != change.version, made & relinked), _word(Undo.CHANGED)),
        (or_(since(Touch), made & or_(*work)), _word(Undo.USED)),
        (heard, _word(Undo.CONSENT)),
        else_=_word(Undo.UNDONE),
    )


def _word(undo: Undo) -> Any:
    return literal_column(f"'{undo.value}'", Word(Undo))  # a word of our own enum, never a stranger's


def _each(verdict: Any) -> Any:
    found = select(ContactImportChange.contact_id, Contact.name, ContactImportChange.deed, verdict.label("verdict"))
    person = col(Contact.id) == col(ContactImportChange.contact_id)
    return found.join(Contact, person, isouter=True).where(ContactImportChange.import_id == bindparam("import_id"))


_WOULD = _each(_verdict())
_DID = _each(col(ContactImportChange.undo))
_OF_THESE = fixed(_WOULD.where(col(ContactImportChange.contact_id).in_(bindparam("ids", expanding=True))))
_LEFT = [word for word in Undo if word not in (Undo.OPEN, Undo.UNDONE)]


def _rows_of(found: ContactImport) -> tuple[Any, dict[str, str]]:
    """Who, what was done to them, and what becomes of it; once somebody has asked, what became of it. And its parameters."""
    if found.undo_asked_at is not None:
        return _DID.subquery().c, {"import_id": found.id}
    return _WOULD.subquery().c, {"import_id": found.id, "origin": origin_of(found.id)}


# --- looking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """What would happen; once it was asked for, what did, and how many are still to come."""

    removed: int
    restored: int
    left: int
    to_come: int
    consented: int = 0  # had nothing but a consent recorded, which ends


def possible(found: ContactImport) -> bool:
    """True while what it did is kept and nobody has asked to have it undone."""
    return bool(found.file_key) and found.state != ImportState.UPLOADED and found.undo_asked_at is None


async def count(tx: Tx, found: ContactImport) -> Figures:
    """The figures of an undo; before it was asked for they are looked at anew each time."""
    rows, given = _rows_of(found)
    counts = select(rows.deed, rows.verdict, func.count()).group_by(rows.deed, rows.verdict)
    counted = await tx.all(counts, **given)

    def of(*verdicts: Undo, deeds: Collection[Deed] = frozenset(Deed)) -> int:
        return sum(number for deed, verdict, number in counted if verdict in verdicts and deed in deeds)

    return Figures(
        removed=of(Undo.UNDONE, deeds={Deed.MADE}), restored=of(Undo.UNDONE, deeds={Deed.CHANGED}), left=of(*_LEFT),
        to_come=of(Undo.OPEN), consented=of(Undo.UNDONE, deeds={Deed.CONSENTED}),
    )  # fmt: skip


async def list_left(tx: Tx, found: ContactImport, *, after: str = "", limit: int = 100) -> list[tuple[str, str, Undo]]:
    """(contact id, name, why) of those who are left alone, or would be, from behind the id `after`."""
    rows, given = _rows_of(found)
    wanted = select(rows.contact_id, rows.name, rows.verdict).where(rows.verdict.in_(_LEFT), rows.contact_id > after)
    return [
        (one, name or "", why)
        for one, name, why in await tx.all(wanted.order_by(rows.contact_id).limit(limit), **given)
    ]


# --- undoing ---------------------------------------------------------------------------------------------------------


async def begin(tx: Tx, import_id: str, *, actor: str, now: datetime, due_at: datetime | None = None) -> ContactImport:
    """Have it undone in the background, from `due_at` on; one that is being read stops. Asked again, nothing happens.

    Conflict when there is nothing to undo, or when what it did is no longer kept.
    """
    found = await _held(tx, import_id)
    if found.undo_asked_at is not None:
        return found
    if found.state == ImportState.UPLOADED:
        raise Conflict("This file was not taken over yet; there is nothing to undo.")
    if not found.file_key:
        raise Conflict("What an import did is kept for 30 days, as its file; this one can no longer be undone.")
    values: dict[str, Any] = {"undo_asked_at": now, "undone_by": actor, "due_at": due_at or now}
    if found.state == ImportState.READING:
        values |= {"state": ImportState.FAILED, "error": STOPPED, "ended_at": now}
    await contact_imports.change(tx, found, found.state, **values)
    await audit.record(
        tx, actor=actor, action="contacts.import_undone", subject=f"import:{found.id}", now=now, file=found.file_name
    )
    await _tell(tx, found, now=now)
    tx.wake("bulk")
    return found


async def _held(tx: Tx, import_id: str) -> ContactImport:
    """The import, which nobody else changes before this transaction ends."""
    found = await tx.one(select(ContactImport).where(ContactImport.id == import_id).with_for_update())
    if found is None:
        raise NotFound("There is no such import.")
    return found


async def _tell(tx: Tx, found: ContactImport, *, now: datetime) -> None:
    await events.emit(tx, "import.changed", found.id, now=now, version=found.version, state=found.state)


async def undo_some(tx: Tx, import_id: str, *, now: datetime) -> bool:
    """Undo it for the next contacts, at most `ROWS`; True when it is done, or was never asked for."""
    found = await _held(tx, import_id)
    if found.undo_asked_at is None or found.undone_at is not None:
        return True
    mine = col(ContactImportChange.import_id) == found.id
    waiting = select(ContactImportChange).where(mine, col(ContactImportChange.undo) == Undo.OPEN)
    changes = await tx.all(waiting.order_by(col(ContactImportChange.contact_id)).limit(ROWS))
    ids = [change.contact_id for change in changes]
    # Whoever writes to them, or something that refers to them, is waited for, or waits.
    await tx.all(select(Contact.id).where(col(Contact.id).in_(ids)).order_by(col(Contact.id)).with_for_update())
    looked = await tx.all(_OF_THESE, import_id=found.id, origin=origin_of(found.id), ids=ids)
    verdicts: dict[str, Undo] = {contact_id: verdict for contact_id, _, _, verdict in looked}
    undone = [change for change in changes if verdicts[change.contact_id] == Undo.UNDONE]
    for change in changes:
        await _end_consents(tx, found, change, now=now)
    await contacts.remove(tx, [change.contact_id for change in undone if change.deed == Deed.MADE], now=now)
    for change in undone:
        if change.deed == Deed.CHANGED:
            await _give_back(tx, change, now=now)
    for verdict in set(verdicts.values()):
        those = col(ContactImportChange.contact_id).in_([one for one in ids if verdicts[one] == verdict])
        await tx.run(update(ContactImportChange).where(mine, those).values(undo=verdict))
    ended = len(changes) < ROWS
    await contact_imports.change(tx, found, found.state, **({"undone_at": now, "due_at": None} if ended else {}))
    if ended:
        did = await count(tx, found)
        await audit.record(
            tx, actor=found.undone_by or "", action="contacts.import_undo_ended", subject=f"import:{found.id}", now=now,
            removed=did.removed, restored=did.restored, left=did.left,
        )  # fmt: skip
    await _tell(tx, found, now=now)
    return ended


async def _end_consents(tx: Tx, found: ContactImport, change: ContactImportChange, *, now: datetime) -> None:
    for kind, value, channel, purpose in change.granted:
        await consent_columns.take_back(
            tx, Address(PointKind(kind), value, value), channel=channel, purpose=purpose, origin=origin_of(found.id),
            actor=found.undone_by or "", now=now, contact_id=change.contact_id,
        )  # fmt: skip


async def _give_back(tx: Tx, change: ContactImportChange, *, now: datetime) -> None:
    for kind, value in change.linked:
        with contextlib.suppress(NotFound):  # somebody took it away since
            await contacts.unlink_point(tx, change.contact_id, Address(PointKind(kind), value, value), now=now)
    if not change.before:
        return
    before = dict(change.before)
    if before.get("born_on"):
        before["born_on"] = date.fromisoformat(before["born_on"])
    restored = await contacts.edit(tx, change.contact_id, version=change.version, now=now, **before)
    # What an earlier import left is there again: that one may be undone now.
    earlier = update(ContactImportChange).where(
        col(ContactImportChange.contact_id) == change.contact_id,
        col(ContactImportChange.version) == change.was,
        col(ContactImportChange.undo) == Undo.OPEN,
        col(ContactImportChange.import_id) != change.import_id,
    )
    await tx.run(earlier.values(version=restored.version))


async def forget(tx: Tx) -> int:
    """Delete what imports did whose files are gone: it holds people's data too; how many rows, at most `FORGET_AT_ONCE`."""
    gone = select(ContactImport.id).where(
        ContactImport.file_key == "",
        or_(col(ContactImport.undo_asked_at).is_(None), col(ContactImport.undone_at).is_not(None)),
    )
    old = select(ContactImportChange.import_id, ContactImportChange.contact_id)
    rows = await tx.all(old.where(col(ContactImportChange.import_id).in_(gone)).limit(FORGET_AT_ONCE))
    for import_id, contact_id in rows:
        await tx.run(_FORGET, import_id=import_id, contact_id=contact_id)
    return len(rows)


_FORGET = fixed(
    delete(ContactImportChange).where(
        col(ContactImportChange.import_id) == bindparam("import_id"),
        col(ContactImportChange.contact_id) == bindparam("contact_id"),
    )
)
