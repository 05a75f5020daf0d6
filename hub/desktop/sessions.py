"""Where a user is logged in: their own sessions, each ended alone or all others at once; an administrator ends somebody's."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from crm_core import users
from crm_core.db import Tx
from crm_core.users import Session
from hub.desktop.render import render
from hub.web import ADMINS, LOGGED_IN, Route, now_of, runtime_of, session_of, user_of


@dataclass(frozen=True, slots=True)
class SessionsPage:
    """`own` is the session that asks. Ids of sessions are hashes: they open nothing."""

    rows: list[tuple[Session, str]]  # with the browser in short
    own: str
    ended: int


# Each names itself before those that it wants to be taken for.
BROWSERS = (("Edg", "Edge"), ("OPR", "Opera"), ("Firefox", "Firefox"), ("Chrome", "Chrome"), ("Safari", "Safari"))
SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS", "Mac"),
    ("Linux", "Linux"),
)


def short(agent: str) -> str:
    """`Firefox, Windows`: a browser's own description as people would say it; empty for what is no browser we know."""
    parts = [next((name for mark, name in known if mark in agent), "") for known in (BROWSERS, SYSTEMS)]
    return ", ".join(filter(None, parts))


async def show(request: web.Request) -> web.StreamResponse:
    """GET /desk/profile/sessions."""
    return await _page(request)


async def _page(request: web.Request, *, ended: int = 0) -> web.Response:
    session = session_of(request)
    async with runtime_of(request).db.reading() as tx:
        rows = await users.list_sessions(tx, user_of(request).id, now=now_of(request))
    page = SessionsPage([(row, short(row.browser)) for row in rows], session.id if session is not None else "", ended)
    return await render(request, "sessions.html", page)


async def end(request: web.Request) -> web.StreamResponse:
    """POST /desk/profile/sessions: end one by its id, or all but this one."""
    session_id, user, session = (
        str((await request.post()).get("session", ""))[:64],
        user_of(request),
        session_of(request),
    )
    own = session.id if session is not None else ""
    ended = await runtime_of(request).db.write(
        lambda tx: users.close_sessions(tx, user.id, actor=user.id, now=now_of(request), session_id=session_id, but=own)
    )
    return await _page(request, ended=ended)


async def end_somebodys(request: web.Request) -> web.StreamResponse:
    """POST /desk/admin/users/{user}/sessions: an administrator logs a user out everywhere."""
    user_id, actor, now = request.match_info["user"], user_of(request), now_of(request)

    async def unit(tx: Tx) -> None:
        await users.get(tx, user_id)
        await users.close_sessions(tx, user_id, actor=actor.id, now=now)

    await runtime_of(request).db.write(unit)
    raise web.HTTPSeeOther(f"/desk/admin/users/{user_id}")


routes = [
    Route("GET", "/desk/profile/sessions", show, access=LOGGED_IN),
    Route("POST", "/desk/profile/sessions", end, access=LOGGED_IN),
    Route("POST", "/desk/admin/users/{user:[0-9a-z]{26}}/sessions", end_somebodys, roles=ADMINS),
]
