"""Pages for people outside: the hosted form, and the one page with which anybody leaves our mailings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from aiohttp import web

from campaigns import unsubscribe
from channels import webform
from crm_core.accounts import Form
from hub.desktop.assets import serve_file
from hub.desktop.templating import html, reader_of, respond
from hub.i18n import Reader
from hub.web import PUBLIC, Route, now_of, remote_of, runtime_of
from routing import call_forms
from routing.hours import Hours
from webhooks.forms import HONEYPOT, KEY_FIELD, VERSION_FIELD, WORK_FIELD

FILES_MB = (webform.MAX_MULTIPART >> 20) - 1  # the rest is for what is typed
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
    work_field: str
    work: int
    slots: Sequence[tuple[str, str]]
    theme: str
    query: str  # what the address said about language and theme, to be kept
    most_mb: int  # of all its files together


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
    slots: Sequence[tuple[str, str]] = (),
    work: int = 0,
) -> web.StreamResponse:
    """The hosted form in the visitor's language; its own labels and texts are as the company wrote them."""
    reader = reader_of(request)
    page = FormPage(
        form=form, values=values, errors={name: reader.tell(told) for name, told in errors.items()}, key=key, done=done,
        sentence=reader.tell(sentence) if sentence else "", honeypot=HONEYPOT, key_field=KEY_FIELD,
        version_field=VERSION_FIELD, work_field=WORK_FIELD, work=work, slots=slots, theme=_theme(request),
        query=_kept_query(request), most_mb=FILES_MB,
    )  # fmt: skip
    body = html(request, "public/form.html", page, layout="bare.html", frame=None)
    return respond(body, status=status, headers=HEADERS)


def _theme(request: web.Request) -> str:
    """Light or dark where the page around the frame asks for it; else as the visitor's system is."""
    asked = request.query.get("theme", "")
    return asked if asked in ("light", "dark") else ""


def _kept_query(request: web.Request) -> str:
    kept = {name: request.query[name][:10] for name in ("lang", "theme") if request.query.get(name)}
    return f"?{urlencode(kept)}" if kept else ""


def form_words(request: web.Request) -> Mapping[str, str]:
    """What a script that builds the form says beside the company's own words."""
    _ = reader_of(request).gettext
    return {
        "send": _("Send"), "sending": _("Sending…"), "soon": _("As soon as possible"), "choose": _("Please choose"),
        "close": _("Close"), "call": _("Call me back"),
        "thanks": _("Thank you. We have received this and will be in touch."),
        "failed": _("This could not be sent. Please try again."),
    }  # fmt: skip


def slot_words(request: web.Request, opening: Hours | None, now: datetime) -> list[tuple[str, str]]:
    """The hours that may be chosen, as value and words: in the time of the place where the phone is answered."""
    reader, zone = reader_of(request), call_forms.zone_of(opening)
    local = Reader(reader.locale, zone.key, now)
    return [(value, local.slot(at)) for value, at in call_forms.offered(opening, now)]


async def serve_embed(request: web.Request) -> web.StreamResponse:
    """GET /embed/form.js: the script for other sites. Under one address for ever, so it is asked for anew now and then."""
    answer = await serve_file("embed.js", request)
    answer.headers["Cache-Control"] = "public, max-age=300"
    answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    answer.headers["Access-Control-Allow-Origin"] = "*"
    return answer


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
    Route("GET", "/embed/form.js", serve_embed, access=PUBLIC),
    Route("GET", "/u/{token}", show_leave, access=PUBLIC),
    Route("POST", "/u/{token}", leave, access=PUBLIC, body_limit=16 * 1024),
]
