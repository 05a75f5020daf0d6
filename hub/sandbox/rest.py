"""Twilio's REST conventions: basic auth, form bodies, JSON answers, paging, errors; and the routes of each resource.

Unknown form fields are refused with 400 (code 20001) and recorded in `twin_faults`: the provider ignores them, which
would hide a misspelt option for ever.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from multidict import MultiDictProxy

from hub.sandbox.machine import Exchange
from hub.sandbox.state import API_VERSION

Form = MultiDictProxy[str]
Handler = Callable[[Exchange, web.Request, Form], Awaitable[web.StreamResponse]]


class RestError(Exception):
    """An error answer: HTTP status, Twilio code, message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def not_found(request: web.Request) -> RestError:
    return RestError(404, 20404, f"The requested resource {request.path} was not found")


def error_response(error: RestError) -> web.Response:
    body = {
        "code": error.code,
        "message": str(error),
        "more_info": f"https://www.twilio.com/docs/errors/{error.code}",
        "status": error.status,
    }
    headers = {"Retry-After": "1"} if error.status == 429 else {}
    return web.json_response(body, status=error.status, headers=headers)


def account_uri(exchange: Exchange, path: str) -> str:
    return f"/{API_VERSION}/Accounts/{exchange.world.config.account_sid}{path}"


def route(exchange: Exchange, handler: Handler, *, fields: Iterable[str] = ()) -> Any:
    """An aiohttp handler: checks who asks and what, arms the faults, turns errors into Twilio's JSON."""
    known = frozenset(fields)

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            _authorize(exchange, request)
            form = await request.post() if request.method == "POST" else request.query
            if request.method != "GET":
                _strike(exchange, request)
            if unknown := sorted(set(form) - known):
                message = f"unknown parameter for {request.method} {request.path}: {', '.join(unknown)}"
                exchange.world.fault(20001, message, where=request.path)
                raise RestError(400, 20001, message)
            if any(not isinstance(value, str) for value in form.values()):
                raise RestError(400, 20001, "file uploads are not part of this API")
            response = await handler(exchange, request, form)  # type: ignore[arg-type]
        except RestError as error:
            return error_response(error)
        if request.method != "GET" and exchange.world.faults.strikes("rest_500_after", request.path):
            return error_response(RestError(500, 20500, "An internal server error has occurred"))
        return response

    return handle


def _strike(exchange: Exchange, request: web.Request) -> None:
    faults = exchange.world.faults
    if faults.strikes("rest_429", request.path):
        raise RestError(429, 20429, "Too Many Requests")
    if faults.strikes("rest_500", request.path):
        raise RestError(500, 20500, "An internal server error has occurred")


def _authorize(exchange: Exchange, request: web.Request) -> None:
    config = exchange.world.config
    scheme, _, packed = request.headers.get("Authorization", "").partition(" ")
    user = secret = ""
    if scheme.lower() == "basic":
        try:
            user, _, secret = base64.b64decode(packed, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = ""
    pairs = {config.account_sid: config.auth_token, config.api_key_sid: config.api_key_secret}
    if user not in pairs or not hmac.compare_digest(pairs[user], secret):
        raise RestError(401, 20003, "Authenticate")
    if request.match_info.get("account") != config.account_sid:
        raise not_found(request)


def page(
    exchange: Exchange,
    request: web.Request,
    key: str,
    items: list[Any],
    shape: Callable[[Exchange, Any], dict[str, Any]],
) -> web.Response:
    """One page of a list, newest first as given, with the paging fields of the 2010 API."""
    try:
        size = min(1000, max(1, int(request.query.get("PageSize", "50"))))
        number = max(0, int(request.query.get("Page", "0")))
    except ValueError as exc:
        raise RestError(400, 20001, "PageSize and Page must be numbers") from exc
    start = number * size
    cut = items[start : start + size]
    plain = [(name, value) for name, value in request.query.items() if name not in ("Page", "PageSize", "PageToken")]

    def uri(page_number: int, token: str = "") -> str:
        query = [*plain, ("PageSize", str(size)), ("Page", str(page_number))]
        if token:
            query.append(("PageToken", token))
        return f"{request.path}?{urlencode(query)}"

    more = start + size < len(items)
    return web.json_response(
        {
            key: [shape(exchange, item) for item in cut],
            "first_page_uri": uri(0),
            "end": start + len(cut) - 1 if cut else 0,
            "next_page_uri": uri(number + 1, "PA" + cut[-1].sid if hasattr(cut[-1], "sid") else "PA") if more else None,
            "previous_page_uri": uri(number - 1) if number else None,
            "page": number,
            "page_size": size,
            "start": start if cut else 0,
            "uri": uri(number),
        }
    )


PAGING = ("PageSize", "Page", "PageToken")


def text(form: Form, name: str) -> str:
    return str(form.get(name, ""))


def truth(form: Form, name: str, *, default: bool) -> bool:
    """A flag field; anything but true counts as false, as documented for Muted."""
    value = form.get(name)
    return default if value is None else value.lower() == "true"


def whole(form: Form, name: str, default: int, least: int, most: int) -> int:
    raw = form.get(name)
    if raw is None or raw == "":
        return default
    try:
        value = int(raw)
    except ValueError as exc:
        raise RestError(400, 20001, f"{name} must be a whole number") from exc
    if not least <= value <= most:
        raise RestError(400, 20001, f"{name} must be between {least} and {most}")
    return value


def one_of(form: Form, name: str, choices: Iterable[str], *, default: str = "") -> str:
    value = form.get(name, default)
    allowed = set(choices)
    if value and value not in allowed:
        raise RestError(400, 20001, f"{name} must be one of {', '.join(sorted(allowed))}")
    return value


def web_url(form: Form, name: str, *, code: int = 21205) -> str:
    """A URL field; "" when absent. Raises 21205 (or the given code) when it is not an http URL."""
    value = text(form, name)
    if value and not value.startswith(("http://", "https://")):
        raise RestError(400, code, f"{name} is not a valid URL: {value}")
    return value
