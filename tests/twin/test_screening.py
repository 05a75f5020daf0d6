"""Blocked callers, callers who hide their number, foreign ones, and the words that carriers send instead of numbers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import select

from crm_core import blocked_callers
from crm_core.accounts import ChannelAccount
from crm_core.calls import CallRecord
from crm_core.interactions import Interaction
from crm_core.users import User
from tests.twin.stage import ANA, BEN, Stage


async def screen(stage: Stage, **rules: object) -> None:
    await stage.do(lambda tx: tx.run(update(ChannelAccount).values(settings=rules)))


async def block(stage: Stage, number: str, *, until_s: float | None = None) -> None:
    until = stage.now + timedelta(seconds=until_s) if until_s is not None else None
    await stage.do(
        lambda tx: blocked_callers.block(tx, number, user_id="ada", now=stage.now, reason="shouts", until_at=until)
    )


async def test_a_blocked_caller_hears_busy_and_is_on_the_record(stage: Stage) -> None:
    await stage.open("kim")
    await stage.do(lambda tx: tx.add(User(id="ada", login="ada", name="Ada", created_at=stage.now)))
    await block(stage, ANA, until_s=100)
    sid = await stage.call()
    found = await stage.state_of(sid, "ended")
    assert (found.outcome, found.data["screened"]) == ("rejected", "blocked")

    async def busy() -> bool:
        return await stage.status_of(sid) == "busy"

    await stage.until(busy)

    async def recorded() -> list[CallRecord]:
        async with stage.runtime.db.reading() as tx:
            return await tx.all(
                select(CallRecord).where(CallRecord.interaction_id == found.id, CallRecord.end_reason != "")
            )

    [record] = await stage.until(recorded)
    assert record.hung_up_by == "system", "nobody hung up: the hub did not take it"
    other = await stage.call(BEN)
    await stage.offered("kim")
    await stage.state_of(other, "offered")
    stage.clock.tick(101)
    await stage.beat()
    again = await stage.call()  # the block has run out
    await stage.state_of(again, "waiting")
    await stage.do(lambda tx: blocked_callers.unblock(tx, ANA, user_id="ada", now=stage.now))
    await stage.check()


@pytest.mark.parametrize("number", ["anonymous", "+266696687", "Restricted", "sip:eve@example.com", "+7378742833"])
async def test_who_hides_the_number_presses_a_key_first(stage: Stage, number: str) -> None:
    """Words and pseudo-numbers that carriers send for a withheld number are never taken for somebody's address."""
    await stage.open("kim")
    await screen(stage, screen={"withheld": "press"})
    sid = await stage.call(number)
    await stage.hears(sid, "press 1 to be connected")
    await stage.press(sid, "1")
    found = await stage.state_of(sid, "offered")
    assert found.contact_id is None
    await stage.check()


async def test_silence_before_the_key_is_the_end(stage: Stage) -> None:
    await stage.open("kim")
    await screen(stage, screen={"withheld": "press", "foreign": "refuse"})
    sid = await stage.call("anonymous")
    found = await stage.state_of(sid, "ended")
    assert (found.outcome, found.data["screened"]) == ("rejected", "press")
    await stage.check()


async def test_foreign_callers_are_refused_where_the_number_says_so(stage: Stage) -> None:
    await stage.open("kim")
    await screen(stage, screen={"foreign": "refuse"})
    abroad = await stage.call(ANA)  # our number is British
    assert (await stage.state_of(abroad, "ended")).data["screened"] == "refuse"
    home = await stage.call("+442079460099")
    await stage.state_of(home, "offered")
    await screen(stage, screen={"foreign": "refuse"}, countries=["US"])
    welcome = await stage.call(BEN)
    await stage.state_of(welcome, "waiting")
    assert len(await stage.all_of(select(Interaction))) == 3
    await stage.check()
