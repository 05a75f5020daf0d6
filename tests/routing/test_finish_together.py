"""Two agents finish one call in the same instant: who gave it away and who took it. Each has a part of it, and both are kept."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import column, func, select, table

from crm_core.db import Database, Tx
from crm_core.db_postgres import PostgresDatabase
from routing import desk, transfers
from tests.routing.floor import ANA, Floor

LOCKS = table("pg_locks", column("granted"))


@pytest.mark.parametrize(("sooner", "later"), [("kim", "lee"), ("lee", "kim")])
async def test_who_gave_a_call_away_and_who_took_it_finish_together(floor: Floor, sooner: str, later: str) -> None:
    await floor.open("kim", wrapup_s=600)
    customer, _ = await floor.call(ANA)
    call = await floor.interaction_of(customer)
    await floor.step(call.id, "wait")
    await floor.tick(beats=("kim",))
    await floor.talk("kim", customer, call.id)
    await floor.hire("lee")
    await floor.do(lambda tx: transfers.to_agent(tx, call.id, agent_id="kim", to_agent_id="lee", now=floor.now))
    await floor.step(call.id, "transfer")
    await floor.tick(beats=("kim", "lee"))
    await floor.talk("lee", customer, call.id)
    await floor.hang_up("lee", call.id)
    await floor.room(call.id, "leave", customer, "customer")
    await floor.status(customer, "completed")
    held = {str(entry.agent_id): entry for entry in await floor.entries()}
    assert {entry.state for entry in held.values()} == {"wrapup"}

    written = asyncio.Event()

    async def finish(tx: Tx, agent_id: str) -> None:
        work = held[agent_id].id
        await desk.finish(tx, work, agent_id=agent_id, disposition="done", notes=f"said to {agent_id}", now=floor.now)

    async def first(tx: Tx) -> None:
        await finish(tx, sooner)
        written.set()
        await somebody_waits(floor.db)

    async def second() -> None:
        await written.wait()
        await floor.do(lambda tx: finish(tx, later))

    await asyncio.gather(floor.do(first), second())
    fresh = await floor.interaction(call.id)
    assert fresh.notes == f"said to {sooner}\nsaid to {later}"
    assert (fresh.disposition, fresh.data["transfers"][-1]["disposition"]) == ("done", "done")
    await floor.check()


async def somebody_waits(db: Database) -> None:
    """Until another unit waits for a row that this one has written. SQLite has one writer: there nobody is let in so far."""
    if not isinstance(db, PostgresDatabase):
        return
    async with asyncio.timeout(60):
        while True:
            async with db.reading() as tx:
                if await tx.one(select(func.count()).select_from(LOCKS).where(~column("granted"))):
                    return
            await asyncio.sleep(0.01)
