"""Ringing a telephone, and the Dial verb: numbers, browsers and conferences."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import Any

from hub.sandbox import recordings
from hub.sandbox.calls import EndCall, Hangup, Interruption, Leg, Redirect, hook_from
from hub.sandbox.conferences import LabelTaken, Room, RoomFull, RoomSettings, Seat, sit
from hub.sandbox.machine import Context, Exchange, Next, after, play_out, run
from hub.sandbox.state import Call, Hook, Recording, new_sid
from hub.sandbox.twiml import (
    ROOM_WAIT_VERBS,
    WHISPER_VERBS,
    Document,
    Source,
    TwimlError,
    flag,
    text_of,
)
from hub.sandbox.world import MAGIC, is_e164

AUTO_PICKUP_S = 0.2


# --- ringing ----------------------------------------------------------------------------------------------------------


async def ring(exchange: Exchange, leg: Leg, timeout_s: float) -> None:
    """Ring the leg's telephone. Returns when it is answered; raises EndCall with the outcome when it is not."""
    world, to = exchange.world, leg.call.to
    leg.fire("initiated")
    behaviour = MAGIC.get(to, "")
    if behaviour == "unreachable" or not (to.startswith("client:") or is_e164(to)):
        raise EndCall("failed")
    if to.startswith("client:") and not exchange.reachable(to):
        raise EndCall("no-answer")
    leg.set_status("ringing")
    leg.fire("ringing")
    if behaviour in ("busy", "no-answer"):
        await world.wait(AUTO_PICKUP_S)
        raise EndCall(behaviour)
    if behaviour in ("machine", "answers"):
        await world.wait(AUTO_PICKUP_S)
        leg.pickup.set_result("machine" if behaviour == "machine" else "answered")
    elif world.number_of(to) is not None:
        exchange.call_in(leg)
    try:
        async with asyncio.timeout(max(0.05, timeout_s * world.config.time_scale)):
            outcome = await asyncio.shield(leg.pickup)
    except TimeoutError:
        raise EndCall("no-answer") from None
    if outcome not in ("answered", "machine"):
        raise EndCall(outcome)
    leg.set_status("in-progress")
    answered_by = "machine_start" if outcome == "machine" else "human"
    if leg.amd is not None and not leg.amd.url:
        leg.call.answered_by = answered_by
    leg.fire("answered")
    if leg.amd is not None and leg.amd.url:  # asynchronous: told by its own callback only
        pairs = [
            ("CallSid", leg.call.sid),
            ("AccountSid", world.config.account_sid),
            ("AnsweredBy", answered_by),
            ("MachineDetectionDuration", "1200"),
        ]
        leg.courier.send("amd", leg.amd.url, leg.amd.method, pairs)


# --- Dial -------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Bridge:
    """One Dial: the parent, the legs that it rang, and the one that answered first."""

    parent: Leg
    children: list[Leg] = field(default_factory=list)
    winner: Leg | None = None
    redirected: bool = False
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    recording: Recording | None = None


async def dial_verb(exchange: Exchange, leg: Leg, element: ET.Element, document: Document, context: Context) -> Next:
    nouns = list(element)
    if not nouns:
        number = ET.Element("Number")
        number.text = text_of(element)
        nouns = [number]
    rooms = [noun for noun in nouns if noun.tag == "Conference"]
    if rooms and len(nouns) > 1:
        raise TwimlError(12200, "<Dial> holds either one Conference or up to ten numbers and clients")
    if len(nouns) > 10:
        raise TwimlError(12200, "<Dial> can ring ten parties at once, not more")
    if rooms:
        return await _dial_room(exchange, leg, element, rooms[0], document)
    return await _dial_parties(exchange, leg, element, nouns, document)


def _action(element: ET.Element, document: Document, params: list[tuple[str, str]]) -> Source | None:
    action = element.get("action")
    return None if action is None else after(document, action, element.get("method", "POST"), params)


async def _dial_parties(
    exchange: Exchange, leg: Leg, element: ET.Element, nouns: list[ET.Element], document: Document
) -> Next:
    bridge = Bridge(leg)
    timeout_s = float(element.get("timeout", "30"))
    if not flag(element, "answerOnBridge", default=False):
        leg.answer()

    async def parent_left(interruption: Interruption) -> None:
        await _hang_up_children(bridge, "no-answer" if isinstance(interruption, Hangup) else "canceled")
        _end_recording(exchange, bridge)
        leg.company = list
        if isinstance(interruption, Hangup) and (source := _action(element, document, _outcome(bridge))):
            await leg.ask("dial-action", source.url, source.method, list(source.params))

    leg.undo.append(parent_left)
    leg.doing("dialling")
    for noun in nouns:
        bridge.children.append(_child(exchange, bridge, element, noun, document, timeout_s))
    everyone = asyncio.gather(*(child.ended.wait() for child in bridge.children))
    try:
        joined = asyncio.create_task(bridge.joined.wait())
        waits: set[asyncio.Future[Any]] = {everyone, joined}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        joined.cancel()
        if bridge.winner is not None:
            await _talk(exchange, bridge, element, document)
    finally:
        everyone.cancel()
    leg.undo.remove(parent_left)
    _end_recording(exchange, bridge)
    leg.company = list
    leg.doing("")
    if bridge.winner is not None and not bridge.redirected:
        await bridge.winner.ended.wait()
        await bridge.winner.courier.idle()
    if bridge.winner is None and leg.call.status == "ringing":
        leg.answer()
    return _action(element, document, _outcome(bridge))


async def _talk(exchange: Exchange, bridge: Bridge, element: ET.Element, document: Document) -> None:
    parent, child = bridge.parent, bridge.winner
    assert child is not None
    parent.answer()
    for other in bridge.children:
        if other is not child:
            other.interrupt(Hangup("peer", "no-answer"))
    parent.company = lambda: [child]
    child.company = lambda: [parent]
    parent.doing("talking")
    child.doing("talking")
    if element.get("record", "do-not-record") not in ("do-not-record", "false"):
        channels = 2 if element.get("record", "").endswith("dual") else 1
        bridge.recording = recordings.start(
            exchange.world,
            parent.courier,
            source="DialVerb",
            call_sid=parent.call.sid,
            channels=channels,
            hook=_recording_hook(element, document),
        )
    limit = float(element.get("timeLimit", "14400")) * max(exchange.world.config.time_scale, 0.001)
    try:
        async with asyncio.timeout(limit):
            await bridge.over.wait()
    except TimeoutError:
        child.interrupt(Hangup("api"))


def _recording_hook(element: ET.Element, document: Document) -> Hook | None:
    url = element.get("recordingStatusCallback", "")
    return hook_from(
        document.resolve(url) if url else "",
        element.get("recordingStatusCallbackMethod", "POST"),
        element.get("recordingStatusCallbackEvent", ""),
    )


def _end_recording(exchange: Exchange, bridge: Bridge) -> None:
    if bridge.recording is not None:
        recordings.stop(exchange.world, bridge.parent.courier, bridge.recording)


def _outcome(bridge: Bridge) -> list[tuple[str, str]]:
    """The parameters of the action request (Twilio docs, Dial, "action")."""
    child = bridge.winner or (bridge.children[-1] if bridge.children else None)
    if bridge.winner is not None:
        status = "completed"
    else:
        found = {each.call.status for each in bridge.children}
        status = next((each for each in ("busy", "no-answer", "failed", "canceled") if each in found), "no-answer")
    params = [("DialCallStatus", status)]
    if child is not None:
        params.append(("DialCallSid", child.call.sid))
        if bridge.winner is not None and not bridge.redirected:
            params.append(("DialCallDuration", str(child.call.duration_s())))
    params.append(("DialBridged", "true" if bridge.winner is not None else "false"))
    return params


async def _hang_up_children(bridge: Bridge, unanswered: str) -> None:
    for child in bridge.children:
        child.interrupt(Hangup("peer", "completed" if child.answered.is_set() else unanswered))
    for child in bridge.children:
        await child.ended.wait()
        await child.courier.idle()


def _child(
    exchange: Exchange, bridge: Bridge, element: ET.Element, noun: ET.Element, document: Document, timeout_s: float
) -> Leg:
    """Ring one party of the Dial."""
    parent = bridge.parent
    callback = noun.get("statusCallback", "")
    to = text_of(noun)
    if noun.tag == "Client":
        identity = noun.find("Identity")
        to = "client:" + (text_of(identity) if identity is not None else to)
    call = Call(
        new_sid("CA"),
        from_=element.get("callerId") or parent.call.from_,
        to=to,
        direction="outbound-dial",
        created_at=exchange.world.clock.now(),
        parent_sid=parent.call.sid,
        hook=hook_from(
            document.resolve(callback) if callback else "",
            noun.get("statusCallbackMethod", "POST"),
            noun.get("statusCallbackEvent", ""),
        ),
    )
    child = exchange.legs.open(call)
    child.ringing_to = {each.get("name", ""): each.get("value", "") for each in noun.findall("Parameter")}
    if noun.get("machineDetection"):
        child.amd = hook_from(
            noun.get("amdStatusCallback", ""), noun.get("amdStatusCallbackMethod", "POST"), ""
        ) or Hook("")
    whisper = noun.get("url")

    async def left(interruption: Interruption) -> None:
        if bridge.winner is child:
            bridge.redirected = isinstance(interruption, Redirect)
            child.company = list
            bridge.over.set()

    async def step(leg: Leg) -> None:
        await ring(exchange, leg, timeout_s)
        if whisper:
            source = Source(document.resolve(whisper), noun.get("method", "POST"))
            await play_out(exchange, leg, source, Context("whisper", WHISPER_VERBS))
        if bridge.winner is not None:
            return
        bridge.winner = leg
        leg.undo.append(left)
        bridge.joined.set()
        await bridge.over.wait()

    async def rerun(leg: Leg, source: Source) -> None:
        await run(exchange, leg, source)

    exchange.legs.start(child, step, rerun)
    return child


# --- Dial Conference --------------------------------------------------------------------------------------------------


async def _dial_room(exchange: Exchange, leg: Leg, element: ET.Element, noun: ET.Element, document: Document) -> Next:
    name = text_of(noun)
    if not name:
        raise TwimlError(12200, "<Conference> needs a name")
    world, now = exchange.world, exchange.world.clock.now()
    callback = noun.get("statusCallback", "")
    settings = RoomSettings(
        hook=hook_from(
            document.resolve(callback) if callback else "",
            noun.get("statusCallbackMethod", "POST"),
            noun.get("statusCallbackEvent", ""),
            default=(),
        ),
        record=noun.get("record", "do-not-record") in ("record-from-start", "true"),
        recording_hook=_recording_hook(noun, document),
        max_participants=int(noun.get("maxParticipants", "250")),
    )
    coach = noun.get("coach", "")
    existing = exchange.rooms.find(name)
    if coach and (existing is None or coach not in existing.seats):
        world.fault(13240, f"coach {coach} is not in the conference {name}", call_sid=leg.call.sid)
        leg.answer()
        return _action(element, document, [("DialCallStatus", "failed"), ("DialBridged", "false")])
    leg.answer()
    room = exchange.rooms.open(name, settings)
    seat = Seat(
        leg,
        now,
        now,
        muted=flag(noun, "muted", default=False),
        coach=coach,
        starts=flag(noun, "startConferenceOnEnter", default=True),
        ends=flag(noun, "endConferenceOnExit", default=False),
        label=noun.get("participantLabel", ""),
        beep=noun.get("beep", "true") in ("true", "onEnter"),
    )
    outcome = [("DialCallStatus", "answered"), ("DialBridged", "true")]

    async def after_hangup(interruption: Interruption) -> None:
        if isinstance(interruption, Hangup) and (source := _action(element, document, outcome)):
            await leg.ask("dial-action", source.url, source.method, list(source.params))

    leg.undo.append(after_hangup)
    try:
        exchange.rooms.check(room, seat)
        start_wait_music(exchange, room, seat, noun.get("waitUrl"), noun.get("waitMethod", "POST"), document)
        await sit(exchange.rooms, room, seat)
    except LabelTaken:
        world.fault(16025, f"the label {seat.label} is taken in {name}", call_sid=leg.call.sid)
        leg.undo.remove(after_hangup)
        return None
    except RoomFull:
        world.fault(13225, f"conference {name} is full", call_sid=leg.call.sid)
        outcome = [("DialCallStatus", "failed"), ("DialBridged", "false")]
    leg.undo.remove(after_hangup)
    leg.doing("")
    return _action(element, document, outcome)


def start_wait_music(
    exchange: Exchange, room: Room, seat: Seat, wait_url: str | None, method: str, document: Document | None
) -> None:
    """What a participant hears until the conference starts: the wait URL's document once, or music; "" is silence."""
    if room.status != "init" or wait_url == "":
        return
    leg = seat.leg
    if wait_url is None:
        leg.hear("music", "hold music")
        return
    url = document.resolve(wait_url) if document is not None else wait_url
    seat.music = leg.spawn(_beside(exchange, leg, url, method, "conference-wait", _room_params(room)))


def start_hold_music(exchange: Exchange, room: Room, seat: Seat, url: str, method: str) -> None:
    """What a participant on hold hears; it stops when the hold ends."""
    seat.stop_music()
    if not url:
        seat.leg.hear("music", "hold music")
        return
    seat.music = seat.leg.spawn(_beside(exchange, seat.leg, url, method, "hold", _room_params(room)))


def announce(exchange: Exchange, room: Room, seat: Seat | None, url: str, method: str) -> None:
    """Play a document to one participant, or to all of them; `announcement-end` follows."""
    listeners = [seat] if seat is not None else list(room.seats.values())
    if not listeners:
        return

    async def spoken(first: Leg) -> None:
        await _beside(exchange, first, url, method, "announce", _room_params(room))
        exchange.rooms.announced(room, seat, url)

    listeners[0].leg.spawn(spoken(listeners[0].leg))
    for other in listeners[1:]:
        other.leg.spawn(_beside(exchange, other.leg, url, method, "announce", _room_params(room)))


def _room_params(room: Room) -> list[tuple[str, str]]:
    return [("ConferenceSid", room.sid), ("FriendlyName", room.name)]


async def _beside(
    exchange: Exchange, leg: Leg, url: str, method: str, kind: str, params: list[tuple[str, str]]
) -> None:
    """Run a small document beside what the leg does. An error in it ends the call: loudly, not silently."""
    try:
        await play_out(exchange, leg, Source(url, method), Context(kind, ROOM_WAIT_VERBS, lambda: params))
    except TwimlError as error:
        exchange.world.fault(error.code, str(error), where=url, call_sid=leg.call.sid)
        leg.interrupt(Hangup("api"))
