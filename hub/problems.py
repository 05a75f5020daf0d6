"""A refusal as HTTP: its status, and problem+json (RFC 9457) with its sentences in the asker's language.

`type` is for machines and never changes; `title`, `detail` and the sentences of `fields` are for people.
"""

from __future__ import annotations

from aiohttp import web

from crm_core.errors import Conflict, HubError, Invalid, NotAllowed, NotFound, Refused
from hub.i18n import Reader, negotiate
from hub.keys import SESSION, USER
from hub.web import now_of

# Most particular first.
STATUS: tuple[tuple[type[HubError], int], ...] = (
    (NotFound, 404),
    (NotAllowed, 403),
    (Invalid, 422),
    (Refused, 409),
    (Conflict, 409),
    (HubError, 502),
)


class NotLoggedIn(HubError):
    """Log in first."""


class TooManyRequests(HubError):
    """Too many tries. Wait a little."""


def status_of(error: HubError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, NotLoggedIn):
        return 401
    if isinstance(error, TooManyRequests):
        return 429
    return next(status for kind, status in STATUS if isinstance(error, kind))


def problem(request: web.Request, error: HubError, *, status: int = 0) -> web.Response:
    """The answer with `status` (0: the error's own). A page's script is told in its user's language, a machine in the one
    that it accepts; in English when it says none."""
    user = request.get(USER) if request.get(SESSION) is not None else None
    locale = negotiate(user.locale if user else "", request.headers.get("Accept-Language", ""))
    reader = Reader(locale, user.zone if user else "UTC", now_of(request))
    status = status or status_of(error)
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
