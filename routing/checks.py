"""The router's invariants as queries: each sentence that comes back is a defect. Run every minute, and after every step of the
property tests. And conservation: what came, and where it is now.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text as sql_text
from sqlmodel import col, func, select

from crm_core import tallies
from crm_core.db import Tx
from crm_core.ids import first_id
from crm_core.interactions import Interaction, InteractionState, tally_word
from crm_core.touches import Direction
from routing.agents import Agent, AgentPeriod, shown
from routing.callbacks import OPEN, Callback, CallbackState
from routing.offers import LIVE, Offer, OfferState
from routing.queues import IS_OPEN, EntryState, Lane, QueueEntry


async def conservation(tx: Tx, day: datetime) -> dict[str, int]:
    """Of the interactions that came on this UTC day: how many are where. `came` is the sum of all the others."""
    counts = await tallies.list_counts(tx, day=day)
    told = dict.fromkeys(("came", "done", "abandoned", "waiting", "with_agents", "promised", "automated"), 0)
    where = {
        "menu": "waiting", "waiting": "waiting", "offered": "waiting", "connected": "with_agents", "wrapup": "with_agents",
        "promised": "promised", "ended:abandoned": "abandoned", "ended:automated": "automated",
    }  # fmt: skip
    for count in counts:
        told["came"] += count.number
        told[where.get(count.state, "done")] += count.number
    return told


async def check_invariants(tx: Tx, *, now: datetime | None = None) -> list[str]:
    """Sentences about everything that is not as it must be; empty when all is well.

    With `now` (each minute): overdue promises too, and of the counts those of today and yesterday. Without (at night): all days.
    """
    return [
        *await _offers(tx),
        *await _loads(tx),
        *await _entries(tx),
        *await _callbacks(tx, now),
        *(await _tallies(tx) if now is None else await _tallies_lately(tx, now)),
        *await _ledger(tx),
    ]


async def _offers(tx: Tx) -> list[str]:
    wrong: list[str] = []
    live: dict[str, list[str]] = {}
    for entry_id, state in await tx.all(select(Offer.entry_id, Offer.state).where(col(Offer.state).in_(LIVE))):
        live.setdefault(entry_id, []).append(str(state))
    wrong += [
        f"entry {entry_id} is accepted and has {len(states)} live offers"
        for entry_id, states in live.items()
        if OfferState.ACCEPTING in states and len(states) > 1
    ]
    with_offer = set(live)
    offered = set(await tx.all(select(QueueEntry.id).where(QueueEntry.state == EntryState.OFFERED)))
    wrong += [f"entry {entry_id} is offered without a live offer" for entry_id in sorted(offered - with_offer)]
    wrong += [f"entry {entry_id} has a live offer and is not offered" for entry_id in sorted(with_offer - offered)]
    return wrong


async def _loads(tx: Tx) -> list[str]:
    wrong: list[str] = []
    held: dict[str, dict[str, int]] = {}
    statement = select(QueueEntry).where(
        col(QueueEntry.state).in_([EntryState.OFFERED, EntryState.CONNECTED, EntryState.WRAPUP])
    )
    offered: dict[str, list[tuple[str, OfferState]]] = {}
    for entry_id, agent_id, state in await tx.all(
        select(Offer.entry_id, Offer.agent_id, Offer.state).where(col(Offer.state).in_(LIVE))
    ):
        offered.setdefault(entry_id, []).append((agent_id, state))
    nothing = {"live": 0, "text": 0, "wrapups": 0, "ringing": 0, "joining": 0}
    for entry in await tx.all(statement):
        if entry.agent_id is None:
            wrong.append(f"entry {entry.id} is {entry.state} with nobody")
            continue
        asked = offered.get(entry.id, []) if entry.state == EntryState.OFFERED else [(entry.agent_id, None)]
        if entry.agent_id not in {agent_id for agent_id, _ in asked}:
            wrong.append(f"entry {entry.id} stands with {entry.agent_id}, who is not asked")
        for agent_id, state in asked:
            mine = held.setdefault(agent_id, dict(nothing))
            if entry.state == EntryState.WRAPUP:
                mine["wrapups"] += 1
            elif entry.lane == Lane.LIVE:
                mine["live"] += entry.weight
                mine["ringing"] += state == OfferState.OPEN
                mine["joining"] += state == OfferState.ACCEPTING
            else:
                mine["text"] += entry.weight
    for agent in await tx.all(select(Agent)):
        counted = {"live": agent.live_load, "text": agent.text_load, "wrapups": agent.wrapups,
                   "ringing": agent.ringing, "joining": agent.joining}  # fmt: skip
        if counted != held.get(agent.user_id, nothing):
            wrong.append(f"agent {agent.user_id} counts {counted}, has {held.get(agent.user_id, nothing)}")
        if agent.live_load > agent.live_capacity or agent.text_load > agent.text_capacity:
            wrong.append(f"agent {agent.user_id} is over capacity")
    return wrong


LATEST_PERIODS = 200
_MATCHING = {
    EntryState.WAITING: {InteractionState.WAITING},
    EntryState.OFFERED: {InteractionState.OFFERED},
    EntryState.CONNECTED: {InteractionState.CONNECTED},
    EntryState.WRAPUP: {InteractionState.WRAPUP},
    EntryState.DONE: {InteractionState.ENDED, InteractionState.PROMISED},
}


_LIVE_INTERACTION = sql_text("interactions.ended_at IS NULL")
_PROMISED = sql_text("interactions.ended_at IS NULL AND interactions.state = 'promised'")


async def _entries(tx: Tx) -> list[str]:
    """Interactions stand where their work stands: looked at from what lives on either side."""
    pairs: set[tuple[Any, ...]] = set()
    for living in (_LIVE_INTERACTION, IS_OPEN):
        statement = (
            select(Interaction.id, Interaction.state, QueueEntry.id, QueueEntry.state)
            .join(QueueEntry, col(QueueEntry.id) == col(Interaction.entry_id))
            .where(Interaction.direction == Direction.INBOUND, living)
            .limit(5000)
        )
        pairs.update(await tx.all(statement))
    return [
        f"interaction {interaction_id} is {state} while its entry {entry_id} is {stands}"
        for interaction_id, state, entry_id, stands in sorted(pairs)
        # Done work may have ended interactions from before; open work may not, but for those that a rule answered.
        if InteractionState(state) not in _MATCHING[EntryState(stands)]
    ]


async def _callbacks(tx: Tx, now: datetime | None) -> list[str]:
    """An open promise has a due time ahead, or work before agents; and its interaction is promised exactly as long."""
    wrong: list[str] = []
    for callback in await tx.all(select(Callback).where(col(Callback.state).in_(OPEN)).limit(5000)):
        entry = (
            await tx.one(select(QueueEntry).where(QueueEntry.id == callback.entry_id)) if callback.entry_id else None
        )
        if callback.state == CallbackState.REQUESTED:
            if now is not None and callback.due_at < now - timedelta(minutes=5):
                wrong.append(f"callback {callback.id} was due at {callback.due_at} and waits for nobody")
        elif entry is None or entry.state in (EntryState.DONE, EntryState.WRAPUP):
            wrong.append(f"callback {callback.id} is {callback.state} without work before an agent")
        elif callback.state == CallbackState.DUE and entry.state not in (EntryState.WAITING, EntryState.OFFERED):
            wrong.append(f"callback {callback.id} is due while its work is {entry.state}")
    promised = await tx.all(select(Interaction.id).where(_PROMISED))
    kept = set(await tx.all(select(Callback.interaction_id).where(col(Callback.state).in_(OPEN))))
    wrong += [f"interaction {each} is promised without an open callback" for each in promised if each not in kept]
    return wrong


async def _tallies(tx: Tx) -> list[str]:
    """The maintained counts are those of the rows."""
    rows = await tx.all(
        select(Interaction.first_arrival_at, Interaction.queue_id, Interaction.state, Interaction.outcome).where(
            Interaction.direction == Direction.INBOUND
        )
    )
    counted: dict[tuple[str, str, str], int] = {}
    days: dict[str, datetime] = {}
    for arrived, queue_id, state, outcome in rows:
        day = arrived.date().isoformat()
        days[day] = arrived
        key = (day, queue_id or "", tally_word(str(state), outcome))
        counted[key] = counted.get(key, 0) + 1
    stored: dict[tuple[str, str, str], int] = {}
    for day, instant in days.items():
        for count in await tallies.list_counts(tx, day=instant):
            stored[day, count.queue_id, count.state] = count.number
    if counted == stored:
        return []
    differing: Any = set(counted.items()) ^ set(stored.items())
    return [f"tallies differ from rows: {sorted(differing)[:6]}"]


async def _tallies_lately(tx: Tx, now: datetime) -> list[str]:
    """The maintained counts of today and yesterday are those of the rows; ids begin with their time, so this is a range."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    wrong: list[str] = []
    for day in (midnight - timedelta(days=1), midnight):
        begin, end = first_id(day), first_id(day + timedelta(days=1))
        rows = await tx.all(
            select(Interaction.queue_id, Interaction.state, Interaction.outcome, func.count())
            .where(Interaction.direction == Direction.INBOUND, col(Interaction.id) >= begin, col(Interaction.id) < end)
            .group_by(col(Interaction.queue_id), col(Interaction.state), col(Interaction.outcome))
        )
        counted = {
            (queue_id or "", tally_word(str(state), outcome)): number for queue_id, state, outcome, number in rows
        }
        stored = {(count.queue_id, count.state): count.number for count in await tallies.list_counts(tx, day=day)}
        if counted != stored:
            differing: Any = set(counted.items()) ^ set(stored.items())
            wrong.append(f"tallies of {day.date()} differ from rows: {sorted(differing)[:6]}")
    return wrong


async def _ledger(tx: Tx) -> list[str]:
    """Each agent's periods follow one another without gap or overlap, one is open, and it says what the row says."""
    wrong: list[str] = []
    agents = {agent.user_id: agent for agent in await tx.all(select(Agent))}
    latest: dict[str, AgentPeriod] = {}
    rows: list[AgentPeriod] = []
    for user_id in agents:
        rows += await tx.all(
            select(AgentPeriod)
            .where(AgentPeriod.user_id == user_id)
            .order_by(col(AgentPeriod.started_at).desc(), col(AgentPeriod.id).desc())
            .limit(LATEST_PERIODS)
        )
    rows.sort(
        key=lambda row: (
            row.user_id,
            row.started_at,
            row.ended_at or datetime.max.replace(tzinfo=row.started_at.tzinfo),
        )
    )
    for period in rows:
        before = latest.get(period.user_id)
        if before is not None and before.ended_at != period.started_at:
            wrong.append(
                f"agent {period.user_id}: a period ends at {before.ended_at}, the next starts at {period.started_at}"
            )
        latest[period.user_id] = period
    for user_id, agent in agents.items():
        last = latest.get(user_id)
        if last is None or last.ended_at is not None or last.state != shown(agent)[0]:
            wrong.append(f"agent {user_id} is {shown(agent)[0]}, the ledger says {last.state if last else 'nothing'}")
    return wrong
