"""REST: Conferences and Participants."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hub.sandbox.calls import Hangup, hook_from
from hub.sandbox.clock import rfc2822
from hub.sandbox.conferences import Room, RoomSettings, Seat
from hub.sandbox.dialing import announce, start_hold_music
from hub.sandbox.machine import Exchange
from hub.sandbox.placing import add_participant
from hub.sandbox.rest import (
    PAGING,
    Form,
    RestError,
    account_uri,
    not_found,
    one_of,
    page,
    route,
    text,
    truth,
    web_url,
    whole,
)
from hub.sandbox.rest_calls import AMD_FIELDS, RECORD_FIELDS, check_party, events_of, on_day, recorded_of
from hub.sandbox.rest_recordings import (
    RECORDING_LIST_FIELDS,
    delete_recording,
    fetch_recording,
    recording_json,
    update_recording,
)
from hub.sandbox.state import API_VERSION, Hook, Recording
from hub.sandbox.twiml import ROOM_EVENTS

PARTICIPANT_FIELDS = (
    "From",
    "To",
    "StatusCallback",
    "StatusCallbackMethod",
    "StatusCallbackEvent",
    "Label",
    "Timeout",
    "Record",
    "Muted",
    "Beep",
    "StartConferenceOnEnter",
    "EndConferenceOnExit",
    "WaitUrl",
    "WaitMethod",
    "EarlyMedia",
    "MaxParticipants",
    "ConferenceRecord",
    "ConferenceTrim",
    "ConferenceStatusCallback",
    "ConferenceStatusCallbackMethod",
    "ConferenceStatusCallbackEvent",
    "ConferenceRecordingStatusCallback",
    "ConferenceRecordingStatusCallbackMethod",
    "ConferenceRecordingStatusCallbackEvent",
    "Region",
    "Coaching",
    "CallSidToCoach",
    "JitterBufferSize",
    "CallerId",
    "CallReason",
    "TimeLimit",
    "AmdStatusCallback",
    "AmdStatusCallbackMethod",
    "CallToken",
    "CallerDisplayName",
    *AMD_FIELDS,
    *RECORD_FIELDS,
)
UPDATE_FIELDS = (
    "Muted",
    "Hold",
    "HoldUrl",
    "HoldMethod",
    "AnnounceUrl",
    "AnnounceMethod",
    "WaitUrl",
    "WaitMethod",
    "BeepOnExit",
    "EndConferenceOnExit",
    "Coaching",
    "CallSidToCoach",
)
LIST_FIELDS = (
    *(f"{name}{suffix}" for name in ("DateCreated", "DateUpdated") for suffix in ("", "<", ">")),
    "FriendlyName",
    "Status",
    *PAGING,
)


# --- conferences ------------------------------------------------------------------------------------------------------


def room_json(exchange: Exchange, room: Room) -> dict[str, Any]:
    uri = account_uri(exchange, f"/Conferences/{room.sid}")
    shown = {
        "sid": room.sid,
        "account_sid": exchange.world.config.account_sid,
        "api_version": API_VERSION,
        "friendly_name": room.name,
        "status": room.status,
        "region": "us1",
        "call_sid_ending_conference": room.ended_by,
        "date_created": rfc2822(room.created_at),
        "date_updated": rfc2822(room.updated_at),
        "uri": uri + ".json",
        "subresource_uris": {
            "participants": f"{uri}/Participants.json",
            "recordings": f"{uri}/Recordings.json",
        },
    }
    if room.reason:  # the description allows no null here, so a running conference does not have it
        shown["reason_conference_ended"] = room.reason
    return shown


def find_room(exchange: Exchange, request: web.Request) -> Room:
    room = exchange.rooms.by_sid.get(request.match_info["room"])
    if room is None:
        raise not_found(request)
    return room


async def fetch_room(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    return web.json_response(room_json(exchange, find_room(exchange, request)))


async def list_rooms(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    name, status = text(form, "FriendlyName"), text(form, "Status")
    found = [
        room
        for room in reversed(exchange.rooms.by_sid.values())
        if (not name or room.name == name)
        and (not status or room.status == status)
        and on_day(room.created_at.date(), form, "DateCreated")
        and on_day(room.updated_at.date(), form, "DateUpdated")
    ]
    return page(exchange, request, "conferences", found, room_json)


async def update_room(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    room = find_room(exchange, request)
    status, url = one_of(form, "Status", ("completed",)), web_url(form, "AnnounceUrl")
    if not status and not url:
        raise RestError(400, 20001, "Status or AnnounceUrl is required")
    if room.status == "completed" and not status:
        raise not_found(request)
    if url:
        announce(exchange, room, None, url, one_of(form, "AnnounceMethod", ("GET", "POST"), default="POST"))
    if status:
        exchange.rooms.end(room, "conference-ended-via-api", by=None)
    return web.json_response(room_json(exchange, room))


async def list_room_recordings(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    room = find_room(exchange, request)
    found = [
        each
        for each in reversed(exchange.world.recordings.values())
        if each.conference_sid == room.sid and on_day(each.started_at.date(), form, "DateCreated")
    ]

    def shape(exchange: Exchange, recording: Recording) -> dict[str, Any]:
        return recording_json(exchange, recording, under=f"/Conferences/{room.sid}")

    return page(exchange, request, "recordings", found, shape)


# --- participants -----------------------------------------------------------------------------------------------------


def seat_json(exchange: Exchange, room: Room, seat: Seat) -> dict[str, Any]:
    return {
        "account_sid": exchange.world.config.account_sid,
        "call_sid": seat.leg.call.sid,
        "label": seat.label or None,
        "call_sid_to_coach": seat.coach or None,
        "coaching": bool(seat.coach),
        "conference_sid": room.sid,
        "date_created": rfc2822(seat.created_at),
        "date_updated": rfc2822(seat.updated_at),
        "end_conference_on_exit": seat.ends,
        "muted": seat.muted,
        "hold": seat.hold,
        "start_conference_on_enter": seat.starts,
        "status": seat_status(seat),
        "queue_time": "0",
        "uri": account_uri(exchange, f"/Conferences/{room.sid}/Participants/{seat.leg.call.sid}.json"),
    }


def seat_status(seat: Seat) -> str:
    if seat.status in ("connected", "complete", "failed"):
        return seat.status
    return "ringing" if seat.leg.call.status == "ringing" else "queued"


def live_room(exchange: Exchange, request: web.Request) -> Room:
    room = exchange.rooms.find(request.match_info["room"])
    if room is None or room.status == "completed":
        raise not_found(request)
    return room


def find_seat(exchange: Exchange, request: web.Request) -> tuple[Room, Seat]:
    """A participant by call SID or label."""
    room, name = live_room(exchange, request), request.match_info["participant"]
    seats = {**room.coming, **room.seats}
    seat = seats.get(name) or next((each for each in seats.values() if each.label and each.label == name), None)
    if seat is None:
        raise not_found(request)
    return room, seat


async def create_participant(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    from_, to = check_party(exchange, form)
    events = [word for value in form.getall("ConferenceStatusCallbackEvent", []) for word in str(value).split()]
    if wrong := set(events) - ROOM_EVENTS:
        raise RestError(400, 21626, f"Invalid ConferenceStatusCallbackEvent: {', '.join(sorted(wrong))}")
    settings = RoomSettings(
        hook=hook_from(
            web_url(form, "ConferenceStatusCallback"), text(form, "ConferenceStatusCallbackMethod"), events, default=()
        ),
        record=text(form, "ConferenceRecord") in ("true", "record-from-start"),
        recording_hook=hook_from(
            web_url(form, "ConferenceRecordingStatusCallback"),
            text(form, "ConferenceRecordingStatusCallbackMethod"),
            [str(value) for value in form.getall("ConferenceRecordingStatusCallbackEvent", [])],
        ),
        max_participants=whole(form, "MaxParticipants", 250, 2, 250),
    )
    name = request.match_info["room"]
    room = exchange.rooms.by_sid.get(name)
    if room is None and name.startswith("CF") and len(name) == 34:
        raise not_found(request)
    if room is not None and room.status == "completed":
        raise RestError(400, 21220, "Conference has ended")
    room = room or exchange.rooms.open(name, settings)
    label, coach = text(form, "Label"), text(form, "CallSidToCoach")
    if label and any(seat.label == label for seat in [*room.seats.values(), *room.coming.values()]):
        raise RestError(409, 16025, f"A participant with label {label} already exists in the conference")
    if truth(form, "Coaching", default=bool(coach)) and coach not in room.seats:
        raise RestError(400, 13240, "CallSidToCoach must be the call SID of a participant in this conference")
    amd = None
    if one_of(form, "MachineDetection", ("Enable", "DetectMessageEnd")):
        amd = hook_from(web_url(form, "AmdStatusCallback"), text(form, "AmdStatusCallbackMethod"), "") or Hook("")
    seat = add_participant(
        exchange,
        room,
        {
            "muted": truth(form, "Muted", default=False),
            "starts": truth(form, "StartConferenceOnEnter", default=True),
            "ends": truth(form, "EndConferenceOnExit", default=False),
            "label": label,
            "coach": coach,
            "beep": text(form, "Beep") in ("", "true", "onEnter"),
        },
        from_=from_,
        to=to,
        hook=hook_from(
            web_url(form, "StatusCallback", code=21609),
            one_of(form, "StatusCallbackMethod", ("GET", "POST"), default="POST"),
            events_of(form),
        ),
        timeout_s=whole(form, "Timeout", 60, 5, 600),
        wait_url=form.get("WaitUrl"),
        amd=amd,
        recorded=recorded_of(form),
    )
    return web.json_response(seat_json(exchange, room, seat), status=201)


async def fetch_participant(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    room, seat = find_seat(exchange, request)
    return web.json_response(seat_json(exchange, room, seat))


async def list_participants(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    room = find_room(exchange, request)

    def wanted(seat: Seat) -> bool:
        states = (("Muted", seat.muted), ("Hold", seat.hold), ("Coaching", bool(seat.coach)))
        return all(name not in form or truth(form, name, default=False) == state for name, state in states)

    found = [seat for seat in [*room.seats.values(), *room.coming.values()] if wanted(seat)]

    def shape(exchange: Exchange, seat: Seat) -> dict[str, Any]:
        return seat_json(exchange, room, seat)

    return page(exchange, request, "participants", found, shape)


async def update_participant(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    room, seat = find_seat(exchange, request)
    if seat.status != "connected":
        raise RestError(400, 21220, "Participant is not connected")
    if "Muted" in form:
        exchange.rooms.set_muted(room, seat, muted=truth(form, "Muted", default=False))
    if "Hold" in form:
        hold = truth(form, "Hold", default=False)
        exchange.rooms.set_hold(room, seat, hold=hold)
        if hold:
            method = one_of(form, "HoldMethod", ("GET", "POST"), default="POST")
            start_hold_music(exchange, room, seat, web_url(form, "HoldUrl"), method)
    modified = False
    if "EndConferenceOnExit" in form:
        seat.ends = truth(form, "EndConferenceOnExit", default=False)
        modified = True
    if "BeepOnExit" in form:
        seat.beep_on_exit = truth(form, "BeepOnExit", default=False)
        modified = True
    if "Coaching" in form or "CallSidToCoach" in form:
        coach = text(form, "CallSidToCoach")
        coaching = truth(form, "Coaching", default=bool(coach))
        if coaching and coach not in room.seats:
            raise RestError(400, 13240, "CallSidToCoach must be the call SID of a participant in this conference")
        seat.coach = coach if coaching else ""
        modified = True
    if "WaitUrl" in form:
        modified = True
    if modified:
        exchange.rooms.modify(room, seat)
    if url := web_url(form, "AnnounceUrl"):
        announce(exchange, room, seat, url, one_of(form, "AnnounceMethod", ("GET", "POST"), default="POST"))
    return web.json_response(seat_json(exchange, room, seat))


async def delete_participant(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    """Remove from the room: a call that came by TwiML goes on with what follows, one made for the room ends."""
    room, seat = find_seat(exchange, request)
    if seat.leg.call.sid in room.coming:
        seat.leg.interrupt(Hangup("api", "canceled"))
    else:
        exchange.rooms.leave(room, seat, "participant_updated_via_api", kicked=True, call_status="in-progress")
    return web.Response(status=204)


def routes(exchange: Exchange) -> list[web.AbstractRouteDef]:
    base = "/2010-04-01/Accounts/{account}"
    rooms, room = base + "/Conferences.json", base + "/Conferences/{room}"
    seats, seat = room + "/Participants.json", room + "/Participants/{participant}.json"
    tapes = base + "/Conferences/{sid}/Recordings/{recording:RE[0-9a-f]{32}|Twilio.CURRENT}.json"
    return [
        web.get(rooms, route(exchange, list_rooms, fields=LIST_FIELDS)),
        web.get(room + ".json", route(exchange, fetch_room)),
        web.post(room + ".json", route(exchange, update_room, fields=("Status", "AnnounceUrl", "AnnounceMethod"))),
        web.get(room + "/Recordings.json", route(exchange, list_room_recordings, fields=RECORDING_LIST_FIELDS)),
        web.get(tapes, route(exchange, fetch_recording)),
        web.post(tapes, route(exchange, update_recording, fields=("Status", "PauseBehavior"))),
        web.delete(tapes, route(exchange, delete_recording)),
        web.post(seats, route(exchange, create_participant, fields=PARTICIPANT_FIELDS)),
        web.get(seats, route(exchange, list_participants, fields=("Muted", "Hold", "Coaching", *PAGING))),
        web.get(seat, route(exchange, fetch_participant)),
        web.post(seat, route(exchange, update_participant, fields=UPDATE_FIELDS)),
        web.delete(seat, route(exchange, delete_participant)),
    ]
