"""Log in and out: server-side sessions, a new id at each log-in, waits after wrong passwords."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from crm_core import audit, users
from crm_core.db import Tx
from hub import access
from hub.desktop.render import render
from hub.middleware import cookie_name, refuse_other_origin, retry_sentence
from hub.passwords import right_password
from hub.sessions import HOME, let_in, safe_next
from hub.web import LOGGED_IN, PUBLIC, Route, now_of, remote_of, runtime_of, session_of


@dataclass(frozen=True, slots=True)
class LoginPage:
    """What the log-in page shows. `demo` lists (login, password, what they are) in the sandbox only."""

    next: str
    login: str
    error: str
    demo: list[tuple[str, str, str]]
    nobody: bool  # has an account yet


async def front(request: web.Request) -> web.StreamResponse:
    """The bare address, as one types it: to one's own first screen, by way of the log-in."""
    raise web.HTTPSeeOther(HOME)


async def show_login(request: web.Request) -> web.StreamResponse:
    """The log-in page."""
    return await _page(request, next_page=request.query.get("next", HOME))


async def _page(
    request: web.Request, *, next_page: str, login: str = "", error: str = "", status: int = 200
) -> web.StreamResponse:
    from hub.demo import demo_logins

    runtime = runtime_of(request)
    async with runtime.db.reading() as tx:
        nobody = not await users.list_all(tx, limit=1)
    page = LoginPage(
        next=safe_next(next_page), login=login, error=error, demo=demo_logins(runtime.settings), nobody=nobody
    )
    return await render(request, "login.html", page, status=status)


async def log_in(request: web.Request) -> web.StreamResponse:
    """Check the password and open a session. The answer to a wrong login and a wrong password is the same."""
    refuse_other_origin(request)
    form = await request.post()
    login, password = str(form.get("login", ""))[:200].strip().casefold(), str(form.get("password", ""))
    next_page, now, runtime = str(form.get("next", HOME)), now_of(request), runtime_of(request)
    # The address counts wrong logins too, so that one machine cannot try one password on every login.
    subjects = [f"login:{login}", f"address:{remote_of(request)}"]
    async with runtime.db.reading() as tx:
        blocked = await users.login_blocked_until(tx, subjects, now=now)
        found = await users.find_login(tx, login)
    if blocked is not None:
        wait = retry_sentence(blocked, now)
        return await _page(request, next_page=next_page, login=login, error=wait, status=429)
    right = await right_password(found.password_hash if found else "", password)
    if not right or found is None or found.disabled_at is not None:
        await runtime.db.write(lambda tx: users.note_login_failure(tx, subjects, now=now))
        error = "The login or the password is wrong."
        return await _page(request, next_page=next_page, login=login, error=error, status=422)
    if found.totp_sealed is not None:
        return await access.ask_code(request, found, next_page=safe_next(next_page))
    if access.must_have_factor(runtime.settings, found):
        return await access.ask_setup(request, found, next_page=safe_next(next_page))
    return await let_in(request, found, subjects, next_page=next_page)


async def log_out(request: web.Request) -> web.StreamResponse:
    """End the session here and now."""
    runtime, session, now = runtime_of(request), session_of(request), now_of(request)
    if session is not None:
        ended = session

        async def close(tx: Tx) -> None:
            await users.close_session(tx, ended.id)
            await audit.record(
                tx, actor=ended.user_id, action="session.closed", subject=f"user:{ended.user_id}", now=now
            )

        await runtime.db.write(close)
    answer = web.Response(status=303, headers={"Location": "/login"})
    answer.del_cookie(cookie_name(runtime), path="/")
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


routes = [
    Route("GET", "/", front, access=PUBLIC),
    Route("GET", "/login", show_login, access=PUBLIC),
    Route("POST", "/login", log_in, access=PUBLIC, body_limit=16 * 1024),
    Route("POST", "/logout", log_out, access=LOGGED_IN),
    *access.routes,
]
