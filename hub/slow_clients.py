"""The web server's patience: with clients that do not finish a request's head, and with answers that have no end.

aiohttp limits neither: a head sent at one byte a second is read for as long as a silent connection is kept (75 s here), and an
event stream holds a stopping process up until it is cut off. A body that does not come is bounded where it is read
(webhooks/body.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from hub.log import get_logger

log = get_logger(__name__)

# Longer than any honest client needs, much shorter than it takes to fill a process with half-open requests.
HEADER_S = 10.0

_OPEN: web.AppKey[set[asyncio.Timeout]] = web.AppKey("open_ended")


# --- heads --------------------------------------------------------------------------------------------------------


class PatientRunner(web.AppRunner):
    """Serves an application, and closes a connection whose next request's head takes longer than `header_s` seconds.

    Counted from the connection's beginning, and later from the first byte of a further request: between two requests a
    connection may be silent for as long as `keepalive_timeout` allows, because closing it then would race with the next one.
    """

    __slots__ = ("_header_s",)

    def __init__(self, app: web.Application, *, header_s: float = HEADER_S, **options: Any) -> None:
        super().__init__(app, **options)
        self._header_s = header_s

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return _Server(server, self._header_s)


class _Server(web.Server):
    """Makes the protocol of each connection; else the server that it was made from."""

    def __init__(self, plain: web.Server, header_s: float) -> None:
        super().__init__(
            plain.request_handler, request_factory=plain.request_factory, loop=plain._loop, **plain._kwargs
        )
        self._header_s = header_s

    def __call__(self) -> RequestHandler:
        return _Connection(self, header_s=self._header_s, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    """One connection with a clock on the head it is waiting for."""

    __slots__ = ("_head_due", "_header_s")

    def __init__(self, server: web.Server, *, header_s: float, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(server, loop=loop, **options)
        self._header_s = header_s
        self._head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_due = self._loop.call_later(self._header_s, self._too_slow)

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._stop_clock()
        elif self._head_due is None and self._waiter is not None and not self._waiter.done():
            # Nobody reads a body just now, so this is the beginning of a head.
            self._head_due = self._loop.call_later(self._header_s, self._too_slow)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _too_slow(self) -> None:
        self._head_due = None
        log.debug("connection closed", why="no whole request head in time")
        self.force_close()


# --- answers without an end ---------------------------------------------------------------------------------------


def let_streams_end(app: web.Application) -> None:
    """Prepare an application for `until_shutdown`; once, before it is served."""
    app[_OPEN] = set()
    app.on_shutdown.append(_end_streams)


@contextlib.asynccontextmanager
async def until_shutdown(app: web.Application) -> AsyncIterator[None]:
    """The block, left early and quietly when the process begins to shut down: for answers that would go on for ever."""
    opened = app.get(_OPEN)
    if opened is None:
        yield
        return
    bound = asyncio.timeout(None)
    try:
        async with bound:
            opened.add(bound)
            yield
    except TimeoutError:
        if not bound.expired():
            raise
    finally:
        opened.discard(bound)


async def _end_streams(app: web.Application) -> None:
    now = asyncio.get_running_loop().time()
    opened = app[_OPEN]
    for bound in tuple(opened):
        bound.reschedule(now)
