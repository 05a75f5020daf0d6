"""REST: Calls, and the recordings of a call."""

from __future__ import annotations

from datetime import date
from typing import Any

from aiohttp import web

from hub.sandbox import recordings
from hub.sandbox.calls import Hangup, Redirect, hook_from
from hub.sandbox.clock import rfc2822
from hub.sandbox.machine import Exchange
from hub.sandbox.placing import Recorded, dial_out
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
from hub.sandbox.state import API_VERSION, Call, Hook, Recording
from hub.sandbox.twiml import CALL_EVENTS, Source
from hub.sandbox.world import is_e164

AMD_FIELDS = (
    "MachineDetection",
    "MachineDetectionTimeout",
    "MachineDetectionSpeechThreshold",
    "MachineDetectionSpeechEndThreshold",
    "MachineDetectionSilenceTimeout",
)
RECORD_FIELDS = (
    "RecordingChannels",
    "RecordingStatusCallback",
    "RecordingStatusCallbackMethod",
    "RecordingStatusCallbackEvent",
    "RecordingTrack",
    "Trim",
)
CREATE_FIELDS = (
    "To",
    "From",
    "Url",
    "Twiml",
    "ApplicationSid",
    "Method",
    "FallbackUrl",
    "FallbackMethod",
    "StatusCallback",
    "StatusCallbackEvent",
    "StatusCallbackMethod",
    "SendDigits",
    "Timeout",
    "Record",
    "CallerId",
    "AsyncAmd",
    "AsyncAmdStatusCallback",
    "AsyncAmdStatusCallbackMethod",
    "CallReason",
    "CallToken",
    "TimeLimit",
    *AMD_FIELDS,
    *RECORD_FIELDS,
)
SUBRESOURCES = (
    "notifications",
    "recordings",
    "payments",
    "events",
    "siprec",
    "streams",
    "transcriptions",
    "user_defined_message_subscriptions",
    "user_defined_messages",
)
UPDATE_FIELDS = (
    "Url",
    "Method",
    "Status",
    "FallbackUrl",
    "FallbackMethod",
    "StatusCallback",
    "StatusCallbackMethod",
    "Twiml",
    "TimeLimit",
)
LIST_FIELDS = (
    "To",
    "From",
    "ParentCallSid",
    "Status",
    "StartTime",
    "StartTime<",
    "StartTime>",
    "EndTime",
    "EndTime<",
    "EndTime>",
    *PAGING,
)
RECORDING_LIST_FIELDS = ("DateCreated", "DateCreated<", "DateCreated>", *PAGING)


def call_json(exchange: Exchange, call: Call) -> dict[str, Any]:
    uri = account_uri(exchange, f"/Calls/{call.sid}")
    created = rfc2822(call.created_at)
    started = call.started_at or (call.created_at if call.over else None)
    names = {kind: "".join(part.title() for part in kind.split("_")) for kind in SUBRESOURCES}
    return {
        "sid": call.sid,
        "date_created": created,
        "date_updated": rfc2822(call.updated_at or call.created_at),
        "parent_call_sid": call.parent_sid,
        "account_sid": exchange.world.config.account_sid,
        "to": call.to,
        "to_formatted": call.to,
        "from": call.from_,
        "from_formatted": call.from_,
        "phone_number_sid": call.phone_number_sid,
        "status": call.status,
        "start_time": rfc2822(started) if started else None,
        "end_time": rfc2822(call.ended_at) if call.ended_at else None,
        "duration": str(call.duration_s()) if call.over else None,
        "price": None,
        "price_unit": "USD",
        "direction": call.direction,
        "answered_by": call.answered_by,
        "annotation": None,
        "api_version": API_VERSION,
        "forwarded_from": call.forwarded_from,
        "group_sid": None,
        "caller_name": call.caller_name,
        "queue_time": "0",
        "trunk_sid": None,
        "uri": uri + ".json",
        "subresource_uris": {kind: f"{uri}/{name}.json" for kind, name in names.items()},
    }


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


def check_party(exchange: Exchange, form: Form) -> tuple[str, str]:
    """From and To of a call. Raises Twilio's errors for what cannot be called."""
    to, from_ = text(form, "To"), text(form, "CallerId") or text(form, "From")
    if not to:
        raise RestError(400, 21201, "No 'To' number is specified")
    if not from_:
        raise RestError(400, 21213, "No 'From' number is specified")
    if not to.startswith("client:") and not is_e164(to):
        raise RestError(400, 21211, f"Invalid 'To' Phone Number: {to}")
    if not from_.startswith("client:") and exchange.world.number_of(from_) is None:
        raise RestError(400, 21210, f"The source phone number provided, {from_}, is not yet verified for your account.")
    return from_, to


def events_of(form: Form, name: str = "StatusCallbackEvent") -> list[str]:
    events = [word for value in form.getall(name, []) for word in str(value).split()]
    if wrong := set(events) - CALL_EVENTS:
        raise RestError(400, 21626, f"Invalid {name}: {', '.join(sorted(wrong))}")
    return events


def recorded_of(form: Form) -> Recorded | None:
    if not truth(form, "Record", default=False):
        return None
    hook = hook_from(
        web_url(form, "RecordingStatusCallback"),
        text(form, "RecordingStatusCallbackMethod"),
        [str(value) for value in form.getall("RecordingStatusCallbackEvent", [])],
    )
    return Recorded(2 if text(form, "RecordingChannels") == "dual" else 1, hook)


async def create_call(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    from_, to = check_party(exchange, form)
    app = exchange.world.applications.get(text(form, "ApplicationSid"))
    if text(form, "ApplicationSid") and app is None:
        raise RestError(400, 21218, "Invalid ApplicationSid")
    url, twiml = web_url(form, "Url"), text(form, "Twiml")
    if app is not None:
        url, twiml = app.voice_url, ""
    if not url and not twiml:
        raise RestError(400, 21205, "Url parameter is required")
    if len(twiml) > 4000:
        raise RestError(400, 21627, "Twiml is longer than 4000 characters")
    amd = None
    if one_of(form, "MachineDetection", ("Enable", "DetectMessageEnd")):
        amd = hook_from(web_url(form, "AsyncAmdStatusCallback"), text(form, "AsyncAmdStatusCallbackMethod"), "")
        amd = amd or Hook("")
    leg = dial_out(
        exchange,
        from_=from_,
        to=to,
        source=Source(
            url,
            one_of(form, "Method", ("GET", "POST"), default="POST"),
            twiml=twiml,
            fallback_url=web_url(form, "FallbackUrl"),
            fallback_method=one_of(form, "FallbackMethod", ("GET", "POST"), default="POST"),
        ),
        hook=hook_from(
            web_url(form, "StatusCallback", code=21609),
            one_of(form, "StatusCallbackMethod", ("GET", "POST"), default="POST"),
            events_of(form),
        ),
        timeout_s=whole(form, "Timeout", 60, 1, 600),
        amd=amd,
        recorded=recorded_of(form),
    )
    return web.json_response(call_json(exchange, leg.call), status=201)


def find_call(exchange: Exchange, request: web.Request) -> Call:
    call = exchange.world.calls.get(request.match_info["sid"])
    if call is None:
        raise not_found(request)
    return call


async def fetch_call(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    return web.json_response(call_json(exchange, find_call(exchange, request)))


async def delete_call(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    call = find_call(exchange, request)
    if not call.over:
        raise RestError(409, 20409, "a call in progress cannot be deleted")
    del exchange.world.calls[call.sid]
    return web.Response(status=204)


async def update_call(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    """Redirect (Url, Twiml) or end (Status). A call that is over cannot be redirected: 21220."""
    call = find_call(exchange, request)
    leg = exchange.legs.live.get(call.sid)
    status = one_of(form, "Status", ("completed", "canceled"))
    url, twiml = web_url(form, "Url"), text(form, "Twiml")
    if leg is None:
        if status:
            return web.json_response(call_json(exchange, call))
        raise RestError(400, 21220, "Call is not in-progress. Cannot redirect.")
    if callback := web_url(form, "StatusCallback", code=21609):
        call.hook = hook_from(callback, text(form, "StatusCallbackMethod"), list(call.hook.events) if call.hook else [])
    if status == "canceled" and leg.answered.is_set():
        raise RestError(400, 21220, "Call is in-progress. Cannot cancel.")
    if status:
        leg.interrupt(Hangup("api", "completed" if leg.answered.is_set() else "canceled"))
    elif url or twiml:
        if not leg.answered.is_set() and call.direction != "inbound":
            raise RestError(400, 21220, "Call is not in-progress. Cannot redirect.")
        leg.interrupt(
            Redirect(
                Source(
                    url,
                    one_of(form, "Method", ("GET", "POST"), default="POST"),
                    twiml=twiml,
                    fallback_url=web_url(form, "FallbackUrl"),
                    fallback_method=one_of(form, "FallbackMethod", ("GET", "POST"), default="POST"),
                )
            )
        )
    elif not callback and "TimeLimit" not in form:
        raise RestError(400, 20001, "Url, Twiml or Status is required")
    return web.json_response(call_json(exchange, call))


def on_day(moment_day: date | None, form: Form, name: str) -> bool:
    """The date filters `Name`, `Name<`, `Name>`: exact day, on or before, on or after (times are cut to the day)."""
    for suffix in ("", "<", ">"):
        raw = text(form, name + suffix)
        if not raw:
            continue
        try:
            day = date.fromisoformat(raw[:10])
        except ValueError as exc:
            raise RestError(400, 20001, f"{name}{suffix} must be a date") from exc
        if moment_day is None:
            return False
        if (suffix == "" and moment_day != day) or (suffix == "<" and moment_day > day):
            return False
        if suffix == ">" and moment_day < day:
            return False
    return True


async def list_calls(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    def wanted(call: Call) -> bool:
        exact = (("To", call.to), ("From", call.from_), ("ParentCallSid", call.parent_sid), ("Status", call.status))
        return (
            all(not text(form, name) or text(form, name) == value for name, value in exact)
            and on_day((call.started_at or call.created_at).date(), form, "StartTime")
            and on_day(call.ended_at.date() if call.ended_at else None, form, "EndTime")
        )

    found = [call for call in reversed(exchange.world.calls.values()) if wanted(call)]
    return page(exchange, request, "calls", found, call_json)


# --- recordings of a call ---------------------------------------------------------------------------------------------


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
        web.post(base + "/Calls.json", route(exchange, create_call, fields=CREATE_FIELDS)),
        web.get(base + "/Calls.json", route(exchange, list_calls, fields=LIST_FIELDS)),
        web.get(call + ".json", route(exchange, fetch_call)),
        web.post(call + ".json", route(exchange, update_call, fields=UPDATE_FIELDS)),
        web.delete(call + ".json", route(exchange, delete_call)),
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
