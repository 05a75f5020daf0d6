"""What the provider reports about legs and rooms, in any order, twice or late: recorded as raw events, then taken to conclusions.

A leg's status only rises; in a room only the newest event of a participant counts. What follows is in talks.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from channels.contract import CallProgress, RoomEvent
from crm_core import accounts, calls, interactions, outbox, outgoing
from crm_core.calls import CallEvent, CallLeg, LegRole
from crm_core.db import Tx
from crm_core.interactions import Interaction, InteractionState
from routing import answered_by, offers, rooms, talks, transfers
from routing.offers import OfferState
from routing.queues import EntryState, QueueEntry

TERMINAL = {"completed", "busy", "no-answer", "failed", "canceled"}
AGENT_LABEL = "agent-"


async def call_progressed(tx: Tx, event: CallProgress, *, now: datetime) -> None:
    """A status of one leg. Of a leg that we do not know yet it is kept, and taken when the leg is placed."""
    leg = await calls.find_leg(tx, event.call_id)
    if leg is None and event.raw.get("ParentCallSid"):
        # A leg that the provider dialled out of one of ours: a transfer to a number outside.
        parent = await calls.find_leg(tx, event.raw["ParentCallSid"])
        leg = await transfers.adopt_leg(tx, event.call_id, parent, now=now) if parent is not None else None
    fresh = await calls.record_event(
        tx, interaction_id=leg.interaction_id if leg else "", kind=event.status, event_key=event.event_key,
        happened_at=event.happened_at or now, now=now, leg_id=event.call_id, role=str(leg.role) if leg else "",
        user_id=leg.user_id if leg else "", sequence=event.sequence, raw=dict(event.raw),
    )  # fmt: skip
    if leg is None or not fresh:
        return
    if event.raw.get("Direction", "").startswith("outbound") and (event.duration_s or 0) > 60:
        # The first minute was counted with the touch.
        more = -(-(event.duration_s or 0) // 60) - 1
        await outgoing.count(tx, "voice", event.raw.get("To", ""), now=now, user_id=leg.user_id, number=0, units=more)
    interaction, entry = await talks.open_call(tx, leg.interaction_id)
    await _status(tx, interaction, entry, leg.id, event.status, event.rank, now=now)
    if event.status in TERMINAL or interaction.state == InteractionState.ENDED:
        await _conclude(tx, interaction, now=now)


async def _status(
    tx: Tx, interaction: Interaction, entry: QueueEntry | None, call_id: str, status: str, rank: int, *, now: datetime
) -> None:
    higher = update(CallLeg).where(col(CallLeg.id) == call_id, col(CallLeg.rank) < rank)
    values = {"rank": rank, "status": status}
    if status in TERMINAL:
        values["left_at"] = now
    if await tx.run(higher.values(**values)) == 0:
        return
    leg = await calls.find_leg(tx, call_id)
    if leg is not None and leg.role == LegRole.CONSULT and status in ("answered", "in-progress"):
        await transfers.answered_outside(tx, interaction, entry, now=now)
    if leg is None or status not in TERMINAL:
        return
    if leg.role == LegRole.CUSTOMER:
        other = await talks.latest_leg(tx, interaction.id, LegRole.CUSTOMER)
        if other is None:
            await talks.customer_gone(tx, interaction, entry, now=now, reason=status)
    elif leg.role == LegRole.AGENT:
        await talks.agent_gone(tx, interaction, entry, leg, now=now)


async def room_changed(tx: Tx, event: RoomEvent, *, interaction_id: str, now: datetime) -> None:
    """Something in a room of this interaction: somebody came, left, was held, or it is over."""
    leg = await calls.find_leg(tx, event.call_id) if event.call_id else None
    role, user_id = _who(leg, event)
    fresh = await calls.record_event(
        tx, interaction_id=interaction_id, kind=event.kind, event_key=event.event_key,
        happened_at=event.happened_at or now, now=now, leg_id=event.call_id, role=str(role or ""), user_id=user_id,
        sequence=event.sequence, raw=dict(event.raw),
    )  # fmt: skip
    if not fresh:
        return
    interaction, entry = await talks.open_call(tx, interaction_id)
    if leg is None and event.call_id and role is not None:
        leg = await _new_leg(tx, event.call_id, interaction.id, role, user_id, now=now)
    room = await rooms.take_event(tx, event, interaction_id=interaction.id, role=role, user_id=user_id, now=now)
    if room is not None:
        if event.kind == "join" and leg is not None:
            await _joined(tx, interaction, entry, room, leg, now=now)
        elif event.kind == "leave" and leg is not None:
            await _left(tx, interaction, entry, leg, now=now)
        elif event.kind == "end":
            await _ended(tx, interaction, entry, room, now=now)
    if event.kind == "end" or interaction.state == InteractionState.ENDED:
        await _conclude(tx, interaction, now=now)


async def _conclude(tx: Tx, interaction: Interaction, *, now: datetime) -> None:
    """The record as all that is known now tells it, and an outcome that agrees with it."""
    record = await calls.refold(tx, interaction.id)
    await talks.correct(tx, await interactions.get(tx, interaction.id), record, now=now)


def _who(leg: CallLeg | None, event: RoomEvent) -> tuple[LegRole | None, str]:
    if leg is not None:
        return LegRole(leg.role), leg.user_id
    if event.label == "customer":
        return LegRole.CUSTOMER, ""
    if event.label.startswith(AGENT_LABEL):
        return LegRole.AGENT, event.label.removeprefix(AGENT_LABEL).partition(".")[0]
    return None, ""


async def _new_leg(
    tx: Tx, call_id: str, interaction_id: str, role: LegRole, user_id: str, *, now: datetime
) -> CallLeg | None:
    leg = CallLeg(
        id=call_id, interaction_id=interaction_id, role=role, user_id=user_id, conference=rooms.name_of(interaction_id),
        created_at=now,
    )  # fmt: skip
    await tx.add_new(leg, unique=["id"])
    return await calls.find_leg(tx, call_id)


async def _joined(
    tx: Tx, interaction: Interaction, entry: QueueEntry | None, room: rooms.CallRoom, leg: CallLeg, *, now: datetime
) -> None:
    await tx.run(update(CallLeg).where(col(CallLeg.id) == leg.id).values(joined_at=now))
    agent_in = entry is not None and bool(rooms.present(room, LegRole.AGENT, user_id=entry.agent_id or ""))
    customer_in = bool(rooms.present(room, LegRole.CUSTOMER))
    if entry is None or entry.state not in (EntryState.OFFERED, EntryState.CONNECTED):
        await _not_wanted(tx, interaction, leg, now=now)
    elif agent_in and customer_in and interaction.state in (InteractionState.OFFERED, InteractionState.WAITING):
        await talks.together(tx, interaction, entry, now=now)
    elif leg.role == LegRole.AGENT and leg.user_id != entry.agent_id:
        await _not_wanted(tx, interaction, leg, now=now)
    elif leg.role == LegRole.AGENT and entry.state == EntryState.OFFERED:
        live = await offers.find_live(tx, entry.id)
        if (
            live is None
            or live.state != OfferState.ACCEPTING
            or not await talks.ask_move(tx, interaction, entry, "join", now=now)
        ):
            await _not_wanted(tx, interaction, leg, now=now)
    elif leg.role == LegRole.AGENT and talks.dialing(interaction):
        await _place(tx, interaction, entry, now=now)
    if entry is not None and leg.role == LegRole.AGENT and entry.state == EntryState.CONNECTED:
        await talks.agent_back(tx, interaction, entry, now=now)


async def _not_wanted(tx: Tx, interaction: Interaction, leg: CallLeg, *, now: datetime) -> None:
    """Somebody came into a room where nothing is left for them. A waiting caller is never hung up here."""
    if leg.role == LegRole.AGENT or interaction.state in (InteractionState.ENDED, InteractionState.WRAPUP):
        await outbox.ask(
            tx, "call.end", interaction.id, lane="control", now=now, ordering=interaction.id,
            dedupe=f"call.end:{leg.id}", call_id=leg.id,
        )  # fmt: skip


async def _place(tx: Tx, interaction: Interaction, entry: QueueEntry, *, now: datetime) -> None:
    """The agent's leg is in the room of an outgoing call: now the customer is dialed, once."""
    if interaction.state != InteractionState.WAITING or interaction.data.get("placed"):
        return
    timeout_s = 30
    account = await accounts.get(tx, interaction.account_id)
    ends: dict[str, Any] = {"from": interaction.from_address, "to": interaction.to_address}
    await outbox.ask(
        tx, "call.place", interaction.id, lane="control", now=now, ordering=interaction.id,
        dedupe=f"call.place:{interaction.id}", interaction_id=interaction.id, room=rooms.name_of(interaction.id),
        label="customer", timeout_s=timeout_s, detect=answered_by.wanted(account), **ends,
    )  # fmt: skip
    await interactions.change(tx, interaction, now=now, data={**interaction.data, "placed": now.isoformat()})
    # Should every report about this dial be lost, the agent is freed nevertheless.
    await talks.watch(tx, entry, until_s=timeout_s + 60, now=now)


async def _left(tx: Tx, interaction: Interaction, entry: QueueEntry | None, leg: CallLeg, *, now: datetime) -> None:
    await tx.run(update(CallLeg).where(col(CallLeg.id) == leg.id).values(left_at=now))
    if leg.role == LegRole.AGENT:
        await talks.agent_gone(tx, interaction, entry, leg, now=now)
    elif interaction.state == InteractionState.CONNECTED and await _nowhere_else(tx, interaction.id):
        # A rescue first makes the interaction wait and then moves the leg: who leaves while connected has hung up.
        await talks.customer_gone(tx, interaction, entry, now=now, reason="completed")


async def _ended(
    tx: Tx, interaction: Interaction, entry: QueueEntry | None, room: rooms.CallRoom, *, now: datetime
) -> None:
    if interaction.state == InteractionState.CONNECTED and await _nowhere_else(tx, interaction.id):
        await talks.customer_gone(tx, interaction, entry, now=now, reason="completed")


async def _nowhere_else(tx: Tx, interaction_id: str) -> bool:
    """True when the customer is in no room of this interaction (an older room's late events must not end the newer talk)."""
    return not any(rooms.present(room, LegRole.CUSTOMER) for room in await rooms.list_rooms(tx, interaction_id))


async def call_placed(tx: Tx, interaction_id: str, *, call_id: str, now: datetime, error: str = "") -> None:
    """The executor has placed an outgoing call, or could not (`error`). Reports that came before this are taken now."""
    interaction, entry = await talks.open_call(tx, interaction_id)
    if error or not call_id:
        if entry is not None:
            await talks.unreached(tx, interaction, entry, now=now, reason=error or "failed", failed=True)
        return
    leg = await _new_leg(tx, call_id, interaction_id, LegRole.CUSTOMER, "", now=now)
    early = col(CallEvent.leg_id) == call_id, col(CallEvent.interaction_id) == ""
    waiting = await tx.all(select(CallEvent).where(*early).order_by(col(CallEvent.sequence)).limit(50))
    await tx.run(update(CallEvent).where(*early).values(interaction_id=interaction_id, role=str(LegRole.CUSTOMER)))
    for event in waiting:
        await _status(tx, interaction, entry, call_id, event.kind, RANK.get(event.kind, 1), now=now)
    if leg is not None and interaction.state in (InteractionState.ENDED, InteractionState.WRAPUP):
        # The agent gave up while the call was being placed.
        await talks.end_legs(tx, interaction_id, LegRole.CUSTOMER, now=now)


RANK = {"queued": 0, "initiated": 1, "ringing": 2, "answered": 3, "in-progress": 3} | dict.fromkeys(TERMINAL, 9)
