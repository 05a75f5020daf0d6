"""Offers end: refused, missed, withdrawn, failed. Several that end at once share their statements (`end_all`).

All of it is written for offers that the unit of work holds (`hold_all`): the work first, in the order of its ids, then the agents
in the order of theirs, then the interactions behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import bindparam
from sqlmodel import col, func, select

from crm_core import interactions
from crm_core.changes import among, named
from crm_core.db import Tx
from crm_core.interactions import Interaction, InteractionState
from crm_core.statements import Fixed, fixed
from crm_core.texts import Text
from routing import agents, entries, offers, queues
from routing.agents import MISSES, Activity, Agent
from routing.offering import counted
from routing.offers import IS_LIVE, Offer, OfferState
from routing.queues import EntryState, Queue, QueueEntry, Refusal


@dataclass(frozen=True, slots=True)
class Held:
    """An offer with all that ending it touches."""

    offer: Offer
    entry: QueueEntry
    agent: Agent
    cooloff_s: int  # how long they are not asked for this work again


@dataclass(frozen=True, slots=True)
class Ending:
    """How a live offer ends. A `missed` one counts against its agent, nothing else does."""

    held: Held
    to: OfferState
    reason: str
    remembered: bool = False  # they are not asked for this work again during the queue's cool-off
    missed: bool = False


# Looked up, not joined: work that moves to another queue while we wait for its lock would not be found.
_COOLOFF = select(Queue.refusal_cooloff_s).where(col(Queue.id) == col(QueueEntry.queue_id)).scalar_subquery()
_HELD = fixed(
    select(Offer, QueueEntry, Agent, _COOLOFF)
    .join(QueueEntry, col(QueueEntry.id) == col(Offer.entry_id))
    .join(Agent, col(Agent.user_id) == col(Offer.agent_id))
    .where(Offer.id == bindparam("id"))
    .with_for_update(of=[QueueEntry, Agent, Offer])  # in this order
)


async def hold_all(tx: Tx, offer_ids: Sequence[str]) -> dict[str, Held]:
    """These offers as they are now, with their work and agents, all held until this transaction ends.

    What is not there is left out. What two of them share is one object.
    """
    if len(offer_ids) == 1:
        found = await tx.one(_HELD, id=offer_ids[0])
        return {} if found is None else {offer_ids[0]: Held(*found)}
    seen = await offers.whose(tx, offer_ids)
    work = await entries.lock_all(tx, sorted({entry_id for entry_id, _ in seen}))
    staff = await agents.lock_all(tx, sorted({agent_id for _, agent_id in seen}))
    known = await queues.find_all(tx, sorted({entry.queue_id for entry in work.values()}))
    held: dict[str, Held] = {}
    for offer in await offers.list_these(tx, offer_ids):  # as they are now: an offer changes under its work's lock only
        entry = work[offer.entry_id]
        held[offer.id] = Held(offer, entry, staff[offer.agent_id], known[entry.queue_id].refusal_cooloff_s)
    return held


async def end_all(tx: Tx, endings: Sequence[Ending], *, now: datetime) -> None:
    """Close live offers; the work waits again with the same order key, unless it rings at others still.

    A second miss in a row makes an agent not responding, unless that would leave less than half of those at work.
    """
    for turn in _turns(endings):
        await _end(tx, turn, now=now)


def _turns(endings: Sequence[Ending]) -> Iterator[list[Ending]]:
    """What can be written at once: no work twice, no agent twice."""
    left = endings
    while left:
        turn: list[Ending] = []
        later: list[Ending] = []
        taken: set[str] = set()
        for each in left:
            touched = {each.held.entry.id, each.held.agent.user_id}
            (turn if taken.isdisjoint(touched) else later).append(each)
            taken |= touched
        yield turn
        left = later


async def _end(tx: Tx, turn: Sequence[Ending], *, now: datetime) -> None:
    ended = [each.held.offer for each in turn]
    work = [each.held.entry for each in turn]
    behind, others = await _around(tx, ended)
    loads = [(each.held.agent, _freed(each)) for each in turn]
    demoted = await _demote(tx, turn)
    for each in turn:
        if each.remembered and each.held.cooloff_s:
            until = now + timedelta(seconds=each.held.cooloff_s)
            memory = Refusal(entry_id=each.held.entry.id, agent_id=each.held.agent.user_id, until=until)
            tx.later(memory, unique=["entry_id", "agent_id"], update=["until"], add=["times"])
    await offers.advance_all(tx, [(each.held.offer, each.to, {"reason": each.reason}) for each in turn], now=now)
    blameless = [(agent, values) for agent, values in loads if agent.user_id not in demoted]
    blamed = [(agent, {**values, **demoted[agent.user_id]}) for agent, values in loads if agent.user_id in demoted]
    await agents.change_all(tx, blameless, now=now)
    await agents.change_all(tx, blamed, now=now, by="system")
    free = [entry for entry in work if entry.id not in others]
    unbound = {"agent_id": None, "offer_id": None}
    await entries.advance_all(tx, [(entry, unbound) for entry in free], EntryState.WAITING, now=now)
    following = [one for entry in free for one in entries.followers(behind[entry.id], InteractionState.WAITING)]
    await interactions.advance_held(tx, following, InteractionState.WAITING, now=now)
    for entry, offer in zip(work, ended, strict=True):
        if entry.id in others and entry.offer_id == offer.id:
            other = await offers.get(tx, others[entry.id])
            await entries.note(tx, entry, now=now, agent_id=other.agent_id, offer_id=other.id)


@cache
def _around_of(number: int) -> Fixed[Any]:
    other = (
        select(Offer.id)
        .where(col(Offer.entry_id) == col(Interaction.entry_id), IS_LIVE, ~among(Offer.id, "ended", number))
        .order_by(col(Offer.state), col(Offer.id))  # an accepted one first
        .limit(1)
    )
    return fixed(
        select(Interaction, other.scalar_subquery())
        .where(among(Interaction.entry_id, "entry", number))
        .order_by(col(Interaction.id))
        .limit(5000)
        .with_for_update(of=Interaction)
    )


async def _around(tx: Tx, ended: Sequence[Offer]) -> tuple[dict[str, list[Interaction]], dict[str, str]]:
    """By work: what stands behind it, held, and the id of a live offer of it that goes on beside the one that ends, if any."""
    entry_ids = [offer.entry_id for offer in ended]
    behind: dict[str, list[Interaction]] = {entry_id: [] for entry_id in entry_ids}
    others: dict[str, str] = {}
    ids = named("entry", entry_ids) | named("ended", [offer.id for offer in ended])
    for interaction, other_id in await tx.all(_around_of(len(ended)), **ids):
        behind[interaction.entry_id].append(interaction)
        if other_id is not None:
            others[interaction.entry_id] = other_id
    for offer in ended:
        if not behind[offer.entry_id]:  # nothing that the other could have been read with
            live = [other.id for other in await offers.list_live_of(tx, offer.entry_id) if other.id != offer.id]
            others.update((offer.entry_id, other_id) for other_id in live[:1])
    return behind, others


def _freed(ending: Ending) -> dict[str, Any]:
    """An agent's counts without this offer."""
    held = ending.held
    missed = {"misses": held.agent.misses + 1} if ending.missed else {}
    return {**entries.load(held.entry, held.agent, -1), **counted(held.entry, held.agent, held.offer.state), **missed}


async def _demote(tx: Tx, turn: Sequence[Ending]) -> dict[str, dict[str, Any]]:
    """Who counts as not responding from here on, as long as enough others are left.

    Demoting one more could start the collapse in which every missed offer makes the next one likelier.
    """
    missed = [each.held.agent for each in turn if each.missed]
    asked = [a for a in missed if a.activity == Activity.AVAILABLE and a.misses + 1 >= MISSES]
    demoted: dict[str, dict[str, Any]] = {}
    if not asked:
        return demoted
    up, down = await _pool(tx)
    for agent in asked:
        if up + down < 3 or down + 1 <= (up + down) / 2:
            up, down = up - 1, down + 1
            told = Text("missed %(missed)s offers", missed=agent.misses + 1)
            demoted[agent.user_id] = {"activity": Activity.NOT_RESPONDING, "reason": told}
    return demoted


async def _pool(tx: Tx) -> tuple[int, int]:
    """How many agents are available, and how many do not respond."""
    rows = await tx.all(
        select(Agent.activity, func.count())
        .where(col(Agent.activity).in_([Activity.AVAILABLE, Activity.NOT_RESPONDING]))
        .group_by(col(Agent.activity))
    )
    counts: dict[str, int] = defaultdict(int, {str(activity): number for activity, number in rows})
    return counts[Activity.AVAILABLE], counts[Activity.NOT_RESPONDING]


async def end_offer(
    tx: Tx, entry: QueueEntry, ended: Offer, to: OfferState, *, reason: str, now: datetime, cooloff_s: int = 0
) -> None:
    """Close one live offer of work that is held, for which its agent is not to blame."""
    held = Held(ended, entry, await agents.lock(tx, ended.agent_id), cooloff_s)
    await end_all(tx, [Ending(held, to, reason, remembered=cooloff_s > 0)], now=now)


async def withdraw(tx: Tx, entry: QueueEntry, *, reason: str, now: datetime) -> None:
    """End every live offer of the work, without blame: it waits."""
    for live in sorted(await offers.list_live_of(tx, entry.id), key=lambda each: each.agent_id):
        await end_offer(tx, entry, live, OfferState.WITHDRAWN, reason=reason, now=now)


async def withdraw_open(tx: Tx, agent_id: str, *, reason: str, now: datetime) -> None:
    """End an agent's offers that they have not accepted, without blame. The agent is not held yet: work comes first."""
    ringing = [offer.id for offer in await offers.list_live(tx, agent_id) if offer.state == OfferState.OPEN]
    if ringing:
        held = (await hold_all(tx, ringing)).values()
        still = [Ending(one, OfferState.WITHDRAWN, reason) for one in held if one.offer.state == OfferState.OPEN]
        await end_all(tx, still, now=now)
