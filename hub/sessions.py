"""Opening a browser session: a new id at each log-in, and only to pages of ours."""

from __future__ import annotations

from aiohttp import web

from crm_core import users
from crm_core.db import Tx
from crm_core.ids import new_secret
from crm_core.users import User
from hub.middleware import SESSION_LIFETIME, cookie_name
from hub.web import now_of, remote_of, runtime_of

HOME = "/desk"


def safe_next(target: str) -> str:
    """Only a path of ours; anything else becomes the home page. Browsers drop tabs and line ends, so those are none of ours."""
    odd = any(letter < " " or letter == "\x7f" or letter == "\\" for letter in target)
    return target if target.startswith("/") and not target.startswith("//") and not odd else HOME


async def let_in(request: web.Request, user: User, subjects: list[str], *, next_page: str) -> web.StreamResponse:
    """Open a session under a new id, whatever the browser held before, and go on to the page that was wanted."""
    runtime, now, secret = runtime_of(request), now_of(request), new_secret()

    async def open_session(tx: Tx) -> None:
        await users.forget_login_failures(tx, subjects)
        old = request.cookies.get(cookie_name(runtime), "")
        if old:
            await users.close_session(tx, users.hashed(old))
        await users.open_session(
            tx,
            user,
            secret=secret,
            now=now,
            address=remote_of(request),
            browser=request.headers.get("User-Agent", ""),
            lifetime=SESSION_LIFETIME,
        )

    await runtime.db.write(open_session)
    answer = web.Response(status=303, headers={"Location": safe_next(next_page)})
    answer.set_cookie(
        cookie_name(runtime),
        secret,
        httponly=True,
        secure=runtime.settings.public_url.startswith("https://"),
        samesite="Lax",
        path="/",
        max_age=int(SESSION_LIFETIME.total_seconds()),
    )
    return answer
