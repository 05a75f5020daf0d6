"""The pattern page: every component once, so that a change of the design is seen in one place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from aiohttp import web

from hub.desktop.render import render
from hub.web import STAFF, Route, now_of


@dataclass(frozen=True, slots=True)
class PatternsPage:
    """Values to show the components with."""

    now: datetime
    later: datetime
    channels: tuple[str, ...]
    colours: tuple[str, ...]


async def show(request: web.Request) -> web.StreamResponse:
    """The page."""
    now = now_of(request)
    page = PatternsPage(
        now - timedelta(seconds=75), now + timedelta(seconds=20), ("voice", "sms", "email", "webform", "callback", "lead"),
        ("green", "azure", "yellow", "orange", "red", "purple", "teal", "secondary"),
    )  # fmt: skip
    return await render(request, "patterns.html", page)


routes = [Route("GET", "/desk/patterns", show, roles=STAFF)]
