"""The outside person's page: static files under a strict policy; and a mail's HTML, shown without power."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

from hub.sandbox.mailstore import MailStore, full
from hub.sandbox.outside import BadRequest

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MAIL_POLICY = "sandbox allow-popups; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
TYPES = {
    "index.html": "text/html",
    "outside.css": "text/css",
    "outside.js": "text/javascript",
    "sound.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


def _file(name: str) -> web.Response:
    return web.Response(
        body=files("hub.sandbox").joinpath("outside_page", name).read_bytes(),
        content_type=TYPES[name],
        charset="utf-8",
        headers={
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        },
    )


def routes(store: MailStore) -> list[web.AbstractRouteDef]:
    async def index(request: web.Request) -> web.Response:
        return _file("index.html")

    async def part(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in TYPES:
            raise web.HTTPNotFound
        return _file(name)

    async def html(request: web.Request) -> web.Response:
        mail = store.get(request.match_info["address"], int(request.match_info["number"]))
        if mail is None:
            raise BadRequest("no such mail", 404)
        headers = {"Content-Security-Policy": MAIL_POLICY, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=str(full(mail)["html"]), content_type="text/html", headers=headers)

    return [
        web.get("/", index),
        web.get("/page/{name}", part),
        web.get("/outside/mails/{address}/{number:[0-9]+}/html", html),
    ]
