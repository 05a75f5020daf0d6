"""Why this agent, why not that one, why still waiting: the stored traces, shown as they were written, never thought again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlmodel import select

from crm_core import interactions
from crm_core.db import Tx
from routing import entries, moves, offers
from routing.queues import EntryState, EntryTrace, LineTrace


async def explain(tx: Tx, offer_id: str) -> dict[str, Any]:
    """The trace of the decision that made an offer, with what became of it."""
    offer = await offers.get(tx, offer_id)
    return {
        "offer_id": offer.id,
        "entry_id": offer.entry_id,
        "agent_id": offer.agent_id,
        "state": str(offer.state),
        "reason": offer.reason,
        "opened_at": offer.opened_at.isoformat(),
        "closed_at": offer.closed_at.isoformat() if offer.closed_at else None,
        "moves": await _road(tx, offer.entry_id),
        **offer.trace,
    }


async def why_waiting(tx: Tx, entry_id: str) -> dict[str, Any] | None:
    """Why work got no offer (by the last pass that changed its mind), its place, offers so far; None when it waits no more."""
    entry = await entries.get(tx, entry_id)
    if entry.state != EntryState.WAITING:
        return None
    found = await tx.one(select(EntryTrace).where(EntryTrace.entry_id == entry_id))
    trace = {**found.trace} if found else {"why": "not looked at yet"}
    line = await tx.one(select(LineTrace).where(LineTrace.key == trace.pop("line", "")))
    return {
        "entry_id": entry.id,
        "position": await entries.position(tx, entry),
        "offers": [
            {"agent_id": offer.agent_id, "state": str(offer.state), "reason": offer.reason}
            for offer in await offers.list_entry(tx, entry_id)
        ],
        "moves": await _road(tx, entry.id),
        "since": _iso(found.at if found else None),
        **trace,
        **({"agents": line.agents} if line else {}),
    }


async def _road(tx: Tx, entry_id: str) -> list[dict[str, Any]]:
    """How the work came to this queue, when it was not its first."""
    entry = await entries.get(tx, entry_id)
    return moves.road((await interactions.get(tx, entry.interaction_id)).data)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
