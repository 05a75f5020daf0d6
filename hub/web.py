"""Routes that state who may use them. Deny by default: a route without a statement cannot be written.

`Route(..., access=PUBLIC)` for everybody, `access=SIGNED` for requests that prove themselves (webhooks, signed links),
`access=LOGGED_IN` for every user, `roles={…}` for some, and with `scope=…` for API tokens that hold it as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address

from aiohttp import web

from crm_core.users import Role, Session, User
from hub.keys import RUNTIME, SCOPES, SESSION, USER
from hub.runtime import Runtime

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PUBLIC = "public"
SIGNED = "signed"
LOGGED_IN = "logged_in"
ROLES = "roles"

EVERYBODY = frozenset(Role)
STAFF = frozenset(Role) - {Role.PARTNER}
SUPERVISORS = frozenset({Role.SUPERVISOR, Role.ADMIN})
ADMINS = frozenset({Role.ADMIN})


@dataclass(frozen=True, slots=True)
class Route:
    """One route and who may use it. `body_limit` in bytes."""

    method: str
    path: str
    handler: Handler
    access: str = ROLES
    roles: frozenset[Role] | set[Role] = field(default_factory=frozenset)
    scope: str = ""  # API: the token must hold it; a browser session of the right role may too
    body_limit: int = 1024 * 1024

    def __post_init__(self) -> None:
        if self.access not in (PUBLIC, SIGNED, LOGGED_IN, ROLES):
            raise ValueError(f"{self.method} {self.path}: unknown access {self.access!r}")
        if (self.access == ROLES) != bool(self.roles):
            raise ValueError(f"{self.method} {self.path}: say who may use it")


def runtime_of(request: web.Request) -> Runtime:
    """The process's runtime."""
    return request.app[RUNTIME]


def now_of(request: web.Request) -> datetime:
    """The instant, by the runtime's clock."""
    return request.app[RUNTIME].clock.now()


def user_of(request: web.Request) -> User:
    """Who is asking. Only on routes that need a user."""
    return request[USER]


def session_of(request: web.Request) -> Session | None:
    """The browser session; None for API tokens."""
    return request.get(SESSION)


def scopes_of(request: web.Request) -> frozenset[str] | None:
    """The scopes of the API token; None for a browser session, which is bound by roles alone."""
    return request.get(SCOPES)


def roles_of(user: User) -> frozenset[Role]:
    """The user's roles; words that this release does not know are no roles."""
    known = {str(role) for role in Role}
    return frozenset(Role(word) for word in user.roles if word in known)


def remote_of(request: web.Request) -> str:
    """The other end's address; behind a proxy on this machine the one that it names."""
    remote = request.remote or ""
    forwarded = request.headers.get("X-Forwarded-For", "").split(",")[-1].strip()
    try:
        if forwarded and ip_address(remote).is_loopback:
            return str(ip_address(forwarded))
    except ValueError:
        return remote
    return remote
