"""The verbs except Dial: Say, Play, Pause, Gather, Enqueue, Leave, Record, Redirect, Hangup, Reject."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace

from hub.sandbox import recordings
from hub.sandbox.calls import EndCall, Hangup, Interruption, Leg, hook_from
from hub.sandbox.machine import Context, Exchange, Next, Verb, after, fetch, play_out, say
from hub.sandbox.queues import DEFAULT_MAX_SIZE, Member, Queue
from hub.sandbox.state import Recording, new_sid
from hub.sandbox.twiml import QUEUE_WAIT_VERBS, Document, Source, TwimlError, flag, text_of

MUSIC_LOOP_S = 30.0
SHORTEST_WAIT_LOOP_S = 0.25  # a wait URL that plays nothing is not asked more often than this


class LeaveQueue(Exception):
    """The wait document said Leave."""


async def say_verb(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> Next:
    await say(exchange, leg, element)
    return None


async def play_verb(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> Next:
    if digits := element.get("digits"):
        leg.hear("keys", digits)
        return None
    url = document.resolve(text_of(element))
    seconds = await _audio_length(exchange, url)
    loop = int(element.get("loop", "1"))
    count = 0
    while loop == 0 or count < loop:
        leg.hear("play", url)
        await exchange.world.wait(max(seconds, 0.2 if loop == 0 else 0.0))
        count += 1
    return None


async def _audio_length(exchange: Exchange, url: str) -> float:
    """Ask for the file, as the provider does. One that is not there, or not sound, is an error (11200, 12300)."""
    courier = exchange.world.callbacks.courier()
    answer = await courier.ask("audio", url, "GET", [])
    if not answer.ok:
        raise TwimlError(11200, f"{url} answered {answer.status or answer.error}")
    if not answer.content_type.startswith("audio/"):
        raise TwimlError(12300, f"{url} is {answer.content_type or 'of no type'}, not audio")
    return max(1.0, answer.size / 16_000)  # exact for 8 kHz, 16 bit, mono; near enough for the rest


async def pause_verb(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> Next:
    await exchange.world.wait(float(element.get("length", "1")))
    return None


# --- Gather -----------------------------------------------------------------------------------------------------------


@dataclass
class Gathered:
    """What a Gather heard: keys, speech, or nothing."""

    digits: str = ""
    speech: str = ""
    ended: bool = False


async def gather_verb(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> Next:
    """Collect keys or speech. The prompts stop at the first key; without input the document goes on."""
    inputs = element.get("input", "dtmf").split()
    if wrong := set(inputs) - {"dtmf", "speech"}:
        raise TwimlError(12200, f"<Gather input>: no input {', '.join(sorted(wrong))}")
    while not leg.typed.empty():
        leg.typed.get_nowait()
    prompts = asyncio.create_task(_prompts(exchange, leg, element, document, context))
    leg.listening.set()
    leg.doing("listening")
    try:
        got = await _collect(exchange, leg, element, inputs, prompts)
    finally:
        leg.listening.clear()
        prompts.cancel()
    if prompts.done() and not prompts.cancelled() and (error := prompts.exception()) is not None:
        raise error
    leg.doing("")
    if not (got.digits or got.speech) and not flag(element, "actionOnEmptyResult", default=False):
        return None
    params = [("msg", "Gather End")] if got.digits or got.speech else [("msg", "Gather End"), ("Digits", "")]
    if got.digits:
        params.append(("Digits", got.digits))
        params.append(("FinishedOnKey", element.get("finishOnKey", "#") if got.ended else ""))
    if got.speech:
        params += [("SpeechResult", got.speech), ("Confidence", "0.93")]
    return after(document, element.get("action", ""), element.get("method", "POST"), params)


async def _prompts(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> None:
    for child in element:
        await exchange.verbs[child.tag](exchange, leg, child, document, context)


async def _collect(
    exchange: Exchange, leg: Leg, element: ET.Element, inputs: list[str], prompts: asyncio.Task[None]
) -> Gathered:
    got = Gathered()
    finish = element.get("finishOnKey", "#")
    most = int(element.get("numDigits", "0"))
    timeout = element.get("timeout", "5")
    seconds = (5.0 if timeout == "auto" else float(timeout)) * exchange.world.config.time_scale
    while True:
        key = asyncio.create_task(leg.typed.get())
        try:
            if not prompts.done():
                await asyncio.wait({key, prompts}, return_when=asyncio.FIRST_COMPLETED)
            if not key.done():
                await asyncio.wait({key}, timeout=max(seconds, 0.01))
            if not key.done():
                return got
            kind, text = key.result()
        finally:
            key.cancel()
        if kind == "speech" and "speech" in inputs:
            got.speech = text
            return got
        if kind != "digits" or "dtmf" not in inputs:
            continue
        prompts.cancel()
        for digit in text:
            if digit == finish:
                got.ended = True
                return got
            got.digits += digit
            if most and len(got.digits) >= most:
                return got


# --- Enqueue, Leave ---------------------------------------------------------------------------------------------------


async def enqueue_verb(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> Next:
    """Wait in a queue. However the call leaves it, the action URL is asked once, with the documented QueueResult."""
    name = text_of(element)
    if not name or len(name) > 64:
        raise TwimlError(12200, "<Enqueue> needs a queue name of 1 to 64 characters")
    size = int(element.get("maxQueueSize", str(DEFAULT_MAX_SIZE)))
    queue = exchange.queues.named(name) or exchange.queues.create(name, size)
    member = exchange.queues.enter(queue, leg)
    if member is None:
        return _queue_action(element, document, [("QueueResult", "queue-full")])

    def result_params(result: str) -> list[tuple[str, str]]:
        waited = str(exchange.queues.wait_s(member))
        return [("QueueResult", result), ("QueueSid", queue.sid), ("QueueTime", waited)]

    async def taken_out(interruption: Interruption) -> None:
        exchange.queues.leave(queue, member)
        result = "hangup" if isinstance(interruption, Hangup) else "redirected"
        if action := _queue_action(element, document, result_params(result)):
            await leg.ask("enqueue-action", action.url, action.method, list(action.params))

    leg.undo.append(taken_out)
    leg.doing(f"waiting in queue {name}")
    try:
        await _wait_in(exchange, leg, element, document, queue, member)
        result = "leave"
    except LeaveQueue:
        result = "leave"
    except TwimlError as error:
        exchange.world.fault(error.code, str(error), where="waitUrl", call_sid=leg.call.sid)
        result = "error"
    except EndCall:
        leg.undo.remove(taken_out)
        await taken_out(Hangup("api"))
        raise
    leg.undo.remove(taken_out)
    exchange.queues.leave(queue, member)
    leg.doing("")
    return _queue_action(element, document, result_params(result))


def _queue_action(element: ET.Element, document: Document, params: list[tuple[str, str]]) -> Source | None:
    action = element.get("action")
    return None if action is None else after(document, action, element.get("method", "POST"), params)


async def _wait_in(
    exchange: Exchange, leg: Leg, element: ET.Element, document: Document, queue: Queue, member: Member
) -> None:
    """Run the wait URL again and again; without one there is music, with an empty one silence."""
    wait_url = element.get("waitUrl")
    if wait_url is None:
        while True:
            leg.hear("music", "hold music")
            await exchange.world.clock.sleep(MUSIC_LOOP_S)
    if wait_url == "":
        await asyncio.Event().wait()
    source = Source(document.resolve(wait_url), element.get("waitUrlMethod", "POST"))
    context = Context("wait", QUEUE_WAIT_VERBS, lambda: exchange.queues.wait_params(queue, member))
    while True:
        started = exchange.world.clock.monotonic()
        await play_out(exchange, leg, source, context)
        short = SHORTEST_WAIT_LOOP_S - (exchange.world.clock.monotonic() - started)
        if short > 0:
            await exchange.world.clock.sleep(short)


async def leave_verb(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> Next:
    if context.kind != "wait":
        raise TwimlError(12200, "<Leave> is for a call that waits in a queue")
    raise LeaveQueue


# --- Record -----------------------------------------------------------------------------------------------------------


async def record_verb(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> Next:
    """A voicemail: ends by key, silence, length or hang-up; then the action URL, then the recording's own callback."""
    world = exchange.world
    callback = element.get("recordingStatusCallback", "")
    hook = hook_from(
        document.resolve(callback) if callback else "",
        element.get("recordingStatusCallbackMethod", "POST"),
        element.get("recordingStatusCallbackEvent", ""),
    )
    if flag(element, "playBeep", default=True):
        leg.hear("beep", "record now")
    recording = recordings.start(world, leg.courier, source="RecordVerb", call_sid=leg.call.sid, hook=hook)
    leg.speak = recording.words.append
    leg.doing("recording")
    action = element.get("action", "")
    method = element.get("method", "POST")

    def params(digits: str) -> list[tuple[str, str]]:
        return [
            ("RecordingUrl", recordings.media_url(world, recording)),
            ("RecordingSid", recording.sid),
            ("RecordingDuration", str(recording.duration_s or 0)),
            ("Digits", digits),
        ]

    async def cut_off(interruption: Interruption) -> None:
        leg.speak = None
        recordings.close(world, recording)
        if isinstance(interruption, Hangup):
            source = after(document, action, method, params("hangup"))
            await leg.ask("record-action", source.url, source.method, list(source.params))
        _reported(exchange, leg, element, document, recording)

    leg.undo.append(cut_off)
    leg.listening.set()
    try:
        digits = await _until_quiet(exchange, leg, element)
    finally:
        leg.listening.clear()
    leg.undo.remove(cut_off)
    leg.speak = None
    leg.doing("")
    recordings.close(world, recording)
    asked = after(document, action, method, params(digits))
    onward = await fetch(exchange, leg, asked, replace(context, kind="record-action"))
    _reported(exchange, leg, element, document, recording)
    return onward


async def _until_quiet(exchange: Exchange, leg: Leg, element: ET.Element) -> str:
    """The key that ended the recording, or "" for silence or the greatest length."""
    finish = element.get("finishOnKey", "1234567890*#")
    silence = float(element.get("timeout", "5")) * exchange.world.config.time_scale
    longest = float(element.get("maxLength", "3600")) * exchange.world.config.time_scale
    deadline = exchange.world.clock.monotonic() + max(longest, 0.05)
    while True:
        left = deadline - exchange.world.clock.monotonic()
        if left <= 0:
            return ""
        try:
            async with asyncio.timeout(min(left, max(silence, 0.05)) if silence else left):
                kind, text = await leg.typed.get()
        except TimeoutError:
            return ""
        if kind == "digits":
            for digit in text:
                if digit in finish:
                    return digit


def _reported(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, recording: Recording) -> None:
    """The recording's status callback, and the transcript when asked for (what was typed as speech)."""
    world = exchange.world
    recordings.report(world, leg.courier, recording, recording.status)
    callback = element.get("transcribeCallback", "")
    if callback and flag(element, "transcribe", default=True):
        pairs = [
            *leg.params(),
            ("TranscriptionSid", new_sid("TR")),
            ("TranscriptionText", " ".join(recording.words)),
            ("TranscriptionStatus", "completed"),
            ("TranscriptionType", "fast"),
            ("RecordingSid", recording.sid),
            ("RecordingUrl", recordings.media_url(world, recording)),
        ]
        leg.courier.send("transcription", document.resolve(callback), "POST", pairs)


# --- Redirect, Hangup, Reject -----------------------------------------------------------------------------------------


async def redirect_verb(
    exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context
) -> Next:
    return after(document, text_of(element), element.get("method", "POST"), [])


async def hangup_verb(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> Next:
    raise EndCall


async def reject_verb(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> Next:
    """Refuse a call that has not been answered; one that has been answered just ends."""
    reason = element.get("reason", "rejected")
    leg.hear("tone", "busy" if reason == "busy" else "not in service")
    raise EndCall("completed" if leg.answered.is_set() else "busy" if reason == "busy" else "no-answer")


VERBS: dict[str, Verb] = {
    "Say": say_verb,
    "Play": play_verb,
    "Pause": pause_verb,
    "Gather": gather_verb,
    "Enqueue": enqueue_verb,
    "Leave": leave_verb,
    "Record": record_verb,
    "Redirect": redirect_verb,
    "Hangup": hangup_verb,
    "Reject": reject_verb,
}
