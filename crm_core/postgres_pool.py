"""Connections to PostgreSQL, kept at hand between two units of work, and which of its errors mean what."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg

# The connection is of no more use. asyncpg tells of one that ended in the middle of a word as of a fault of its own.
BROKEN = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError)
# What the server cannot do now, as opposed to what a statement should not have asked for: it is being stopped or started, its
# disk or memory is full, it takes no more connections, it only reads, somebody held a lock too long.
UNABLE = (
    *BROKEN,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
# A server that was stopped in the middle of a word, or a network that swallows everything, says nothing for ever: then our own
# limits count. The first is beyond the server's own for a statement.
SILENT_S = 35.0
FREE_S = 10.0  # until a connection is free
UNDO_S = 2.0  # until it has rolled back; a connection that takes longer is thrown away, which undoes its work too
CLOSE_S = 5.0


async def _keep_session(_: Any) -> None:
    """Nothing in a session is ever changed, so there is nothing to reset: a round trip less."""


def _is_gone(connection: Any) -> bool:
    """True when the server or the line has ended it; the pool has taken it back by itself then."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True


class Connections:
    """asyncpg's pool, whose connections are not given back after each use.

    The pool's way out and back costs a task and three timers, a tenth of what an arriving call costs. It is taken when a
    connection is made, was used by somebody who failed or was cancelled, or is waited for.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        # The one that rested longest comes first: whoever looks at the sessions sees how much is going on (AT_WORK).
        self._at_hand: deque[Any] = deque()
        self._asking = 0

    @classmethod
    async def open(cls, url: str, *, max_size: int, session: Mapping[str, str]) -> Connections:
        """A pool whose connections come when they are needed. Raises asyncpg's errors."""
        pool = await asyncpg.create_pool(
            url, min_size=0, max_size=max_size, timeout=10, command_timeout=SILENT_S, statement_cache_size=1000,
            reset=_keep_session, server_settings=dict(session),
        )  # fmt: skip
        return cls(pool)

    async def take(self) -> Any:
        """A connection; TimeoutError when none is free in time."""
        while self._at_hand:
            connection = self._at_hand.popleft()
            if not _is_gone(connection):
                return connection
            await self._give_back(connection)
        return await self._ask()

    async def give(self, connection: Any, error: BaseException | None = None) -> None:
        """Take it back; `error`: what its use ended with. One that broke is thrown away."""
        if error is None and not self._asking:
            self._at_hand.append(connection)
            return
        if isinstance(error, BROKEN) and not _is_gone(connection):
            connection.terminate()
        await self._give_back(connection)

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[Any]:
        """A connection for as long as the block lasts; see `take`."""
        connection = await self.take()
        try:
            yield connection
        except BaseException as error:
            await self.give(connection, error)
            raise
        await self.give(connection)

    async def _ask(self) -> Any:
        self._asking += 1
        try:
            async with asyncio.timeout(FREE_S):
                return await self._pool.acquire()
        finally:
            self._asking -= 1

    async def _give_back(self, connection: Any) -> None:
        # A cancelled statement is waited for here: the server is asked to stop it, and may be unable to answer.
        try:
            await self._pool.release(connection, timeout=UNDO_S)
        except BROKEN:
            if not _is_gone(connection):
                connection.terminate()

    async def close(self) -> None:
        """Close them all. A server that says nothing more is not waited for."""
        try:
            async with asyncio.timeout(CLOSE_S):
                while self._at_hand:
                    await self._give_back(self._at_hand.popleft())
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()
