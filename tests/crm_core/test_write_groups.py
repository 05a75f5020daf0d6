"""Units that only append are written together: nothing lost, nothing twice, and the one to blame is found alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import col, func, select, update

from crm_core import tallies
from crm_core.accounts import ChannelAccount
from crm_core.conversations import Conversation
from crm_core.db import Database, DuplicateRow, Tx
from crm_core.events import Event
from crm_core.statements import postgres_compiler
from crm_core.tallies import Tally
from crm_core.tx import DatabaseUnavailable
from crm_core.write_groups import UNITS, Appends, Groups, Refused, combined

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


def event(key: str) -> Event:
    return Event(id=key, kind="t", subject_id="s", created_at=NOW)


async def append(db: Database, key: str, *, runs: list[str] | None = None) -> str:
    """A unit that reads, and appends an event and a count."""

    async def unit(tx: Tx) -> str:
        if runs is not None:
            runs.append(key)
        await tx.one(select(func.count()).select_from(Event))
        tx.later(event(key))
        await tallies.add(tx, day=NOW, queue_id="q", state="waiting", by=1)
        return key

    return await db.write(unit, appends=True)


async def stored(db: Database) -> tuple[list[str], int]:
    """The events' ids and the sum of the counts."""
    async with db.reading() as tx:
        ids = await tx.all(select(Event.id).order_by(col(Event.id)))
        return ids, int(await tx.one(select(func.sum(Tally.number))) or 0)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each group that is written."""
    from crm_core import db_postgres, db_sqlite

    seen: list[int] = []

    def noted(units: Sequence[Appends]) -> Any:
        seen.append(len(units))
        return combined(units)

    monkeypatch.setattr(db_postgres, "combined", noted)
    monkeypatch.setattr(db_sqlite, "combined", noted)
    return seen


async def test_many_at_once_are_few_writes_and_none_is_lost(db: Database, commits: list[int]) -> None:
    keys = [f"k{number:03d}" for number in range(100)]
    assert await asyncio.gather(*(append(db, key) for key in keys)) == keys
    assert await stored(db) == (keys, 100)
    assert sum(commits) == 100
    assert len(commits) < 25
    assert max(commits) <= UNITS


async def test_one_that_is_refused_is_found_alone(db: Database, commits: list[int]) -> None:
    await append(db, "k05")
    runs: list[str] = []
    keys = [f"k{number:02d}" for number in range(10)]
    told = await asyncio.gather(*(append(db, key, runs=runs) for key in keys), return_exceptions=True)
    assert [type(each) if isinstance(each, Exception) else each for each in told] == [
        DuplicateRow if key == "k05" else key for key in keys
    ]
    assert await stored(db) == (keys, 10)
    assert sorted(runs) == sorted([*keys, "k05"]), "only the refused one ran again"


async def test_copies_of_one_delivery_have_one_effect(db: Database) -> None:
    told = await asyncio.gather(*(append(db, "same") for _ in range(20)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in told) == ["DuplicateRow"] * 19 + ["str"]
    assert await stored(db) == (["same"], 1)


async def test_a_row_and_the_one_it_refers_to_go_in_that_order(db: Database) -> None:
    async def unit(tx: Tx) -> None:
        thread = Conversation(
            id="c", channel="voice", account_id="a", thread_key="t", thread_token="t", created_at=NOW, last_at=NOW
        )
        tx.later(thread)
        tx.later(ChannelAccount(id="a", channel="voice", name="n", address="+442079460000", created_at=NOW))

    await db.write(unit, appends=True)
    async with db.reading() as tx:
        assert await tx.one(select(Conversation.account_id)) == "a"


@pytest.mark.parametrize("does", ["locks", "writes", "changes later"])
async def test_who_does_more_than_append_does_it_under_the_lock(sqlite_db: Database, does: str) -> None:
    await append(sqlite_db, "there")
    runs = []

    async def unit(tx: Tx) -> None:
        runs.append(does)
        if does == "locks":
            await tx.one(select(Event).where(Event.id == "there").with_for_update())
        elif does == "writes":
            await tx.add(event("at once"))
        else:
            await tx.run_later(update(Event).where(col(Event.id) == "there").values(kind="seen"))
        tx.later(event("new"))

    await sqlite_db.write(unit, appends=True)
    assert len(runs) == 2
    assert "new" in (await stored(sqlite_db))[0]


async def test_who_only_reads_does_not_wait_for_the_writer(
    sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any) -> None:
        raise AssertionError("it stood in the writer's queue")

    async def unit(tx: Tx) -> int:
        return int(await tx.one(select(func.count()).select_from(Event)) or 0)

    await append(sqlite_db, "there")
    monkeypatch.setattr(sqlite_db, "_queued", never)
    assert await sqlite_db.write(unit, appends=True) == 1


async def test_an_error_of_ones_own_writes_nothing(db: Database) -> None:
    async def unit(tx: Tx) -> None:
        tx.later(event("never"))
        raise LookupError("mine")

    with pytest.raises(LookupError):
        await db.write(unit, appends=True)
    assert await stored(db) == ([], 0)


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 9)), max_size=4), max_size=6))
def test_counts_are_added_up_by_key_and_rows_are_all_there(units: list[list[tuple[str, int]]]) -> None:
    compiler = postgres_compiler()
    rows, counts = (
        compiler.insert_plan(Event),
        compiler.insert_plan(Tally, ("day", "queue_id", "state", "shard"), add=("number",)),
    )
    left: list[Appends] = []
    for number, unit in enumerate(units):
        each = [Tally(day="d", queue_id=key, state="s", shard=1, number=by) for key, by in unit]
        bound = [counts.bind(row.__dict__) for row in each]
        left.append([(counts, bound), (rows, [rows.bind(event(f"{number}").__dict__)])])
    found = dict(combined(left))
    expected: dict[str, int] = {}
    for key, by in (pair for unit in units for pair in unit):
        expected[key] = expected.get(key, 0) + by
    names = [name for name, _ in counts.arguments]
    sums = [(row[names.index("queue_id")], row[names.index("number")]) for row in found.get(counts, [])]
    assert sums == sorted(expected.items())
    assert len(found.get(rows, [])) == len(units)


class Slow:
    """A write that waits to be let go."""

    def __init__(self) -> None:
        self.groups: list[list[Appends]] = []
        self.let_go = asyncio.Event()

    async def write(self, units: Sequence[Appends]) -> None:
        self.groups.append(list(units))
        if len(self.groups) == 1:
            await self.let_go.wait()
        if any(unit == ["bad"] for unit in units):
            raise Refused("bad")


async def test_a_group_that_waits_for_a_lock_does_not_hold_up_the_next() -> None:
    slow = Slow()
    groups = Groups(slow.write)
    stuck = asyncio.create_task(groups.join(["first"]))  # type: ignore[list-item]
    while not slow.groups:
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await asyncio.gather(groups.join(["second"]), groups.join(["third"]))  # type: ignore[list-item]
    assert slow.groups == [[["first"]], [["second"], ["third"]]]
    assert not stuck.done()
    slow.let_go.set()
    await stuck


async def test_who_has_gone_is_left_out_and_the_others_are_told() -> None:
    slow = Slow()
    groups = Groups(slow.write)
    first = asyncio.create_task(groups.join(["first"]))  # type: ignore[list-item]
    while not slow.groups:
        await asyncio.sleep(0)
    gone, stays, bad = (asyncio.create_task(groups.join([name])) for name in ("gone", "stays", "bad"))  # type: ignore[list-item]
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    slow.let_go.set()
    await groups.close()
    await first
    await stays
    with pytest.raises(Refused):
        await bad
    assert [["gone"]] not in slow.groups
    assert not any(["gone"] in group for group in slow.groups)


async def test_a_crowd_that_has_gone_leaves_nobody_behind_it_waiting() -> None:
    slow = Slow()
    slow.let_go.set()
    groups = Groups(slow.write)
    crowd: list[Any] = [[f"{number}"] for number in range(UNITS)]  # names stand for what units append
    behind: Any = ["last"]
    asking = [asyncio.create_task(groups.join(one)) for one in crowd]
    await asyncio.sleep(0)  # they stand in the queue, and the start is on its way
    last = asyncio.create_task(groups.join(behind))
    for one in asking:
        one.cancel()
    async with asyncio.timeout(60):
        await last
    assert slow.groups == [[["last"]]]


async def test_closing_tells_those_whose_write_is_cut_off() -> None:
    slow = Slow()
    groups = Groups(slow.write)
    asked = asyncio.create_task(groups.join(["first"]))  # type: ignore[list-item]
    while not slow.groups:
        await asyncio.sleep(0)
    for task in groups._running:
        task.cancel()
    with pytest.raises(DatabaseUnavailable):
        await asked
