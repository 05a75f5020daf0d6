"""Every operation of the JSON API, its OpenAPI document, and its event stream."""

from __future__ import annotations

from aiohttp import web

from hub.api import admin, campaigns, contacts, conversations, lists, promises, work
from hub.api.operation import Operation, openapi
from hub.desktop import stream
from hub.web import PUBLIC, STAFF, Route, runtime_of

OPERATIONS: list[Operation] = [
    *contacts.OPERATIONS,
    *work.OPERATIONS,
    *conversations.OPERATIONS,
    *promises.OPERATIONS,
    *campaigns.OPERATIONS,
    *lists.OPERATIONS,
    *admin.OPERATIONS,
]


async def describe(request: web.Request) -> web.StreamResponse:
    """The OpenAPI 3.1 document."""
    return web.json_response(openapi(OPERATIONS, server=runtime_of(request).settings.public_url))


ROUTES: list[Route] = [
    Route("GET", "/api/openapi.json", describe, access=PUBLIC),
    Route("GET", "/api/v1/events", stream.events, roles=STAFF, scope="events:read"),
    *(op.route() for op in OPERATIONS),
]
