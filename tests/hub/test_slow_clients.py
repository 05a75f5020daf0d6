"""The web server's patience, over real sockets: heads that never end, heads that come in time, streams at shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from hub import slow_clients
from hub.slow_clients import PatientRunner, let_streams_end, until_shutdown

PATIENCE_S = 0.4
HEAD = b"GET / HTTP/1.1\r\nHost: hub.example.test\r\n"


async def answer(request: web.Request) -> web.Response:
    return web.Response(text=f"{request.method} {len(await request.read())}")


async def slow_answer(request: web.Request) -> web.Response:
    await asyncio.sleep(PATIENCE_S * 3)
    return web.Response(text="at last")


async def for_ever(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async with until_shutdown(request.app):
        for _ in range(1000):
            await response.write(b"data: beat\n\n")
            await asyncio.sleep(30)
    return response


def application() -> web.Application:
    app = web.Application()
    let_streams_end(app)
    app.router.add_route("*", "/", answer)
    app.router.add_get("/slow", slow_answer)
    app.router.add_get("/stream", for_ever)
    return app


@contextlib.asynccontextmanager
async def served(app: web.Application, *, header_s: float = PATIENCE_S) -> AsyncIterator[PatientRunner]:
    runner = PatientRunner(app, header_s=header_s, access_log=None, keepalive_timeout=30, shutdown_timeout=5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def connected(runner: PatientRunner) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
    try:
        yield reader, writer
    finally:
        writer.close()


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """One byte after the other, ten for each patience, until the other end hangs up."""
    with contextlib.suppress(ConnectionError):
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(PATIENCE_S / 10)


async def whole(reader: asyncio.StreamReader) -> str:
    """The next answer's text."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().partition("content-length: ")[2].split()[0])
    return (await reader.readexactly(length)).decode()


async def closed_after(reader: asyncio.StreamReader) -> float:
    """Seconds until the other end closed without a word."""
    began = time.monotonic()
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    return time.monotonic() - began


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"X-Long: "])
async def test_who_never_finishes_the_first_head_is_let_go(sent: bytes) -> None:
    async with served(application()) as runner, connected(runner) as (reader, writer):
        writer.write(sent)
        assert PATIENCE_S * 0.5 < await closed_after(reader) < 15


async def test_a_drip_does_not_buy_time() -> None:
    async with served(application()) as runner, connected(runner) as (reader, writer):
        dripping = asyncio.create_task(drip(writer, HEAD * 50))
        assert await closed_after(reader) < 15
        dripping.cancel()


async def test_a_drip_on_a_connection_that_has_served_before_is_let_go_too() -> None:
    async with served(application()) as runner, connected(runner) as (reader, writer):
        writer.write(HEAD + b"\r\n")
        assert await whole(reader) == "GET 0"
        dripping = asyncio.create_task(drip(writer, HEAD * 50))
        assert await closed_after(reader) < 15
        dripping.cancel()


async def test_between_requests_a_connection_may_be_silent() -> None:
    async with served(application()) as runner, connected(runner) as (reader, writer):
        for _ in range(2):
            writer.write(HEAD + b"\r\n")
            assert await whole(reader) == "GET 0"
            await asyncio.sleep(PATIENCE_S * 2)
        assert not reader.at_eof()


async def test_neither_a_slow_body_nor_a_slow_answer_counts_as_a_slow_head() -> None:
    async with served(application()) as runner, connected(runner) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: hub.example.test\r\nContent-Length: 20\r\n\r\n")
        await drip(writer, b"x" * 20)
        assert await whole(reader) == "POST 20"
        writer.write(b"GET /slow HTTP/1.1\r\nHost: hub.example.test\r\n\r\n")
        assert await whole(reader) == "at last"
        writer.write((HEAD + b"\r\n") * 3)
        assert [await whole(reader) for _ in range(3)] == ["GET 0"] * 3


async def test_a_head_in_pieces_that_comes_in_time_is_answered() -> None:
    async with served(application(), header_s=20) as runner, connected(runner) as (reader, writer):
        for piece in (HEAD[:7], HEAD[7:20], HEAD[20:] + b"\r", b"\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        assert await whole(reader) == "GET 0"


async def test_an_open_stream_ends_whole_and_does_not_delay_the_end() -> None:
    app = application()
    async with served(app) as runner, connected(runner) as (reader, writer):
        writer.write(b"GET /stream HTTP/1.1\r\nHost: hub.example.test\r\n\r\n")
        await reader.readuntil(b"data: beat\n\n")
        began = time.monotonic()
        await runner.cleanup()
        assert time.monotonic() - began < 2  # aiohttp alone takes shutdown_timeout, 5 s
        assert (await reader.read()).endswith(b"0\r\n\r\n")
        assert not app[slow_clients._OPEN]


async def test_a_time_out_of_the_streams_own_is_not_swallowed() -> None:
    app = application()
    with pytest.raises(TimeoutError):
        async with until_shutdown(app):
            raise TimeoutError
    async with until_shutdown(web.Application()):
        pass
