"""Pages for people outside: the hosted form, and the one page with which anybody leaves our mailings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from campaigns import unsubscribe
from crm_core.accounts import Form
from hub.desktop.templating import html, reader_of, respond
from hub.web import PUBLIC, Route, now_of, remote_of, runtime_of
from webhooks.forms import HONEYPOT, KEY_FIELD, VERSION_FIELD

HEADERS = {"Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex"}


@dataclass(frozen=True, slots=True)
class FormPage:
    """A hosted form: to be filled in, to be corrected, or thanked for."""

    form: Form
    values: Mapping[str, str]
    errors: Mapping[str, str]
    key: str
    done: bool
    sentence: str
    honeypot: str
    key_field: str
    version_field: str


@dataclass(frozen=True, slots=True)
class StopPage:
    """The same for every link, valid or not: nobody learns from it whether an address is known here."""

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
    """The hosted form in the visitor's language; its own labels and texts are as the company wrote them."""
    reader = reader_of(request)
    page = FormPage(
        form=form, values=values, errors={name: reader.tell(told) for name, told in errors.items()}, key=key, done=done,
        sentence=reader.tell(sentence) if sentence else "", honeypot=HONEYPOT, key_field=KEY_FIELD,
        version_field=VERSION_FIELD,
    )  # fmt: skip
    body = html(request, "public/form.html", page, layout="bare.html", frame=None)
    return respond(body, status=status, headers=HEADERS)


async def show_leave(request: web.Request) -> web.StreamResponse:
    """GET /u/{token}: a page with a button. Looks at nothing and changes nothing: mail scanners open every link."""
    body = html(request, "public/stop.html", StopPage(done=False, action=request.path), layout="bare.html", frame=None)
    return respond(body, headers=HEADERS)


async def leave(request: web.Request) -> web.StreamResponse:
    """POST /u/{token}: the button, or a mail program's one click (RFC 8058). The answer is always the same."""
    runtime, now = runtime_of(request), now_of(request)
    delivery_id = unsubscribe.read(runtime.settings.secret_key, request.match_info["token"])
    remote, browser = remote_of(request), request.headers.get("User-Agent", "")[:300]
    if delivery_id is not None:
        await runtime.db.write(
            lambda tx: unsubscribe.unsubscribe(tx, delivery_id, now=now, remote=remote, browser=browser)
        )
    body = html(request, "public/stop.html", StopPage(done=True, action=request.path), layout="bare.html", frame=None)
    return respond(body, headers=HEADERS)


routes = [
    Route("GET", "/u/{token}", show_leave, access=PUBLIC),
    Route("POST", "/u/{token}", leave, access=PUBLIC, body_limit=16 * 1024),
]
