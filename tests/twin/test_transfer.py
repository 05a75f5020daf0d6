"""Cold transfer to a queue, a colleague and a number: the customer stays, keeps the place, and nobody's part is lost."""

from __future__ import annotations

import pytest
from sqlmodel import col, select

from crm_core.addresses import phone
from crm_core.calls import CallEvent, CallLeg, CallRecord
from crm_core.errors import Conflict, Invalid, NotAllowed
from routing import desk, transfers
from routing.agents import shown
from routing.queues import QueueEntry
from tests.twin.stage import ANA, BEN, SALES, Stage

OFFICE = "+442079460077"  # a number outside, in the country of ours
ANSWERS, BUSY, NOBODY = "+12025550195", "+12025550192", "+12025550191"


async def state_of_agent(stage: Stage, agent_id: str) -> str:
    from routing import agents

    async with stage.runtime.db.reading() as tx:
        found = await agents.find(tx, agent_id)
    assert found is not None
    return shown(found)[0]


async def test_to_a_queue_the_order_key_is_kept_and_the_agent_wraps_up(stage: Stage) -> None:
    await stage.open("kim")
    kim = stage.lines[0]
    lee = await stage.hire("lee", queue_id="sales", available=False)
    sid = await stage.call()
    interaction = await stage.talk(kim, sid)
    (before,) = await stage.entries()
    with pytest.raises(NotAllowed):
        await stage.do(
            lambda tx: transfers.to_queue(tx, interaction.id, agent_id="lee", queue_id="sales", now=stage.now)
        )
    await stage.do(
        lambda tx: transfers.to_queue(
            tx, interaction.id, agent_id="kim", queue_id="sales", now=stage.now, note="wants the blue one"
        )
    )
    heard = await stage.hears(sid, "putting you through")
    await stage.hears(sid, "You are next")
    assert "hold.wav" in await stage.hears(sid, "hold.wav"), heard
    call, wrapup = sorted(await stage.entries(), key=lambda e: e.kind == "transfer")
    assert (call.id, call.queue_id, call.state) == (before.id, "sales", "waiting")
    assert (call.order_at, call.first_arrival_at) == (before.order_at, before.first_arrival_at)
    assert (wrapup.agent_id, wrapup.state) == ("kim", "wrapup")
    assert await state_of_agent(stage, "kim") == "wrapup"
    assert (await stage.fresh(interaction.id)).queue_id == "sales"
    await stage.until(lambda: no_rooms(stage))
    await stage.check()

    # Somebody who called later waits behind, and Lee gets the transferred one first.
    await stage.call(BEN, to="+442079460001")
    await stage.do(lambda tx: desk.set_activity(tx, "lee", "available", now=stage.now))
    again = await stage.talk(lee, sid)
    assert again.agent_id == "lee"
    await stage.do(
        lambda tx: desk.finish(
            tx, wrapup.id, agent_id="kim", disposition="done", notes="asked about blue", now=stage.now
        )
    )
    given = await stage.fresh(interaction.id)
    assert given.notes == "asked about blue"
    assert [(part["by"], part["disposition"]) for part in given.data["transfers"]] == [("kim", "done")]
    assert await state_of_agent(stage, "kim") == "available"
    await stage.outside("POST", f"/outside/calls/{sid}/hangup")
    await stage.state_of(sid, "wrapup")
    (record,) = await stage.all_of(select(CallRecord).where(CallRecord.interaction_id == interaction.id))
    assert set(record.agents) == {"kim", "lee"}
    parts = await stage.all_of(
        select(CallEvent).where(
            CallEvent.interaction_id == interaction.id, col(CallEvent.kind).in_(["transferred", "part_disposed"])
        )
    )
    assert [(part.kind, part.user_id) for part in parts] == [("transferred", "kim"), ("part_disposed", "kim")]
    for _ in range(2):  # Lee clicks twice; neither Kim's words nor Lee's are lost or doubled
        await stage.do(
            lambda tx: desk.finish(
                tx, call.id, agent_id="lee", disposition="done", notes="told about blue", now=stage.now
            )
        )
    assert (await stage.fresh(interaction.id)).notes == "asked about blue\ntold about blue"
    await stage.check()


async def no_rooms(stage: Stage) -> bool:
    return not await stage.rooms()


async def test_to_a_colleague_who_refuses_it_comes_back_to_the_front(stage: Stage) -> None:
    await stage.open("kim", "max")
    kim = next(line for line in stage.lines if line.user_id == "kim")
    lee = await stage.hire("lee", queue_id="")
    await stage.do(lambda tx: desk.set_activity(tx, "max", "paused", reason="lunch", now=stage.now))
    sid = await stage.call()
    interaction = await stage.talk(kim, sid)
    later = await stage.call(BEN)
    with pytest.raises(Conflict):
        await give(stage, interaction.id, "max")
    await give(stage, interaction.id, "lee")
    offer = await stage.offered("lee")
    assert offer.trace["why"] == "Kim transfers this call to them"
    await stage.hears(sid, "putting you through")
    await stage.do(lambda tx: desk.refuse(tx, offer.id, agent_id="lee", now=stage.now))
    await stage.do(lambda tx: desk.set_activity(tx, "max", "available", now=stage.now))
    await stage.talk(next(line for line in stage.lines if line.user_id == "max"), sid)
    waiting = await stage.interaction(later)
    assert waiting is not None
    assert waiting.state == "waiting"
    await stage.check()

    # A chain: Max gives it to Lee, who takes it this time.
    await give(stage, interaction.id, "lee", by="max")
    await stage.talk(lee, sid)
    told = (await stage.fresh(interaction.id)).data["transfers"]
    assert [(one["by"], one["to"]) for one in told] == [("kim", "lee"), ("max", "lee")]
    await stage.do(lambda tx: desk.hang_up(tx, interaction.id, agent_id="lee", now=stage.now))
    await stage.until(lambda: is_over(stage, sid))
    (record,) = await stage.all_of(select(CallRecord).where(CallRecord.interaction_id == interaction.id))
    assert set(record.agents) == {"kim", "max", "lee"}  # their joins share one of the provider's whole seconds
    legs = await stage.all_of(select(CallLeg).where(CallLeg.interaction_id == interaction.id))
    await stage.until(lambda: all_over(stage, [leg.id for leg in legs]))
    await stage.check()


async def give(stage: Stage, interaction_id: str, to: str, *, by: str = "kim") -> QueueEntry:
    return await stage.do(lambda tx: transfers.to_agent(tx, interaction_id, agent_id=by, to_agent_id=to, now=stage.now))


async def is_over(stage: Stage, sid: str) -> bool:
    return await stage.status_of(sid) == "completed"


async def all_over(stage: Stage, sids: list[str]) -> bool:
    return all([await is_over(stage, sid) for sid in sids])


async def test_the_caller_hangs_up_during_the_move(stage: Stage) -> None:
    await stage.open("kim")
    lee = await stage.hire("lee", queue_id="")
    sid = await stage.call()
    interaction = await stage.talk(stage.lines[0], sid)
    await give(stage, interaction.id, "lee")
    await stage.outside("POST", f"/outside/calls/{sid}/hangup")
    ended = await stage.state_of(sid, "ended")
    assert ended.outcome == "abandoned"
    assert await state_of_agent(stage, "lee") == "available"
    assert lee.calls == []
    await stage.check()


async def allow(stage: Stage, *countries: str) -> None:
    from sqlalchemy import update

    from crm_core.accounts import ChannelAccount

    await stage.do(lambda tx: tx.run(update(ChannelAccount).values(settings={"countries": list(countries)})))


async def to_number(stage: Stage, interaction_id: str, number: str) -> QueueEntry:
    return await stage.do(
        lambda tx: transfers.to_number(tx, interaction_id, agent_id="kim", number=phone(number), now=stage.now)
    )


async def test_to_a_number_outside_that_answers(stage: Stage) -> None:
    await stage.open("kim")
    await allow(stage, "US")
    sid = await stage.call()
    interaction = await stage.talk(stage.lines[0], sid)
    await to_number(stage, interaction.id, ANSWERS)
    ended = await stage.state_of(sid, "ended")
    assert (ended.outcome, ended.data["away"]["to"]) == ("handled", ANSWERS)
    assert await stage.status_of(sid) == "in-progress"  # they talk on without us
    await stage.later(400)  # longer than the call would be kept from the agents
    assert await stage.status_of(sid) == "in-progress"
    outside = await stage.all_of(select(CallLeg).where(CallLeg.role == "consult"))
    assert [leg.status for leg in outside] == ["answered"]
    await stage.outside("POST", f"/outside/calls/{sid}/hangup")
    await stage.until(lambda: all_over(stage, [sid, outside[0].id]))

    async def told() -> CallRecord | None:
        (record,) = await stage.all_of(select(CallRecord).where(CallRecord.interaction_id == interaction.id))
        return record if record.ended_at else None

    record = await stage.until(told)
    assert (record.end_reason, record.hung_up_by) == ("completed", "customer")
    await stage.check()


@pytest.mark.parametrize("number", [BUSY, NOBODY])
async def test_a_number_that_does_not_take_it_gives_the_caller_back(stage: Stage, number: str) -> None:
    await stage.open("kim", "lee")
    await allow(stage, "US")
    kim, lee = stage.lines
    sid = await stage.call()
    offer_to = (await stage.until(lambda: first_offer(stage))).agent_id
    first, second = (kim, lee) if offer_to == "kim" else (lee, kim)
    interaction = await stage.talk(first, sid)
    await stage.do(
        lambda tx: transfers.to_number(tx, interaction.id, agent_id=first.user_id, number=phone(number), now=stage.now)
    )
    await stage.hears(sid, "finding another colleague")
    again = await stage.talk(second, sid)
    assert again.agent_id == second.user_id
    assert "away" not in again.data
    assert len({entry.order_at for entry in await stage.entries()}) == 1
    await stage.check()


async def first_offer(stage: Stage):  # type: ignore[no-untyped-def]
    from routing.offers import LIVE, Offer

    found = await stage.all_of(select(Offer).where(col(Offer.state).in_(LIVE)))
    return found[0] if found else None


async def test_numbers_that_this_hub_does_not_dial(stage: Stage) -> None:
    await stage.open("kim")
    sid = await stage.call()
    interaction = await stage.talk(stage.lines[0], sid)
    for number, why in ((ANSWERS, "Numbers in US"), ("+449098790000", "Premium"), (SALES, "our own numbers")):
        with pytest.raises(Invalid, match=why):
            await to_number(stage, interaction.id, number)
    assert (await stage.fresh(interaction.id)).state == "connected"
    assert (await stage.fresh(interaction.id)).from_address == ANA
    await stage.check()


async def test_a_call_of_ours_is_transferred_like_one_that_came(stage: Stage) -> None:
    from crm_core.consent import Purpose

    await stage.open("kim")
    kim = stage.lines[0]
    lee = await stage.hire("lee", queue_id="")
    call = await stage.do(
        lambda tx: desk.start_call(
            tx, agent_id="kim", address=phone(ANSWERS), purpose=Purpose.REPLY, account_id="acc-q", now=stage.now
        )
    )
    await kim.connect({"call": call.id, "nonce": str(call.data["nonce"])})

    async def connected() -> bool:
        return (await stage.fresh(call.id)).state == "connected"

    await stage.until(connected)
    await give(stage, call.id, "lee")
    await stage.accept(lee)
    await stage.until(connected)
    assert (await stage.fresh(call.id)).agent_id == "lee"
    await stage.do(lambda tx: desk.hang_up(tx, call.id, agent_id="lee", now=stage.now))
    entry = next(e for e in await stage.entries() if e.kind == "voice")
    await stage.do(lambda tx: desk.finish(tx, entry.id, agent_id="lee", disposition="done", now=stage.now))
    assert ((await stage.fresh(call.id)).state, (await stage.fresh(call.id)).disposition) == ("ended", "done")
    await stage.check()
