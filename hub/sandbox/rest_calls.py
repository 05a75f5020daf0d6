"""REST: Calls."""

from __future__ import annotations

from datetime import date
from typing import Any

from aiohttp import web

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
from hub.sandbox.state import API_VERSION, Call, Hook
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


def routes(exchange: Exchange) -> list[web.AbstractRouteDef]:
    base = "/2010-04-01/Accounts/{account}"
    call = base + "/Calls/{sid:CA[0-9a-f]{32}}.json"
    return [
        web.post(base + "/Calls.json", route(exchange, create_call, fields=CREATE_FIELDS)),
        web.get(base + "/Calls.json", route(exchange, list_calls, fields=LIST_FIELDS)),
        web.get(call, route(exchange, fetch_call)),
        web.post(call, route(exchange, update_call, fields=UPDATE_FIELDS)),
        web.delete(call, route(exchange, delete_call)),
    ]
