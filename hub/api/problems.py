"""A refusal of the API as problem+json (RFC 9457), its sentences in the language that the request accepts.

`type` is for machines and never changes; `title`, `detail` and the sentences of `fields` are for people.
"""

from __future__ import annotations

from aiohttp import web

from crm_core.errors import HubError, Invalid, Refused
from hub.i18n import Reader, negotiate
from hub.middleware import status_of
from hub.web import now_of


def problem(request: web.Request, error: HubError) -> web.Response:
    """The answer; without Accept-Language in English."""
    locale = negotiate("", request.headers.get("Accept-Language", ""))
    reader = Reader(locale, "UTC", now_of(request))
    status = status_of(error)
    body: dict[str, object] = {
        "type": f"urn:hub:{type(error).__name__}",
        "title": title(reader, status, error),
        "status": status,
        "detail": reader.tell(error.message),
    }
    if isinstance(error, Invalid) and error.fields:
        body["fields"] = {name: reader.tell(sentence) for name, sentence in error.fields.items()}
    if isinstance(error, Refused):
        body["rule"] = error.rule
    headers = {"Content-Language": reader.tag, "Vary": "Accept-Language"}
    return web.json_response(body, status=status, headers=headers, content_type="application/problem+json")


def title(reader: Reader, status: int, error: HubError) -> str:
    """The kind of refusal in two or three words."""
    _ = reader.gettext
    if isinstance(error, Refused):
        return _("Refused by a rule")
    titles = {
        401: _("Not logged in"),
        403: _("Not allowed"),
        404: _("Not found"),
        409: _("Changed meanwhile"),
        422: _("This cannot be used"),
        429: _("Too many requests"),
    }
    return titles.get(status) or _("Something went wrong")
