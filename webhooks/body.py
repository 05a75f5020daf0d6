"""Reading a request's body from strangers: bounded in size and in time.

aiohttp has no timeout on a body (measured: one byte in five seconds is read for ever), so every read here has one.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

BODY_S = 15.0
WEBHOOK_BYTES = 64 * 1024


class TooLarge(Exception):
    """The body is larger than this address takes."""


class TooSlow(Exception):
    """The body did not arrive in time."""


class Packed(Exception):
    """The body is compressed."""


async def read_body(request: web.Request, *, limit: int = WEBHOOK_BYTES, timeout_s: float = BODY_S) -> bytes:
    """The body. TooLarge past `limit` bytes, without reading on; TooSlow after `timeout_s`; Packed when compressed."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Packed("Send the body without Content-Encoding.")
    if request.content_length is not None and request.content_length > limit:
        raise TooLarge
    if request.content.is_eof():
        whole = request.content.read_nowait()  # it came together with its head: nothing to wait for
        if len(whole) > limit:
            raise TooLarge
        return whole
    read = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.content.iter_any():
                read += chunk
                if len(read) > limit:
                    raise TooLarge
    except TimeoutError as error:
        raise TooSlow from error
    return bytes(read)
