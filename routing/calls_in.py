"""What a caller hears: the flow, the queue, the offer of a callback, the way into the room.

Every URL handed out carries a step number, and a number is handed out once per call: the repeat of a request gets the stored
answer, the next turn of a loop a new number.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from channels.contract import CallArrived
from channels.steps import DialConference, DialNumber, Enqueue, Gather, Hangup, Leave, Play, Redirect, Reject, Step
from crm_core import accounts, addresses, calls, conversations, events, interactions, touches
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address
from crm_core.calls import CallLeg, LegRole
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.touches import Direction
from routing import (
    call_rules,
    callbacks,
    callers,
    entries,
    flows,
    hours,
    offers,
    prompts,
    queues,
    rooms,
    screening,
    talks,
    transfers,
    voicemail,
)
from routing.call_rules import spoken_in
from routing.matching import match
from routing.offers import OfferState
from routing.queues import EntryState, Queue, QueueEntry
from routing.rooms import HOLD_MUSIC, event_path, step_path

VOICE = "voice"
TURNS = 1000  # step numbers per offer: after each, the waiting loop counts on from the next thousand
CALLBACK_LEAD = timedelta(
    seconds=20
)  # a callback asked for in the queue is not offered while its number is being read out


async def call_arrived(tx: Tx, event: CallArrived, *, now: datetime) -> list[Step]:
    """Somebody phones one of our numbers: who it is, the flow, and into the queue. Twice for one call: the same answer."""
    found = await callers.look_up(tx, event)
    if found is None or not found.account.enabled:
        return [Reject()]
    account, queue, caller = found.account, found.queue, found.caller
    if found.known is not None:
        return await _again(tx, found.known.interaction_id, now=now)
    screened = screening.verdict(account, caller, found.blocked, now)
    matched = match(caller, found.owners)
    conversation = found.conversation or await conversations.start(
        tx, channel=VOICE, account_id=account.id, thread_key=found.thread_key, peer=caller.value if caller else "",
        now=now, contact_id=matched.contact_id, queue_id=account.queue_id,
    )  # fmt: skip
    steps, version, language = await flows.load(tx, account.flow_id)
    interaction = Interaction(
        id=new_id(now), conversation_id=conversation.id, contact_id=matched.contact_id, channel=VOICE,
        direction=Direction.INBOUND, account_id=account.id, external_id=event.call_id,
        from_address=caller.value if caller else event.from_raw, to_address=account.address,
        state=InteractionState.MENU, match=matched.as_doc(), first_arrival_at=now, created_at=now,
    )  # fmt: skip
    interaction.data = {"room": rooms.name_of(interaction.id), "flow": version, "language": language}
    spoken = language or (queue.language if queue is not None else "en-GB")
    walked = flows.walk(steps, at="", interaction_id=interaction.id, language=spoken, number=0)
    if walked.language not in ("", spoken):
        interaction.data["chosen"] = walked.language
    if screened in (screening.BLOCKED, screening.REFUSE):
        return await _refused(tx, interaction, event, screened, now=now)
    asked = screened == screening.PRESS
    straight = None if asked else await _open_queue(tx, account, queue, walked.queue_id, now=now)
    if straight is not None:
        # Nothing to press before the queue: it waits from the first row on.
        interaction.__dict__.update(state=InteractionState.WAITING, queue_id=straight.id, entry_id=new_id(now))
        if call_rules.of(straight).record != "off":
            interaction.data["consent"] = "announced"
    await interactions.create(tx, interaction, now=now)
    tx.later(
        CallLeg(
            id=event.call_id, interaction_id=interaction.id, role=LegRole.CUSTOMER, created_at=now,
            conference=rooms.name_of(interaction.id), status="in-progress",
        )
    )  # fmt: skip
    calls.note_event(
        tx, interaction_id=interaction.id, kind="arrived", event_key=f"hub:{interaction.id}:arrived", now=now,
        leg_id=event.call_id, role=LegRole.CUSTOMER,
        raw={"from": interaction.from_address, "to": account.address, "direction": "inbound"},
    )  # fmt: skip
    if caller is not None:
        await touches.record(
            tx, caller, direction=Direction.INBOUND, channel=VOICE, now=now, contact_id=matched.contact_id,
            interaction_id=interaction.id,
        )  # fmt: skip
    if asked:
        action = step_path(interaction.id, "screen", 1)
        return [Gather(action, [prompts.say("screen", spoken)], digits=1, language=spoken), Redirect(action)]
    if straight is None:
        return await _walk(tx, interaction, account, steps, at="", number=0, pressed="", now=now)
    entry = await entries.enter(
        tx, queue=straight, kind=VOICE, interaction=interaction, now=now, entry_id=interaction.entry_id or ""
    )
    await events.emit(
        tx, "interaction.waiting", interaction.id, now=now, version=interaction.version, queue_id=straight.id,
        conversation=interaction.conversation_id,
    )  # fmt: skip
    calls.note_event(
        tx,
        interaction_id=interaction.id,
        kind="queued",
        event_key=f"hub:{interaction.id}:queued:{entry.version}",
        now=now,
    )
    return [*walked.steps, *_consent(interaction, straight), _enqueue(interaction.id, straight, entry)]


async def _refused(tx: Tx, interaction: Interaction, event: CallArrived, why: str, *, now: datetime) -> list[Step]:
    """A call that is not taken: on the record, with the rule, and the line is busy."""
    interaction.__dict__.update(state=InteractionState.ENDED, outcome=Outcome.REJECTED, ended_at=now)
    interaction.data["screened"] = why
    await interactions.create(tx, interaction, now=now)
    tx.later(
        CallLeg(
            id=event.call_id, interaction_id=interaction.id, role=LegRole.CUSTOMER, created_at=now, status="in-progress",
            conference=rooms.name_of(interaction.id),
        )
    )  # fmt: skip
    calls.note_event(
        tx, interaction_id=interaction.id, kind="arrived", event_key=f"hub:{interaction.id}:arrived", now=now,
        leg_id=event.call_id, role=LegRole.CUSTOMER,
        raw={"from": interaction.from_address, "to": interaction.to_address, "direction": "inbound"},
    )  # fmt: skip
    return [Reject("busy")]


async def _screened(tx: Tx, interaction: Interaction, pressed: str, *, number: int, now: datetime) -> list[Step]:
    """1: they are let in. Silence or another key: the end."""
    if interaction.state != InteractionState.MENU:
        return await _again(tx, interaction.id, now=now)
    account = await accounts.get(tx, interaction.account_id)
    if pressed == "1":
        steps, _, _ = await flows.load(tx, account.flow_id, interaction.data.get("flow"))
        return await _walk(tx, interaction, account, steps, at="", number=number, pressed="", now=now)
    data = {**interaction.data, "screened": screening.PRESS}
    await interactions.advance(tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.REJECTED, data=data)
    return [prompts.say("blocked", await _language(tx, account)), Hangup()]


def _consent(interaction: Interaction, queue: Queue) -> list[Step]:
    """What a caller is told about recording before they wait; a key says no where the queue asks."""
    record = call_rules.of(queue).record
    language = spoken_in(interaction, queue)
    if record == "announce":
        return [prompts.say("consent", language)]
    if record == "ask":
        action = step_path(interaction.id, "consent", 1)
        return [Gather(action, [prompts.say("consent_ask", language)], digits=1, timeout_s=3, language=language)]
    return []


async def _open_queue(
    tx: Tx, account: ChannelAccount, usual: Queue | None, wanted: str | None, *, now: datetime
) -> Queue | None:
    """The queue that a walk through the flow has led to (None = to none), if it is open now. `usual`: the account's own."""
    if wanted is None:
        return None
    queue = usual if usual is not None and wanted in ("", usual.id) else await _queue(tx, wanted or account.queue_id)
    if queue is None or not hours.is_open(await hours.find(tx, queue.hours_id), now):
        return None
    return queue


async def _walk(
    tx: Tx, interaction: Interaction, account: ChannelAccount, steps: list[dict[str, object]], *, at: str, number: int,
    pressed: str, now: datetime, said: str = "",
) -> list[Step]:  # fmt: skip
    """On through the flow, and to where it leads: a queue, a message, a promise, a number outside, the end."""
    language = interaction.data.get("chosen") or interaction.data.get("language") or await _language(tx, account)
    walked = flows.walk(
        steps, at=at, interaction_id=interaction.id, language=language, number=number, pressed=pressed, said=said
    )
    if walked.language not in ("", language):
        data = {**interaction.data, "chosen": walked.language}
        await interactions.change(tx, interaction, now=now, data=data)
    if walked.then:
        return [*walked.steps, *await _led(tx, interaction, account, walked, number=number, now=now)]
    if walked.queue_id is not None:
        return [*walked.steps, *await _into_queue(tx, interaction, account, walked.queue_id, number=number, now=now)]
    if walked.ended:
        await interactions.advance(tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.AUTOMATED)
        await calls.refold(tx, interaction.id)
    return walked.steps


async def _led(
    tx: Tx, interaction: Interaction, account: ChannelAccount, walked: flows.Walked, *, number: int, now: datetime
) -> list[Step]:
    """Where a flow leads besides a queue."""
    if walked.then == "number":
        away = {"to": walked.target, "from": account.address, "at": now.isoformat()}
        data = {**interaction.data, "away": away}
        await interactions.advance(
            tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.AUTOMATED, data=data
        )
        return [
            DialNumber(walked.target, account.address, action=step_path(interaction.id, "done", number + 1)),
            Hangup(),
        ]
    queue = await _queue(tx, walked.target or account.queue_id)
    if queue is None:
        return await _into_queue(tx, interaction, account, walked.target, number=number, now=now)
    if walked.then == "voicemail":
        return await voicemail.take(tx, interaction, None, queue, number=number + 1, now=now)
    language = spoken_in(interaction, queue)
    caller = addresses.find_phone(interaction.from_address)
    opens = hours.next_open(await hours.find(tx, queue.hours_id), now)
    if caller is None or opens is None:
        # Nobody to call back: then they wait like everybody else.
        told = [prompts.say("withheld", language)] if caller is None else []
        return [*told, *await _into_queue(tx, interaction, account, queue.id, number=number, now=now)]
    await interactions.change(tx, interaction, now=now, queue_id=queue.id)
    await callbacks.request(
        tx, number=caller, queue_id=queue.id, due_at=opens, origin="menu", now=now, account_id=account.id,
        interaction=interaction, order_at=interaction.first_arrival_at, created_by="caller",
        not_before=now + CALLBACK_LEAD,
    )  # fmt: skip
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="callback", event_key=f"hub:{interaction.id}:callback",
        happened_at=now, now=now,
    )  # fmt: skip
    spoken = prompts.spoken(caller.value, language)
    return [prompts.say("promised", language, number=spoken), Hangup()]


async def _language(tx: Tx, account: ChannelAccount) -> str:
    return (await queues.get(tx, account.queue_id)).language if account.queue_id else "en-GB"


async def _into_queue(
    tx: Tx, interaction: Interaction, account: ChannelAccount, queue_id: str, *, number: int, now: datetime
) -> list[Step]:
    queue = await _queue(tx, queue_id or account.queue_id)
    if queue is None:
        await interactions.advance(tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.OVERFLOW)
        return [prompts.say("overflow", "en-GB"), Hangup()]
    plan = await hours.find(tx, queue.hours_id)
    if not hours.is_open(plan, now):
        return await _closed(tx, interaction, queue, number=number, now=now)
    entry = await entries.enter(tx, queue=queue, kind=VOICE, interaction=interaction, now=now)
    told: dict[str, Any] = {}
    if call_rules.of(queue).record != "off":
        told["data"] = {**interaction.data, "consent": "announced"}
    await interactions.advance(
        tx, interaction, InteractionState.WAITING, now=now, queue_id=queue.id, entry_id=entry.id, **told
    )
    await entries.tell_calls(tx, entry, "queued", now=now)
    return [*_consent(interaction, queue), _enqueue(interaction.id, queue, entry)]


async def _queue(tx: Tx, queue_id: str | None) -> Queue | None:
    if queue_id is None:
        return next(iter(await queues.list_all(tx)), None)
    found: Queue | None = await tx.one(queues.BY_ID, id=queue_id)
    return found


def _enqueue(interaction_id: str, queue: Queue, entry: QueueEntry) -> Enqueue:
    number = entry.offers * TURNS + 1
    return Enqueue(
        f"queue-{queue.id}", step_path(interaction_id, "wait", number), step_path(interaction_id, "left", number)
    )


async def _closed(tx: Tx, interaction: Interaction, queue: Queue, *, number: int, now: datetime) -> list[Step]:
    """Outside opening hours: say so, and offer a call when open."""
    said: list[Step] = [prompts.say("closed", spoken_in(interaction, queue))]
    if call_rules.of(queue).voicemail_closed:
        return [*said, *await voicemail.take(tx, interaction, None, queue, number=number + 1, now=now)]
    await interactions.change(tx, interaction, now=now, queue_id=queue.id)
    caller = addresses.find_phone(interaction.from_address)
    action = step_path(interaction.id, "closed", number + 1)
    if caller is not None and queue.callback_offer_after_s >= 0:
        said.append(
            Gather(
                action,
                [prompts.say("closed_offer", spoken_in(interaction, queue))],
                digits=1,
                language=spoken_in(interaction, queue),
            )
        )
    return [*said, Redirect(action)]


async def _again(tx: Tx, interaction_id: str, *, now: datetime) -> list[Step]:
    """The provider asks a second time for a call's first steps (its fallback): back to where the call stands."""
    interaction, entry = await talks.open_call(tx, interaction_id)
    if entry is not None and entry.state in (EntryState.WAITING, EntryState.OFFERED):
        return [_enqueue(interaction_id, await queues.get(tx, entry.queue_id), entry)]
    if interaction.state == InteractionState.MENU:
        account = await accounts.get(tx, interaction.account_id)
        steps, _, _ = await flows.load(tx, account.flow_id, interaction.data.get("flow"))
        return await _walk(tx, interaction, account, steps, at="", number=0, pressed="", now=now)
    return [Hangup()]


async def call_step(
    tx: Tx, *, interaction_id: str, step: str, number: int, params: Mapping[str, str], now: datetime
) -> list[Step]:
    """The next steps of a call. `params` as the provider sent them (Digits, QueueResult …).

    The step `fallback` needs no interaction: a call whose first webhook failed is found, or begun, by its CallSid.
    """
    if step == "fallback" and not interaction_id:
        return await call_arrived(tx, _arrival_in(params), now=now)
    interaction, entry = await talks.open_call(tx, interaction_id)
    pressed = params.get("Digits", "")[:1]
    if step.startswith("menu-"):
        if interaction.state != InteractionState.MENU:
            return await _again(tx, interaction_id, now=now)
        account = await accounts.get(tx, interaction.account_id)
        steps, _, _ = await flows.load(tx, account.flow_id, interaction.data.get("flow"))
        return await _walk(
            tx, interaction, account, steps, at=step.removeprefix("menu-"), number=number, pressed=pressed, now=now,
            said=params.get("SpeechResult", "")[:500],
        )  # fmt: skip
    if step == "screen":
        return await _screened(tx, interaction, pressed, number=number, now=now)
    if step == "closed":
        return await _closed_answer(tx, interaction, pressed, now=now)
    if step == "message":
        return await voicemail.taken(tx, interaction)
    if entry is None:
        return [Hangup()]
    queue = await queues.get(tx, entry.queue_id)
    if step == "wait":
        return await _wait(tx, interaction, entry, queue, number, now=now)
    if step == "pressed":
        return await _pressed(tx, interaction, entry, queue, number, pressed, now=now)
    if step == "left":
        return await _left_queue(tx, interaction, entry, queue, params.get("QueueResult", ""), now=now)
    if step == "join":
        return await _join(tx, interaction, entry, queue, now=now)
    if step == "consent":
        return await _consent_answer(tx, interaction, entry, queue, pressed, now=now)
    if step == "away":
        return await _away(interaction, entry, queue)
    if step == "back":
        return await _back(tx, interaction, entry, queue, params.get("DialCallStatus", ""), now=now)
    if step in ("rescue", "retry", "transfer"):
        if entry.state in (EntryState.WAITING, EntryState.OFFERED):
            return [prompts.say(step, spoken_in(interaction, queue)), _enqueue(interaction_id, queue, entry)]
        return [Hangup()]
    if step == "overflow":
        return await _overflow_said(tx, interaction, queue, number=number)
    if step == "sorry":
        said = prompts.spoken(interaction.to_address, spoken_in(interaction, queue))
        return [prompts.say("promised", spoken_in(interaction, queue), number=said), Hangup()]
    if step == "fallback":
        return await _again(tx, interaction_id, now=now)
    return [Hangup()]  # agent, done: their room is over


def _arrival_in(params: Mapping[str, str]) -> CallArrived:
    call_id = params.get("CallSid", "")
    if not call_id:
        raise NotFound("There is no such call.")
    return CallArrived(call_id, params.get("From", ""), params.get("To", ""), call_id, {}, params)


async def _wait(
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


async def _pressed(
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
    if not await _to_callback(tx, interaction, entry, caller, origin="in_queue", now=now):
        return [prompts.say("too_late", spoken_in(interaction, queue)), Play(HOLD_MUSIC), onward]
    return [
        prompts.say(
            "promised",
            spoken_in(interaction, queue),
            number=prompts.spoken(caller.value, spoken_in(interaction, queue)),
        ),
        Leave(),
    ]


async def _to_callback(
    tx: Tx, interaction: Interaction, entry: QueueEntry, caller: Address, *, origin: str, now: datetime
) -> bool:
    """Turn a waiting call into a promise; False when an agent has accepted it already: the conversion loses."""
    if entry.state == EntryState.OFFERED:
        live = await offers.find_live(tx, entry.id)
        if live is None or live.state != OfferState.OPEN:
            return False
        await entries.end_offer(tx, entry, live, OfferState.WITHDRAWN, reason="caller asked for a callback", now=now)
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
    if caller is not None and moved and await _to_callback(tx, interaction, entry, caller, origin="overflow", now=now):
        return
    await entries.close(tx, entry, outcome=Outcome.OVERFLOW, now=now)


async def _overflow_said(tx: Tx, interaction: Interaction, queue: Queue, *, number: int) -> list[Step]:
    said: list[Step] = [prompts.say("overflow", spoken_in(interaction, queue))]
    if "voicemail" in interaction.data:
        return [*said, *voicemail.record(interaction, queue, number=number)]
    if interaction.outcome in ("", Outcome.CALLBACK):
        spoken = prompts.spoken(interaction.from_address, spoken_in(interaction, queue))
        said.append(prompts.say("promised", spoken_in(interaction, queue), number=spoken))
    return [*said, Hangup()]


async def _left_queue(
    tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, result: str, *, now: datetime
) -> list[Step]:
    """The caller has left the provider's queue, and how. Moved by us: nothing, their steps come from elsewhere."""
    if result in ("redirected", "bridged", "bridging-in-process", "redirected-from-bridged"):
        return []
    if result == "leave" and "voicemail" in interaction.data:
        return voicemail.record(interaction, queue, number=entry.offers)
    if result == "leave":
        return [Hangup()]
    if result == "hangup":
        await talks.customer_gone(tx, interaction, entry, now=now)
        return [Hangup()]
    # queue-full, error, system-error: the provider would not let them wait, so we promise a call.
    caller = addresses.find_phone(interaction.from_address)
    if caller is not None and await _to_callback(tx, interaction, entry, caller, origin="missed", now=now):
        number = prompts.spoken(caller.value, spoken_in(interaction, queue))
        return [
            prompts.say("overflow", spoken_in(interaction, queue)),
            prompts.say("promised", spoken_in(interaction, queue), number=number),
            Hangup(),
        ]
    if entry.state == EntryState.WAITING:
        await entries.close(tx, entry, outcome=Outcome.OVERFLOW, now=now)
    return [prompts.say("overflow", spoken_in(interaction, queue)), Hangup()]


async def _join(tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, *, now: datetime) -> list[Step]:
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
        return [prompts.say("retry", spoken_in(interaction, queue)), _enqueue(interaction.id, queue, entry)]
    return [Hangup()]


async def _consent_answer(
    tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, pressed: str, *, now: datetime
) -> list[Step]:
    """1: not to be recorded. Any other key: on to the queue."""
    said: list[Step] = []
    if pressed == "1":
        data = {**interaction.data, "consent": "refused"}
        await interactions.change(tx, interaction, now=now, data=data)
        said = [prompts.say("consent_refused", spoken_in(interaction, queue))]
    if entry.state in (EntryState.WAITING, EntryState.OFFERED):
        return [*said, _enqueue(interaction.id, queue, entry)]
    return [*said, Hangup()]


async def _away(interaction: Interaction, entry: QueueEntry, queue: Queue) -> list[Step]:
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


async def _back(
    tx: Tx, interaction: Interaction, entry: QueueEntry, queue: Queue, result: str, *, now: datetime
) -> list[Step]:
    """The talk outside is over, or it never came about: then the customer is at the front of the queue again."""
    if result in ("completed", "answered"):
        await transfers.answered_outside(tx, interaction, entry, now=now)
        return [Hangup()]
    await transfers.back_from_outside(tx, interaction, entry, now=now)
    if entry.state not in (EntryState.WAITING, EntryState.OFFERED):
        return [Hangup()]
    return [prompts.say("retry", spoken_in(interaction, queue)), _enqueue(interaction.id, queue, entry)]


async def _closed_answer(tx: Tx, interaction: Interaction, pressed: str, *, now: datetime) -> list[Step]:
    if interaction.state != InteractionState.MENU or interaction.queue_id is None:
        return [Hangup()]
    queue = await queues.get(tx, interaction.queue_id)
    caller = addresses.find_phone(interaction.from_address)
    plan = await hours.find(tx, queue.hours_id)
    opens = hours.next_open(plan, now)
    if pressed == "1" and caller is not None and opens is not None:
        await callbacks.request(
            tx, number=caller, queue_id=queue.id, due_at=opens, origin="closed", now=now,
            account_id=interaction.account_id, interaction=interaction, order_at=now, created_by="caller",
        )  # fmt: skip
        await calls.record_event(
            tx, interaction_id=interaction.id, kind="callback", event_key=f"hub:{interaction.id}:callback",
            happened_at=now, now=now,
        )  # fmt: skip
        number = prompts.spoken(caller.value, spoken_in(interaction, queue))
        return [prompts.say("closed_promised", spoken_in(interaction, queue), number=number), Hangup()]
    await interactions.advance(tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.OVERFLOW)
    return [prompts.say("bye", spoken_in(interaction, queue)), Hangup()]
