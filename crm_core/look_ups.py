"""A look-up that many units make at the same moment is asked once for all of them (PostgreSQL)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from crm_core.postgres_pool import Connections
from crm_core.postgres_sql import for_many
from crm_core.tx import DatabaseUnavailable

ASKERS = 32

Rows = list[Sequence[Any]]
_Asked = tuple[Sequence[Any], asyncio.Future[Rows]]


class LookUps:
    """Plain reads marked as `together`: while one is on its way, those that come wait and go out as the next one.

    Each unit stands alone there (no transaction yet), so what it is told is what was committed when its statement ran.
    """

    def __init__(self, connections: Connections, known: Mapping[str, tuple[str, ...]]) -> None:
        self._connections = connections
        self._known = known  # SQL and the types of its arguments
        self._waiting: dict[str, list[_Asked]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def knows(self, sql: str) -> bool:
        """True for a statement that is asked for many at once."""
        return sql in self._known

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Rows:
        """The rows for these arguments. Raises what became of the statement."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Rows] = loop.create_future()
        self._waiting.setdefault(sql, []).append((arguments, found))
        if sql not in self._running:
            self._running[sql] = loop.create_task(self._ask(sql), name="look-ups")
        return await found

    async def _ask(self, sql: str) -> None:
        """Ask until nobody waits any more."""
        waiting = self._waiting[sql]
        try:
            while waiting:
                asked = [each for each in waiting[:ASKERS] if not each[1].done()]
                del waiting[:ASKERS]
                await self._answer(sql, asked)
        finally:
            _fail(waiting, DatabaseUnavailable("The database is closed."))
            waiting.clear()
            del self._running[sql]

    async def _answer(self, sql: str, asked: Sequence[_Asked]) -> None:
        failure: BaseException = DatabaseUnavailable("The database is closed.")
        try:
            answers = await self._for_all(sql, [arguments for arguments, _ in asked])
        except Exception as error:
            failure = error
            if len(asked) > 1 and isinstance(error, asyncpg.PostgresError):
                for one in asked:  # one of them asked for what cannot be read: each by itself
                    await self._answer(sql, [one])
        else:
            for (_, found), rows in zip(asked, answers, strict=True):
                if not found.done():
                    found.set_result(rows)
        finally:
            _fail(asked, failure)

    async def _for_all(self, sql: str, asked: Sequence[Sequence[Any]]) -> list[Rows]:
        answers: list[Rows] = [[] for _ in asked]
        if not asked:
            return answers
        async with self._connections.taken() as connection:
            if len(asked) == 1:
                return [await connection.fetch(sql, *asked[0])]
            columns = zip(*asked, strict=True)
            for place, *row in await connection.fetch(for_many(sql, self._known[sql]), *columns):
                answers[place - 1].append(row)
        return answers


def _fail(asked: Sequence[_Asked], error: BaseException) -> None:
    """Tell those who have not been told anything yet."""
    for _, found in asked:
        if not found.done():
            found.set_exception(error)
