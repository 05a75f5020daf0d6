"""Leads: enquiries attached to a contact (source, stage, owner, score), never a second copy of the person."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, update
from sqlmodel import col, select

from crm_core import events
from crm_core.db import Tx
from crm_core.errors import Conflict, NotFound
from crm_core.ids import new_id
from crm_core.tables import Table, at, doc, key, one_of, ref, text, word


class LeadStage(StrEnum):
    """How far an enquiry is."""

    NEW = "new"
    CONTACTED = "contacted"
    QUALIFIED = "qualified"
    WON = "won"
    LOST = "lost"


class Lead(Table, table=True):
    """One enquiry."""

    __tablename__ = "leads"
    __table_args__ = (one_of("stage", LeadStage), Index("ix_leads_stage", "stage", "id"))

    id: str = key()
    contact_id: str = ref("contacts.id")
    interaction_id: str | None = ref("interactions.id", nullable=True)
    source: str = text()  # form:<slug>, call, import:<id>
    stage: LeadStage = word(LeadStage, default=LeadStage.NEW)
    owner_id: str | None = text(default=None)
    score: int = 0
    fields: dict[str, Any] = doc()  # what they filled in
    first_touch_at: datetime | None = at(nullable=True)
    created_at: datetime = at()
    version: int = 1


async def create(
    tx: Tx, *, contact_id: str, source: str, fields: dict[str, Any], now: datetime, interaction_id: str | None = None
) -> Lead:
    """A new lead on a contact."""
    lead = Lead(
        id=new_id(now),
        contact_id=contact_id,
        interaction_id=interaction_id,
        source=source,
        fields=fields,
        created_at=now,
    )
    await tx.add(lead)
    await events.emit(tx, "lead.created", lead.id, now=now, version=1, contact=contact_id)
    return lead


async def get(tx: Tx, lead_id: str) -> Lead:
    """The lead, or NotFound."""
    found = await tx.one(select(Lead).where(Lead.id == lead_id))
    if found is None:
        raise NotFound("There is no such lead.")
    return found


async def change(tx: Tx, lead: Lead, *, now: datetime, **changes: Any) -> None:
    """Guarded change; Conflict when somebody was first."""
    guard = update(Lead).where(col(Lead.id) == lead.id, col(Lead.version) == lead.version)
    if await tx.run(guard.values(**changes, version=lead.version + 1)) != 1:
        raise Conflict("This lead changed meanwhile.")
    lead.__dict__.update(changes, version=lead.version + 1)
    await events.emit(tx, "lead.changed", lead.id, now=now, version=lead.version, contact=lead.contact_id)


async def list_page(
    tx: Tx, *, stage: str = "", after: str = "", limit: int = 50, owner_id: str = "", oldest: bool = False
) -> list[Lead]:
    """Leads newest first (`oldest`: oldest first), from behind the id `after` (keyset)."""
    statement = select(Lead)
    if stage:
        statement = statement.where(Lead.stage == LeadStage(stage))
    if owner_id:
        statement = statement.where(Lead.owner_id == owner_id)
    if after:
        statement = statement.where(col(Lead.id) > after if oldest else col(Lead.id) < after)
    order = col(Lead.id).asc() if oldest else col(Lead.id).desc()
    return await tx.all(statement.order_by(order).limit(min(limit, 200)))


async def list_for(tx: Tx, contact_id: str) -> list[Lead]:
    """A contact's leads, newest first; at most 50."""
    return await tx.all(select(Lead).where(Lead.contact_id == contact_id).order_by(col(Lead.id).desc()).limit(50))
