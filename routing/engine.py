"""One pass of the router: fire the timers, ask the core, apply each decision as a guarded unit of work.

The caller (hub/pollers.py) holds the lease; a second leader is harmless, because every decision is applied only to the versions
that were seen. Nothing is kept between passes: the mirror is read anew, so a failover loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import datetime
from typing import Any

from crm_core.clock import Clock
from crm_core.db import Database, Tx
from crm_core.errors import Conflict
from routing import agents, core, entries, mirror, overflow, queues, timers
from routing.core import Kept, Offered, Snapshot, Timer
from routing.queues import EntryState, EntryTrace

TRACES_AT_ONCE = 100


async def tick(db: Database, *, clock: Clock, holder: str) -> datetime | None:
    """Do what is due now. Returns the next instant at which time alone makes something due; None when nothing will.

    `holder` is named in the trace of each offer. Wake it earlier when the topic `router` is woken.
    """
    now = clock.now()
    async with db.reading() as tx:
        snapshot, traces, due = await mirror.load(tx)
    fired, next_at = core.fire(due, now)
    contended = False
    if fired:
        contended = not all([await _fire(db, timer, now) for timer in fired])
        async with db.reading() as tx:
            snapshot, traces, due = await mirror.load(tx)
        _, next_at = core.fire(due, now)
    moved, moves_at = await _overflow(db, snapshot, now)
    if moved:
        async with db.reading() as tx:
            snapshot, traces, due = await mirror.load(tx)
        _, next_at = core.fire(due, now)
    decisions = core.decide(snapshot, now)
    contended |= await _offer_all(db, decisions.offers, holder, now)
    await _keep_traces(db, decisions.kept, traces, now)
    if decisions.offers:
        async with db.reading() as tx:
            _, _, due = await mirror.load(tx)
        _, next_at = core.fire(due, now)
    if contended:
        return now  # somebody was quicker somewhere: look again at once
    return min((moment for moment in (next_at, moves_at, decisions.next_at) if moment is not None), default=None)


async def _fire(db: Database, timer: Timer, now: datetime) -> bool:
    try:
        await db.write(lambda tx: timers.apply(tx, timer, now=now))
    except Conflict:
        return False
    return True


async def _overflow(db: Database, snapshot: Snapshot, now: datetime) -> tuple[bool, datetime | None]:
    """Let go what its queue cannot serve, before anything is offered; True when something went."""
    if not snapshot.overflows:
        return False, None
    going, next_at = overflow.decide(snapshot, snapshot.overflows, now)
    moved = False
    for each in going:
        try:
            moved |= await db.write(lambda tx, each=each: overflow.apply(tx, each, now=now))  # type: ignore[misc]
        except Conflict:
            continue  # it changed meanwhile: the next pass looks again
    return moved, next_at


async def _offer_all(db: Database, decided: list[Offered], holder: str, now: datetime) -> bool:
    """Apply offers, those of one agent in order, agents side by side; True when one met something newer."""
    by_agent: dict[str, list[Offered]] = defaultdict(list)
    several = any(decision.also for decision in decided)
    for decision in decided:
        # Where one rings several, what they count depends on one another: then all in order.
        by_agent["" if several else decision.agent_id].append(decision)

    async def of_one(decisions: list[Offered]) -> bool:
        for decision in decisions:
            if not await _offer(db, decision, holder, now):
                return True  # the versions behind it no longer fit either
        return False

    return any(await asyncio.gather(*(of_one(decisions) for decisions in by_agent.values())))


async def _offer(db: Database, decision: Offered, holder: str, now: datetime) -> bool:
    async def unit(tx: Tx) -> None:
        entry = await entries.lock(tx, decision.entry_id)
        versions = {decision.agent_id: decision.agent_version, **dict(decision.also)}
        held = {user_id: await agents.lock(tx, user_id) for user_id in sorted(versions)}
        if entry.state != EntryState.WAITING or entry.version != decision.entry_version:
            raise Conflict("The work changed meanwhile.")
        if any(agent.version != versions[user_id] for user_id, agent in held.items()):
            raise Conflict("The agent changed meanwhile.")
        queue = await queues.get(tx, entry.queue_id)
        trace = {**decision.trace, "by": holder}
        also = [(held[user_id], {**trace, "agent": user_id, "with": decision.agent_id}) for user_id, _ in decision.also]
        await entries.offer(tx, entry, held[decision.agent_id], trace=trace, queue=queue, now=now, also=also)

    try:
        await db.write(unit)
    except Conflict:
        return False
    return True


async def _keep_traces(db: Database, kept: list[Kept], stored: dict[str, dict[str, Any]], now: datetime) -> None:
    """Store why work still waits, where that has changed. Its place changes all the time and is counted when asked."""
    fresh: list[EntryTrace] = []
    for each in kept:
        trace = {name: value for name, value in each.trace.items() if name != "position"}
        if stored.get(each.entry_id) != trace:
            fresh.append(EntryTrace(entry_id=each.entry_id, trace=trace, at=now))
    for start in range(0, len(fresh), TRACES_AT_ONCE):

        async def unit(tx: Tx, rows: list[EntryTrace] = fresh[start : start + TRACES_AT_ONCE]) -> None:
            for row in rows:
                await tx.put(row, unique=["entry_id"], update=["trace", "at"])

        await db.write(unit)
