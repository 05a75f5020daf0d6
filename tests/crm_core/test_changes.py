"""Held rows change in few statements, and never from another version than the one that was read."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import patch

import pytest
from sqlmodel import select

from crm_core.changes import change_held
from crm_core.clock import FixedClock
from crm_core.db import Database, Tx
from crm_core.errors import Conflict
from crm_core.users import User
from routing import agents
from routing.agents import Agent
from routing.queues import Queue

NAMES = ("kim", "lee", "max")


@pytest.fixture
async def staff(db: Database, clock: FixedClock) -> Database:
    async def hire(tx: Tx) -> None:
        for name in NAMES:
            await tx.add(User(id=name, login=name, name=name, created_at=clock.now()))
            await agents.ensure(tx, name, now=clock.now())

    await db.write(hire)
    return db


async def read(db: Database) -> dict[str, Agent]:
    async with db.reading() as tx:
        found = [await agents.find(tx, name) for name in NAMES]
    return {agent.user_id: agent for agent in found if agent is not None}


async def test_each_row_gets_its_own_values_and_its_next_version(staff: Database, clock: FixedClock) -> None:
    later = clock.now() + timedelta(hours=1)

    async def unit(tx: Tx) -> None:
        held = await agents.lock_all(tx, sorted(NAMES))
        await change_held(tx, [(held["kim"], {"misses": 1}), (held["max"], {"misses": 3})])
        await change_held(tx, [(held["kim"], {"reason": "lunch", "seen_at": later, "voice_ready": True})])
        assert (held["kim"].misses, held["kim"].reason, held["kim"].version) == (1, "lunch", 3), "the objects follow"

    await staff.write(unit)
    now = await read(staff)
    assert [(now[name].misses, now[name].version) for name in NAMES] == [(1, 3), (0, 1), (3, 2)]
    assert (now["kim"].reason, now["kim"].seen_at, now["kim"].voice_ready) == ("lunch", later, True)


async def test_several_of_which_one_has_moved_on_are_a_conflict(staff: Database) -> None:
    old = await read(staff)
    await staff.write(lambda tx: change_held(tx, [(old["lee"], {"misses": 1})]))
    stale = await read(staff)
    stale["lee"].__dict__["version"] = 1
    with pytest.raises(Conflict):
        await staff.write(lambda tx: change_held(tx, [(stale[name], {"misses": 5}) for name in NAMES]))
    now = await read(staff)
    assert [(now[name].misses, now[name].version) for name in NAMES] == [(0, 1), (1, 2), (0, 1)]


async def test_a_single_row_is_never_overwritten_from_an_older_version(staff: Database) -> None:
    """Against the rule: it was not held. The table refuses the row without a version; nothing of the unit is written."""
    stale = (await read(staff))["lee"]
    await staff.write(lambda tx: change_held(tx, [(stale, {"misses": 1})]))
    stale.__dict__["version"] = 1

    async def unit(tx: Tx) -> None:
        await tx.add(Queue(id="q", name="Support"))
        await change_held(tx, [(stale, {"misses": 9})])

    with pytest.raises(Exception, match=r"(?i)not.null"):
        await staff.write(unit)
    now = (await read(staff))["lee"]
    assert (now.misses, now.version) == (1, 2)
    async with staff.reading() as tx:
        assert await tx.all(select(Queue)) == []


async def test_three_are_held_and_changed_by_the_statements_for_four(staff: Database, clock: FixedClock) -> None:
    sent: list[str] = []

    async def unit(tx: Tx, names: tuple[str, ...]) -> None:
        plain = tx._driver.fetch

        async def noted(sql: str, arguments: list[object]) -> object:
            sent.append(sql)
            return await plain(sql, arguments)

        with patch.object(type(tx._driver), "fetch", staticmethod(noted)):
            held = await agents.lock_all(tx, sorted(names))
            assert sorted(held) == sorted(names)
            await change_held(tx, [(held[name], {"misses": place}) for place, name in enumerate(names, 1)])

    async def hire(tx: Tx) -> None:
        await tx.add(User(id="ola", login="ola", name="ola", created_at=clock.now()))
        await agents.ensure(tx, "ola", now=clock.now())

    await staff.write(hire)
    await staff.write(lambda tx: unit(tx, NAMES))
    now = await read(staff)
    assert [(now[name].misses, now[name].version) for name in NAMES] == [(1, 2), (2, 2), (3, 2)]
    await staff.write(lambda tx: unit(tx, (*NAMES, "ola")))
    assert len(sent) == 4
    assert sent[:2] == sent[2:]
