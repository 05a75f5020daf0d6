"""One change of many contacts or leads: looked at before, carried out in one transaction, and undone by its inverse.

What each row held before and after is kept, so that undoing gives back exactly that, and only where nobody changed it since.
Both directions are audited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from crm_core import audit, contacts, leads
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.ids import new_id
from crm_core.leads import Lead, LeadStage
from crm_core.tables import Table, at, docs, key, ref, text
from crm_core.users import User

MOST = 200  # rows in one change
ASKS = 10  # more rows than this are asked about once
UNDO = timedelta(hours=12)  # as long as a session lasts
ACTIONS = {"contacts": ("tag", "untag", "assign"), "leads": ("assign", "stage")}


class BulkChange(Table, table=True):
    """One carried-out change of many rows."""

    __tablename__ = "bulk_changes"

    id: str = key()
    user_id: str = ref("users.id")
    noun: str = text()  # contacts, leads
    action: str = text()
    value: str = text()
    rows: list[dict[str, Any]] = docs()  # id, field, before, after
    made_at: datetime = at()
    undone_at: datetime | None = at(nullable=True)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a change would do: rows that change, and rows that are so already."""

    noun: str
    action: str
    value: str
    shown: str  # the value as people read it: a tag, a name
    rows: list[dict[str, Any]]
    same: int

    @property
    def asks(self) -> bool:
        """True when a person is asked once before."""
        return len(self.rows) > ASKS


async def look(tx: Tx, *, noun: str, action: str, value: str, ids: Sequence[str]) -> Forecast:
    """What the change would do now. Invalid when it cannot be made."""
    wanted = list(dict.fromkeys(ids))
    if action not in ACTIONS.get(noun, ()):
        raise Invalid("Choose what shall be done.", fields={"action": "Choose one of the list."})
    if not wanted:
        raise Invalid("Choose at least one row.")
    if len(wanted) > MOST:
        raise Invalid("At most %(most)s rows are changed at once.", most=MOST)
    value = value.strip()
    shown = await _checked(tx, action, value)
    rows = []
    for row in await _rows(tx, noun, wanted):
        field, before, after = _change(row, action, value)
        if before != after:
            rows.append({"id": row.id, "field": field, "before": before, "after": after})
    return Forecast(noun, action, value, shown, rows, len(wanted) - len(rows))


async def _checked(tx: Tx, action: str, value: str) -> str:
    if action in ("tag", "untag"):
        if not value or len(value) > 60 or "," in value:
            raise Invalid(
                "Give one tag of at most 60 characters.", fields={"value": "Give one tag of at most 60 characters."}
            )
        return value
    if action == "stage":
        if value not in set(LeadStage):
            raise Invalid("There is no such stage.", fields={"value": "Choose one of the list."})
        return value
    if not value:
        return ""
    user = await tx.one(select(User).where(User.id == value))
    if user is None or user.disabled_at is not None:
        raise Invalid("There is no such colleague.", fields={"value": "Choose one of the list."})
    return user.name


async def _rows(tx: Tx, noun: str, ids: Sequence[str]) -> list[Any]:
    if noun == "leads":
        return await tx.all(select(Lead).where(col(Lead.id).in_(ids)).order_by(col(Lead.id)))
    living = select(Contact).where(col(Contact.id).in_(ids), col(Contact.merged_into).is_(None))
    return await tx.all(living.where(col(Contact.erased_at).is_(None)).order_by(col(Contact.id)))


def _change(row: Any, action: str, value: str) -> tuple[str, Any, Any]:
    if action == "tag":
        return "tags", list(row.tags), [*row.tags, *([value] if value not in row.tags else [])]
    if action == "untag":
        return "tags", list(row.tags), [tag for tag in row.tags if tag != value]
    if action == "stage":
        return "stage", str(row.stage), value
    return "owner_id", row.owner_id, value or None


async def carry_out(tx: Tx, forecast: Forecast, *, user_id: str, now: datetime) -> BulkChange:
    """Make the change that was looked at in this same transaction."""
    for row in forecast.rows:
        await _write(tx, forecast.noun, row["id"], row["field"], row["after"], now=now)
    made = await tx.add(
        BulkChange(
            id=new_id(now), user_id=user_id, noun=forecast.noun, action=forecast.action, value=forecast.value,
            rows=forecast.rows, made_at=now,
        )
    )  # fmt: skip
    await audit.record(
        tx, actor=user_id, action=f"bulk.{forecast.action}", subject=made.id, now=now, noun=forecast.noun,
        value=forecast.shown, count=len(forecast.rows), ids=[row["id"] for row in forecast.rows],
    )  # fmt: skip
    return made


async def _write(tx: Tx, noun: str, row_id: str, field: str, value: Any, *, now: datetime) -> None:
    if noun == "contacts":
        contact = await contacts.get(tx, row_id)
        await contacts.edit(tx, contact.id, version=contact.version, now=now, **{field: value})
    else:
        lead = await leads.get(tx, row_id)
        await leads.change(tx, lead, now=now, **{field: LeadStage(value) if field == "stage" else value})


async def get(tx: Tx, change_id: str, *, user_id: str) -> BulkChange:
    """One's own change; NotFound."""
    found = await tx.one(select(BulkChange).where(BulkChange.id == change_id, BulkChange.user_id == user_id))
    if found is None:
        raise NotFound("There is no such change.")
    return found


async def undo(tx: Tx, change_id: str, *, user_id: str, now: datetime) -> tuple[int, int]:
    """Give back what was before, where it is still as the change left it; (given back, left alone). Once."""
    change = await get(tx, change_id, user_id=user_id)
    if change.undone_at is not None:
        raise Conflict("This was undone already.")
    if now - change.made_at > UNDO:
        raise Conflict("This is too long ago to be undone.")
    once = update(BulkChange).where(col(BulkChange.id) == change.id, col(BulkChange.undone_at).is_(None))
    if await tx.run(once.values(undone_at=now)) != 1:
        raise Conflict("This was undone already.")
    current = {row.id: row for row in await _rows(tx, change.noun, [row["id"] for row in change.rows])}
    given, left = 0, 0
    for row in change.rows:
        now_is = current.get(row["id"])
        value = getattr(now_is, row["field"], None)
        value = (
            list(value)
            if row["field"] == "tags" and value is not None
            else str(value)
            if row["field"] == "stage"
            else value
        )
        if now_is is None or value != row["after"]:
            left += 1
            continue
        await _write(tx, change.noun, row["id"], row["field"], row["before"], now=now)
        given += 1
    await audit.record(tx, actor=user_id, action="bulk.undone", subject=change.id, now=now, given=given, left=left)
    return given, left


async def names_of(tx: Tx, noun: str, ids: Sequence[str]) -> dict[str, str]:
    """Row id → the person's name."""
    if noun == "contacts":
        return dict(await tx.all(select(Contact.id, Contact.name).where(col(Contact.id).in_(ids))))
    joined = select(Lead.id, Contact.name).join(Contact, col(Contact.id) == col(Lead.contact_id))
    return dict(await tx.all(joined.where(col(Lead.id).in_(ids))))
