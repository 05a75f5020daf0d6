"""Agents who take calls on a telephone: their number is dialled into the room, where the browser would have joined.

Whoever picks up must press 1 first, so that a private voicemail or a child never gets the customer.
The screen stays the browser's: offer, who it is, wrap-up. A phone that is not answered fails the accept like a browser that never
comes: the caller keeps the place and nobody is blamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import update
from sqlmodel import col, select

from channels.steps import DialConference, Gather, Hangup, Pause, Play, Redirect, Say, Step
from crm_core import accounts, addresses, audit, calls, interactions, outbox, outgoing, outgoing_rules
from crm_core.calls import CallEvent, CallLeg, LegRole
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.interactions import Interaction, InteractionState
from routing import agents, dialling, offers, prompts, queues, rooms, talks
from routing.agents import Agent
from routing.offers import OfferState
from routing.queues import EntryState, QueueEntry

SHORTEST_RING_S = 8
STEPS = ("handset", "handset-key")  # of the agent's own leg: asked to press 1, and what they pressed
ASKED_S = 8  # how long they may take to press
TRIES = 10  # seconds that a leg may be unknown yet: its webhook was faster than the answer to our own request


async def number_of(tx: Tx, agent_id: str) -> str:
    """The telephone that this agent takes calls on; empty: the browser."""
    found = await agents.find(tx, agent_id)
    return found.phone_e164 if found is not None else ""


async def set_number(tx: Tx, agent_id: str, number: str, *, actor: str, now: datetime) -> str:
    """Take calls on this number from now on, or (empty) in the browser again. Invalid for numbers that the hub does not dial."""
    await agents.ensure(tx, agent_id, now=now)
    stored = ""
    if number.strip():
        account = next(iter(await accounts.list_channel(tx, "voice")), None)
        found = addresses.phone(number, country=account.country if account is not None else "")
        if account is not None:
            await dialling.check_third(tx, found, account)
        guard = await outgoing.load(tx, now=now)
        refused = outgoing_rules.destination(guard.rules, found.value, guard.home)
        if refused is not None:
            raise Invalid(refused[1])
        stored = found.value
    agent = await agents.lock(tx, agent_id)
    await tx.change(Agent, {"phone_e164": stored}, user_id=agent.user_id)
    await audit.record(tx, actor=actor, action="agent.phone", subject=f"user:{agent_id}", now=now, number=stored)
    return stored


async def ring(
    tx: Tx, interaction: Interaction, agent_id: str, *, now: datetime, timeout_s: int, offer_id: str = ""
) -> bool:
    """Have the agent's telephone rung for this call; False when they take calls in the browser."""
    number = await number_of(tx, agent_id)
    if not number:
        return False
    account = await accounts.get(tx, interaction.account_id)
    told = {"from": account.address, "to": number, "user_id": agent_id, "offer_id": offer_id}
    # Counted and paid like every call out; but whoever waits on the line is not let down because a limit is reached.
    await outgoing.count(tx, "voice", number, now=now, user_id=agent_id)
    await outbox.ask(
        tx, "agent.place", interaction.id, lane="control", now=now, ordering=interaction.id,
        dedupe=f"agent.place:{interaction.id}:{offer_id or agent_id}", room=rooms.name_of(interaction.id),
        timeout_s=max(SHORTEST_RING_S, timeout_s), told=told,
    )  # fmt: skip
    return True


async def placed(
    tx: Tx, interaction_id: str, *, user_id: str, offer_id: str, call_id: str, error: str, now: datetime
) -> None:
    """The provider rings the agent, or could not: then the accept has failed."""
    interaction, entry = await talks.open_call(tx, interaction_id)
    if not call_id:
        if entry is not None and entry.agent_id == user_id:
            await talks.fail_accept(tx, interaction, entry, reason=error or "the telephone could not be rung", now=now)
        return
    leg = CallLeg(
        id=call_id, interaction_id=interaction.id, role=LegRole.AGENT, user_id=user_id, offer_id=offer_id,
        conference=rooms.name_of(interaction.id), created_at=now,
    )  # fmt: skip
    await tx.add_new(leg, unique=["id"])
    await tx.run(update(CallLeg).where(col(CallLeg.id) == call_id).values(offer_id=offer_id))
    early = (col(CallEvent.leg_id) == call_id, col(CallEvent.interaction_id) == "")
    told = await tx.all(select(CallEvent).where(*early).limit(50))
    await tx.run(
        update(CallEvent).where(*early).values(interaction_id=interaction.id, role=str(LegRole.AGENT), user_id=user_id)
    )
    known = await calls.find_leg(tx, call_id)
    ended = next((event.kind for event in told if event.kind in ("busy", "no-answer", "failed", "canceled")), "")
    if known is not None and ended:
        # The phone was refused before its own answer came: taken now.
        await tx.run(update(CallLeg).where(col(CallLeg.id) == call_id).values(status=ended, rank=9, left_at=now))
        known = await calls.find_leg(tx, call_id)
        if known is not None:
            await talks.agent_gone(tx, await interactions.get(tx, interaction.id), entry, known, now=now)


async def call_step(
    tx: Tx, interaction: Interaction, entry: QueueEntry | None, step: str, params: Mapping[str, str], *, number: int,
    now: datetime,
) -> list[Step]:  # fmt: skip
    """What the agent's telephone hears: press 1; then the room, if the call is still there and still theirs."""
    leg = await calls.find_leg(tx, params.get("CallSid", ""))
    if leg is None:
        if number >= TRIES:
            return [Hangup()]
        return [Pause(1), Redirect(rooms.step_path(interaction.id, "handset", number + 1))]
    queue = await queues.get(tx, entry.queue_id) if entry is not None else None
    language = queue.language if queue is not None else "en-GB"
    if (
        leg.role != LegRole.AGENT
        or leg.interaction_id != interaction.id
        or not await _wanted(tx, interaction, entry, leg)
    ):
        return [prompts.say("gone", language), Hangup()]
    if step == "handset":
        asked: list[Say | Play | Pause] = [prompts.say("handset", language), Pause(1), prompts.say("handset", language)]
        key = rooms.step_path(interaction.id, "handset-key", number + 1)
        return [Gather(key, asked, digits=1, timeout_s=ASKED_S, language=language), Hangup()]
    if params.get("Digits", "")[:1] != "1":
        return [Hangup()]
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="handset-taken", event_key=f"{leg.id}:handset-taken", happened_at=now,
        now=now, leg_id=leg.id, role=LegRole.AGENT, user_id=leg.user_id,
    )  # fmt: skip
    mine = [one for one in await calls.list_legs(tx, interaction.id) if one.user_id == leg.user_id and one.id != leg.id]
    label = f"agent-{leg.user_id}" if not mine else f"agent-{leg.user_id}.{len(mine) + 1}"
    return [
        DialConference(
            rooms.name_of(interaction.id), label, end_on_exit=False, status_url=rooms.event_path(interaction.id),
            action=rooms.step_path(interaction.id, "agent", len(mine) + 1),
        )
    ]  # fmt: skip


async def _wanted(tx: Tx, interaction: Interaction, entry: QueueEntry | None, leg: CallLeg) -> bool:
    """Whether this agent's leg still has a call to take."""
    if entry is None:
        return False
    if entry.state == EntryState.OFFERED:
        live = await offers.find_live(tx, entry.id)
        return live is not None and live.id == leg.offer_id and live.state == OfferState.ACCEPTING
    live_states = (InteractionState.CONNECTED, InteractionState.WAITING)
    return entry.state == EntryState.CONNECTED and entry.agent_id == leg.user_id and interaction.state in live_states
