"""REST: Messages."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hub.sandbox.clock import rfc2822
from hub.sandbox.machine import Exchange
from hub.sandbox.messages import Texts, message_hook
from hub.sandbox.rest import (
    PAGING,
    Form,
    Handler,
    RestError,
    account_uri,
    not_found,
    one_of,
    page,
    route,
    text,
    web_url,
)
from hub.sandbox.rest_calls import on_day
from hub.sandbox.state import API_VERSION, Media, Message
from hub.sandbox.world import is_e164

CREATE_FIELDS = (
    "To",
    "From",
    "MessagingServiceSid",
    "Body",
    "MediaUrl",
    "StatusCallback",
    "ApplicationSid",
    "MaxPrice",
    "ProvideFeedback",
    "Attempt",
    "ValidityPeriod",
    "ForceDelivery",
    "ContentRetention",
    "AddressRetention",
    "SmartEncoded",
    "ShortenUrls",
    "RiskCheck",
)
MEDIA_FIELDS = ("DateCreated", "DateCreated<", "DateCreated>", *PAGING)
LIST_FIELDS = ("To", "From", "DateSent", "DateSent<", "DateSent>", *PAGING)


def message_json(exchange: Exchange, message: Message) -> dict[str, Any]:
    uri = account_uri(exchange, f"/Messages/{message.sid}")
    return {
        "sid": message.sid,
        "account_sid": exchange.world.config.account_sid,
        "api_version": API_VERSION,
        "body": message.body,
        "date_created": rfc2822(message.created_at),
        "date_sent": rfc2822(message.sent_at) if message.sent_at else None,
        "date_updated": rfc2822(message.updated_at),
        "direction": message.direction,
        "error_code": message.error_code,
        "error_message": message.error_message,
        "from": message.from_ or None,
        "messaging_service_sid": message.messaging_service_sid,
        "num_media": str(len(message.media_urls) or len(message.media)),
        "num_segments": str(message.num_segments),
        "price": None,
        "price_unit": "USD",
        "status": message.status,
        "subresource_uris": {"media": f"{uri}/Media.json"},
        "to": message.to,
        "uri": uri + ".json",
    }


def creator(texts: Texts) -> Handler:
    async def create_message(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
        world = exchange.world
        to, from_, service = text(form, "To"), text(form, "From"), text(form, "MessagingServiceSid")
        body, media = text(form, "Body"), [str(value) for value in form.getall("MediaUrl", [])]
        if not to:
            raise RestError(400, 21604, "A 'To' phone number is required.")
        if not is_e164(to):
            raise RestError(400, 21211, f"Invalid 'To' Phone Number: {to}")
        if not from_ and not service:
            raise RestError(400, 21603, "A 'From' phone number is required.")
        if not body and not media:
            raise RestError(400, 21602, "Message body is required.")
        if len(body) > 1600:
            raise RestError(400, 21617, "The concatenated message body exceeds the 1600 character limit")
        if len(media) > 10:
            raise RestError(400, 21623, "Number of media files exceeds allowed limit")
        if not all(url.startswith(("http://", "https://")) for url in media):
            raise RestError(400, 21620, "Invalid media URL(s)")
        if service and service != world.config.messaging_service_sid:
            raise RestError(400, 21705, "The Messaging Service Sid is invalid")
        if from_ and world.number_of(from_) is None:
            raise RestError(400, 21660, f"Mismatch between the 'From' number {from_} and the account")
        if from_ == to:
            raise RestError(400, 21266, "'To' and 'From' number cannot be the same")
        sender = from_ or next(iter(world.numbers.values())).number
        if texts.opted_out(sender, to):
            raise RestError(400, 21610, "Attempt to send to unsubscribed recipient")
        url = web_url(form, "StatusCallback", code=21609)
        app = world.applications.get(text(form, "ApplicationSid"))
        if app is not None and not url:
            url = app.message_status_callback or app.sms_status_callback
        message = texts.send(
            from_=sender, to=to, body=body, media=media, hook=message_hook(url), service_sid=service or None
        )
        return web.json_response(message_json(exchange, message), status=201)

    return create_message


def find_message(exchange: Exchange, request: web.Request) -> Message:
    message = exchange.world.messages.get(request.match_info["message"])
    if message is None:
        raise not_found(request)
    return message


async def fetch_message(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    return web.json_response(message_json(exchange, find_message(exchange, request)))


async def update_message(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    """Cancel before it is sent, or redact the body to nothing."""
    message = find_message(exchange, request)
    if one_of(form, "Status", ("canceled",)):
        if message.status not in ("accepted", "scheduled", "queued"):
            raise RestError(400, 30409, "Message cannot be canceled any more")
        message.status = "canceled"
    if "Body" in form:
        if text(form, "Body"):
            raise RestError(400, 20001, "Body can only be redacted to an empty text")
        message.body = ""
    message.updated_at = exchange.world.clock.now()
    return web.json_response(message_json(exchange, message))


async def delete_message(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    message = find_message(exchange, request)
    del exchange.world.messages[message.sid]
    for media in message.media:
        exchange.world.media.pop(media.sid, None)
    return web.Response(status=204)


async def list_messages(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    to, from_ = text(form, "To"), text(form, "From")
    found = [
        message
        for message in reversed(exchange.world.messages.values())
        if (not to or message.to == to)
        and (not from_ or message.from_ == from_)
        and on_day((message.sent_at or message.created_at).date(), form, "DateSent")
    ]
    return page(exchange, request, "messages", found, message_json)


def media_json(exchange: Exchange, media: Media) -> dict[str, Any]:
    return {
        "sid": media.sid,
        "account_sid": exchange.world.config.account_sid,
        "parent_sid": media.message_sid,
        "content_type": media.content_type,
        "date_created": rfc2822(media.created_at),
        "date_updated": rfc2822(media.created_at),
        "uri": account_uri(exchange, f"/Messages/{media.message_sid}/Media/{media.sid}.json"),
    }


def find_media(exchange: Exchange, request: web.Request) -> Media:
    media = exchange.world.media.get(request.match_info["media"])
    if media is None or media not in find_message(exchange, request).media:
        raise not_found(request)
    return media


async def list_media(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    return page(exchange, request, "media_list", find_message(exchange, request).media, media_json)


async def fetch_media(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    return web.json_response(media_json(exchange, find_media(exchange, request)))


async def media_content(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    """The file itself; without the account's login it is refused like everything else."""
    if exchange.world.faults.strikes("media_500", request.path):
        raise RestError(500, 20500, "An internal server error has occurred")
    media = find_media(exchange, request)
    return web.Response(body=media.content, content_type=media.content_type)


async def delete_media(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    media = find_media(exchange, request)
    find_message(exchange, request).media.remove(media)
    del exchange.world.media[media.sid]
    return web.Response(status=204)


def routes(exchange: Exchange, texts: Texts) -> list[web.AbstractRouteDef]:
    base = "/2010-04-01/Accounts/{account}/Messages"
    under = base + "/{message:(SM|MM)[0-9a-f]{32}}"
    one, file = under + ".json", under + "/Media/{media:ME[0-9a-f]{32}}"
    return [
        web.post(base + ".json", route(exchange, creator(texts), fields=CREATE_FIELDS)),
        web.get(base + ".json", route(exchange, list_messages, fields=LIST_FIELDS)),
        web.get(one, route(exchange, fetch_message)),
        web.post(one, route(exchange, update_message, fields=("Body", "Status"))),
        web.delete(one, route(exchange, delete_message)),
        web.get(under + "/Media.json", route(exchange, list_media, fields=MEDIA_FIELDS)),
        web.get(file + ".json", route(exchange, fetch_media)),
        web.get(file, route(exchange, media_content)),
        web.delete(file + ".json", route(exchange, delete_media)),
    ]
