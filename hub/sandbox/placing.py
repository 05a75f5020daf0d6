"""How a call comes to be: dialled from outside, from a browser, by REST, or as a conference participant by REST."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from hub.sandbox import recordings
from hub.sandbox.calls import EndCall, Interruption, Leg, Run, hook_from
from hub.sandbox.conferences import LabelTaken, Room, RoomFull, Seat, sit
from hub.sandbox.dialing import ring, start_wait_music
from hub.sandbox.machine import Exchange, run
from hub.sandbox.state import Call, Hook, new_sid
from hub.sandbox.twiml import Source


class NoSuchNumber(Exception):
    """The account has no such number; the telephone network says that it is not in service."""


class NoSuchApplication(Exception):
    """The TwiML App named by the browser's token does not exist (Twilio 31002 family)."""


def _runner(exchange: Exchange) -> Run:
    async def rerun(leg: Leg, source: Source) -> None:
        await run(exchange, leg, source)

    return rerun


def call_token() -> str:
    return json.dumps({"parentCallInfoToken": secrets.token_urlsafe(24)})


def dial_in(
    exchange: Exchange, *, from_: str, to: str, caller_name: str | None = None, forwarded_from: str | None = None
) -> Leg:
    """Somebody outside dials one of the account's numbers: its voice URL (or its application's) is asked."""
    world = exchange.world
    number = world.number_of(to)
    if number is None:
        raise NoSuchNumber(to)
    app = world.applications.get(number.voice_application_sid)
    owner = app or number
    call = Call(
        new_sid("CA"),
        from_=from_,
        to=to,
        direction="inbound",
        created_at=world.clock.now(),
        status="ringing",
        caller_name=caller_name,
        forwarded_from=forwarded_from,
        phone_number_sid=number.sid,
        application_sid=app.sid if app else None,
        hook=hook_from(owner.status_callback, owner.status_callback_method, "completed"),
    )
    leg = exchange.legs.open(call)
    first = [("CallToken", call_token())]
    if from_.startswith("+"):
        first.append(("StirVerstat", "TN-Validation-Passed-A"))
    source = Source(
        owner.voice_url,
        owner.voice_method,
        params=tuple(first),
        fallback_url=owner.voice_fallback_url,
        fallback_method=owner.voice_fallback_method,
    )

    async def step(leg: Leg) -> None:
        if not owner.voice_url:
            world.fault(11100, f"number {to} has no voice URL", call_sid=call.sid)
            raise EndCall("failed")
        await run(exchange, leg, source)

    exchange.legs.start(leg, step, _runner(exchange))
    return leg


def dial_from_client(exchange: Exchange, *, identity: str, application_sid: str, params: dict[str, str]) -> Leg:
    """A browser connects: the TwiML App's voice URL is asked, the browser's own parameters are form fields."""
    world = exchange.world
    app = world.applications.get(application_sid)
    if app is None:
        raise NoSuchApplication(application_sid)
    call = Call(
        new_sid("CA"),
        from_=f"client:{identity}",
        to=params.get("To", ""),
        direction="inbound",
        created_at=world.clock.now(),
        status="ringing",
        application_sid=app.sid,
        hook=hook_from(app.status_callback, app.status_callback_method, "completed"),
    )
    leg = exchange.legs.open(call)
    standard = {name for name, _ in leg.params()}
    own = [(name, value) for name, value in params.items() if name not in standard]
    source = Source(
        app.voice_url,
        app.voice_method,
        params=(("CallToken", call_token()), *own),
        fallback_url=app.voice_fallback_url,
        fallback_method=app.voice_fallback_method,
    )

    async def step(leg: Leg) -> None:
        if not app.voice_url:
            world.fault(11100, f"application {app.sid} has no voice URL", call_sid=call.sid)
            raise EndCall("failed")
        await run(exchange, leg, source)

    exchange.legs.start(leg, step, _runner(exchange))
    return leg


@dataclass(frozen=True)
class Recorded:
    """A recording that was asked for when the call was made."""

    channels: int
    hook: Hook | None


def dial_out(
    exchange: Exchange,
    *,
    from_: str,
    to: str,
    source: Source,
    hook: Hook | None,
    timeout_s: float,
    amd: Hook | None = None,
    recorded: Recorded | None = None,
    application_sid: str | None = None,
) -> Leg:
    """A call made by REST: queued, initiated, ringing, answered, then its instructions."""
    world = exchange.world
    number = world.number_of(from_)
    call = Call(
        new_sid("CA"),
        from_=from_,
        to=to,
        direction="outbound-api",
        created_at=world.clock.now(),
        phone_number_sid=number.sid if number else None,
        hook=hook,
    )
    leg = exchange.legs.open(call)
    leg.amd = amd

    async def step(leg: Leg) -> None:
        await ring(exchange, leg, timeout_s)
        if recorded is not None:
            _record_call(exchange, leg, recorded)
        await run(exchange, leg, source)

    exchange.legs.start(leg, step, _runner(exchange))
    return leg


def _record_call(exchange: Exchange, leg: Leg, recorded: Recorded) -> None:
    recording = recordings.start(
        exchange.world,
        leg.courier,
        source="OutboundAPI",
        call_sid=leg.call.sid,
        channels=recorded.channels,
        hook=recorded.hook,
    )
    leg.at_end(lambda: recordings.stop(exchange.world, leg.courier, recording))


def add_participant(
    exchange: Exchange,
    room: Room,
    seat_options: dict[str, object],
    *,
    from_: str,
    to: str,
    hook: Hook | None,
    timeout_s: float,
    wait_url: str | None = None,
    amd: Hook | None = None,
    recorded: Recorded | None = None,
) -> Seat:
    """A participant called by REST: he sits down when he answers, and the room hears of it when he does not."""
    world, now = exchange.world, exchange.world.clock.now()
    call = Call(new_sid("CA"), from_=from_, to=to, direction="outbound-api", created_at=now, hook=hook)
    leg = exchange.legs.open(call)
    leg.amd = amd
    seat = Seat(leg, now, now, status="queued", **seat_options)  # type: ignore[arg-type]
    room.coming[call.sid] = seat

    async def lost(interruption: Interruption) -> None:
        leg.at_end(lambda: exchange.rooms.never_came(room, seat))

    async def step(leg: Leg) -> None:
        leg.undo.append(lost)
        try:
            await ring(exchange, leg, timeout_s)
        except EndCall:
            leg.at_end(lambda: exchange.rooms.never_came(room, seat))
            raise
        leg.undo.remove(lost)
        if recorded is not None:
            _record_call(exchange, leg, recorded)
        try:
            exchange.rooms.check(room, seat)
        except (LabelTaken, RoomFull) as exc:
            world.fault(16025, f"cannot join {room.name}: {exc}", call_sid=call.sid)
            room.coming.pop(call.sid, None)
            return
        if room.status == "completed":
            return
        start_wait_music(exchange, room, seat, wait_url, "POST", None)
        await sit(exchange.rooms, room, seat)

    exchange.legs.start(leg, step, _runner(exchange))
    return seat
