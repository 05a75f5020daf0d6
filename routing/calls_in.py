"""What a caller hears when they arrive: the flow, the menu, the way into a queue. What they hear there is in calls_waiting.py.

Every URL handed out carries a step number, and a number is handed out once per call: the repeat of a request gets the stored
answer, the next turn of a loop a new number.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from channels.contract import CallArrived
from channels.steps import DialNumber, Gather, Hangup, Redirect, Reject, Step
from crm_core import accounts, addresses, calls, conversations, events, interactions, touches
from crm_core.accounts import ChannelAccount
from crm_core.calls import CallLeg, LegRole
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.errors import NotFound, Refused
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.touches import Direction
from routing import (
    agent_phones,
    call_rules,
    callbacks,
    callers,
    calls_waiting,
    entries,
    flows,
    gate,
    hours,
    prompts,
    queues,
    rooms,
    screening,
    talks,
    voicemail,
)
from routing.call_rules import spoken_in
from routing.matching import match
from routing.queues import EntryState, Queue
from routing.rooms import step_path

VOICE = "voice"


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
    interaction.data = {
        "room": rooms.name_of(interaction.id), "flow": version, "flow_id": account.flow_id or "", "language": language,
    }  # fmt: skip
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
    await _keep(tx, interaction, event, now=now)
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
    return [*walked.steps, *_consent(interaction, straight), calls_waiting.enqueue(interaction.id, straight, entry)]


async def _keep(tx: Tx, interaction: Interaction, event: CallArrived, *, now: datetime) -> None:
    """The arrived call's own rows: the interaction, the caller's leg, the first event of its record."""
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


async def _refused(tx: Tx, interaction: Interaction, event: CallArrived, why: str, *, now: datetime) -> list[Step]:
    """A call that is not taken: on the record, with the rule, and the line is busy."""
    interaction.__dict__.update(state=InteractionState.ENDED, outcome=Outcome.REJECTED, ended_at=now)
    interaction.data["screened"] = why
    await _keep(tx, interaction, event, now=now)
    await calls.note_end(tx, interaction.id, now=now)
    return [Reject("busy")]


async def _screened(tx: Tx, interaction: Interaction, pressed: str, *, number: int, now: datetime) -> list[Step]:
    """1: they are let in. Silence or another key: the end."""
    if interaction.state != InteractionState.MENU:
        return await _again(tx, interaction.id, now=now)
    account = await accounts.get(tx, interaction.account_id)
    if pressed == "1":
        steps = await _steps(tx, interaction, account)
        return await _walk(tx, interaction, account, steps, at="", number=number, pressed="", now=now)
    data = {**interaction.data, "screened": screening.PRESS}
    await interactions.advance(tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.REJECTED, data=data)
    await calls.note_end(tx, interaction.id, now=now)
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
    learnt: dict[str, Any] = {}
    if walked.language not in ("", language):
        learnt["chosen"] = walked.language
    if at and (choice := flows.choice(steps, at=at, pressed=pressed, said=said)) is not None:
        if choice.get("queue") == "":
            choice["queue"] = account.queue_id or ""
        above = at.count("-") // 2  # menus that led to this one
        learnt["menu"] = [*interaction.data.get("menu", [])[:above], choice]
    if learnt:
        await interactions.change(tx, interaction, now=now, data={**interaction.data, **learnt})
    if walked.then:
        return [*walked.steps, *await _led(tx, interaction, account, walked, number=number, now=now)]
    if walked.queue_id is not None:
        return [*walked.steps, *await _into_queue(tx, interaction, account, walked.queue_id, number=number, now=now)]
    if walked.ended:
        await interactions.advance(tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.AUTOMATED)
        await calls.note_end(tx, interaction.id, now=now)
        await calls.refold(tx, interaction.id)
    return walked.steps


async def _outside(
    tx: Tx, interaction: Interaction, account: ChannelAccount, target: str, *, number: int, now: datetime
) -> list[Step]:
    """Through to a number outside, which ends our part. Refused by the gate, like every other way out."""
    address = addresses.phone(target)
    verdict = await gate.ask(
        tx, address, purpose=Purpose.SYSTEM, channel="voice", sender=account.id, user_id="", now=now
    )
    await gate.record(tx, address, verdict, channel="voice", now=now, interaction_id=interaction.id)
    away = {"to": target, "from": account.address, "at": now.isoformat()}
    await interactions.advance(
        tx,
        interaction,
        InteractionState.ENDED,
        now=now,
        outcome=Outcome.AUTOMATED,
        data={**interaction.data, "away": away},
    )
    return [DialNumber(target, account.address, action=step_path(interaction.id, "done", number + 1)), Hangup()]


async def _led(
    tx: Tx, interaction: Interaction, account: ChannelAccount, walked: flows.Walked, *, number: int, now: datetime
) -> list[Step]:
    """Where a flow leads besides a queue."""
    if walked.then == "number":
        try:
            return await _outside(tx, interaction, account, walked.target, number=number, now=now)
        except Refused as refused:
            # Whoever called is not let down for a limit of ours: somebody here talks with them.
            await gate.record_refusal(tx, refused, now=now)
            return await _into_queue(tx, interaction, account, "", number=number, now=now)
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
        not_before=now + calls_waiting.CALLBACK_LEAD,
    )  # fmt: skip
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="callback", event_key=f"hub:{interaction.id}:callback",
        happened_at=now, now=now,
    )  # fmt: skip
    await calls.note_end(tx, interaction.id, now=now)
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
        await calls.note_end(tx, interaction.id, now=now)
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
    return [*_consent(interaction, queue), calls_waiting.enqueue(interaction.id, queue, entry)]


async def _queue(tx: Tx, queue_id: str | None) -> Queue | None:
    if queue_id is None:
        return next(iter(await queues.list_all(tx)), None)
    found: Queue | None = await tx.one(queues.BY_ID, id=queue_id)
    return found


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


async def _steps(tx: Tx, interaction: Interaction, account: ChannelAccount) -> list[dict[str, Any]]:
    """What the flow says that the call began with, whatever the number has now."""
    flow_id = interaction.data.get("flow_id", account.flow_id)
    steps, _, _ = await flows.load(tx, flow_id, interaction.data.get("flow"))
    return steps


async def _again(tx: Tx, interaction_id: str, *, now: datetime) -> list[Step]:
    """The provider asks a second time for a call's first steps (its fallback): back to where the call stands."""
    interaction, entry = await talks.open_call(tx, interaction_id)
    if entry is not None and entry.state in (EntryState.WAITING, EntryState.OFFERED):
        return [calls_waiting.enqueue(interaction_id, await queues.get(tx, entry.queue_id), entry)]
    if interaction.state == InteractionState.MENU:
        account = await accounts.get(tx, interaction.account_id)
        steps = await _steps(tx, interaction, account)
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
        steps = await _steps(tx, interaction, account)
        return await _walk(
            tx, interaction, account, steps, at=step.removeprefix("menu-"), number=number, pressed=pressed, now=now,
            said=params.get("SpeechResult", "")[:500],
        )  # fmt: skip
    if step in agent_phones.STEPS:
        return await agent_phones.call_step(tx, interaction, entry, step, params, number=number, now=now)
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
        return await calls_waiting.wait(tx, interaction, entry, queue, number, now=now)
    if step == "pressed":
        return await calls_waiting.pressed(tx, interaction, entry, queue, number, pressed, now=now)
    if step == "left":
        return await calls_waiting.left_queue(tx, interaction, entry, queue, params.get("QueueResult", ""), now=now)
    if step == "join":
        return await calls_waiting.join(tx, interaction, entry, queue, now=now)
    if step == "consent":
        return await calls_waiting.consent_answer(tx, interaction, entry, queue, pressed, now=now)
    if step == "away":
        return await calls_waiting.away(interaction, entry, queue)
    if step == "back":
        return await calls_waiting.back(tx, interaction, entry, queue, params.get("DialCallStatus", ""), now=now)
    if step in ("rescue", "retry", "transfer"):
        if entry.state in (EntryState.WAITING, EntryState.OFFERED):
            return [
                prompts.say(step, spoken_in(interaction, queue)),
                calls_waiting.enqueue(interaction_id, queue, entry),
            ]
        return [Hangup()]
    if step == "overflow":
        return await calls_waiting.overflow_said(tx, interaction, queue, number=number, now=now)
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
        await calls.note_end(tx, interaction.id, now=now)
        number = prompts.spoken(caller.value, spoken_in(interaction, queue))
        return [prompts.say("closed_promised", spoken_in(interaction, queue), number=number), Hangup()]
    await interactions.advance(tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.OVERFLOW)
    await calls.note_end(tx, interaction.id, now=now)
    return [prompts.say("bye", spoken_in(interaction, queue)), Hangup()]
