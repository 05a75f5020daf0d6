"""The user's own settings: language, time zone, light or dark."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import available_timezones

from aiohttp import web

from crm_core import signatures, users
from crm_core.db import Tx
from crm_core.users import User
from hub.desktop import second_factor, sessions
from hub.desktop.render import render, takes_work
from hub.i18n import LOCALES
from hub.keys import USER
from hub.web import LOGGED_IN, Route, now_of, runtime_of, user_of

THEMES = ("auto", "light", "dark")


@dataclass(frozen=True, slots=True)
class ProfilePage:
    """The form."""

    user: User
    locales: dict[str, str]
    zones: list[str]
    saved: bool
    error: str
    now: datetime
    signature: str
    works: bool  # answers or makes calls, so a telephone may be given


async def show(request: web.Request) -> web.StreamResponse:
    """The form."""
    return await _page(request)


async def _page(request: web.Request, *, saved: bool = False, error: str = "", status: int = 200) -> web.Response:
    user = user_of(request)
    async with runtime_of(request).db.reading() as tx:
        signature = await signatures.find(tx, user.id)
    page = ProfilePage(
        user, LOCALES, sorted(available_timezones()), saved, error, now_of(request), signature, takes_work(user)
    )
    return await render(request, "profile.html", page, status=status)


async def save(request: web.Request) -> web.StreamResponse:
    """Store what was chosen; the whole page comes anew, in the language chosen."""
    form = await request.post()
    user, now = user_of(request), now_of(request)
    locale, zone, theme = (str(form.get(name, "")) for name in ("locale", "zone", "theme"))
    if locale not in LOCALES or zone not in available_timezones() or theme not in THEMES:
        return await _page(request, error="Choose one of the values offered.", status=422)

    async def unit(tx: Tx) -> None:
        await users.change(tx, user, actor=user.id, now=now, locale=locale, zone=zone, theme=theme)
        if "signature" in form:
            await signatures.keep(tx, user.id, str(form["signature"]), now=now)

    await runtime_of(request).db.write(unit)
    async with runtime_of(request).db.reading() as tx:
        request[USER] = await users.get(tx, user.id)
    if request.headers.get("HX-Request"):
        return web.Response(headers={"HX-Redirect": "/desk/profile"})
    return await _page(request, saved=True)


routes = [
    Route("GET", "/desk/profile", show, access=LOGGED_IN),
    Route("POST", "/desk/profile", save, access=LOGGED_IN),
    *second_factor.routes,
    *sessions.routes,
]
