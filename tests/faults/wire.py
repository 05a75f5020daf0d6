"""A line that breaks: stands between the hub and a server on a unix socket, and passes on, delays, swallows or cuts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from hub.tasks import end_tasks


@dataclass
class Line:
    """`passes` cleared: bytes are kept back, as by a server that was stopped or a network that swallows everything."""

    target: str
    delay_s: float = 0.0
    refuses: bool = False
    passes: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[asyncio.StreamWriter] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def cut(self) -> None:
        """Every connection is reset, and new ones are refused until `mend`."""
        self.refuses = True
        for writer in self.connections:
            writer.transport.abort()
        self.connections.clear()

    def hang(self) -> None:
        """Nothing comes through any more; connections stay."""
        self.passes.clear()

    def mend(self) -> None:
        """As new."""
        self.refuses = False
        self.passes.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction of one connection."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.passes.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A new connection."""
        if self.refuses:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_unix_connection(self.target)
        self.connections |= {writer, far_writer}
        for pair in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self.carry(*pair))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)


@contextlib.asynccontextmanager
async def broken_line(target: str | Path, listen: str | Path) -> AsyncIterator[Line]:
    """A line from `listen` to `target`, both unix sockets, whole at first."""
    line = Line(str(target))
    line.passes.set()
    server = await asyncio.start_unix_server(line.accept, str(listen))
    try:
        yield line
    finally:
        server.close()
        line.cut()
        await end_tasks(list(line.tasks))
