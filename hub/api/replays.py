"""A POST with an `Idempotency-Key` is carried out once, whoever dies when: the table, and the steps of one keyed request.

The key is claimed before the work and noted as done **in the transaction of the work**: a process killed in between leaves
either nothing, and the same key may try again after a while, or the work with its answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import delete, update
from sqlmodel import Field as Column
from sqlmodel import col, select

from crm_core.db import Database, Tx
from crm_core.errors import Conflict, Invalid
from crm_core.ports import Wakeups
from crm_core.tables import Table, at, text

R = TypeVar("R")

RUNNING, DONE = 0, 1
KEPT_FOR = timedelta(hours=24)
RUNS_AT_MOST = timedelta(seconds=10)


class ApiReplay(Table, table=True):
    """One keyed request. `status` 0: claimed; 1: done, the answer perhaps unknown; else the HTTP status of `answer`."""

    __tablename__ = "api_replays"

    key: str = Column(primary_key=True)  # user, path and the caller's key, hashed
    request_hash: str = text()
    status: int = RUNNING
    token: int = 0  # rises when a claim whose process died is taken over
    answer: str = text()
    created_at: datetime = at(index=True)


async def claim(db: Database, row: ApiReplay, *, now: datetime) -> ApiReplay | None:
    """None when this request may run (`row.token` is its claim); the row of an earlier one that was carried out.

    Conflict while the earlier one is still running, Invalid when the key was used for another request.
    """

    async def unit(tx: Tx) -> ApiReplay | None:
        await tx.run(delete(ApiReplay).where(col(ApiReplay.created_at) < now - KEPT_FOR))
        if await tx.add_new(row, unique=["key"]):
            return None
        known: ApiReplay | None = await tx.one(select(ApiReplay).where(ApiReplay.key == row.key))
        if known is None:
            raise Conflict("The first request with this Idempotency-Key has just failed; try again.")
        if known.request_hash != row.request_hash:
            raise Invalid("This Idempotency-Key was used for another request.")
        if known.status != RUNNING:
            return known
        if now - known.created_at > RUNS_AT_MOST:
            row.token = known.token + 1
            taken = update(ApiReplay).where(_mine(known)).values(token=row.token, created_at=now)
            if await tx.run(taken) == 1:
                return None
        raise Conflict("The first request with this Idempotency-Key is still running.")

    return await db.write(unit)


async def finish(db: Database, row: ApiReplay, *, status: int, answer: str) -> None:
    """Keep the answer for a repeat."""
    await db.write(lambda tx: tx.run(update(ApiReplay).where(_mine(row)).values(status=status, answer=answer)))


async def give_up(db: Database, row: ApiReplay) -> None:
    """It failed and nothing was done: the same key may try again. What was done stays noted."""
    await db.write(lambda tx: tx.run(delete(ApiReplay).where(_mine(row), col(ApiReplay.status) == RUNNING)))


def _mine(row: ApiReplay) -> Any:
    return (col(ApiReplay.key) == row.key) & (col(ApiReplay.token) == row.token)


async def once(tx: Tx, key: str, work: Callable[[], Awaitable[str]], *, now: datetime) -> str:
    """What `work` answered the first time it ran under this key; its changes and the note of them are one transaction.

    For a form that is sent twice by an impatient hand: the second gets the first one's answer. Failing leaves no note.
    """
    if not await tx.add_new(ApiReplay(key=key, status=DONE, created_at=now), unique=["key"]):
        known: ApiReplay | None = await tx.one(select(ApiReplay).where(ApiReplay.key == key))
        if known is None:
            raise Conflict("The first request with this Idempotency-Key has just failed; try again.")
        return known.answer
    answer = await work()
    await tx.change(ApiReplay, {"answer": answer}, key=key)
    return answer


@dataclass(slots=True)
class Noting:
    """The database as a keyed request sees it: its units of work note the key as done in their own transaction."""

    base: Database
    row: ApiReplay
    answers: type[BaseModel] | None  # a unit that returns one of these has told the whole answer
    status: int
    dialect: str = ""
    wakeups: Wakeups | None = None

    def __post_init__(self) -> None:
        self.dialect, self.wakeups = self.base.dialect, self.base.wakeups

    async def write(self, unit: Callable[[Tx], Awaitable[R]], *, appends: bool = False) -> R:
        """The unit, with the note. Conflict, and nothing done, when another process has taken the key over."""

        async def noting(tx: Tx) -> R:
            value = await unit(tx)
            told = isinstance(value, self.answers) if self.answers is not None else True
            values: dict[str, Any] = {"status": self.status if told else DONE}
            if told and isinstance(value, BaseModel):
                values["answer"] = value.model_dump_json()
            if await tx.run(update(ApiReplay).where(_mine(self.row)).values(**values)) != 1:
                raise Conflict("Another process carries this request out.")
            return value

        return await self.base.write(noting)

    @asynccontextmanager
    async def reading(self, *, slow: bool = False, snapshot: bool = True) -> AsyncIterator[Tx]:
        """As the database itself."""
        async with self.base.reading(slow=slow, snapshot=snapshot) as tx:
            yield tx

    async def close(self) -> None:
        """Not this one's to close."""
