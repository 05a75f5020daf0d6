"""Call lists and their entries: what they are, how they are built from contacts or a file. Working them is lists.py.

An entry is one number on one list. ready → locked(agent, until) → called (comes back by rule) | callback(at, owner) | done |
blocked(rule). The lock is taken on the number (NumberLock), so that two lists cannot ring one number together.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import Field, col, func, select

from campaigns import content, counts
from crm_core import accounts, contacts, events
from crm_core.addresses import Address, PointKind
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.errors import IllegalTransition, Invalid, NotFound
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, key, one_of, ref, text, word

PURPOSES = (Purpose.TELEMARKETING, Purpose.SERVICE, Purpose.TRANSACTIONAL)
DEFAULT_RETRY_S = 2 * 3600


class ListState(StrEnum):
    """Where a list stands."""

    DRAFT = "draft"
    BUILDING = "building"  # entries are being added
    ACTIVE = "active"
    PAUSED = "paused"
    CLOSED = "closed"


_L = ListState
ALLOWED: dict[ListState, frozenset[ListState]] = {
    _L.DRAFT: frozenset({_L.BUILDING, _L.ACTIVE, _L.CLOSED}),
    _L.BUILDING: frozenset({_L.ACTIVE, _L.PAUSED, _L.CLOSED, _L.DRAFT}),
    _L.ACTIVE: frozenset({_L.PAUSED, _L.CLOSED, _L.BUILDING}),
    _L.PAUSED: frozenset({_L.ACTIVE, _L.CLOSED, _L.BUILDING}),
    _L.CLOSED: frozenset(),
}


class EntryState(StrEnum):
    """Where one number of a list stands."""

    READY = "ready"
    LOCKED = "locked"  # an agent has it
    CALLED = "called"  # tried; comes back at due_at
    CALLBACK = "callback"  # promised at due_at, by its owner first
    DONE = "done"
    BLOCKED = "blocked"  # by `rule`


ENTRY_OPEN = frozenset({EntryState.READY, EntryState.LOCKED, EntryState.CALLED, EntryState.CALLBACK})
_E = EntryState
ENTRY_ALLOWED: dict[EntryState, frozenset[EntryState]] = {
    _E.READY: frozenset({_E.LOCKED, _E.BLOCKED, _E.DONE, _E.READY}),
    _E.CALLED: frozenset({_E.LOCKED, _E.BLOCKED, _E.DONE, _E.CALLED}),
    _E.CALLBACK: frozenset({_E.LOCKED, _E.BLOCKED, _E.DONE, _E.CALLBACK}),
    _E.LOCKED: frozenset({_E.READY, _E.CALLED, _E.CALLBACK, _E.DONE, _E.BLOCKED, _E.LOCKED}),
    # An agent may take a finished one up again when the customer asks to be called after all.
    _E.DONE: frozenset({_E.CALLBACK, _E.BLOCKED}),
    _E.BLOCKED: frozenset(),
}
_WAITING = "state IN ('ready','called','callback')"


class CallList(Table, table=True):
    """One list of numbers to call, with its rules and script. `version` rises with every change."""

    __tablename__ = "call_lists"
    __table_args__ = (one_of("state", ListState),)

    id: str = key()
    name: str = text()
    purpose: Purpose = word(Purpose)
    account_id: str = ref("channel_accounts.id")  # the number shown to those who are called
    state: ListState = word(ListState, default=ListState.DRAFT)
    script: str = text()  # template over the entry's fields
    max_attempts: int = 6  # per number on this list
    max_per_day: int = 2  # attempts on one number in 24 hours, over all lists
    retry_s: int = DEFAULT_RETRY_S  # where a disposition names none
    source: dict[str, Any] = doc()  # {"import": id} or {"tag": word}
    cursor: str = text()  # building: the last source row taken
    due_at: datetime | None = at(nullable=True)  # building: a worker must look
    created_by: str = text()
    created_at: datetime = at()
    version: int = 1


class ListEntry(Table, table=True):
    """One number on one list. `version` rises with every change."""

    __tablename__ = "list_entries"
    __table_args__ = (
        one_of("state", EntryState),
        Index("uq_list_entries_number", "list_id", "value", unique=True),
        Index(
            "ix_list_entries_next", "list_id", "due_at", "id",
            sqlite_where=sql_text(_WAITING), postgresql_where=sql_text(_WAITING),
        ),
        Index(
            "ix_list_entries_locked", "lock_until",
            sqlite_where=sql_text("state = 'locked'"), postgresql_where=sql_text("state = 'locked'"),
        ),
        Index("ix_list_entries_value", "value"),
        Index("ix_list_entries_state", "list_id", "state", "id"),
    )  # fmt: skip

    id: str = key()
    list_id: str = ref("call_lists.id", index=False)
    value: str = text()  # E.164
    contact_id: str | None = text(default=None)
    name: str = text()
    fields: dict[str, Any] = doc()  # for the script: flat, strings only
    state: EntryState = word(EntryState, default=EntryState.READY)
    due_at: datetime = at()  # not before
    user_id: str | None = text(default=None)  # locked: whose it is; callback: whose promise
    lock_until: datetime | None = at(nullable=True)
    before: str = text()  # locked: the state it goes back to when it is released unused
    rule: str = text()  # why blocked or postponed
    reason: str = text()
    attempts: int = 0
    disposition: str = text()  # of the last attempt
    notes: str = text()
    interaction_id: str | None = text(default=None)  # of the last attempt
    called_at: datetime | None = at(nullable=True)
    created_at: datetime = at()
    version: int = 1

    @property
    def address(self) -> Address:
        """The number as an address."""
        return Address(PointKind.PHONE, self.value, self.value)


class NumberLock(Table, table=True):
    """Who has a number now, over all lists. A row past its lease is free; `token` rises with every holder."""

    __tablename__ = "number_locks"

    value: str = Field(primary_key=True)  # E.164
    entry_id: str = text()
    user_id: str = text()
    token: int = 0
    until: datetime = at()


class ListAttempt(Table, table=True):
    """One dialled attempt; the figures of the day and the caps count these."""

    __tablename__ = "list_attempts"
    __table_args__ = (Index("ix_list_attempts_user", "user_id", "at"), Index("ix_list_attempts_value", "value", "at"))

    id: str = key()
    entry_id: str = ref("list_entries.id")
    list_id: str = text(index=True)
    value: str = text()
    user_id: str = text()
    interaction_id: str | None = text(default=None)
    disposition: str = text()  # empty until disposed
    flags: dict[str, Any] = doc()  # of the disposition, as they were
    ended_at: datetime | None = at(nullable=True)
    at: datetime = at()


_GET = fixed(select(CallList).where(CallList.id == bindparam("id")))
_ENTRY = fixed(select(ListEntry).where(ListEntry.id == bindparam("id")))


async def get(tx: Tx, list_id: str) -> CallList:
    """The list, or NotFound."""
    found: CallList | None = await tx.one(_GET, id=list_id)
    if found is None:
        raise NotFound("There is no such call list.")
    return found


async def get_entry(tx: Tx, entry_id: str) -> ListEntry:
    """The entry, or NotFound."""
    found: ListEntry | None = await tx.one(_ENTRY, id=entry_id)
    if found is None:
        raise NotFound("There is no such entry on a list.")
    return found


async def list_page(
    tx: Tx, *, after: str = "", limit: int = 50, state: str = "", oldest: bool = False
) -> list[CallList]:
    """Lists, newest first (`oldest`: oldest first), all or of one state, from behind the id `after`."""
    statement = select(CallList)
    if state:
        statement = statement.where(CallList.state == ListState(state))
    if after:
        statement = statement.where(col(CallList.id) > after if oldest else col(CallList.id) < after)
    order = col(CallList.id).asc() if oldest else col(CallList.id).desc()
    return await tx.all(statement.order_by(order).limit(min(limit, 200)))


async def list_entries(
    tx: Tx, list_id: str, *, state: EntryState | None = None, after: str = "", limit: int = 50
) -> list[ListEntry]:
    """Entries by id from behind `after` (keyset)."""
    statement = select(ListEntry).where(ListEntry.list_id == list_id, col(ListEntry.id) > after)
    if state is not None:
        statement = statement.where(ListEntry.state == state)
    return await tx.all(statement.order_by(col(ListEntry.id)).limit(min(limit, 500)))


async def create(
    tx: Tx,
    *,
    name: str,
    account_id: str,
    user_id: str,
    now: datetime,
    purpose: Purpose = Purpose.TELEMARKETING,
    script: str = "",
    source: dict[str, Any] | None = None,
    max_attempts: int = 6,
    max_per_day: int = 2,
    retry_s: int = DEFAULT_RETRY_S,
) -> CallList:
    """A draft list. Invalid with a sentence per field."""
    wrong: dict[str, str] = {}
    if not name.strip():
        wrong["name"] = "Give a name."
    if purpose not in PURPOSES:
        wrong["purpose"] = "A call list is telemarketing, service or transactional."
    if not 1 <= max_attempts <= 50:
        wrong["max_attempts"] = "Between 1 and 50."
    if not 1 <= max_per_day <= 10:
        wrong["max_per_day"] = "Between 1 and 10."
    if not 60 <= retry_s <= 90 * 86_400:
        wrong["retry_s"] = "Between a minute and 90 days."
    if (await accounts.get(tx, account_id)).channel != "voice":
        wrong["account_id"] = "Choose a number for calls."
    if script:
        try:
            content.fields_used(script)
        except Invalid as error:
            wrong["script"] = error.message
    if wrong:
        raise Invalid("This call list cannot be made so.", fields=wrong)
    row = CallList(
        id=new_id(now), name=name.strip()[:200], purpose=purpose, account_id=account_id, script=script, source=source or {},
        max_attempts=max_attempts, max_per_day=max_per_day, retry_s=retry_s, created_by=user_id, created_at=now,
    )  # fmt: skip
    await tx.add(row)
    await events.emit(tx, "list.changed", row.id, now=now, version=1, state=row.state)
    return row


async def advance(tx: Tx, row: CallList, to: ListState, *, now: datetime, **changes: Any) -> CallList:
    """Move a list to another state, guarded by version."""
    if to not in ALLOWED[row.state]:
        raise IllegalTransition(
            "A call list that is %(from_text)s cannot become %(to_text)s.", from_text=row.state, to_text=to
        )
    values = {**changes, "state": to, "version": row.version + 1}
    guard = update(CallList).where(col(CallList.id) == row.id, col(CallList.version) == row.version)
    await tx.hit(guard.values(**values))
    row.__dict__.update(values)
    await events.emit(tx, "list.changed", row.id, now=now, version=row.version, state=to)
    return row


async def edit(tx: Tx, list_id: str, *, version: int, now: datetime, **changes: Any) -> CallList:
    """Change name, script, max_attempts, max_per_day, retry_s; Conflict on another version."""
    if changes.keys() - {"name", "script", "max_attempts", "max_per_day", "retry_s"}:
        raise Invalid("That cannot be changed on a call list.")
    if changes.get("script"):
        content.fields_used(changes["script"])
    guard = update(CallList).where(col(CallList.id) == list_id, col(CallList.version) == version)
    await tx.hit(guard.values(**changes, version=version + 1))
    await events.emit(tx, "list.changed", list_id, now=now, version=version + 1)
    return await get(tx, list_id)


async def build(tx: Tx, list_id: str, *, source: dict[str, Any], now: datetime) -> CallList:
    """Ask for entries from `{"import": id}` or `{"tag": word}`; a worker adds them (`add_batch`), then the list is active."""
    row = await get(tx, list_id)
    if not source:
        raise Invalid("Choose who shall be called.", fields={"source": "Choose a file or a tag."})
    tx.wake("bulk")
    return await advance(tx, row, ListState.BUILDING, now=now, source=source, cursor="", due_at=now)


async def set_active(tx: Tx, list_id: str, *, active: bool, now: datetime) -> CallList:
    """Open a list for work, or pause it; entries that somebody has stay theirs."""
    return await advance(tx, await get(tx, list_id), ListState.ACTIVE if active else ListState.PAUSED, now=now)


async def close(tx: Tx, list_id: str, *, now: datetime) -> CallList:
    """Close a list for good."""
    return await advance(tx, await get(tx, list_id), ListState.CLOSED, now=now, due_at=None)


async def add_entry(
    tx: Tx,
    row: CallList,
    address: Address,
    *,
    now: datetime,
    delta: counts.Delta,
    name: str = "",
    contact_id: str | None = None,
    fields: dict[str, str] | None = None,
) -> bool:
    """Put one number on the list, once; False when it is there already or is no phone number."""
    if address.kind != PointKind.PHONE:
        return False
    entry = ListEntry(
        id=new_id(now), list_id=row.id, value=address.value, contact_id=contact_id, name=name,
        fields=content.clean(fields or {}), due_at=now, created_at=now,
    )  # fmt: skip
    if not await tx.add_new(entry, unique=["list_id", "value"]):
        return False
    delta.add(EntryState.READY)
    return True


async def add_contacts(tx: Tx, list_id: str, contact_ids: list[str], *, now: datetime) -> int:
    """Put chosen contacts on the list by their first phone number; how many were new. At most 500 a call."""
    row = await get(tx, list_id)
    delta = counts.Delta(list_id)
    added = 0
    for contact_id in contact_ids[:500]:
        contact = await contacts.find(tx, contact_id)
        if contact is None:
            continue
        for point, _ in await contacts.list_points(tx, contact.id):
            if point.kind == PointKind.PHONE:
                address = Address(PointKind.PHONE, point.value, point.value)
                added += await add_entry(
                    tx, row, address, now=now, delta=delta, name=contact.name, contact_id=contact.id
                )
                break
    await delta.write(tx)
    await events.emit(tx, "list.changed", list_id, now=now, version=row.version)
    return added


async def list_building(tx: Tx, *, now: datetime) -> list[str]:
    """Ids of lists whose entries a worker must add now."""
    statement = select(CallList.id).where(CallList.state == ListState.BUILDING, col(CallList.due_at) <= now)
    return await tx.all(statement.limit(100))


async def count_entries(tx: Tx, list_id: str) -> dict[str, int]:
    """The truth behind the maintained counts: entries by state. Reads them all; for checks and tests."""
    rows = await tx.all(
        select(ListEntry.state, func.count()).where(ListEntry.list_id == list_id).group_by(col(ListEntry.state))
    )
    return {str(state): int(number) for state, number in rows}


async def progress(tx: Tx, list_id: str) -> dict[str, int]:
    """Entries by state; their sum is the list."""
    return await counts.read(tx, list_id)
