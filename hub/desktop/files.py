"""What strangers sent: a mail's HTML in a frame that can do nothing, and attachments as downloads only."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from urllib.parse import quote

from aiohttp import web
from markupsafe import escape
from sqlmodel import select

from channels.mail_html import has_remote_images, sanitise
from crm_core.errors import NotFound
from crm_core.interactions import Attachment
from hub import rights
from hub.desktop.templating import reader_of
from hub.web import STAFF, Route, runtime_of, user_of

# The frame is sandboxed without scripts and without an origin; this policy holds even where somebody opens it by itself.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src {images}; sandbox allow-popups; frame-ancestors 'self'; "
    "form-action 'none'; base-uri 'none'"
)
# How each begins: what claims to be a picture must look like one.
INLINE_IMAGES = {
    "image/png": (b"\x89PNG\r\n\x1a\n",), "image/jpeg": (b"\xff\xd8\xff",), "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}  # fmt: skip
# On every stored file: it runs nothing, is what it says it is, goes to our own pages alone, and stays in no shared cache.
KEPT_APART = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}
MOST_INLINE = 8 * 1024 * 1024  # bytes of all pictures shown within one mail


async def mail(request: web.Request) -> web.StreamResponse:
    """A mail as designed: sanitised again at each look, remote pictures only when asked for."""
    runtime = runtime_of(request)
    async with runtime.db.reading() as tx:
        touch = await rights.interaction(tx, user_of(request), request.match_info["interaction"])
        inline = await tx.all(
            select(Attachment).where(Attachment.interaction_id == touch.id, Attachment.content_id != "").limit(50)
        )
    if not touch.html_key:
        raise NotFound("This mail has no designed form.")
    raw = (await runtime.files.get(touch.html_key)).decode("utf-8", "replace")
    with_images = request.query.get("images") == "1"
    safe = await asyncio.to_thread(sanitise, raw, remote_images=with_images)
    room = MOST_INLINE
    for picture in inline:
        name = f"cid:{escape(picture.content_id)}"
        if name in safe and picture.content_type in INLINE_IMAGES and picture.size <= room:
            room -= picture.size
            safe = safe.replace(name, _embedded(picture, await runtime.files.get(picture.file_key)))
    hint = ""
    if not with_images and has_remote_images(raw):
        hint = f"<p style='color:#666;font-size:12px'>{escape(reader_of(request).gettext('Remote images are not shown.'))}</p>"
    page = (
        "<!doctype html><meta charset=utf-8><meta name=referrer content=no-referrer>"
        f"<body style='margin:8px;font:14px/1.5 system-ui,sans-serif;background:#fff;color:#222'>{hint}{safe}"
    )
    images = "'self' https: data:" if with_images else "'self' data:"
    return web.Response(
        text=page,
        content_type="text/html",
        headers={
            "Content-Security-Policy": POLICY.format(images=images),
            "Cache-Control": "private, no-store",
            "Referrer-Policy": "no-referrer",
        },
    )


def _embedded(picture: Attachment, content: bytes) -> str:
    """The picture as part of the page: the frame has no origin, so no log-in goes with what it fetches. Empty for none."""
    if not content.startswith(INLINE_IMAGES[picture.content_type]):
        return ""
    return f"data:{picture.content_type};base64,{base64.b64encode(content).decode()}"


async def send(request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """A stored file, piece by piece."""
    first = await anext(pieces, b"")  # before the head goes out, so that a missing file is still a 404
    await response.prepare(request)
    await response.write(first)
    async for piece in pieces:
        await response.write(piece)
    await response.write_eof()
    return response


async def download(request: web.Request) -> web.StreamResponse:
    """An attachment, always as a download; only the pictures inside a mail are shown in its frame."""
    runtime = runtime_of(request)
    async with runtime.db.reading() as tx:
        file = await tx.one(select(Attachment).where(Attachment.id == request.match_info["file"]))
        if file is None:
            raise NotFound("There is no such file.")
        await rights.interaction(tx, user_of(request), file.interaction_id)
    inline = "inline" in request.query and bool(file.content_id) and file.content_type in INLINE_IMAGES
    name = "".join(c if c.isprintable() and c not in '\\/"' else "_" for c in file.name)[:150] or "file"
    response = web.StreamResponse(
        headers={
            "Content-Type": file.content_type if inline else "application/octet-stream",
            "Content-Disposition": "inline" if inline else f"attachment; filename*=UTF-8''{quote(name)}",
            **KEPT_APART,
        }
    )
    return await send(request, response, runtime.files.stream(file.file_key))


routes = [
    Route("GET", "/desk/mail/{interaction:[0-9a-z]{26}}", mail, roles=STAFF),
    Route("GET", "/desk/files/{file:[0-9a-z]{26}}", download, roles=STAFF),
]
