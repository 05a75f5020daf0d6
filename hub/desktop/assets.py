"""The desktop's files: our own under `static/`, and a named few of the front-end packages under `/static/vendor/`.

A link made by `asset` carries a hash of the content and may be kept for ever; every other address is asked again each time.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from aiohttp import web
from markupsafe import Markup

from hub.web import PUBLIC, Route

STATIC = Path(__file__).parent / "static"
PACKAGES = Path(__file__).parents[2] / "node_modules"
VENDOR = {
    "tabler.min.css": "@tabler/core/dist/css/tabler.min.css",
    "tabler.min.js": "@tabler/core/dist/js/tabler.min.js",
    "tabler-icons.woff2": "@tabler/icons-webfont/dist/fonts/tabler-icons.woff2",
    "htmx.min.js": "htmx.org/dist/htmx.min.js",
    "twilio.min.js": "@twilio/voice-sdk/dist/twilio.min.js",
    "uplot.min.js": "uplot/dist/uPlot.iife.min.js",
    "uplot.min.css": "uplot/dist/uPlot.min.css",
}
# Icons whose names are computed in a template or stand in Python.
DYNAMIC_ICONS = {
    "phone", "message", "mail", "forms", "phone-calling", "target-arrow", "point", "headset", "users", "list-check", "send",
    "layout-dashboard", "settings", "mood-confuzed", "map-search", "phone-outgoing", "phone-incoming", "alert-circle",
    "info-circle", "check", "x", "mug",
}  # fmt: skip
_TEXT = {".css", ".js", ".svg", ".json", ".html"}


@dataclass(frozen=True, slots=True)
class Served:
    """One file as it goes out."""

    body: bytes
    packed: bytes | None  # gzip, for text
    content_type: str
    tag: str


def _find(name: str) -> Path | None:
    if name.startswith("vendor/"):
        package_path = VENDOR.get(name.removeprefix("vendor/"))
        return PACKAGES / package_path if package_path else None
    path = (STATIC / name).resolve()
    return path if path.is_relative_to(STATIC) and path.is_file() else None


@lru_cache(maxsize=256)
def _load(path: Path, changed_ns: int) -> Served:
    body = path.read_bytes()
    text = path.suffix in _TEXT
    kind = (
        {".js": "text/javascript"}.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    )
    return Served(body, gzip.compress(body, 6, mtime=0) if text else None, kind, hashlib.sha256(body).hexdigest()[:12])


def _served(name: str) -> Served | None:
    path = _find(name)
    try:
        return None if path is None else _load(path, path.stat().st_mtime_ns)
    except OSError:
        return None


def asset(name: str) -> str:
    """The address of a file, with its content's hash, so that a browser keeps it until it changes."""
    found = _served(name)
    return f"/static/{name}?v={found.tag}" if found else f"/static/{name}"


async def serve(request: web.Request) -> web.StreamResponse:
    """GET /static/…: one of our own files, or one of the vendors' that we name."""
    return await serve_file(request.match_info["path"], request)


async def serve_file(name: str, request: web.Request) -> web.Response:
    """The file, as this request may have it: packed, or not again."""
    found = _served(name)
    if found is None:
        raise web.HTTPNotFound
    headers = {"ETag": f'"{found.tag}"', "X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
    kept = request.query.get("v") == found.tag
    headers["Cache-Control"] = "public, max-age=31536000, immutable" if kept else "no-cache"
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return web.Response(status=304, headers=headers)
    body = found.body
    if found.packed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        body = found.packed
    charset = "utf-8" if found.packed is not None else None
    return web.Response(body=body, content_type=found.content_type, charset=charset, headers=headers)


@lru_cache(maxsize=512)
def icon(name: str, *, label: str = "") -> Markup:
    """A Tabler icon; decoration unless it has a label."""
    told = Markup('role="img" aria-label="{}"').format(label) if label else Markup('aria-hidden="true"')
    return Markup('<i class="icon ti ti-{}" {}></i>').format(name, told)


_NAMED = re.compile(r"""(?:icon|empty|notice)\(\s*"([a-z0-9-]+)\"""")
_CODE = re.compile(r"""\.ti-([a-z0-9-]+):+before\{content:"(\\[0-9a-f]+)"\}""")
_FACE = "@font-face{font-family:tabler-icons;font-display:block;src:url(%s) format('woff2')}"
_BASE = (
    ".ti{font-family:tabler-icons!important;font-style:normal;font-weight:400;line-height:1;display:inline-block;"
    "-webkit-font-smoothing:antialiased}"
)


@lru_cache(maxsize=1)
def icon_sheet() -> str:
    """The style sheet of the icons that our templates use: 5,000 others would only be carried about."""
    used = set(DYNAMIC_ICONS)
    for template in (Path(__file__).parent / "templates").rglob("*.html"):
        used |= set(_NAMED.findall(template.read_text(encoding="utf-8")))
    try:
        source = (PACKAGES / "@tabler/icons-webfont/dist/tabler-icons.min.css").read_text(encoding="utf-8")
    except OSError:
        source = ""
    codes: dict[str, str] = dict(_CODE.findall(source))
    rules = "".join(f'.ti-{name}::before{{content:"{codes[name]}"}}' for name in sorted(used & codes.keys()))
    return _FACE % asset("vendor/tabler-icons.woff2") + _BASE + rules


async def serve_icons(request: web.Request) -> web.StreamResponse:
    """GET /static/icons.css."""
    return web.Response(text=icon_sheet(), content_type="text/css", headers={"Cache-Control": "public, max-age=3600"})


routes = [
    Route("GET", "/static/icons.css", serve_icons, access=PUBLIC),
    Route("GET", "/static/{path:.+}", serve, access=PUBLIC),
]
