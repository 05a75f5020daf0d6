"""REST: the account itself, its phone numbers, its TwiML Apps."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hub.sandbox.clock import rfc2822
from hub.sandbox.machine import Exchange
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
)
from hub.sandbox.state import API_VERSION, Application, PhoneNumber, new_sid

# form field -> attribute; the same names serve numbers and applications
URLS = {
    "VoiceUrl": "voice_url",
    "VoiceFallbackUrl": "voice_fallback_url",
    "StatusCallback": "status_callback",
    "SmsUrl": "sms_url",
    "SmsFallbackUrl": "sms_fallback_url",
}
METHODS = {
    "VoiceMethod": "voice_method",
    "VoiceFallbackMethod": "voice_fallback_method",
    "StatusCallbackMethod": "status_callback_method",
    "SmsMethod": "sms_method",
    "SmsFallbackMethod": "sms_fallback_method",
}
APP_URLS = {
    **URLS,
    "SmsStatusCallback": "sms_status_callback",
    "MessageStatusCallback": "message_status_callback",
}
NUMBER_FIELDS = (
    *URLS,
    *METHODS,
    "FriendlyName",
    "ApiVersion",
    "VoiceApplicationSid",
    "SmsApplicationSid",
    "VoiceCallerIdLookup",
    "VoiceReceiveMode",
)
APP_FIELDS = (
    *APP_URLS,
    *METHODS,
    "FriendlyName",
    "ApiVersion",
    "VoiceCallerIdLookup",
    "PublicApplicationConnectEnabled",
)


def fill(form: Form, owner: PhoneNumber | Application, urls: dict[str, str]) -> None:
    """Copy what was given; an empty URL clears the old one."""
    for field, attribute in urls.items():
        if field in form:
            setattr(owner, attribute, web_url(form, field, code=21502))
    for field, attribute in METHODS.items():
        if field in form:
            setattr(owner, attribute, one_of(form, field, ("GET", "POST"), default="POST"))
    if "FriendlyName" in form:
        owner.friendly_name = text(form, "FriendlyName")[:64]
    if "VoiceCallerIdLookup" in form:
        owner.voice_caller_id_lookup = truth(form, "VoiceCallerIdLookup", default=False)


# --- account ----------------------------------------------------------------------------------------------------------


async def fetch_account(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    config = exchange.world.config
    uri = f"/{API_VERSION}/Accounts/{config.account_sid}"
    created = rfc2822(exchange.world.started_at)
    names = {"calls": "Calls", "conferences": "Conferences", "messages": "Messages", "queues": "Queues"}
    names |= {"applications": "Applications", "incoming_phone_numbers": "IncomingPhoneNumbers"}
    names |= {"recordings": "Recordings"}
    return web.json_response(
        {
            "sid": config.account_sid,
            "auth_token": config.auth_token,
            "date_created": created,
            "date_updated": created,
            "friendly_name": "Sandbox",
            "owner_account_sid": config.account_sid,
            "status": "active",
            "type": "Full",
            "subresource_uris": {key: f"{uri}/{name}.json" for key, name in names.items()},
            "uri": uri + ".json",
        }
    )


# --- phone numbers ----------------------------------------------------------------------------------------------------


def number_json(exchange: Exchange, number: PhoneNumber) -> dict[str, Any]:
    return {
        "sid": number.sid,
        "account_sid": exchange.world.config.account_sid,
        "address_sid": None,
        "address_requirements": "none",
        "api_version": API_VERSION,
        "beta": False,
        "bundle_sid": None,
        "capabilities": {"fax": False, "voice": True, "sms": True, "mms": True},
        "date_created": rfc2822(number.created_at),
        "date_updated": rfc2822(number.updated_at),
        "emergency_address_sid": None,
        "emergency_address_status": "unregistered",
        "emergency_status": "Inactive",
        "friendly_name": number.friendly_name,
        "identity_sid": None,
        "origin": "twilio",
        "phone_number": number.number,
        "sms_application_sid": number.sms_application_sid or None,
        "sms_fallback_method": number.sms_fallback_method,
        "sms_fallback_url": number.sms_fallback_url,
        "sms_method": number.sms_method,
        "sms_url": number.sms_url,
        "status": "in-use",
        "status_callback": number.status_callback,
        "status_callback_method": number.status_callback_method,
        "trunk_sid": None,
        "uri": account_uri(exchange, f"/IncomingPhoneNumbers/{number.sid}.json"),
        "voice_application_sid": number.voice_application_sid or None,
        "voice_caller_id_lookup": number.voice_caller_id_lookup,
        "voice_fallback_method": number.voice_fallback_method,
        "voice_fallback_url": number.voice_fallback_url,
        "voice_method": number.voice_method,
        "voice_receive_mode": "voice",
        "voice_url": number.voice_url,
    }


def find_number(exchange: Exchange, request: web.Request) -> PhoneNumber:
    number = exchange.world.numbers.get(request.match_info["number"])
    if number is None:
        raise not_found(request)
    return number


async def list_numbers(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    wanted, name = text(form, "PhoneNumber").replace("*", ""), text(form, "FriendlyName")
    found = [
        number
        for number in exchange.world.numbers.values()
        if wanted in number.number and (not name or number.friendly_name == name)
    ]
    return page(exchange, request, "incoming_phone_numbers", found, number_json)


async def fetch_number(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    return web.json_response(number_json(exchange, find_number(exchange, request)))


async def update_number(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    number = find_number(exchange, request)
    for field, attribute in (
        ("VoiceApplicationSid", "voice_application_sid"),
        ("SmsApplicationSid", "sms_application_sid"),
    ):
        if field in form:
            if text(form, field) and text(form, field) not in exchange.world.applications:
                raise RestError(400, 21218, f"Invalid {field}")
            setattr(number, attribute, text(form, field))
    fill(form, number, URLS)
    number.updated_at = exchange.world.clock.now()
    exchange.world.save()
    return web.json_response(number_json(exchange, number))


# --- applications -----------------------------------------------------------------------------------------------------


def app_json(exchange: Exchange, app: Application) -> dict[str, Any]:
    return {
        "sid": app.sid,
        "account_sid": exchange.world.config.account_sid,
        "api_version": API_VERSION,
        "date_created": rfc2822(app.created_at),
        "date_updated": rfc2822(app.updated_at),
        "friendly_name": app.friendly_name,
        "message_status_callback": app.message_status_callback,
        "public_application_connect_enabled": app.public_application_connect_enabled,
        "sms_fallback_method": app.sms_fallback_method,
        "sms_fallback_url": app.sms_fallback_url,
        "sms_method": app.sms_method,
        "sms_status_callback": app.sms_status_callback,
        "sms_url": app.sms_url,
        "status_callback": app.status_callback,
        "status_callback_method": app.status_callback_method,
        "uri": account_uri(exchange, f"/Applications/{app.sid}.json"),
        "voice_caller_id_lookup": app.voice_caller_id_lookup,
        "voice_fallback_method": app.voice_fallback_method,
        "voice_fallback_url": app.voice_fallback_url,
        "voice_method": app.voice_method,
        "voice_url": app.voice_url,
    }


def find_app(exchange: Exchange, request: web.Request) -> Application:
    app = exchange.world.applications.get(request.match_info["app"])
    if app is None:
        raise not_found(request)
    return app


async def create_app(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    now = exchange.world.clock.now()
    app = Application(new_sid("AP"), text(form, "FriendlyName"), now, now)
    fill(form, app, APP_URLS)
    exchange.world.applications[app.sid] = app
    exchange.world.save()
    return web.json_response(app_json(exchange, app), status=201)


async def list_apps(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    name = text(form, "FriendlyName")
    found = [app for app in reversed(exchange.world.applications.values()) if not name or app.friendly_name == name]
    return page(exchange, request, "applications", found, app_json)


async def fetch_app(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    return web.json_response(app_json(exchange, find_app(exchange, request)))


async def update_app(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    app = find_app(exchange, request)
    fill(form, app, APP_URLS)
    app.updated_at = exchange.world.clock.now()
    exchange.world.save()
    return web.json_response(app_json(exchange, app))


async def delete_app(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    del exchange.world.applications[find_app(exchange, request).sid]
    exchange.world.save()
    return web.Response(status=204)


def routes(exchange: Exchange) -> list[web.AbstractRouteDef]:
    account = "/2010-04-01/Accounts/{account}"
    numbers, apps = account + "/IncomingPhoneNumbers", account + "/Applications"
    number, app = numbers + "/{number}.json", apps + "/{app}.json"
    return [
        web.get(account + ".json", route(exchange, fetch_account)),
        web.get(
            numbers + ".json",
            route(exchange, list_numbers, fields=("PhoneNumber", "FriendlyName", "Beta", "Origin", *PAGING)),
        ),
        web.get(number, route(exchange, fetch_number)),
        web.post(number, route(exchange, update_number, fields=NUMBER_FIELDS)),
        web.post(apps + ".json", route(exchange, create_app, fields=APP_FIELDS)),
        web.get(apps + ".json", route(exchange, list_apps, fields=("FriendlyName", *PAGING))),
        web.get(app, route(exchange, fetch_app)),
        web.post(app, route(exchange, update_app, fields=APP_FIELDS)),
        web.delete(app, route(exchange, delete_app)),
    ]
