"""Cold transfer: an agent gives a call away to a queue, a colleague or a number, and is free for their wrap-up at once.

The call keeps its order key, so it stands at the front wherever it waits, and comes back there when nobody takes it. The
customer hears that they are put through, then music. Every hand-over is an event of the call record; chains are told in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, func, select

from crm_core import accounts, calls, interactions
from crm_core.addresses import Address
from crm_core.calls import CallLeg, LegRole
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotAllowed
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.texts import Text
from crm_core.users import User
from routing import agents, dialling, entries, gate, hours, offering, queues, recordings, rooms, talks
from routing.agents import FRESH, Activity, Agent
from routing.queues import IS_WAITING, EntryState, Lane, Queue, QueueEntry, QueueMember

RING_S = 25  # how long a number is rung before the customer comes back
AWAY_FOR = timedelta(minutes=5)  # should every report of a dial be lost, the call is offered again after this
SHOWN = 50


@dataclass(frozen=True, slots=True)
class AgentTarget:
    """A colleague: what they do now, and whether they could take a call."""

    user_id: str
    name: str
    word: str  # of agents.shown
    reason: str
    free: bool


@dataclass(frozen=True, slots=True)
class QueueTarget:
    """A queue: how many wait, how many could take a call, whether it is open."""

    id: str
    name: str
    waiting: int
    free: int
    open: bool


@dataclass(frozen=True, slots=True)
class Targets:
    """Where a call may go."""

    agents: list[AgentTarget]
    queues: list[QueueTarget]


def can_take(agent: Agent, now: datetime) -> bool:
    """Whether an agent could be given a call this instant."""
    fresh = agent.seen_at is not None and now - agent.seen_at < FRESH
    room = agent.live_load < agent.live_capacity and not agent.wrapups and not agent.next_activity
    return agent.activity == Activity.AVAILABLE and agent.voice_ready and fresh and room


async def list_targets(tx: Tx, *, user_id: str, now: datetime, query: str = "") -> Targets:
    """Colleagues and queues whose names hold `query`, those who are free first."""
    wanted = query.strip().casefold()
    rows: list[tuple[Agent, User]] = await tx.all(
        select(Agent, User)
        .join(User, col(User.id) == col(Agent.user_id))
        .where(Agent.activity != Activity.OFFLINE, col(User.disabled_at).is_(None), User.id != user_id)
        .order_by(col(User.name))
        .limit(500)
    )
    people = [
        AgentTarget(user.id, user.name, *agents.shown(agent), free=can_take(agent, now))
        for agent, user in rows
        if wanted in user.name.casefold() or wanted in user.login.casefold()
    ]
    people.sort(key=lambda each: (not each.free, each.name.casefold()))
    free = {agent.user_id for agent, _ in rows if can_take(agent, now)}
    serving: dict[str, int] = {}
    for queue_id, member in await tx.all(select(QueueMember.queue_id, QueueMember.user_id)):
        serving[queue_id] = serving.get(queue_id, 0) + (member in free)
    waiting = dict(
        await tx.all(
            select(QueueEntry.queue_id, func.count())
            .where(IS_WAITING, QueueEntry.lane == Lane.LIVE)
            .group_by(col(QueueEntry.queue_id))
        )
    )
    found = []
    for queue in await queues.list_all(tx):
        if wanted in queue.name.casefold():
            is_open = hours.is_open(await hours.find(tx, queue.hours_id), now)
            found.append(
                QueueTarget(queue.id, queue.name, waiting.get(queue.id, 0), serving.get(queue.id, 0), open=is_open)
            )
    return Targets(people[:SHOWN], found[:SHOWN])


async def find_mine(tx: Tx, user_id: str) -> Interaction | None:
    """The talk that this agent is in, or None."""
    for entry in await entries.list_held(tx, user_id):
        if entry.lane != Lane.LIVE or entry.state != EntryState.CONNECTED:
            continue
        for interaction in reversed(await interactions.list_entry(tx, entry.id)):
            if "room" in interaction.data and interaction.state == InteractionState.CONNECTED:
                return interaction
    return None


# --- the three ways ---------------------------------------------------------------------------------------------------


async def to_queue(
    tx: Tx, interaction_id: str, *, agent_id: str, queue_id: str, now: datetime, note: str = ""
) -> QueueEntry:
    """Into a queue, where the longest-standing order key is served first. Conflict when it is closed."""
    interaction, entry = await _mine(tx, interaction_id, agent_id)
    queue = await queues.get(tx, queue_id)
    if queue.retired or not hours.is_open(await hours.find(tx, queue.hours_id), now):
        raise Conflict(Text("%(queue)s is closed now.", queue=queue.name))
    await _hand_on(tx, interaction, entry, queue, kind="queue", target=queue.id, note=note, now=now)
    await _let_go(tx, interaction, entry, "transfer", now=now)
    return entry


async def to_agent(
    tx: Tx, interaction_id: str, *, agent_id: str, to_agent_id: str, now: datetime, note: str = ""
) -> QueueEntry:
    """To a colleague, who is offered it at once. When they do not take it, it waits at the front of its queue."""
    if to_agent_id == agent_id:
        raise Invalid("You have this call already.")
    interaction, entry = await _mine(tx, interaction_id, agent_id)
    other = await agents.lock(tx, to_agent_id)
    if not can_take(other, now):
        raise Conflict("This colleague cannot take a call now. Choose a queue or somebody else.")
    queue = await queues.get(tx, entry.queue_id)
    await _hand_on(tx, interaction, entry, queue, kind="agent", target=to_agent_id, note=note, now=now)
    giver = await tx.one(select(User.name).where(User.id == agent_id)) or ""
    trace = {"why": Text("%(name)s transfers this call to them", name=giver), "transfer": True}
    # Before the offer: the move is numbered by the offers so far, and the next hand-over in a chain must have another number.
    await _let_go(tx, interaction, entry, "transfer", now=now)
    await offering.offer(tx, entry, await agents.lock(tx, to_agent_id), trace=trace, queue=queue, now=now)
    return entry


async def to_number(
    tx: Tx, interaction_id: str, *, agent_id: str, number: Address, now: datetime, note: str = ""
) -> QueueEntry:
    """To a number outside, from ours. When nobody answers there, the call waits at the front of its queue.

    Invalid for numbers that this hub does not dial (emergency, premium, countries that are not allowed); Refused by the gate.
    """
    interaction, entry = await _mine(tx, interaction_id, agent_id)
    account = await accounts.get(tx, interaction.account_id)
    await dialling.check_third(tx, number, account)
    verdict = await gate.ask(
        tx, number, purpose=Purpose.SYSTEM, channel="voice", sender=account.id, user_id=agent_id, now=now
    )
    queue = await queues.get(tx, entry.queue_id)
    await _hand_on(
        tx, interaction, entry, queue, kind="number", target=number.value, note=note, now=now, not_before=now + AWAY_FOR
    )
    await gate.record(
        tx, number, verdict, channel="voice", now=now, interaction_id=interaction.id, user_id=agent_id
    )  # fmt: skip
    await recordings.stop(tx, interaction, now=now)
    away = {"to": number.value, "from": account.address, "at": now.isoformat()}
    await interactions.change(tx, interaction, now=now, data={**interaction.data, "away": away})
    await _let_go(tx, interaction, entry, "away", now=now)
    return entry


async def _mine(tx: Tx, interaction_id: str, agent_id: str) -> tuple[Interaction, QueueEntry]:
    interaction, entry = await talks.open_call(tx, interaction_id)
    if entry is None or entry.agent_id != agent_id:
        raise NotAllowed("This is not your call.")
    if entry.state != EntryState.CONNECTED or interaction.state != InteractionState.CONNECTED:
        raise Conflict("There is no talk that could be given away.")
    if await talks.latest_leg(tx, interaction.id, LegRole.CUSTOMER) is None:
        raise Conflict("The customer has hung up.")
    return interaction, entry


async def _hand_on(
    tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, *, kind: str, target: str, note: str, now: datetime,
    not_before: datetime | None = None,
) -> None:  # fmt: skip
    by = entry.agent_id or ""
    told = {"by": by, "kind": kind, "to": target, "note": note.strip()[:1000], "at": now.isoformat()}
    data = {**interaction.data, "transfers": [*interaction.data.get("transfers", []), told]}
    data.pop("away", None)
    await interactions.change(tx, interaction, now=now, data=data)
    key = f"hub:{interaction.id}:transferred:{entry.version}"
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="transferred", event_key=key, happened_at=now, now=now,
        role=LegRole.AGENT, user_id=by, raw={"kind": kind, "to": target},
    )  # fmt: skip
    await entries.hand_on(tx, entry, queue=queue, interaction=interaction, now=now, not_before=not_before)
    fresh = await interactions.get(tx, interaction.id)
    interaction.__dict__.update(fresh.model_dump())
    await entries.tell_calls(tx, entry, "queued", now=now)


async def _let_go(tx: Tx, interaction: Interaction, entry: QueueEntry, step: str, *, now: datetime) -> None:
    """The customer goes on with this step; the agent's leg and the room they shared are over."""
    await talks.ask_move(tx, interaction, entry, step, now=now)
    await talks.end_legs(tx, interaction.id, LegRole.AGENT, now=now)
    await rooms.ask_end(tx, interaction.id, now=now)


# --- away at a number outside -----------------------------------------------------------------------------------------


async def answered_outside(tx: Tx, interaction: Interaction, entry: QueueEntry | None, *, now: datetime) -> None:
    """Somebody outside has taken the call: our work is done, and the talk goes on without us."""
    if entry is None or entry.state != EntryState.WAITING or "away" not in interaction.data:
        return
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="away", event_key=f"hub:{interaction.id}:away:{entry.version}",
        happened_at=now, now=now,
    )  # fmt: skip
    await entries.close(tx, entry, outcome=Outcome.HANDLED, now=now)


async def back_from_outside(tx: Tx, interaction: Interaction, entry: QueueEntry, *, now: datetime) -> None:
    """Nobody took it outside: before the agents again, at the old place."""
    if entry.state != EntryState.WAITING or "away" not in interaction.data:
        return
    data = {name: value for name, value in interaction.data.items() if name != "away"}
    await interactions.change(tx, interaction, now=now, data=data)
    await entries.note(tx, entry, now=now, not_before=None)


async def adopt_leg(tx: Tx, call_id: str, parent: CallLeg, *, now: datetime) -> CallLeg | None:
    """The leg to the number outside, which the provider made by itself."""
    leg = CallLeg(id=call_id, interaction_id=parent.interaction_id, role=LegRole.CONSULT, created_at=now)
    await tx.add_new(leg, unique=["id"])
    return await calls.find_leg(tx, call_id)


async def wrapped_up(tx: Tx, entry: QueueEntry, *, disposition: str, notes: str, now: datetime) -> None:
    """What the agent who gave the call away says about their part of it: kept in the record, and shown to whoever has it now."""
    # Held before it is read: whoever has the call now may finish in the same instant.
    await tx.one(select(Interaction.id).where(Interaction.id == entry.interaction_id).with_for_update())
    interaction = await interactions.get(tx, entry.interaction_id)
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="part_disposed", event_key=f"hub:{entry.id}:part_disposed:{entry.version}",
        happened_at=now, now=now, user_id=entry.agent_id or "", raw={"disposition": disposition, "notes": notes},
    )  # fmt: skip
    parts = [dict(part) for part in interaction.data.get("transfers", [])]
    mine = next((part for part in reversed(parts) if part["by"] == entry.agent_id), {})
    mine["disposition"] = disposition
    await interactions.change(tx, interaction, now=now, notes=notes, data={**interaction.data, "transfers": parts})


def last_of(interaction: Interaction) -> dict[str, Any] | None:
    """The latest hand-over of a call, or None."""
    found: list[dict[str, Any]] = interaction.data.get("transfers") or []
    return found[-1] if found else None
