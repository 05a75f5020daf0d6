"""Typed keys of what hangs on the application and on a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from crm_core.users import Session, User
    from hub.runtime import Runtime
    from hub.web import Route

RUNTIME: web.AppKey[Runtime] = web.AppKey("runtime")
ROUTES: web.AppKey[list[Route]] = web.AppKey("routes")
USER: web.RequestKey[User] = web.RequestKey("user")
SESSION: web.RequestKey[Session] = web.RequestKey("session")
SCOPES: web.RequestKey[frozenset[str]] = web.RequestKey("scopes")
