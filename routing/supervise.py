"""What a supervisor does to work and agents: move what waits, give it to somebody, change what an agent does. All audited."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import col, select

from crm_core import audit
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.texts import Text
from crm_core.users import User
from routing import agents, desk, entries, moves, offer_ends, offering, offers, pauses, queues
from routing.agents import FRESH, Activity, Agent
from routing.offers import OfferState
from routing.queues import EntryState, Lane, QueueEntry

MOVED = "moved by a supervisor"


async def _waiting(tx: Tx, entry_id: str, *, now: datetime) -> QueueEntry:
    """The work, waiting: offers that nobody has accepted yet are withdrawn, without blame."""
    entry = await entries.lock(tx, entry_id)
    if entry.state == EntryState.OFFERED:
        live = await offers.find_live(tx, entry.id)
        if live is not None and live.state != OfferState.OPEN:
            raise Conflict("An agent has accepted this already.")
        await offer_ends.withdraw(tx, entry, reason=MOVED, now=now)
    if entry.state != EntryState.WAITING:
        raise Conflict("This work does not wait any more.")
    if entry.not_before is not None and entry.not_before > now and entry.kind == "voice":
        raise Conflict("This call is being put through to a number outside.")
    return entry


async def move_to_queue(
    tx: Tx, entry_id: str, *, queue_id: str, actor: str, now: datetime, reason: str = ""
) -> QueueEntry:
    """Waiting work goes to another queue, with its place in time kept. Conflict when it waits no more."""
    entry = await _waiting(tx, entry_id, now=now)
    queue = await queues.get(tx, queue_id)
    if queue.retired:
        raise Invalid("This queue is not in use any more.", fields={"queue_id": Text("Choose one of the list.")})
    left = entry.queue_id
    await moves.move(tx, entry, queue, why=reason.strip()[:200] or MOVED, by=actor, now=now)
    await audit.record(
        tx, actor=actor, action="work.moved", subject=f"entry:{entry.id}", now=now, left=left, to=queue.id,
        reason=reason[:200],
    )  # fmt: skip
    return entry


async def give_to_agent(
    tx: Tx, entry_id: str, *, agent_id: str, actor: str, now: datetime, reason: str = ""
) -> QueueEntry:
    """Waiting work is offered to this agent at once, before all others. Conflict with the reason when they cannot have it now."""
    entry = await _waiting(tx, entry_id, now=now)
    queue = await queues.get(tx, entry.queue_id)
    agent = await agents.lock(tx, agent_id)
    why = _cannot(entry, agent, now)
    if why:
        raise Conflict("This colleague cannot have it now: %(why_text)s.", why_text=why)
    giver = await tx.one(select(User.name).where(User.id == actor)) or ""
    trace = {"why": Text("%(name)s gives this to them", name=giver), "agent": agent_id, "by": actor}
    await entries.note(tx, entry, now=now, preferred_agent_id=agent_id, preferred_until=None)
    await offering.offer(tx, entry, agent, trace=trace, queue=queue, now=now)
    await audit.record(
        tx, actor=actor, action="work.given", subject=f"entry:{entry.id}", now=now, to=agent_id, reason=reason[:200]
    )
    return entry


def _cannot(entry: QueueEntry, agent: Agent, now: datetime) -> str:
    """Why this agent cannot be given this work now; empty when they can."""
    if agent.activity != Activity.AVAILABLE:
        return str(agent.activity).replace("_", " ")
    if agent.seen_at is None or now - agent.seen_at > FRESH:
        return "no heartbeat"
    if entry.lane == Lane.LIVE and not agent.voice_ready:
        return "phone not registered"
    if entry.lane == Lane.LIVE and agent.wrapups:
        return "in wrap-up"
    if entry.lane == Lane.LIVE and agent.live_load + entry.weight > agent.live_capacity:
        return "busy with live work"
    if entry.lane == Lane.TEXT and agent.text_load + entry.weight > agent.text_capacity:
        return Text("written work full (%(load)s of %(most)s)", load=agent.text_load, most=agent.text_capacity)
    return ""


async def set_activity(
    tx: Tx, agent_id: str, activity: Activity, *, actor: str, now: datetime, reason: str = "", cause: str = "supervisor"
) -> Agent:
    """Change what an agent does, as they could themselves: during live work it takes effect when that ends.

    Conflict when somebody whose tab does not answer should be available: nobody would be there to answer.
    """
    if activity not in (Activity.AVAILABLE, Activity.PAUSED, Activity.OFFLINE):
        raise Invalid("Nobody can be set to this.", fields={"activity": Text("Choose one of the list.")})
    chosen = await pauses.checked(tx, reason) if activity == Activity.PAUSED else ""
    agent = await agents.lock(tx, agent_id)
    if activity == Activity.AVAILABLE and (agent.seen_at is None or now - agent.seen_at > FRESH):
        raise Conflict("Their tab does not answer, so they cannot be available.")
    before = agents.shown(agent)[0]
    changed = await desk.set_activity(tx, agent_id, activity, reason=chosen, cause=cause, now=now)
    await audit.record(
        tx, actor=actor, action="agent.activity", subject=f"user:{agent_id}", now=now, before=before, after=str(activity),
        reason=chosen,
    )  # fmt: skip
    return changed


async def list_waiting(tx: Tx, queue_id: str, *, limit: int = 200) -> list[QueueEntry]:
    """What waits in a queue or is being offered, in the order in which it is served."""
    return await tx.all(
        select(QueueEntry)
        .where(QueueEntry.queue_id == queue_id, col(QueueEntry.state).in_([EntryState.WAITING, EntryState.OFFERED]))
        .order_by(col(QueueEntry.order_at), col(QueueEntry.id))
        .limit(limit)
    )
