"""What a caller hears while they wait, and on the way into the room, to somebody else, or back to the queue."""

from __future__ import annotations

from datetime import datetime, timedelta

from channels.steps import DialConference, DialNumber, Enqueue, Gather, Hangup, Leave, Play, Redirect, Step
from crm_core import addresses, calls, interactions
from crm_core.addresses import Address
from crm_core.db import Tx
from crm_core.interactions import Interaction, Outcome
from routing import (
    call_rules,
    callbacks,
    entries,
    offer_ends,
    offers,
    prompts,
    queues,
    rooms,
    talks,
    transfers,
    voicemail,
)
from routing.call_rules import spoken_in
from routing.offers import OfferState
from routing.queues import EntryState, Queue, QueueEntry
from routing.rooms import HOLD_MUSIC, event_path, step_path

TURNS = 1000  # step numbers per offer: after each, the waiting loop counts on from the next thousand
CALLBACK_LEAD = timedelta(
    seconds=20
)  # a callback asked for in the queue is not offered while its number is being read out


def enqueue(interaction_id: str, queue: Queue, entry: QueueEntry) -> Enqueue:
    """Into the provider's queue, with the waiting loop's next step number for this offer."""
    number = entry.offers * TURNS + 1
    return Enqueue(
        f"queue-{queue.id}", step_path(interaction_id, "wait", number), step_path(interaction_id, "left", number)
    )


async def wait(
    tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, number: int, *, now: datetime
) -> list[Step]:
    """One turn of the waiting loop: place, estimate, the offer of a callback, music."""
    if entry.state == EntryState.DONE:
        return [Leave()]
    language = spoken_in(interaction, queue)
    place = await entries.position(tx, entry) if entry.state == EntryState.WAITING else 1
    said = [prompts.say("position", language, position=place) if place > 1 else prompts.say("next", language)]
    estimate = await entries.estimate_s(tx, queue.id, now=now) if place > 1 else None
    if estimate is not None:
        minutes = int(estimate // 60) + 1
        said.append(
            prompts.say("estimate", language, minutes=minutes) if minutes > 1 else prompts.say("estimate_one", language)
        )
    rules = call_rules.of(queue)
    music = Play(rules.music_url)
    onward = Redirect(step_path(interaction.id, "wait", number + 1))
    waited = (now - entry.entered_at).total_seconds()
    offered = []
    if 0 <= queue.callback_offer_after_s <= waited and addresses.find_phone(interaction.from_address) is not None:
        offered.append(prompts.say("offer", language))
    if rules.voicemail_key:
        offered.append(prompts.say("voicemail_offer", language))
    if offered:
        action = step_path(interaction.id, "pressed", number)
        return [Gather(action, [*said, *offered, music], digits=1, timeout_s=1, language=language), onward]
    return [*said, music, onward]


async def pressed(
    tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, number: int, pressed: str, *, now: datetime
) -> list[Step]:
    """A key in the waiting loop. 1: the call becomes a promise at the same place, and the number is read back digit by digit."""
    onward = Redirect(step_path(interaction.id, "wait", number + 1))
    caller = addresses.find_phone(interaction.from_address)
    if pressed == "2" and call_rules.of(queue).voicemail_key:
        if await voicemail.give_up_waiting(tx, interaction, entry, queue, now=now):
            return [Leave()]
        return [prompts.say("too_late", spoken_in(interaction, queue)), Play(call_rules.of(queue).music_url), onward]
    if pressed != "1" or queue.callback_offer_after_s < 0:
        return [onward]
    if caller is None:
        return [prompts.say("withheld", spoken_in(interaction, queue)), onward]
    if not await to_callback(tx, interaction, entry, caller, origin="in_queue", now=now):
        return [prompts.say("too_late", spoken_in(interaction, queue)), Play(HOLD_MUSIC), onward]
    return [
        prompts.say(
            "promised",
            spoken_in(interaction, queue),
            number=prompts.spoken(caller.value, spoken_in(interaction, queue)),
        ),
        Leave(),
    ]


async def to_callback(
    tx: Tx, interaction: Interaction, entry: QueueEntry, caller: Address, *, origin: str, now: datetime
) -> bool:
    """Turn a waiting call into a promise; False when an agent has accepted it already: the conversion loses."""
    if entry.state == EntryState.OFFERED:
        live = await offers.find_live(tx, entry.id)
        if live is None or live.state != OfferState.OPEN:
            return False
        await offer_ends.withdraw(tx, entry, reason="caller asked for a callback", now=now)
        interaction = await interactions.get(tx, interaction.id)
    if entry.state != EntryState.WAITING:
        return False
    await callbacks.request(
        tx, number=caller, queue_id=entry.queue_id, due_at=now, origin=origin, now=now,
        account_id=interaction.account_id, contact_id=interaction.contact_id, interaction=interaction,
        order_at=entry.order_at, created_by="caller", not_before=now + CALLBACK_LEAD,
    )  # fmt: skip
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="callback", event_key=f"hub:{interaction.id}:callback",
        happened_at=now, now=now,
    )  # fmt: skip
    await entries.close(tx, entry, outcome=Outcome.CALLBACK, now=now)
    return True


async def overflow(tx: Tx, interaction: Interaction, entry: QueueEntry, *, now: datetime) -> None:
    """Nobody took the call within the queue's longest wait: a promise where the number is known, else the end; both said."""
    caller = addresses.find_phone(interaction.from_address)
    if entry.state != EntryState.WAITING:
        return
    moved = await talks.ask_move(tx, interaction, entry, "overflow", now=now)
    queue = await queues.get(tx, entry.queue_id)
    if moved and call_rules.of(queue).voicemail_overflow:
        await voicemail.give_up_waiting(tx, interaction, entry, queue, now=now)
        return
    if caller is not None and moved and await to_callback(tx, interaction, entry, caller, origin="overflow", now=now):
        return
    await entries.close(tx, entry, outcome=Outcome.OVERFLOW, now=now)


async def overflow_said(tx: Tx, interaction: Interaction, queue: Queue, *, number: int, now: datetime) -> list[Step]:
    """What those hear who waited too long: a message may be left, or they are called back."""
    said: list[Step] = [prompts.say("overflow", spoken_in(interaction, queue))]
    if "voicemail" in interaction.data:
        return [*said, *voicemail.record(interaction, queue, number=number)]
    if interaction.outcome in ("", Outcome.CALLBACK):
        spoken = prompts.spoken(interaction.from_address, spoken_in(interaction, queue))
        said.append(prompts.say("promised", spoken_in(interaction, queue), number=spoken))
    await calls.note_end(tx, interaction.id, now=now)
    return [*said, Hangup()]


async def left_queue(
    tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, result: str, *, now: datetime
) -> list[Step]:
    """The caller has left the provider's queue, and how. Moved by us: nothing, their steps come from elsewhere."""
    if result in ("redirected", "bridged", "bridging-in-process", "redirected-from-bridged"):
        return []
    if result == "leave" and "voicemail" in interaction.data:
        return voicemail.record(interaction, queue, number=entry.offers)
    if result == "leave":
        await calls.note_end(tx, interaction.id, now=now)
        return [Hangup()]
    if result == "hangup":
        await talks.customer_gone(tx, interaction, entry, now=now)
        return [Hangup()]
    await calls.note_end(tx, interaction.id, now=now)
    # queue-full, error, system-error: the provider would not let them wait, so we promise a call.
    caller = addresses.find_phone(interaction.from_address)
    if caller is not None and await to_callback(tx, interaction, entry, caller, origin="missed", now=now):
        number = prompts.spoken(caller.value, spoken_in(interaction, queue))
        return [
            prompts.say("overflow", spoken_in(interaction, queue)),
            prompts.say("promised", spoken_in(interaction, queue), number=number),
            Hangup(),
        ]
    if entry.state == EntryState.WAITING:
        await entries.close(tx, entry, outcome=Outcome.OVERFLOW, now=now)
    return [prompts.say("overflow", spoken_in(interaction, queue)), Hangup()]


async def join(tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, *, now: datetime) -> list[Step]:
    """The caller on the way into the room; back to the queue when the agent is gone meanwhile."""
    live = await offers.find_live(tx, entry.id) if entry.state == EntryState.OFFERED else None
    if entry.state == EntryState.CONNECTED or (live is not None and live.state == OfferState.ACCEPTING):
        return [
            DialConference(
                rooms.name_of(interaction.id), "customer", end_on_exit=True, status_url=event_path(interaction.id),
                action=step_path(interaction.id, "done", entry.offers),
            )
        ]  # fmt: skip
    if entry.state in (EntryState.WAITING, EntryState.OFFERED):
        return [prompts.say("retry", spoken_in(interaction, queue)), enqueue(interaction.id, queue, entry)]
    return [Hangup()]


async def consent_answer(
    tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, pressed: str, *, now: datetime
) -> list[Step]:
    """1: not to be recorded. Any other key: on to the queue."""
    said: list[Step] = []
    if pressed == "1":
        data = {**interaction.data, "consent": "refused"}
        await interactions.change(tx, interaction, now=now, data=data)
        said = [prompts.say("consent_refused", spoken_in(interaction, queue))]
    if entry.state in (EntryState.WAITING, EntryState.OFFERED):
        return [*said, enqueue(interaction.id, queue, entry)]
    return [*said, Hangup()]


async def away(interaction: Interaction, entry: QueueEntry, queue: Queue) -> list[Step]:
    """The customer is put through to a number outside, from our own."""
    away = interaction.data.get("away")
    if entry.state != EntryState.WAITING or not away:
        return [Hangup()]
    return [
        prompts.say("transfer", spoken_in(interaction, queue)),
        DialNumber(
            away["to"], away["from"], action=step_path(interaction.id, "back", entry.offers), timeout_s=transfers.RING_S,
            status_url="/webhooks/twilio/voice/status",
        ),
    ]  # fmt: skip


async def back(
    tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, result: str, *, now: datetime
) -> list[Step]:
    """The talk outside is over, or it never came about: then the customer is at the front of the queue again."""
    if result in ("completed", "answered"):
        await transfers.answered_outside(tx, interaction, entry, now=now)
        return [Hangup()]
    await transfers.back_from_outside(tx, interaction, entry, now=now)
    if entry.state not in (EntryState.WAITING, EntryState.OFFERED):
        return [Hangup()]
    return [prompts.say("retry", spoken_in(interaction, queue)), enqueue(interaction.id, queue, entry)]
