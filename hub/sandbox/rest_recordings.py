"""REST: Recordings, of the account and of a call; the sound itself."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hub.sandbox import recordings
from hub.sandbox.calls import hook_from
from hub.sandbox.clock import rfc2822
from hub.sandbox.machine import Exchange
from hub.sandbox.rest import PAGING, Form, RestError, account_uri, not_found, one_of, page, route, text, web_url
from hub.sandbox.rest_calls import RECORD_FIELDS, find_call, on_day
from hub.sandbox.state import API_VERSION, Recording

RECORDING_LIST_FIELDS = ("DateCreated", "DateCreated<", "DateCreated>", *PAGING)


def recording_json(exchange: Exchange, recording: Recording, *, under: str = "") -> dict[str, Any]:
    uri = account_uri(exchange, f"{under}/Recordings/{recording.sid}")
    return {
        "sid": recording.sid,
        "account_sid": exchange.world.config.account_sid,
        "api_version": API_VERSION,
        "call_sid": recording.call_sid,
        "conference_sid": recording.conference_sid,
        "channels": recording.channels,
        "date_created": rfc2822(recording.started_at),
        "date_updated": rfc2822(recording.ended_at or recording.started_at),
        "start_time": rfc2822(recording.started_at),
        "duration": None if recording.duration_s is None else str(recording.duration_s),
        "encryption_details": None,
        "error_code": None,
        "price": None,
        "price_unit": "USD",
        "source": recording.source,
        "status": recording.status,
        "uri": uri + ".json",
    }


async def create_recording(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    call = find_call(exchange, request)
    leg = exchange.legs.live.get(call.sid)
    if leg is None or not leg.answered.is_set():
        raise RestError(400, 21220, "Requested resource is not eligible for recording")
    hook = hook_from(
        web_url(form, "RecordingStatusCallback"),
        text(form, "RecordingStatusCallbackMethod"),
        [str(value) for value in form.getall("RecordingStatusCallbackEvent", [])],
    )
    channels = 2 if text(form, "RecordingChannels") == "dual" else 1
    recording = recordings.start(
        exchange.world, leg.courier, source="StartCallRecordingAPI", call_sid=call.sid, channels=channels, hook=hook
    )
    leg.at_end(lambda: recordings.stop(exchange.world, leg.courier, recording))
    return web.json_response(call_recording_json(exchange, recording), status=201)


def call_recording_json(exchange: Exchange, recording: Recording) -> dict[str, Any]:
    shown = recording_json(exchange, recording, under=f"/Calls/{recording.call_sid}")
    return {**shown, "track": "both"}


def find_recording(exchange: Exchange, request: web.Request) -> Recording:
    """A recording by SID, or the call's latest one by the name Twilio.CURRENT."""
    sid = request.match_info["recording"]
    call_sid = request.match_info.get("sid")
    mine = [
        each
        for each in exchange.world.recordings.values()
        if call_sid is None or call_sid in (each.call_sid, each.conference_sid)
    ]
    if sid == "Twilio.CURRENT":
        mine = [each for each in mine if each.status in ("in-progress", "paused")]
    else:
        mine = [each for each in mine if each.sid == sid]
    if not mine:
        raise not_found(request)
    return mine[-1]


async def update_recording(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    recording = find_recording(exchange, request)
    status = one_of(form, "Status", ("in-progress", "paused", "stopped"))
    if not status:
        raise RestError(400, 20001, "Status is required")
    if recording.status not in ("in-progress", "paused"):
        raise RestError(400, 21220, "Recording is not in-progress")
    if status == "paused":
        recordings.pause(exchange.world, recording)
    elif status == "in-progress":
        recordings.resume(exchange.world, recording)
    else:
        leg = exchange.legs.live.get(recording.call_sid)
        courier = leg.courier if leg else exchange.world.callbacks.courier()
        recordings.stop(exchange.world, courier, recording)
    under = f"/Conferences/{recording.conference_sid}" if recording.conference_sid else f"/Calls/{recording.call_sid}"
    shown = recording_json(exchange, recording, under=under)
    return web.json_response(shown if recording.conference_sid else {**shown, "track": "both"})


async def fetch_recording(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    recording = find_recording(exchange, request)
    if "sid" in request.match_info:
        return web.json_response(call_recording_json(exchange, recording))
    shown = recording_json(exchange, recording)
    uri = account_uri(exchange, f"/Recordings/{recording.sid}")
    shown["subresource_uris"] = {
        "add_on_results": f"{uri}/AddOnResults.json",
        "transcriptions": f"{uri}/Transcriptions.json",
    }
    shown["media_url"] = recordings.media_url(exchange.world, recording)
    return web.json_response(shown)


async def delete_recording(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    recording = find_recording(exchange, request)
    if recording.status in ("in-progress", "paused"):
        raise RestError(409, 20409, "a recording in progress cannot be deleted")
    del exchange.world.recordings[recording.sid]
    return web.Response(status=204)


def whole_recording_json(exchange: Exchange, recording: Recording) -> dict[str, Any]:
    shown = recording_json(exchange, recording)
    uri = account_uri(exchange, f"/Recordings/{recording.sid}")
    names = {"add_on_results": f"{uri}/AddOnResults.json", "transcriptions": f"{uri}/Transcriptions.json"}
    return {**shown, "subresource_uris": names, "media_url": recordings.media_url(exchange.world, recording)}


async def list_recordings(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    call_sid = request.match_info.get("sid") or text(form, "CallSid")
    room_sid = text(form, "ConferenceSid")
    found = [
        each
        for each in reversed(exchange.world.recordings.values())
        if (not call_sid or each.call_sid == call_sid)
        and (not room_sid or each.conference_sid == room_sid)
        and on_day(each.started_at.date(), form, "DateCreated")
    ]
    shape = call_recording_json if "sid" in request.match_info else whole_recording_json
    return page(exchange, request, "recordings", found, shape)


async def media(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    """The sound itself: `.wav`, or no ending at all, which means WAV too."""
    recording = find_recording(exchange, request)
    if recording.status != "completed":
        raise not_found(request)
    return web.Response(body=recordings.wav(recording), content_type="audio/x-wav")


def routes(exchange: Exchange) -> list[web.AbstractRouteDef]:
    base = "/2010-04-01/Accounts/{account}"
    call, its = base + "/Calls/{sid:CA[0-9a-f]{32}}", "/Recordings/{recording:RE[0-9a-f]{32}|Twilio.CURRENT}"
    one = base + "/Recordings/{recording:RE[0-9a-f]{32}}"
    return [
        web.post(
            call + "/Recordings.json",
            route(exchange, create_recording, fields=(*RECORD_FIELDS, "Trim")),
        ),
        web.get(call + "/Recordings.json", route(exchange, list_recordings, fields=RECORDING_LIST_FIELDS)),
        web.get(call + its + ".json", route(exchange, fetch_recording)),
        web.post(call + its + ".json", route(exchange, update_recording, fields=("Status", "PauseBehavior"))),
        web.delete(call + its + ".json", route(exchange, delete_recording)),
        web.get(
            base + "/Recordings.json",
            route(
                exchange,
                list_recordings,
                fields=(*RECORDING_LIST_FIELDS, "CallSid", "ConferenceSid", "IncludeSoftDeleted"),
            ),
        ),
        web.get(one + ".json", route(exchange, fetch_recording, fields=("IncludeSoftDeleted",))),
        web.delete(one + ".json", route(exchange, delete_recording)),
        web.get(one, route(exchange, media, fields=("RequestedChannels",))),
        web.get(one + ".wav", route(exchange, media, fields=("RequestedChannels",))),
    ]
