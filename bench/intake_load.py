"""A client for the intake benchmark: raw HTTP over asyncio, knows exactly which posts were acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qs

from bench.intake_data import PATH

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def request(body: str, signature: str) -> bytes:
    """A post as it goes over the wire."""
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: hub.example.test\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"X-Twilio-Signature: {signature}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: str, signature: str) -> int:
    """Send one post on a kept connection; the status."""
    writer.write(request(body, signature))
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    await reader.readexactly(int(length[1]) if length else 0)
    return int(head[9:12])


async def drive(port: int, posts: list[tuple[str, str]], *, seconds: int, connections: int) -> dict[str, Any]:
    """Closed loop over `connections`; rate and latencies."""
    waiting, times, bad = iter(posts), [], 0
    until = time.monotonic() + seconds

    async def one() -> None:
        nonlocal bad
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body, signature in waiting:
            began = time.monotonic()
            bad += await post(reader, writer, body, signature) >= 300
            times.append(time.monotonic() - began)
            if time.monotonic() > until:
                break
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(connections)))
    times.sort()
    return {
        "rate": len(times) / (time.monotonic() - began), "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[int(len(times) * 0.99)] * 1000, "requests": len(times), "bad": bad, "errors": "",
    }  # fmt: skip


class Line(asyncio.Protocol):
    """One kept connection with at most one post under way. As cheap as can be: what it takes, the server does not have."""

    def __init__(self, answered: Callable[[Line, int], None]) -> None:
        self._answered = answered
        self._data = b""
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        self._data += data
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return
        length = LENGTH.search(self._data, 0, head)
        if len(self._data) >= head + 4 + (int(length[1]) if length else 0):
            status, self._data = int(self._data[9:12]), b""
            self._answered(self, status)


async def drive_at(
    port: int, posts: list[tuple[str, str]], *, rate: int, seconds: int, connections: int
) -> dict[str, Any]:
    """Open loop: a post every 1/`rate` s over at most `connections`; a latency counts from the instant its post was due.

    So a server that falls behind shows it in full, whatever the client could send meanwhile.
    """
    loop = asyncio.get_running_loop()
    ready = deque(request(*each) for each in posts[: rate * seconds])
    number, bad, times = len(ready), 0, list[float]()
    finished = asyncio.Event()
    # The one that rested longest goes next: all connections, and so all processes, get their share.
    free: deque[Line] = deque()
    due: deque[float] = deque()

    def answered(line: Line, status: int) -> None:
        nonlocal bad
        bad += status >= 300
        times.append(loop.time() - line.due)
        if due:
            send(line)
        else:
            free.append(line)
        if len(times) == number:
            finished.set()

    def send(line: Line) -> None:
        line.due = due.popleft()
        line.transport.write(ready.popleft())

    for _ in range(connections):
        _, line = await loop.create_connection(lambda: Line(answered), "127.0.0.1", port)
        free.append(line)
    began = loop.time() + 0.05
    for each in range(number):
        at = began + each / rate
        await asyncio.sleep(at - loop.time())  # this is the pace itself
        due.append(at)
        if free:
            send(free.popleft())
    await finished.wait()
    took = loop.time() - began
    for line in free:
        line.transport.close()
    times.sort()
    return {
        "rate": len(times) / took, "p50_ms": times[len(times) // 2] * 1000, "p99_ms": times[int(len(times) * 0.99)] * 1000,
        "max_ms": times[-1] * 1000, "requests": len(times), "bad": bad, "errors": "",
    }  # fmt: skip


async def kill_while_posting(
    port: int, posts: list[tuple[str, str]], kill: Callable[[], None], *, connections: int = 32, after: int = 300
) -> set[str]:
    """Post until the server is killed after about `after` answers; the CallSids it acknowledged with a 2xx."""
    waiting = iter(posts)
    acknowledged: set[str] = set()
    killed = False

    async def one() -> None:
        nonlocal killed
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        try:
            for body, signature in waiting:
                if await post(reader, writer, body, signature) < 300:
                    acknowledged.add(parse_qs(body)["CallSid"][0])
                if len(acknowledged) >= after and not killed:
                    killed = True
                    kill()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    await asyncio.wait_for(asyncio.gather(*(one() for _ in range(connections))), 60)
    return acknowledged
