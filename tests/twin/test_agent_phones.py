"""Agents on telephones: rung into the room when they accept; refused, unanswered; and for calls of their own."""

from __future__ import annotations

import aiohttp
import pytest
from sqlmodel import col, select

from crm_core.addresses import phone
from crm_core.consent import Purpose
from crm_core.errors import Invalid
from crm_core.users import Role
from routing import agent_phones, desk
from routing.offers import Offer
from tests.apps import Visitor, add_user
from tests.twin.stage import ANA, BEN, SALES, Stage

HANDSET = "+12025550177"  # rings until somebody picks it up
MAILBOX = "+12025550194"  # a private voicemail picks up
BUSY = "+12025550192"


async def on_phone(stage: Stage, number: str) -> None:
    from sqlalchemy import update

    from crm_core.accounts import ChannelAccount

    await stage.open("kim")
    await stage.do(lambda tx: tx.run(update(ChannelAccount).values(settings={"countries": ["US"]})))
    await stage.do(lambda tx: agent_phones.set_number(tx, "kim", number, actor="kim", now=stage.now))
    await stage.do(lambda tx: desk.heartbeat(tx, "kim", voice_ready=False, now=stage.now))


async def accept(stage: Stage) -> Offer:
    offer = await stage.offered("kim")
    return await stage.do(lambda tx: desk.accept(tx, offer.id, agent_id="kim", now=stage.now))


async def pick_up(stage: Stage, number: str = HANDSET) -> str:
    """Somebody answers this telephone; the call."""

    async def ringing() -> str:
        for one in (await stage.outside("GET", "/outside/calls"))["calls"]:
            if one["to"] == number and one["status"] == "ringing":
                return str(one["sid"])
        return ""

    sid = await stage.until(ringing)
    await stage.outside("POST", f"/outside/calls/{sid}/answer")
    return str(sid)


async def test_the_agents_telephone_is_rung_into_the_call(stage: Stage) -> None:
    await on_phone(stage, HANDSET)
    sid = await stage.call(BEN)
    await accept(stage)
    handset = await pick_up(stage)
    await stage.hears(handset, "Press 1 to take the call")
    waiting = await stage.interaction(sid)
    assert waiting is not None
    assert waiting.state == "offered", "nobody is connected before the key"
    await stage.press(handset, "1")
    interaction = await stage.state_of(sid, "connected")
    assert interaction.agent_id == "kim"
    shown = await stage.do(lambda tx: desk.rejoin(tx, agent_id="kim", now=stage.now))
    assert shown is not None
    assert shown["rejoin_params"] is None
    (room,) = await stage.rooms()
    assert {seat["label"] for seat in room["participants"]} == {"agent-kim", "customer"}
    await stage.do(lambda tx: desk.hang_up(tx, interaction.id, agent_id="kim", now=stage.now))
    await stage.state_of(sid, "wrapup")
    await stage.check()


async def test_a_telephone_that_is_busy_blames_nobody_and_keeps_the_place(stage: Stage) -> None:
    await on_phone(stage, BUSY)
    sid = await stage.call(ANA)
    offer = await accept(stage)

    async def failed() -> bool:
        found = await stage.all_of(select(Offer).where(col(Offer.id) == offer.id))
        return bool(found[0].state == "failed")

    await stage.until(failed)
    waiting = await stage.interaction(sid)
    assert waiting is not None
    assert waiting.state == "waiting"
    (entry,) = await stage.entries()
    assert entry.order_at == entry.first_arrival_at
    await stage.check()


@pytest.mark.parametrize(("number", "key"), [(MAILBOX, ""), (HANDSET, "7")])
async def test_who_does_not_press_1_never_gets_the_customer(stage: Stage, number: str, key: str) -> None:
    await on_phone(stage, number)
    sid = await stage.call(ANA)
    offer = await accept(stage)
    if key:
        handset = await pick_up(stage)
        await stage.hears(handset, "Press 1")
        await stage.press(handset, key)

    async def failed() -> bool:
        found = await stage.all_of(select(Offer).where(col(Offer.id) == offer.id))
        return bool(found[0].state == "failed")

    await stage.until(failed, within_s=60)
    waiting = await stage.interaction(sid)
    assert waiting is not None
    assert waiting.state == "waiting"
    assert await stage.rooms() == []
    await stage.check()


async def test_a_call_of_ours_rings_the_agent_first(stage: Stage) -> None:
    await on_phone(stage, HANDSET)
    call = await stage.do(
        lambda tx: desk.start_call(
            tx, agent_id="kim", address=phone("+12025550101"), purpose=Purpose.REPLY, account_id="acc-q", now=stage.now
        )
    )

    async def ringing() -> str:
        for one in (await stage.outside("GET", "/outside/calls"))["calls"]:
            if one["to"] == ANA and one["status"] == "ringing":
                return str(one["sid"])
        return ""

    handset = await pick_up(stage)
    await stage.hears(handset, "Press 1")
    await stage.press(handset, "1")
    theirs = await stage.until(ringing)
    await stage.outside("POST", f"/outside/calls/{theirs}/answer")

    async def connected() -> bool:
        return (await stage.fresh(call.id)).state == "connected"

    await stage.until(connected)
    await stage.check()


async def test_numbers_that_no_agent_can_have(stage: Stage) -> None:
    await stage.open("kim")
    for number in (HANDSET, SALES):  # a country that is not allowed; a number of ours, which would ring us again
        with pytest.raises(Invalid):
            await stage.do(lambda tx, n=number: agent_phones.set_number(tx, "kim", n, actor="kim", now=stage.now))  # type: ignore[misc]
    assert await stage.do(lambda tx: agent_phones.set_number(tx, "kim", "", actor="kim", now=stage.now)) == ""


async def test_the_profile_sets_and_clears_the_number(stage: Stage) -> None:
    await stage.open()
    kim = await add_user(stage.runtime, "kim", [Role.AGENT])
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        visitor = Visitor(stage.runtime.settings.public_url, http)
        assert await visitor.log_in("kim") == 303
        path = "/desk/profile/telephone"
        status, shown = await visitor.ask("POST", path, data={"number": "020 7946 0077"})
        assert (status, "+442079460077" in shown) == (200, True)
        status, shown = await visitor.ask("POST", path, data={"number": HANDSET})
        assert "Numbers in US are not dialled" in shown
        status, shown = await visitor.ask("GET", path)
        assert "+442079460077" in shown
        await visitor.ask("POST", path, data={"number": ""})
    async with stage.runtime.db.reading() as tx:
        assert await agent_phones.number_of(tx, kim.id) == ""
