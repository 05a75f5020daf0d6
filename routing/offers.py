"""Offers: open → accepting → won | refused | expired | withdrawn | failed, with a deadline in every live state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import Index, bindparam
from sqlalchemy import text as sql_text
from sqlmodel import col, select

from crm_core import events
from crm_core.changes import among, change_held, named
from crm_core.db import Tx
from crm_core.errors import IllegalTransition, NotFound
from crm_core.statements import Fixed, fixed
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
# Written out, so that both engines see at once that the partial indexes fit.
IS_LIVE = sql_text("offers.state IN ('open','accepting')")
_LIVE_SQL = sql_text("state IN ('open','accepting')")
_ACCEPTING_SQL = sql_text("state = 'accepting'")


class Offer(Table, table=True):
    """One offer of one entry to one agent. `trace` is what the deciding call said: shown by explain, never recomputed."""

    __tablename__ = "offers"
    __table_args__ = (
        one_of("state", OfferState),
        Index(
            "uq_offers_live_agent",
            "entry_id",
            "agent_id",
            unique=True,
            sqlite_where=_LIVE_SQL,
            postgresql_where=_LIVE_SQL,
        ),
        Index(
            "uq_offers_accepting",
            "entry_id",
            unique=True,
            sqlite_where=_ACCEPTING_SQL,
            postgresql_where=_ACCEPTING_SQL,
        ),
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


_GET = fixed(select(Offer).where(Offer.id == bindparam("id")))


async def get(tx: Tx, offer_id: str) -> Offer:
    """The offer, or NotFound."""
    found: Offer | None = await tx.one(_GET, id=offer_id)
    if found is None:
        raise NotFound("There is no such offer.")
    return found


@cache
def _these(number: int) -> Fixed[Any]:
    return fixed(select(Offer).where(among(Offer.id, "id", number)))


@cache
def _whose(number: int) -> Fixed[Any]:
    return fixed(select(Offer.entry_id, Offer.agent_id).where(among(Offer.id, "id", number)))


async def list_these(tx: Tx, offer_ids: Sequence[str]) -> list[Offer]:
    """Those of these offers that there are, in no order."""
    return await tx.all(_these(len(offer_ids)), **named("id", offer_ids))


async def whose(tx: Tx, offer_ids: Sequence[str]) -> list[tuple[str, str]]:
    """The work and the agent of each of these offers, which never change."""
    return await tx.all(_whose(len(offer_ids)), **named("id", offer_ids))


_LIVE_OF = fixed(
    select(Offer)
    .where(Offer.entry_id == bindparam("entry_id"), IS_LIVE)
    .order_by(col(Offer.state), col(Offer.id))  # an accepted one first: it is the only one that counts
)


async def find_live(tx: Tx, entry_id: str) -> Offer | None:
    """The entry's live offer: the accepted one, else the first of those that ring."""
    return next(iter(await list_live_of(tx, entry_id)), None)


async def list_live_of(tx: Tx, entry_id: str) -> list[Offer]:
    """The entry's live offers: one, or as many as its queue rings at once; an accepted one stands alone."""
    return await tx.all(_LIVE_OF, entry_id=entry_id)


async def list_live(tx: Tx, agent_id: str) -> list[Offer]:
    """An agent's live offers, oldest first."""
    return await tx.all(
        select(Offer).where(Offer.agent_id == agent_id, col(Offer.state).in_(LIVE)).order_by(col(Offer.id))
    )


async def list_entry(tx: Tx, entry_id: str) -> list[Offer]:
    """Every offer of an entry, oldest first, each with the trace of the decision that made it; at most 100."""
    return await tx.all(select(Offer).where(Offer.entry_id == entry_id).order_by(col(Offer.id)).limit(100))


ALLOWED: dict[OfferState, frozenset[OfferState]] = {
    OfferState.OPEN: frozenset(OfferState) - {OfferState.OPEN},
    OfferState.ACCEPTING: frozenset({OfferState.WON, OfferState.WITHDRAWN, OfferState.FAILED, OfferState.REFUSED}),
}


async def advance(tx: Tx, offer: Offer, to: OfferState, *, now: datetime, **changes: Any) -> None:
    """Move an offer on, whose work this unit holds, and tell its agent. IllegalTransition when it is over."""
    await advance_all(tx, [(offer, to, changes)], now=now)


async def advance_all(tx: Tx, changed: Sequence[tuple[Offer, OfferState, dict[str, Any]]], *, now: datetime) -> None:
    """`advance` for several at once, each named once."""
    steps: list[tuple[Offer, dict[str, Any]]] = []
    for offer, to, changes in changed:
        if to not in ALLOWED.get(offer.state, frozenset()):
            raise IllegalTransition("This offer is over.")
        closed = {} if to in LIVE else {"closed_at": now}
        steps.append((offer, {**closed, **changes, "state": to}))
    await change_held(tx, steps)
    for offer, to, _ in changed:
        await events.emit(
            tx, "offer.changed", offer.id, now=now, version=offer.version, user_id=offer.agent_id, state=to
        )


async def hasten(tx: Tx, offer: Offer, deadline_at: datetime) -> None:
    """Let a live offer, whose work this unit holds, run out at this instant, unless it does so before."""
    if deadline_at < offer.deadline_at:
        await change_held(tx, [(offer, {"deadline_at": deadline_at})])
        tx.wake("router")
