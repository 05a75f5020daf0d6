"""Agents who say no at the same moment are heard in one unit of work; whoever is alone waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from crm_core.db import Database, DatabaseUnavailable
from crm_core.errors import Conflict
from routing import desk
from routing.desk import Refused

AT_ONCE = 16  # in one unit of work, as offers are made (engine.py)
UNITS = 4  # side by side: one that waits for somebody's lock does not hold up the rest

_Asked = tuple[Refused, asyncio.Future[Exception | None]]  # and what is wrong with it


class Refusals:
    """One process's refusals."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._turns = asyncio.Semaphore(UNITS)
        self._waiting: list[_Asked] = []

    async def refuse(self, offer_id: str, *, agent_id: str, now: datetime, reason: str = "") -> None:
        """`desk.refuse`, back once it is committed."""
        answer: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        mine = (Refused(offer_id, agent_id, reason), answer)
        self._waiting.append(mine)
        try:
            async with self._turns:
                await asyncio.sleep(0)  # those who ask in the same pass of the loop come along
                if mine in self._waiting:
                    taken, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                    await self._write(taken, now)
            wrong = await answer
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if wrong is not None:
            raise wrong

    async def _write(self, taken: Sequence[_Asked], now: datetime) -> None:
        stopped = DatabaseUnavailable("The hub is being stopped.")
        answers: Sequence[Exception | None] = [stopped] * len(taken)
        try:
            answers = await self._heard([said for said, _ in taken], now)
        finally:
            for (_, asked), wrong in zip(taken, answers, strict=True):
                if not asked.done():
                    asked.set_result(wrong)

    async def _heard(self, said: Sequence[Refused], now: datetime) -> Sequence[Exception | None]:
        """What is wrong with each: written together, or each by itself when that meets something newer."""
        try:
            return await self._db.write(lambda tx: desk.refuse_all(tx, said, now=now))
        except Conflict as stale:
            if len(said) == 1:
                return [stale]
        except Exception as error:  # whatever it is, each asker hears it
            return [error] * len(said)
        return [wrong for one in said for wrong in await self._heard([one], now)]
