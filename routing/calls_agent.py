"""The agent's browser joins a room: for an accepted offer, a call of its own, or again after a reload; only with the nonce."""

from __future__ import annotations

from datetime import datetime

from channels.contract import CallArrived
from channels.steps import DialConference, Hangup, Step
from crm_core import calls, interactions
from crm_core.calls import CallLeg, LegRole
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.interactions import Interaction, InteractionState
from routing import entries, offers, prompts, rooms, talks
from routing.offers import Offer, OfferState
from routing.queues import EntryState, QueueEntry
from routing.rooms import event_path, step_path


async def client_connected(tx: Tx, event: CallArrived, *, now: datetime) -> list[Step]:
    """An agent's browser connects, for an accepted offer (`offer`, `nonce`) or a call of theirs (`call`, `nonce`)."""
    user_id = event.from_raw.removeprefix("client:")
    nonce = event.params.get("nonce", "")
    try:
        if "offer" in event.params:
            return await _accepted(tx, event, user_id, nonce, now=now)
        return await _own_call(tx, event, user_id, nonce, now=now)
    except NotFound:
        return _refused("gone")


def _refused(why: str) -> list[Step]:
    return [prompts.say(why, "en-GB"), Hangup()]


async def _accepted(tx: Tx, event: CallArrived, user_id: str, nonce: str, *, now: datetime) -> list[Step]:
    offer: Offer = await offers.get(tx, event.params["offer"])
    entry = await entries.lock(tx, offer.entry_id)
    offer = await offers.get(tx, offer.id)
    if offer.agent_id != user_id or not nonce or offer.nonce != nonce:
        return _refused("not_yours")
    if offer.state not in (OfferState.ACCEPTING, OfferState.WON) or entry.state not in (
        EntryState.OFFERED, EntryState.CONNECTED,
    ):  # fmt: skip
        return _refused("gone")
    interaction = await interactions.get(tx, entry.interaction_id)
    return [await _agent_leg(tx, event, interaction, user_id, offer_id=offer.id, now=now)]


async def _own_call(tx: Tx, event: CallArrived, user_id: str, nonce: str, *, now: datetime) -> list[Step]:
    interaction, entry = await talks.open_call(tx, event.params.get("call", ""))
    if entry is None or entry.agent_id != user_id:
        return _refused("not_yours")
    if not nonce or nonce != await nonce_of(tx, interaction, entry):
        return _refused("not_yours")
    if entry.state != EntryState.CONNECTED or interaction.state not in (
        InteractionState.CONNECTED, InteractionState.WAITING,
    ):  # fmt: skip
        return _refused("gone")
    return [await _agent_leg(tx, event, interaction, user_id, offer_id=entry.offer_id or "", now=now)]


async def nonce_of(tx: Tx, interaction: Interaction, entry: QueueEntry) -> str:
    """What a browser must show to join this call: of the dial, or of the accepted offer."""
    if "nonce" in interaction.data:
        return str(interaction.data["nonce"])
    return (await offers.get(tx, entry.offer_id)).nonce if entry.offer_id else ""


async def _agent_leg(
    tx: Tx, event: CallArrived, interaction: Interaction, user_id: str, *, offer_id: str, now: datetime
) -> DialConference:
    """The agent's leg, known before it joins. An older leg of theirs is hung up; labels stay unique within the room."""
    legs = [leg for leg in await calls.list_legs(tx, interaction.id) if leg.user_id == user_id]
    others = [leg for leg in legs if leg.id != event.call_id]
    if all(leg.id != event.call_id for leg in legs):
        await tx.add(
            CallLeg(
                id=event.call_id, interaction_id=interaction.id, role=LegRole.AGENT, user_id=user_id, offer_id=offer_id,
                conference=rooms.name_of(interaction.id), status="in-progress", created_at=now,
            )
        )  # fmt: skip
    await talks.end_legs(tx, interaction.id, LegRole.AGENT, now=now, but=event.call_id)
    label = f"agent-{user_id}" if not others else f"agent-{user_id}.{len(others) + 1}"
    return DialConference(
        rooms.name_of(interaction.id), label, end_on_exit=False, status_url=event_path(interaction.id),
        action=step_path(interaction.id, "agent", len(others) + 1),
    )  # fmt: skip
