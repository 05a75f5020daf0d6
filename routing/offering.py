"""Work is offered to agents, and offers end: taken, refused, missed, withdrawn. What an offer is stands in offers.py.

All of it is written for work and agents that the unit of work holds: the entries first, then the agents in the order of their
ids, then the interactions behind. The offers of one pass share their statements (`offer_all`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam
from sqlmodel import col, func, select

from crm_core import events, interactions
from crm_core.db import Tx
from crm_core.errors import Conflict, NotFound
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState
from crm_core.statements import fixed
from crm_core.texts import Text
from routing import agents, entries, offers
from routing.agents import MISSES, Activity, Agent
from routing.offers import IS_LIVE, Offer, OfferState
from routing.queues import EntryState, Lane, Queue, QueueEntry, Refusal

QUICKER = "somebody else was quicker"


@dataclass(frozen=True, slots=True)
class Ringing:
    """Work that shall ring: at the first of these agents, at the others at the same time, each with the decision's trace."""

    entry: QueueEntry
    queue: Queue
    agents: Sequence[tuple[Agent, dict[str, Any]]]


async def offer(
    tx: Tx, entry: QueueEntry, agent: Agent, *, trace: dict[str, Any], queue: Queue, now: datetime
) -> Offer:
    """Offer waiting work to an agent who has room for it. Conflict when anything changed meanwhile."""
    [made] = await offer_all(tx, [Ringing(entry, queue, [(agent, trace)])], now=now)
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
        deadline_at=now + timedelta(seconds=ringing.queue.offer_timeout_s),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """An offer with all that ending it touches."""

    offer: Offer
    entry: QueueEntry
    agent: Agent
    cooloff_s: int  # how long they are not asked for this work again


# Looked up, not joined: work that moves to another queue while we wait for its lock would not be found.
_COOLOFF = select(Queue.refusal_cooloff_s).where(col(Queue.id) == col(QueueEntry.queue_id)).scalar_subquery()
_HELD = fixed(
    select(Offer, QueueEntry, Agent, _COOLOFF)
    .join(QueueEntry, col(QueueEntry.id) == col(Offer.entry_id))
    .join(Agent, col(Agent.user_id) == col(Offer.agent_id))
    .where(Offer.id == bindparam("id"))
    .with_for_update(of=[QueueEntry, Agent, Offer])  # in this order
)


async def hold(tx: Tx, offer_id: str) -> Held:
    """The offer as it is now, with its work and agent, all held until this transaction ends."""
    found = await tx.one(_HELD, id=offer_id)
    if found is None:
        raise NotFound("There is no such offer.")
    return Held(*found)


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


def _counted(entry: QueueEntry, agent: Agent, was: OfferState) -> dict[str, Any]:
    """An agent's counts without one offer that stood at `was`."""
    if entry.lane != Lane.LIVE:
        return {}
    return {"ringing": agent.ringing - 1} if was == OfferState.OPEN else {"joining": agent.joining - 1}


async def _calm(tx: Tx, entry: QueueEntry, agent_id: str, was: OfferState, *, now: datetime) -> None:
    """An offer of theirs ended, and it was not about them: their room is free again."""
    agent = await agents.lock(tx, agent_id)
    await agents.change(tx, agent, now=now, **entries.load(entry, agent, -1), **_counted(entry, agent, was))


async def win(tx: Tx, entry: QueueEntry, won: Offer, *, now: datetime) -> None:
    """The offered agent has the work: entry, interactions and conversation are theirs."""
    await offers.advance(tx, won, OfferState.WON, now=now)
    agent = await agents.lock(tx, won.agent_id)
    calm: dict[str, Any] = {"joining": agent.joining - 1} if entry.lane == Lane.LIVE else {}
    await agents.change(tx, agent, now=now, misses=0, **calm)
    await entries.connected(tx, entry, won.agent_id, now=now)


async def end_offer(
    tx: Tx, entry: QueueEntry, ended: Offer, to: OfferState, *, reason: str, now: datetime, cooloff_s: int = 0,
    missed: bool = False, agent: Agent | None = None,
) -> None:  # fmt: skip
    """Close a live offer; the work waits again with the same order key, unless it rings at others still. `missed` counts against
    the agent, nothing else does. `agent`: whom the offer is for, if held already.

    A second miss in a row makes the agent not responding, unless that would leave less than half of those at work.
    """
    if agent is None:
        agent = await agents.lock(tx, ended.agent_id)
    behind, other_id = await _around(tx, entry, ended)
    values: dict[str, Any] = {**entries.load(entry, agent, -1), **_counted(entry, agent, ended.state)}
    by = ""
    if missed:
        values["misses"] = agent.misses + 1
        demotable = agent.activity == Activity.AVAILABLE and agent.misses + 1 >= MISSES
        if demotable and await _pool_holds(tx):
            values |= {
                "activity": Activity.NOT_RESPONDING,
                "reason": Text("missed %(missed)s offers", missed=agent.misses + 1),
            }
            by = "system"
    if cooloff_s:
        memory = Refusal(entry_id=entry.id, agent_id=agent.user_id, until=now + timedelta(seconds=cooloff_s))
        await tx.put(memory, unique=["entry_id", "agent_id"], update=["until"], add=["times"])
    await offers.advance(tx, ended, to, now=now, reason=reason)
    await agents.change(tx, agent, now=now, by=by, **values)
    if other_id is None:
        await entries.advance(tx, entry, EntryState.WAITING, now=now, agent_id=None, offer_id=None)
        following = entries.followers(behind, InteractionState.WAITING)
        await interactions.advance_held(tx, following, InteractionState.WAITING, now=now)
    elif entry.offer_id == ended.id:
        other = await offers.get(tx, other_id)
        await entries.note(tx, entry, now=now, agent_id=other.agent_id, offer_id=other.id)


_OTHER = (
    select(Offer.id)
    .where(Offer.entry_id == bindparam("entry_id"), IS_LIVE, Offer.id != bindparam("offer_id"))
    .order_by(col(Offer.state), col(Offer.id))  # an accepted one first
    .limit(1)
)
_AROUND = fixed(
    select(Interaction, _OTHER.scalar_subquery())
    .where(Interaction.entry_id == bindparam("entry_id"))
    .order_by(col(Interaction.id))
    .limit(1000)
    .with_for_update(of=Interaction)
)
_OTHER_ALONE = fixed(_OTHER)


async def _around(tx: Tx, entry: QueueEntry, ended: Offer) -> tuple[list[Interaction], str | None]:
    """What stands behind the work, held, and the id of another live offer of it, if any."""
    rows = await tx.all(_AROUND, entry_id=entry.id, offer_id=ended.id)
    if not rows:
        return [], await tx.one(_OTHER_ALONE, entry_id=entry.id, offer_id=ended.id)
    return [interaction for interaction, _ in rows], rows[0][1]


async def withdraw(tx: Tx, entry: QueueEntry, *, reason: str, now: datetime) -> None:
    """End every live offer of the work, without blame: it waits."""
    for live in sorted(await offers.list_live_of(tx, entry.id), key=lambda each: each.agent_id):
        await end_offer(tx, entry, live, OfferState.WITHDRAWN, reason=reason, now=now)


async def _pool_holds(tx: Tx) -> bool:
    """False when demoting one more would start the collapse in which every missed offer makes the next one likelier."""
    rows = await tx.all(
        select(Agent.activity, func.count())
        .where(col(Agent.activity).in_([Activity.AVAILABLE, Activity.NOT_RESPONDING]))
        .group_by(col(Agent.activity))
    )
    counts = {str(activity): number for activity, number in rows}
    up, down = counts.get("available", 0), counts.get("not_responding", 0)
    return bool(up + down < 3 or down + 1 <= (up + down) / 2)
