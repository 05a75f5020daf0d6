"""Leaving a message: when the queue is closed, when nobody takes the call, or by a key. The call ends with the outcome voicemail;
the message itself becomes work of its own when the provider has it (routing/recordings.py)."""

from __future__ import annotations

from datetime import datetime

from channels.steps import Hangup, Record, Step
from crm_core import calls, interactions
from crm_core.db import Tx
from crm_core.interactions import Interaction, InteractionState, Outcome
from routing import call_rules, entries, offer_ends, offers, prompts, queues
from routing.offers import OfferState
from routing.queues import EntryState, Queue, QueueEntry
from routing.rooms import step_path

RECORDING_PATH = "/webhooks/twilio/voice/recording"


async def take(
    tx: Tx, interaction: Interaction, entry: QueueEntry | None, queue: Queue, *, number: int, now: datetime
) -> list[Step]:
    """The call becomes a message: steps that record it, or the end where the call is not what it was any more."""
    if not await give_up_waiting(tx, interaction, entry, queue, now=now):
        return [Hangup()]
    return record(interaction, queue, number=number)


async def give_up_waiting(
    tx: Tx, interaction: Interaction, entry: QueueEntry | None, queue: Queue, *, now: datetime
) -> bool:
    """The caller waits no more and leaves a message instead; False when an agent has accepted the call already."""
    if entry is not None and entry.state == EntryState.OFFERED:
        live = await offers.find_live(tx, entry.id)
        if live is None or live.state != OfferState.OPEN:
            return False
        await offer_ends.withdraw(tx, entry, reason="caller leaves a message", now=now)
        interaction.__dict__.update((await interactions.get(tx, interaction.id)).model_dump())
    if interaction.state not in (InteractionState.MENU, InteractionState.WAITING):
        return False
    placed = entry.order_at if entry is not None else interaction.first_arrival_at
    told = {"queue": queue.id, "order_at": placed.isoformat()}
    await interactions.change(tx, interaction, now=now, data={**interaction.data, "voicemail": told})
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="voicemail", event_key=f"hub:{interaction.id}:voicemail",
        happened_at=now, now=now,
    )  # fmt: skip
    if entry is not None and entry.state == EntryState.WAITING:
        await entries.close(tx, entry, outcome=Outcome.VOICEMAIL, now=now)
    else:
        await interactions.advance(
            tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.VOICEMAIL, queue_id=queue.id
        )
    return True


def record(interaction: Interaction, queue: Queue, *, number: int) -> list[Step]:
    """Please speak after the tone."""
    return [
        prompts.say("voicemail", call_rules.spoken_in(interaction, queue)),
        Record(
            step_path(interaction.id, "message", number + 1), f"{RECORDING_PATH}?i={interaction.id}",
            max_s=call_rules.of(queue).voicemail_max_s,
        ),
        Hangup(),
    ]  # fmt: skip


async def taken(tx: Tx, interaction: Interaction) -> list[Step]:
    """They have spoken."""
    told = interaction.data.get("voicemail")
    if not told:
        return [Hangup()]
    queue = await queues.get(tx, told["queue"])
    return [prompts.say("voicemail_kept", call_rules.spoken_in(interaction, queue)), Hangup()]
