"""Every operation of the JSON API, its OpenAPI document, and its event stream."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hub.api import (
    admin,
    blocked,
    call_flows,
    call_settings,
    calls,
    campaigns,
    contact_transfer,
    contacts,
    conversations,
    drafts,
    lists,
    outgoing,
    promises,
    queue_rules,
    supervision,
    views,
    work,
)
from hub.api.operation import Operation, openapi, problems
from hub.desktop import stream
from hub.web import PUBLIC, STAFF, Route, runtime_of

OPERATIONS: list[Operation] = [
    *contacts.OPERATIONS,
    *contact_transfer.OPERATIONS,
    *work.OPERATIONS,
    *supervision.OPERATIONS,
    *queue_rules.OPERATIONS,
    *calls.OPERATIONS,
    *call_flows.OPERATIONS,
    *call_settings.OPERATIONS,
    *conversations.OPERATIONS,
    *drafts.OPERATIONS,
    *blocked.OPERATIONS,
    *promises.OPERATIONS,
    *campaigns.OPERATIONS,
    *lists.OPERATIONS,
    *views.OPERATIONS,
    *outgoing.OPERATIONS,
    *admin.OPERATIONS,
]


# The stream does not end, so it is no operation; it is described by hand.
EVENTS: dict[str, Any] = {
    "summary": "What happens, as it happens",
    "description": stream.events.__doc__,
    "operationId": "events",
    "tags": ["events"],
    "security": [{"token": ["events:read"]}],
    "parameters": [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "required": False,
            "description": "The last id you saw: what came after it is sent again, or `resync` when it is not known.",
            "schema": {"type": "string"},
        }
    ],
    "responses": {
        "200": {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problems("401", "403", "503"),
    },
}


def document(server: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    made = openapi(OPERATIONS, server=server)
    made["paths"]["/api/v1/events"] = {"get": EVENTS}
    made["paths"] |= {path: {"get": described} for path, described in contact_transfer.FILES.items()}
    return made


async def describe(request: web.Request) -> web.StreamResponse:
    """The OpenAPI 3.1 document."""
    return web.json_response(document(runtime_of(request).settings.public_url))


ROUTES: list[Route] = [
    Route("GET", "/api/openapi.json", describe, access=PUBLIC),
    Route("GET", "/api/v1/events", stream.events, roles=STAFF, scope="events:read"),
    *contact_transfer.ROUTES,
    *(op.route() for op in OPERATIONS),
]
