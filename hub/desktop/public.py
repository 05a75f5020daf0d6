"""Pages for people outside the house: the hosted web form, and stopping a campaign's messages. GET never changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from campaigns import unsubscribe
from crm_core.accounts import Form
from hub.desktop.render import render
from hub.web import SIGNED, Route, now_of, remote_of, runtime_of
from webhooks.forms import HONEYPOT, KEY_FIELD

CONSENT_FIELD = "consent"


@dataclass(frozen=True, slots=True)
class FormPage:
    """A hosted form: to fill in, to correct, or done."""

    form: Form
    values: Mapping[str, str]
    errors: Mapping[str, str]
    key: str
    done: bool
    sentence: str
    honeypot: str
    key_field: str
    consent_field: str


@dataclass(frozen=True, slots=True)
class StopPage:
    """The same page for every token, so that it tells nothing about anybody."""

    done: bool
    action: str


async def form_page(
    request: web.Request,
    form: Form,
    *,
    values: Mapping[str, str],
    errors: Mapping[str, str],
    key: str,
    done: bool,
    sentence: str,
    status: int,
) -> web.StreamResponse:
    """Show a hosted form."""
    page = FormPage(form, values, errors, key, done, sentence, HONEYPOT, KEY_FIELD, CONSENT_FIELD)
    return await render(request, "public/form.html", page, status=status)


async def show_stop(request: web.Request) -> web.StreamResponse:
    """Ask; the button does it. Mail scanners follow links, so a GET must not."""
    return await render(request, "public/stop.html", StopPage(done=False, action=request.path))


async def stop(request: web.Request) -> web.StreamResponse:
    """Stop at once (RFC 8058 one-click too); the same answer for a known, an unknown and a used token."""
    runtime, now = runtime_of(request), now_of(request)
    delivery_id = unsubscribe.read(runtime.settings.secret_key, request.match_info["token"])
    browser = request.headers.get("User-Agent", "")

    async def unit(tx: Any) -> None:
        await unsubscribe.unsubscribe(tx, delivery_id, now=now, remote=remote_of(request), browser=browser)

    await runtime.db.write(unit)
    return await render(request, "public/stop.html", StopPage(done=True, action=request.path))


routes = [
    Route("GET", "/u/{token}", show_stop, access=SIGNED),
    Route("POST", "/u/{token}", stop, access=SIGNED, body_limit=4096),
]
