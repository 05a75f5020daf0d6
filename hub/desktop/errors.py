"""The page that an error becomes, for people; a toast when a part of a page asked."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from crm_core.errors import HubError
from hub.desktop.render import render
from hub.desktop.templating import html, reader_of, respond, told


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """What went wrong, in a sentence."""

    status: int
    title: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Toast:
    """One sentence at the edge of the screen."""

    text: str


async def error_page(request: web.Request, status: int, error: HubError) -> web.StreamResponse:
    """The sentence in the reader's language: on a page of its own, or beside what stands there already."""
    sentence = told(request, error)
    if request.headers.get("HX-Request") == "true" and request.headers.get("HX-Target", "") != "main#page":
        body = html(request, "parts/toast.html", Toast(sentence))
        return respond(body, status=status, headers={"HX-Retarget": "#toasts", "HX-Reswap": "beforeend"})
    _ = reader_of(request).gettext
    titles = {403: _("Not allowed"), 404: _("Not found"), 409: _("Changed meanwhile"), 422: _("This cannot be used")}
    title = titles.get(status, _("Something went wrong"))
    return await render(request, "error.html", ErrorPage(status, title, sentence), status=status)
