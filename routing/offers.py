"""Offers: open → accepting → won | refused | expired | withdrawn | failed, with a deadline in every live state."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index
from sqlalchemy import text as sql_text

from crm_core.tables import Table, at, doc, key, one_of, ref, text, word


class OfferState(StrEnum):
    """Where an offer stands."""

    OPEN = "open"
    ACCEPTING = "accepting"
    WON = "won"
    REFUSED = "refused"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    FAILED = "failed"


LIVE = ("open", "accepting")
_LIVE_SQL = sql_text("state IN ('open','accepting')")


class Offer(Table, table=True):
    """One offer of one entry to one agent. `trace` is what the deciding call said: shown by explain, never recomputed."""

    __tablename__ = "offers"
    __table_args__ = (
        one_of("state", OfferState),
        Index("uq_offers_live_entry", "entry_id", unique=True, sqlite_where=_LIVE_SQL, postgresql_where=_LIVE_SQL),
        Index("ix_offers_deadline", "deadline_at", sqlite_where=_LIVE_SQL, postgresql_where=_LIVE_SQL),
        Index("ix_offers_agent", "agent_id", "id"),
    )

    id: str = key()
    entry_id: str = ref("queue_entries.id")
    agent_id: str = ref("users.id", index=False)
    state: OfferState = word(OfferState, default=OfferState.OPEN)
    nonce: str = text()  # proves that the browser call belongs to this accept
    deadline_at: datetime = at()  # of the present live state
    opened_at: datetime = at()
    accepted_at: datetime | None = at(nullable=True)
    closed_at: datetime | None = at(nullable=True)
    reason: str = text()
    trace: dict[str, Any] = doc()
    version: int = 1
