"""Templates: one environment per language, one typed context per template.

Decides how a context becomes HTML and how values are written in it. Knows nothing of what any page shows; the frame around
a page is `render`'s.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from crm_core.addresses import shown
from crm_core.errors import HubError
from hub.desktop import sent_once
from hub.desktop.assets import asset, icon
from hub.i18n import Reader, clock, negotiate, translations
from hub.keys import USER
from hub.web import now_of, roles_of, session_of

TEMPLATES = Path(__file__).parent / "templates"
_READER: ContextVar[Reader] = ContextVar("reader")


def _filters() -> dict[str, Any]:
    def reader() -> Reader:
        return _READER.get()

    return {
        "time": lambda instant: reader().time(instant),
        "moment": lambda instant: reader().moment(instant),
        "full": lambda instant: reader().full(instant),
        "day": lambda instant: reader().day(instant),
        "ago": lambda instant: reader().ago(instant),
        "number": lambda value: reader().number(value),
        "percent": lambda value: reader().percent(value),
        "phone": lambda value: shown(value) if str(value).startswith("+") else value,
        "clock": clock,
        "since": lambda instant: clock((reader().now - instant).total_seconds()),
        "until": lambda instant: clock((instant - reader().now).total_seconds()),
        "iso": lambda instant: instant.isoformat(timespec="milliseconds"),
        "initials": initials,
        "localday": lambda instant: reader().local(instant).date().isoformat(),
        "language": lambda tag: reader().language(tag),
        "tell": lambda sentence: sentence if isinstance(sentence, Markup) else reader().tell(sentence),
    }


@lru_cache(maxsize=8)
def environment(locale: str) -> Environment:
    """The environment of a language: templates compiled once, with its texts."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n", "jinja2.ext.do"],
    )
    env.policies["ext.i18n.trimmed"] = True
    env.install_gettext_translations(translations(locale), newstyle=True)  # type: ignore[attr-defined]
    env.filters.update(_filters())
    env.globals.update(asset=asset, icon=icon, reader=_READER.get, once_key=sent_once.key_of)
    return env


def initials(name: str) -> str:
    """One or two letters for an avatar."""
    words = [word for word in name.replace("+", " ").split() if word[:1].isalnum()]
    return "".join(word[0] for word in (words[:1] + words[-1:] if len(words) > 1 else words)).upper() or "?"


def reader_of(request: web.Request) -> Reader:
    """Who reads what this request is answered with."""
    user = request.get(USER)
    wanted = request.query.get("lang", "") or (user.locale if user else "")
    locale = negotiate(wanted, request.headers.get("Accept-Language", ""))
    return Reader(locale, user.zone if user else "UTC", now_of(request))


def told(request: web.Request, error: HubError) -> str:
    """An error's sentence in the reader's language."""
    return reader_of(request).tell(error.message)


def html(request: web.Request, template: str, context: object, **extra: Any) -> str:
    """The template filled with the context's fields."""
    if not is_dataclass(context):
        raise TypeError(f"{template}: give a dataclass, not {type(context).__name__}")
    reader = reader_of(request)
    values = {field.name: getattr(context, field.name) for field in fields(context)}
    session = session_of(request)
    user = request.get(USER)
    my_roles = frozenset(str(role) for role in roles_of(user)) if user is not None else frozenset()
    around = {"lang": reader.tag, "csrf": session.csrf if session else "", "path": request.path, "my_roles": my_roles}
    token = _READER.set(reader)
    try:
        return environment(reader.locale).get_template(template).render(**values, **extra, **around)
    finally:
        _READER.reset(token)


def respond(body: str, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An HTML answer that nobody keeps: what it shows belongs to one person and one instant."""
    merged = {"Cache-Control": "no-store", "Vary": "HX-Request, HX-Target", **(headers or {})}
    return web.Response(text=body, content_type="text/html", status=status, headers=merged)


def part(
    request: web.Request, template: str, context: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """A part of a page, for htmx."""
    return respond(html(request, template, context), status=status, headers=headers)


def wants_part(request: web.Request) -> bool:
    """True when htmx asks for what stands in #page."""
    return (
        request.headers.get("HX-Request") == "true"
        and request.headers.get("HX-Target", "") == "main#page"
        and "HX-History-Restore-Request" not in request.headers
    )


def seconds_since(request: web.Request, instant: datetime) -> int:
    """Whole seconds that have passed."""
    return int((now_of(request) - instant).total_seconds())
