"""Work is offered to agents, and taken. How offers end otherwise stands in offer_ends.py, what an offer is in offers.py.

All of it is written for work and agents that the unit of work holds: the entries first, then the agents in the order of their
ids, then the interactions behind. The offers of one pass share their statements (`offer_all`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from crm_core import events, interactions
from crm_core.db import Tx
from crm_core.errors import Conflict
from crm_core.ids import new_id
from crm_core.interactions import InteractionState
from routing import agents, entries, offers
from routing.agents import Agent
from routing.offers import Offer, OfferState
from routing.queues import EntryState, Lane, Queue, QueueEntry

QUICKER = "somebody else was quicker"


@dataclass(frozen=True, slots=True)
class Ringing:
    """Work that shall ring for so long: at the first of these agents, at the others at the same time, each with its trace."""

    entry: QueueEntry
    timeout_s: int
    agents: Sequence[tuple[Agent, dict[str, Any]]]


async def offer(
    tx: Tx, entry: QueueEntry, agent: Agent, *, trace: dict[str, Any], queue: Queue, now: datetime
) -> Offer:
    """Offer waiting work to an agent who has room for it. Conflict when anything changed meanwhile."""
    [made] = await offer_all(tx, [Ringing(entry, queue.offer_timeout_s, [(agent, trace)])], now=now)
    return made


async def offer_all(tx: Tx, ringing: Sequence[Ringing], *, now: datetime) -> list[Offer]:
    """Offer several pieces of work; no agent twice. Where one rings at several, the first who accepts has it.

    Conflict, and nothing is offered, when anything changed meanwhile.
    """
    behind = await interactions.hold_entries(tx, [one.entry.id for one in ringing])
    made: list[tuple[Ringing, list[Offer]]] = []
    loads: list[tuple[Agent, dict[str, Any]]] = []
    for one in ringing:
        if one.entry.state != EntryState.WAITING or not all(entries.fits(one.entry, agent) for agent, _ in one.agents):
            raise Conflict("The work or the agent changed meanwhile.")
        made.append((one, [_open(one, agent, trace, now) for agent, trace in one.agents]))
        for agent, _ in one.agents:
            live: dict[str, Any] = {"ringing": agent.ringing + 1} if one.entry.lane == Lane.LIVE else {}
            loads.append((agent, {**entries.load(one.entry, agent, 1), **live}))
    await agents.change_all(tx, loads, now=now)
    await entries.advance_all(
        tx,
        [
            (one.entry, {"agent_id": first.agent_id, "offer_id": first.id, "offers": one.entry.offers + 1})
            for one, [first, *_] in made
        ],
        EntryState.OFFERED, now=now,
    )  # fmt: skip
    following = [each for one in ringing for each in entries.followers(behind[one.entry.id], InteractionState.OFFERED)]
    await interactions.advance_held(tx, following, InteractionState.OFFERED, now=now)
    for one, opened in made:
        for each in opened:
            tx.later(each)
            await events.emit(
                tx, "offer.opened", each.id, now=now, version=1, user_id=each.agent_id, entry=one.entry.id
            )
            entries.note_calls(tx, behind[one.entry.id], "offered", key=each.id, user_id=each.agent_id, now=now)
    return [first for _, [first, *_] in made]


def _open(ringing: Ringing, agent: Agent, trace: dict[str, Any], now: datetime) -> Offer:
    return Offer(
        id=new_id(now), entry_id=ringing.entry.id, agent_id=agent.user_id, trace=trace, opened_at=now,
        deadline_at=now + timedelta(seconds=ringing.timeout_s),
    )  # fmt: skip


async def accept(tx: Tx, entry: QueueEntry, taken: Offer, *, deadline_at: datetime | None, now: datetime) -> None:
    """An agent says yes: the others' offers of the same work end in the same commit, without blame."""
    for other in sorted(await offers.list_live_of(tx, entry.id), key=lambda each: each.agent_id):
        if other.id != taken.id:
            await offers.advance(tx, other, OfferState.WITHDRAWN, now=now, reason=QUICKER)
            await _calm(tx, entry, other.agent_id, OfferState.OPEN, now=now)
    changes: dict[str, Any] = {"deadline_at": deadline_at} if deadline_at is not None else {}
    await offers.advance(
        tx, taken, OfferState.ACCEPTING, now=now, accepted_at=now, nonce=entries.fresh_nonce(), **changes
    )  # fmt: skip
    if entry.lane == Lane.LIVE:
        agent = await agents.lock(tx, taken.agent_id)
        await agents.change(tx, agent, now=now, ringing=agent.ringing - 1, joining=agent.joining + 1)
    if entry.offer_id != taken.id:
        await entries.note(tx, entry, now=now, agent_id=taken.agent_id, offer_id=taken.id)
    tx.wake("router")


def counted(entry: QueueEntry, agent: Agent, was: OfferState) -> dict[str, Any]:
    """An agent's counts without one offer that stood at `was`."""
    if entry.lane != Lane.LIVE:
        return {}
    return {"ringing": agent.ringing - 1} if was == OfferState.OPEN else {"joining": agent.joining - 1}


async def _calm(tx: Tx, entry: QueueEntry, agent_id: str, was: OfferState, *, now: datetime) -> None:
    """An offer of theirs ended, and it was not about them: their room is free again."""
    agent = await agents.lock(tx, agent_id)
    await agents.change(tx, agent, now=now, **entries.load(entry, agent, -1), **counted(entry, agent, was))


async def win(tx: Tx, entry: QueueEntry, won: Offer, *, now: datetime) -> None:
    """The offered agent has the work: entry, interactions and conversation are theirs."""
    await offers.advance(tx, won, OfferState.WON, now=now)
    agent = await agents.lock(tx, won.agent_id)
    calm: dict[str, Any] = {"joining": agent.joining - 1} if entry.lane == Lane.LIVE else {}
    await agents.change(tx, agent, now=now, misses=0, **calm)
    await entries.connected(tx, entry, won.agent_id, now=now)
