"""One pass of the router: fire the timers, ask the core, apply each decision as a guarded unit of work.

The caller (hub/pollers.py) holds the lease; a second leader is harmless, because every decision is applied only to the versions
that were seen. Nothing is kept between passes: the mirror is read anew, so a failover loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import bindparam, delete
from sqlmodel import col

from crm_core.clock import Clock
from crm_core.db import Database, Tx
from crm_core.errors import Conflict
from crm_core.statements import fixed
from crm_core.tables import Table
from routing import agents, core, entries, mirror, offering, overflow, timers
from routing.core import Kept, Offered, Snapshot, Timer
from routing.mirror import Told
from routing.offering import Ringing
from routing.offers import Offer
from routing.queues import EntryState, EntryTrace, LineTrace

OFFERS_AT_ONCE = 16  # in one unit of work: about five milliseconds on SQLite, where nothing else is written meanwhile
TRACES_AT_ONCE = 100
LINES_KEPT = timedelta(minutes=1)  # a line in which nothing waits any more; the next work may need it again


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
        contended = not all([await _fire(db, some, now) for some in _batches(fired)])
        async with db.reading() as tx:
            snapshot, traces, due = await mirror.load(tx)
        _, next_at = core.fire(due, now)
    moved, moves_at = await _overflow(db, snapshot, now)
    if moved:
        async with db.reading() as tx:
            snapshot, traces, due = await mirror.load(tx)
        _, next_at = core.fire(due, now)
    decisions = core.decide(snapshot, now)
    offers = asyncio.create_task(offer_all(db, decisions.offers, holder, now))
    try:
        await _keep_traces(db, decisions.kept, traces, now)
    finally:
        overtaken, ends_at = await offers  # whatever becomes of the traces, no offer is left half-way behind
    if contended or overtaken:
        return now  # somebody was quicker somewhere: look again at once
    moments = (next_at, moves_at, decisions.next_at, ends_at)
    return min((moment for moment in moments if moment is not None), default=None)


def _batches(fired: list[Timer]) -> Iterator[list[Timer]]:
    """What is fired in one unit of work: offers that run out (those of one pass do so at once), and all else by itself."""
    for expiring, some in groupby(fired, key=lambda timer: timer.kind == "offer"):
        timers_of = list(some)
        size = OFFERS_AT_ONCE if expiring else 1
        yield from (timers_of[start : start + size] for start in range(0, len(timers_of), size))


async def _fire(db: Database, some: list[Timer], now: datetime) -> bool:
    """Apply timers in one unit of work, or each by itself when that fails; False when one met something newer."""
    try:
        if len(some) > 1:
            await db.write(lambda tx: timers.expire(tx, [timer.id for timer in some], now=now))
        else:
            await db.write(lambda tx: timers.apply(tx, some[0], now=now))
    except Conflict:
        return len(some) > 1 and all([await _fire(db, [timer], now) for timer in some])
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


async def offer_all(db: Database, decided: list[Offered], holder: str, now: datetime) -> tuple[bool, datetime | None]:
    """Apply offers; True when one met something newer, and when the first of those made runs out."""
    several = any(decision.also for decision in decided)
    stale: set[str] = set()
    ends: list[datetime] = []
    for turn in _turns(decided, several=several):
        # The versions behind an agent's offer that was left out no longer fit either.
        asked = [decision for decision in turn if decision.agent_id not in stale]
        batches = [asked[start : start + OFFERS_AT_ONCE] for start in range(0, len(asked), OFFERS_AT_ONCE)]
        for made, left_out in await asyncio.gather(*(_offer_some(db, batch, holder, now) for batch in batches)):
            ends += [offer.deadline_at for offer in made]
            stale.update(decision.agent_id for decision in left_out)
        if several and stale:
            break
    return bool(stale), min(ends, default=None)


def _turns(decided: list[Offered], *, several: bool) -> list[list[Offered]]:
    """What may be offered side by side: each agent's first offer, then each one's second, and so on.

    Where one rings several, what they count depends on one another: then one by one in order.
    """
    if several:
        return [[decision] for decision in decided]
    turns: list[list[Offered]] = []
    had: Counter[str] = Counter()
    for decision in decided:
        turn = had[decision.agent_id]
        had[decision.agent_id] += 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(decision)
    return turns


async def _offer_some(
    db: Database, batch: list[Offered], holder: str, now: datetime
) -> tuple[list[Offer], list[Offered]]:
    """Offers made in one unit of work, and decisions that met something newer. When even that fails, each in its own."""
    try:
        return await db.write(lambda tx: _offer(tx, batch, holder, now))
    except Conflict:
        if len(batch) == 1:
            return [], batch
    made: list[Offer] = []
    left_out: list[Offered] = []
    for decision in batch:
        offers, stale = await _offer_some(db, [decision], holder, now)
        made += offers
        left_out += stale
    return made, left_out


async def _offer(tx: Tx, batch: list[Offered], holder: str, now: datetime) -> tuple[list[Offer], list[Offered]]:
    held = await entries.lock_all(tx, sorted(decision.entry_id for decision in batch))
    staff = await agents.lock_all(tx, sorted(user_id for decision in batch for user_id in _versions(decision)))
    ringing: list[Ringing] = []
    left_out: list[Offered] = []
    for decision in batch:
        entry = held.get(decision.entry_id)
        rung = {user_id: staff[user_id] for user_id in _versions(decision) if user_id in staff}
        seen = {user_id: agent.version for user_id, agent in rung.items()} == _versions(decision)
        if entry is None or entry.state != EntryState.WAITING or entry.version != decision.entry_version or not seen:
            left_out.append(decision)
            continue
        trace = {**decision.trace, "by": holder}
        told = [trace] + [{**trace, "agent": user_id, "with": decision.agent_id} for user_id, _ in decision.also]
        ringing.append(Ringing(entry, decision.timeout_s, list(zip(rung.values(), told, strict=True))))
    return await offering.offer_all(tx, ringing, now=now) if ringing else [], left_out


def _versions(decision: Offered) -> dict[str, int]:
    """Who shall be rung, with the version that the decision saw."""
    return {decision.agent_id: decision.agent_version, **dict(decision.also)}


async def _keep_traces(db: Database, kept: list[Kept], stored: Told, now: datetime) -> None:
    """Store why work still waits, where that has changed. Its place changes all the time and is counted when asked."""
    lines: dict[str, dict[str, Any]] = {}
    fresh: list[Table] = []
    for each in kept:
        trace = {name: value for name, value in each.trace.items() if name != "position"} | {"line": each.line}
        if stored.entries.get(each.entry_id) != trace:
            fresh.append(EntryTrace(entry_id=each.entry_id, trace=trace, at=now))
        if each.line:
            lines.setdefault(each.line, each.agents)  # as it was for the first that could not go
    for key, agents_of in lines.items():
        known = stored.lines.get(key)
        if known is None or known.agents != agents_of:
            fresh.append(LineTrace(key=key, agents=agents_of, at=now))
    for start in range(0, len(fresh), TRACES_AT_ONCE):

        async def unit(tx: Tx, some: list[Table] = fresh[start : start + TRACES_AT_ONCE]) -> None:
            for row in some:
                if isinstance(row, LineTrace):
                    tx.later(row, unique=["key"], update=["agents", "at"])
                else:
                    tx.later(row, unique=["entry_id"], update=["trace", "at"])

        await db.write(unit)
    left = [key for key, line in stored.lines.items() if key not in lines and line.at < now - LINES_KEPT]
    if left:
        await db.write(lambda tx: tx.run(_FORGET_LINES, keys=left))


_FORGET_LINES = fixed(delete(LineTrace).where(col(LineTrace.key).in_(bindparam("keys", expanding=True))))
