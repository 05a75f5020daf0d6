"""Offers against the twin: nobody accepts, one refuses, two accept at once, somebody leaves in the middle, work overflows."""

from __future__ import annotations

import asyncio

from sqlmodel import select

from crm_core import contacts, conversations, recognition
from crm_core.addresses import phone
from crm_core.calls import CallLeg
from crm_core.errors import Conflict
from routing import agents, desk, transfers
from routing.agents import shown
from routing.missed import MissedCall
from routing.offers import Offer
from tests.twin.stage import ANA, BEN, AgentLine, Stage


def line_of(stage: Stage, agent_id: str) -> AgentLine:
    return next(line for line in stage.lines if line.user_id == agent_id)


async def doing(stage: Stage, agent_id: str) -> str:
    async with stage.runtime.db.reading() as tx:
        found = await agents.find(tx, agent_id)
    assert found is not None
    return shown(found)[0]


async def legs_left(stage: Stage, interaction_id: str) -> list[str]:
    """Agents' legs of this call that are not over at the provider."""
    legs = await stage.all_of(select(CallLeg).where(CallLeg.interaction_id == interaction_id, CallLeg.role == "agent"))
    return [leg.user_id for leg in legs if await stage.status_of(leg.id) != "completed"]


async def test_nobody_accepts_and_the_caller_keeps_the_place_until_somebody_does(stage: Stage) -> None:
    await stage.open("kim", "lee", offer_timeout_s=20, refusal_cooloff_s=30)
    sid = await stage.call()
    await stage.hears(sid, "You are next")
    (before,) = await stage.entries()
    for _ in range(2):
        await stage.turn()
        await stage.later(21)
    offers = await stage.all_of(select(Offer).order_by(Offer.id))
    assert [offer.state for offer in offers[:2]] == ["expired", "expired"]
    assert {offer.agent_id for offer in offers[:2]} == {"kim", "lee"}
    second = await stage.call(BEN)
    await stage.later(31)
    (live,) = [offer for offer in await stage.all_of(select(Offer)) if offer.state == "open"][:1]
    assert live.entry_id == before.id, "who came first is asked about first"
    interaction = await stage.talk(line_of(stage, live.agent_id), sid)
    assert interaction.state == "connected"
    waiting = await stage.interaction(second)
    assert waiting is not None
    assert waiting.state in ("waiting", "offered")
    await stage.check()


async def test_two_accept_at_once_one_wins_and_no_leg_is_left_ringing(stage: Stage) -> None:
    await stage.open("kim", "lee", "max", ring_count=3)
    sid = await stage.call()
    rung = {name: await stage.offered(name) for name in ("kim", "lee", "max")}

    async def accept(name: str) -> Offer | Conflict:
        try:
            return await stage.do(lambda tx: desk.accept(tx, rung[name].id, agent_id=name, now=stage.now))
        except Conflict as refused:
            return refused

    answers = dict(zip(rung, await asyncio.gather(*map(accept, rung)), strict=True))
    (winner,) = [name for name, answer in answers.items() if isinstance(answer, Offer)]
    for name, answer in answers.items():
        if name != winner:
            assert isinstance(answer, Conflict)
            assert "quicker" in str(answer)
            assert await doing(stage, name) == "available"
            assert line_of(stage, name).calls == []
    assert await doing(stage, winner) == "joining"
    won = answers[winner]
    assert isinstance(won, Offer)
    await line_of(stage, winner).connect({"offer": won.id, "nonce": won.nonce})
    interaction = await stage.state_of(sid, "connected")
    assert interaction.agent_id == winner
    assert await legs_left(stage, interaction.id) == [winner]
    assert await doing(stage, winner) == "busy"
    await stage.check()


async def test_the_agent_has_joined_and_the_caller_is_gone(stage: Stage) -> None:
    await stage.open("kim")
    sid = await stage.call()
    offer = await stage.offered("kim")
    taken = await stage.do(lambda tx: desk.accept(tx, offer.id, agent_id="kim", now=stage.now))
    await stage.outside("POST", f"/outside/calls/{sid}/hangup")
    ended = await stage.state_of(sid, "ended")
    assert ended.outcome == "abandoned"
    line = line_of(stage, "kim")
    try:
        await line.connect({"offer": taken.id, "nonce": taken.nonce})
    except AssertionError:
        assert any(told["type"] in ("ended", "error", "closed") for told in line.told), line.told
    await stage.until(lambda: nobody_left(stage, ended.id))
    assert await doing(stage, "kim") == "available"
    (lost,) = [each for each in await stage.all_of(select(Offer)) if each.id == offer.id]
    assert (lost.state, lost.reason) == ("withdrawn", "caller left")
    (missed,) = await stage.all_of(select(MissedCall))
    assert (missed.number_e164, missed.state, missed.times) == (ANA, "open", 1)
    await stage.check()


async def nobody_left(stage: Stage, interaction_id: str) -> bool:
    return not await legs_left(stage, interaction_id)


async def test_work_overflows_to_another_queue_while_the_caller_hears_music(stage: Stage) -> None:
    await stage.open("kim", overflow={"queue_id": "sales", "after_s": 30})
    sam = await stage.hire("sam", queue_id="sales")
    await stage.do(lambda tx: desk.set_activity(tx, "kim", "paused", reason="lunch", now=stage.now))
    sid = await stage.call()
    await stage.hears(sid, "You are next")
    (before,) = await stage.entries()
    await stage.later(31)
    offer = await stage.offered("sam")
    (after,) = await stage.entries()
    assert (offer.entry_id, after.queue_id, after.order_at) == (before.id, "sales", before.order_at)
    interaction = await stage.talk(sam, sid)
    assert interaction.queue_id == "sales"
    assert [move["why"] for move in interaction.data["moves"]] == ["waited 30 s"]
    await stage.do(lambda tx: desk.hang_up(tx, interaction.id, agent_id="sam", now=stage.now))
    await stage.state_of(sid, "wrapup")
    await stage.check()


async def test_a_chain_over_a_colleague_and_a_queue_keeps_the_key_and_leaves_nobody_behind(stage: Stage) -> None:
    await stage.open("kim", wrapup_s=0)
    lee = await stage.hire("lee", queue_id="")
    sam = await stage.hire("sam", queue_id="sales")
    sid = await stage.call()
    interaction = await stage.talk(line_of(stage, "kim"), sid)
    (first,) = await stage.entries()
    await stage.do(lambda tx: transfers.to_agent(tx, interaction.id, agent_id="kim", to_agent_id="lee", now=stage.now))
    await stage.talk(lee, sid)
    await stage.do(lambda tx: transfers.to_queue(tx, interaction.id, agent_id="lee", queue_id="sales", now=stage.now))
    await stage.talk(sam, sid)
    held = next(entry for entry in await stage.entries() if entry.id == first.id)
    assert (held.agent_id, held.queue_id, held.order_at) == ("sam", "sales", first.order_at)
    assert await doing(stage, "kim") == "available"
    await stage.until(lambda: only(stage, interaction.id, "sam"))
    await stage.check()


async def only(stage: Stage, interaction_id: str, agent_id: str) -> bool:
    return await legs_left(stage, interaction_id) == [agent_id]


async def test_a_shared_number_names_nobody_until_the_agent_says_who_it_is(stage: Stage) -> None:
    await stage.open("kim")
    ids = []
    for name in ("Ana Example", "Tom Example"):
        made = await stage.do(
            lambda tx, name=name: contacts.create(tx, name=name, now=stage.now, source="test", points=[phone(ANA)])  # type: ignore[misc]
        )
        ids.append(made.id)
    sid = await stage.call()
    interaction = await stage.talk(line_of(stage, "kim"), sid)
    assert (interaction.contact_id, interaction.match["level"]) == (None, "shared")

    async def settle(tx: object) -> None:
        conversation = await conversations.get(tx, interaction.conversation_id)  # type: ignore[arg-type]
        tom = await contacts.get(tx, ids[1])  # type: ignore[arg-type]
        await recognition.settle(tx, conversation, tom, actor="kim", now=stage.now)  # type: ignore[arg-type]

    await stage.do(settle)
    assert (await stage.fresh(interaction.id)).contact_id == ids[1]
    await stage.do(lambda tx: desk.hang_up(tx, interaction.id, agent_id="kim", now=stage.now))
    await stage.state_of(sid, "wrapup")
    await stage.check()
