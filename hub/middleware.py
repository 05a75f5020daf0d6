"""The one place where errors become HTTP, and where a request is checked against what its route states.

Decides status codes, who is asking, CSRF, security headers and the access line in the log.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from crm_core import users
from crm_core.db import DatabaseUnavailable
from crm_core.errors import HubError, NotAllowed, NotFound
from crm_core.texts import Text
from crm_core.users import Role, User
from hub.keys import RUNTIME, SCOPES, SESSION, USER
from hub.log import get_logger
from hub.problems import NotLoggedIn, problem, status_of
from hub.runtime import Runtime
from hub.web import LOGGED_IN, PUBLIC, SIGNED, Handler, Route, roles_of

log = get_logger(__name__)

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
SESSION_LIFETIME = timedelta(hours=12)
SESSION_KEEP = timedelta(minutes=1)


def cookie_name(runtime: Runtime) -> str:
    """The session cookie; behind https it is bound to the host."""
    return "__Host-hub" if runtime.settings.public_url.startswith("https://") else "hub"


def guarded(route: Route) -> Handler:
    """`route`'s handler behind its statement of who may use it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if route.access in (PUBLIC, SIGNED):
            return await route.handler(request)
        await _who(request)
        user = request[USER]
        if route.access != LOGGED_IN and not (roles_of(user) & set(route.roles)):
            raise NotAllowed("Your role may not do this.")
        scopes = request.get(SCOPES)
        if scopes is not None:
            if not route.scope:
                raise NotAllowed("A token may not do this; it takes a person who has logged in.")
            if route.scope not in scopes:
                raise NotAllowed("This token lacks the scope %(scope)s.", scope=route.scope)
        elif request.method not in SAFE:
            await _same_site(request)
        return await route.handler(request)

    return handle


async def _who(request: web.Request) -> None:
    runtime = request.app[RUNTIME]
    now = runtime.clock.now()
    header = request.headers.get("Authorization", "")
    if header:
        kind, _, secret = header.partition(" ")
        if kind.lower() == "bearer":
            async with runtime.db.reading(snapshot=False) as tx:
                found = await users.find_token(tx, secret.strip(), now=now)
            if found is not None:
                request[USER], request[SCOPES] = found[1], frozenset(found[0].scopes)
                return
        raise NotLoggedIn("This token is not valid.")
    secret = request.cookies.get(cookie_name(runtime), "")
    if secret:
        async with runtime.db.reading(snapshot=False) as tx:
            known = await users.find_session(tx, secret, now=now)
        if known is not None:
            session, request[USER] = known
            request[SESSION] = session
            if now - session.seen_at > SESSION_KEEP:
                await runtime.db.write(
                    lambda tx: users.keep_session(tx, session.id, now=now, lifetime=SESSION_LIFETIME)
                )
            return
    raise NotLoggedIn


async def _same_site(request: web.Request) -> None:
    """A changing request of a browser session comes from our own page and carries the session's token."""
    refuse_other_origin(request)
    given = request.headers.get("X-CSRF", "")
    if not given and request.content_type in ("application/x-www-form-urlencoded", "multipart/form-data"):
        given = str((await request.post()).get("_csrf", ""))
    if not hmac.compare_digest(given.encode(), request[SESSION].csrf.encode()):
        raise NotAllowed("This page is out of date; load it again and repeat what you did.")


def refuse_other_origin(request: web.Request) -> None:
    """NotAllowed when a browser says that another site sent this."""
    origin = request.headers.get("Origin")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise NotAllowed("This request came from another site.")
    if origin and origin != "null" and urlsplit(origin).netloc != request.host:
        raise NotAllowed("This request came from another site.")


def wants_json(request: web.Request) -> bool:
    """True for the API and for scripts that say so."""
    return request.path.startswith("/api/") or "json" in request.headers.get("Accept", "")


@web.middleware
async def errors_become_http(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Domain errors answered in the asker's form; programming errors as 500 with a reference, logged with their trace."""
    started = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
        return response
    except web.HTTPException as answer:
        status = answer.status
        if status < 400 or request.path.startswith("/webhooks/"):
            raise
        answered = await _tell(request, status, _worded(answer))
        for name in ("Allow", "Retry-After"):
            if name in answer.headers:
                answered.headers[name] = answer.headers[name]
        return answered
    except DatabaseUnavailable as error:
        status = 503
        log.error("database unavailable", route=_route(request), reason=str(error))
        return await _tell(
            request, 503, HubError("The hub cannot reach its data just now. Nothing was lost; try again.")
        )
    except HubError as error:
        status = status_of(error)
        return await _tell(request, status, error)
    except (ConnectionResetError, ConnectionAbortedError):
        raise
    except Exception as error:
        log.exception("request failed", route=_route(request), error=type(error).__name__)
        return await _tell(request, 500, HubError("Something went wrong in the hub. It was noted; try again."))
    finally:
        spent = time.perf_counter() - started
        request.app[RUNTIME].metrics.answered(_route(request), request.method, status, spent)
        if status >= 400 and status not in (401, 404):
            user: User | None = request.get(USER)
            log.info(
                "answered", route=_route(request), method=request.method, status=status, user=user.id if user else ""
            )


def _worded(answer: web.HTTPException) -> HubError:
    if answer.status == 404:
        return NotFound("There is no such page.")
    if answer.status == 405:
        return HubError("This address does not take that method.")
    if answer.status == 413:
        return HubError("What was sent is too large.")
    return HubError(answer.text or answer.reason)


async def _tell(request: web.Request, status: int, error: HubError) -> web.StreamResponse:
    if wants_json(request):
        return problem(request, error, status=status)
    if status == 401:
        if request.headers.get("HX-Request"):  # a part was asked for; the way back is to the page around it
            return web.Response(status=401, headers={"HX-Redirect": _log_in(request.headers.get("HX-Current-URL", ""))})
        page = request.rel_url.raw_path_qs if request.method in SAFE else ""
        return web.Response(status=303, headers={"Location": _log_in(page)})
    from hub.desktop.errors import error_page  # here, because pages need the routes' types from this file's siblings

    return await error_page(request, status, error)


def _log_in(page: str) -> str:
    """The log-in, which leads on to this page."""
    parts = urlsplit(page)
    back = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return f"/login?{urlencode({'next': back})}" if back else "/login"


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


def policy(runtime: Runtime) -> str:
    """The Content-Security-Policy of every page: nothing inline, nothing foreign but the phone line."""
    connect = ["'self'", "wss://*.twilio.com", "https://*.twilio.com"]
    twilio = runtime.settings.twilio
    if runtime.settings.sandbox and twilio is not None and twilio.api_base:
        connect = ["'self'", twilio.api_base.replace("http", "ws", 1), twilio.api_base]
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
        f"connect-src {' '.join(connect)}; media-src 'self' blob: data:; frame-src 'self'; worker-src 'self' blob:; "
        "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


def security_headers(runtime: Runtime) -> tuple[tuple[str, str], ...]:
    """What every answer of this process carries, unless its view said otherwise."""
    https = runtime.settings.public_url.startswith("https://")
    return (
        ("Content-Security-Policy", policy(runtime)),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Permissions-Policy", "microphone=(self), camera=(), geolocation=()"),
        *((("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),) if https else ()),
    )


def add_security_headers(runtime: Runtime) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Puts them on every answer; they are written once, when the process starts."""
    always = security_headers(runtime)

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        for name, value in always:
            headers.setdefault(name, value)
        if response.content_type == "text/html":
            headers.setdefault("Cache-Control", "no-store")

    return add


def retry_sentence(until: datetime, now: datetime) -> Text:
    """How long to wait, in words."""
    seconds = max(1, round((until - now).total_seconds()))
    return Text("Too many wrong passwords. Try again in %(seconds)s seconds.", seconds=seconds)


def may(user: User, *roles: Role) -> bool:
    """True when the user holds one of these roles."""
    return bool(roles_of(user) & set(roles))
