"""The telephone on which an agent takes calls instead of the browser: a part of their profile."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from crm_core.errors import HubError
from hub.desktop.templating import part, told
from hub.desktop.work import WORKERS
from hub.web import Route, now_of, runtime_of, user_of
from routing import agent_phones


@dataclass(frozen=True, slots=True)
class OwnPhone:
    """The number, or empty: the browser."""

    number: str
    error: str
    saved: bool


async def show(request: web.Request) -> web.StreamResponse:
    """Where I take calls."""
    user = user_of(request)
    async with runtime_of(request).db.reading() as tx:
        number = await agent_phones.number_of(tx, user.id)
    return part(request, "parts/own_phone.html", OwnPhone(number, "", saved=False))


async def save(request: web.Request) -> web.StreamResponse:
    """From the next call on."""
    typed = str((await request.post()).get("number", ""))[:40]
    user, now = user_of(request), now_of(request)
    try:
        number = await runtime_of(request).db.write(
            lambda tx: agent_phones.set_number(tx, user.id, typed, actor=user.id, now=now)
        )
    except HubError as error:
        return part(request, "parts/own_phone.html", OwnPhone(typed, told(request, error), saved=False))
    return part(request, "parts/own_phone.html", OwnPhone(number, "", saved=True))


routes = [
    Route("GET", "/desk/profile/telephone", show, roles=WORKERS),
    Route("POST", "/desk/profile/telephone", save, roles=WORKERS),
]
