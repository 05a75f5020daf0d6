"""Rows put off to the end of their unit: there for whoever looks, in one round trip, undone with what asked for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import bindparam, update
from sqlmodel import col, select

from crm_core import tallies
from crm_core.accounts import ChannelAccount
from crm_core.conversations import Conversation
from crm_core.db import Database, DuplicateRow
from crm_core.events import Event
from crm_core.interactions import Interaction, InteractionState
from crm_core.statements import fixed
from crm_core.touches import Direction
from routing.queues import Queue

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
RENAME = fixed(update(Queue).where(col(Queue.id) == bindparam("queue_id")).values(name=bindparam("new_name")))


def event(key: str, **data: Any) -> Event:
    return Event(id=key, kind="t", subject_id="s", data=data, created_at=NOW)


def account(key: str = "a") -> ChannelAccount:
    return ChannelAccount(id=key, channel="voice", name="Main", address=f"+44{key}", created_at=NOW)


def thread(key: str, account_id: str = "a") -> Conversation:
    return Conversation(
        id=key, channel="voice", account_id=account_id, thread_key=key, thread_token=key, created_at=NOW, last_at=NOW
    )  # fmt: skip


def call(key: str, conversation_id: str) -> Interaction:
    return Interaction(
        id=key, conversation_id=conversation_id, channel="voice", direction=Direction.INBOUND, external_id=key,
        state=InteractionState.MENU, first_arrival_at=NOW, created_at=NOW,
    )  # fmt: skip


async def ids(db: Database, table: Any) -> list[str]:
    async with db.reading() as tx:
        return await tx.all(select(table.id).order_by(table.id))


async def test_rows_that_refer_to_one_another_are_written_together(db: Database) -> None:
    async def unit(tx: Any) -> None:
        tx.later(account())
        for number in range(3):
            tx.later(thread(f"t{number}"))
            tx.later(event(f"e{number}", n=number, deep={"é": [1, None]}))
            tx.later(call(f"c{number}", f"t{number}"))

    await db.write(unit)
    assert await ids(db, Conversation) == ["t0", "t1", "t2"]
    assert await ids(db, Interaction) == ["c0", "c1", "c2"]
    async with db.reading() as tx:
        row = await tx.one(select(Event).where(Event.id == "e2"))
        assert row is not None
        assert row.model_dump() == event("e2", n=2, deep={"é": [1, None]}).model_dump()


async def test_whoever_looks_within_the_unit_finds_them(db: Database) -> None:
    async def unit(tx: Any) -> list[Any]:
        tx.later(event("a"))
        found = [await tx.all(select(Event.id))]
        tx.later(event("b"))
        found.append(await tx.run(update(Event).where(col(Event.id) == "b").values(kind="u")))
        tx.later(account())
        await tx.add(thread("t"))  # refers to the account
        tx.later(event("c"))
        found.append(await tx.one(select(Queue)))
        return found

    assert await db.write(unit) == [["a"], 1, None]
    assert await ids(db, Event) == ["a", "b", "c"]
    assert await ids(db, Conversation) == ["t"]


async def test_a_failed_savepoint_takes_its_own_along_and_nothing_else(db: Database) -> None:
    async def unit(tx: Any) -> None:
        tx.later(event("before"))
        with pytest.raises(ValueError, match="no"):  # noqa: PT012 - the end of the savepoint is what raises
            async with tx.savepoint():
                tx.later(event("inside"))
                await tallies.add(tx, day=NOW, queue_id="q", state="waiting", by=1)
                raise ValueError("no")
        async with tx.savepoint():
            tx.later(event("second"))
            async with tx.savepoint():
                tx.later(event("inner"))
            with pytest.raises(DuplicateRow):  # noqa: PT012
                async with tx.savepoint():
                    tx.later(event("lost"))
                    tx.later(event("inner"))
        tx.later(event("after"))

    await db.write(unit)
    assert await ids(db, Event) == ["after", "before", "inner", "second"]
    async with db.reading() as tx:
        assert await tallies.list_counts(tx, day=NOW) == []


async def test_a_failed_unit_leaves_nothing_for_the_next_one(sqlite_db: Database) -> None:
    async def bad(tx: Any) -> None:
        tx.later(event("bad"))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await sqlite_db.write(bad)
    await sqlite_db.write(lambda tx: tx.add(event("good")))
    assert await ids(sqlite_db, Event) == ["good"]


async def test_a_row_that_is_there_stays_or_is_added_to(db: Database) -> None:
    async def unit(tx: Any) -> None:
        tx.later(event("a", n=1))
        tx.later(event("a", n=2), unique=("id",))
        tx.later(event("b", n=3), unique=("id",))
        for state in ("waiting", "menu"):
            await tallies.add(tx, day=NOW, queue_id="q", state=state, by=2)

    await db.write(unit)
    async with db.reading() as tx:
        assert [(row.id, row.data["n"]) for row in await tx.all(select(Event).order_by(col(Event.id)))] == [
            ("a", 1), ("b", 3),
        ]  # fmt: skip
        assert {count.state: count.number for count in await tallies.list_counts(tx, day=NOW)} == {
            "waiting": 2, "menu": 2,
        }  # fmt: skip


async def test_changes_put_off_are_made_after_the_rows(db: Database) -> None:
    async def unit(tx: Any) -> str:
        await tx.add(Queue(id="q", name="Old"))
        await tx.run_later(RENAME, queue_id="q", new_name="New")
        tx.later(event("a"))
        await tallies.add(tx, day=NOW, queue_id="q", state="menu", by=1)
        await tx.run_later(RENAME, queue_id="q", new_name="Newest")
        return str(await tx.one(select(Queue.name)))

    assert await db.write(unit) == "Newest"
    assert await ids(db, Event) == ["a"]
