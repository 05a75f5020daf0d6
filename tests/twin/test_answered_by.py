"""Machine detection: an answering machine is told as one, at the call and to whoever chooses the disposition."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from sqlalchemy import update
from sqlmodel import select

from channels import answered_by
from channels.errors import AnswerUnreadable
from crm_core.accounts import ChannelAccount
from crm_core.addresses import phone
from crm_core.calls import CallEvent
from crm_core.consent import Purpose
from crm_core.errors import NotFound
from crm_core.interactions import Disposition, Interaction
from crm_core.users import Role
from routing import answered_by as behaviour
from routing import desk, sound_quality
from routing.offers import Offer
from tests.apps import Visitor, add_user
from tests.twin.stage import Stage

MACHINE, PERSON = "+12025550194", "+12025550195"


async def dial(stage: Stage, number: str) -> Interaction:
    """Kim calls this number, and it is picked up."""
    call = await stage.do(
        lambda tx: desk.start_call(
            tx, agent_id="kim", address=phone(number), purpose=Purpose.REPLY, account_id="acc-q", now=stage.now
        )
    )
    await stage.lines[0].connect({"call": call.id, "nonce": str(call.data["nonce"])})

    async def connected() -> bool:
        return (await stage.fresh(call.id)).state == "connected"

    await stage.until(connected)
    return await stage.fresh(call.id)


async def listen(stage: Stage) -> None:
    await stage.do(lambda tx: tx.run(update(ChannelAccount).values(settings={"detect_machines": True})))


@pytest.mark.parametrize(("number", "answer"), [(MACHINE, "machine"), (PERSON, "human")])
async def test_who_answered_is_told_at_the_call(stage: Stage, number: str, answer: str) -> None:
    await stage.open("kim")
    await listen(stage)
    call = await dial(stage, number)

    async def told() -> str:
        return behaviour.of(await stage.fresh(call.id))

    assert await stage.until(told) == answer
    events = await stage.all_of(select(CallEvent).where(CallEvent.kind == "answered-by"))
    assert [(event.raw["answer"], event.raw["after_ms"]) for event in events] == [(answer, 1200)]
    again = answered_by.read({"CallSid": events[0].leg_id, "AnsweredBy": "machine_end_beep"})
    await stage.do(lambda tx: behaviour.told(tx, again, interaction_id=call.id, now=stage.now))
    assert behaviour.of(await stage.fresh(call.id)) == answer, "the first word counts"
    await stage.do(lambda tx: desk.hang_up(tx, call.id, agent_id="kim", now=stage.now))
    await stage.check()


async def test_nobody_listens_unless_asked_to(stage: Stage) -> None:
    await stage.open("kim")
    call = await dial(stage, MACHINE)
    assert await stage.all_of(select(CallEvent).where(CallEvent.kind == "answered-by")) == []
    assert behaviour.of(await stage.fresh(call.id)) == ""


async def test_the_wrap_up_has_the_machines_disposition_chosen(stage: Stage) -> None:
    await stage.open()
    kim = await add_user(stage.runtime, "olga", [Role.AGENT])
    call_id = ""

    async def more(tx: Any) -> None:
        for key, flags in (("reached", {"reached": True}), ("mailbox", {"retry_after_s": 60, "machine": True})):
            await tx.add_new(Disposition(key=key, label=key.title(), scope="", flags=flags), unique=["key"])

    await stage.do(more)
    await listen(stage)
    from routing import queues

    await stage.do(lambda tx: queues.put_member(tx, "q", kim.id))
    await stage.do(lambda tx: desk.heartbeat(tx, kim.id, voice_ready=True, now=stage.now))
    await stage.do(lambda tx: desk.set_activity(tx, kim.id, "available", now=stage.now))
    call = await stage.do(
        lambda tx: desk.start_call(
            tx, agent_id=kim.id, address=phone(MACHINE), purpose=Purpose.REPLY, account_id="acc-q", now=stage.now
        )
    )
    call_id = call.id
    event = answered_by.read({"CallSid": "CA" + "0" * 32, "AnsweredBy": "machine_start"})
    await stage.do(lambda tx: behaviour.told(tx, event, interaction_id=call_id, now=stage.now))
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        visitor = Visitor(stage.runtime.settings.public_url, http)
        assert await visitor.log_in("olga") == 303
        status, page = await visitor.ask("GET", f"/desk/work/{call.conversation_id}")
        assert status == 200
        assert "Answering machine" in page
    from hub.desktop import work

    async with stage.runtime.db.reading() as tx:
        from crm_core import conversations

        shown = await work.wrapup_of(
            tx, await conversations.get(tx, call.conversation_id), kim.id, now=stage.now, typed={}
        )
    assert shown.disposition == "mailbox"


def test_words_of_the_provider() -> None:
    for word, means in answered_by.WORDS.items():
        told = answered_by.read({"CallSid": "CA1", "AnsweredBy": word, "MachineDetectionDuration": "900"})
        assert (told.answer, told.beep, told.after_ms) == (means, word == "machine_end_beep", 900)
    with pytest.raises(AnswerUnreadable):
        answered_by.read({"CallSid": "CA1", "AnsweredBy": "parrot"})


async def test_a_browser_tells_how_its_call_sounded(stage: Stage) -> None:
    await stage.open("kim", "lee")
    sid = await stage.call()
    offer_to = (await stage.until(lambda: first_offer(stage))).agent_id
    line = next(one for one in stage.lines if one.user_id == offer_to)
    other = next(one for one in stage.lines if one.user_id != offer_to)
    call = await stage.talk(line, sid)
    report = {"seconds": 9, "warnings": {"high-rtt": 1}, "lost": 1, "samples": 8, "mos": 3.1, "rtt_ms": 410}
    for _ in range(2):
        await stage.do(lambda tx: sound_quality.report(tx, call.id, report, user_id=line.user_id, now=stage.now))
    with pytest.raises(NotFound):
        await stage.do(lambda tx: sound_quality.report(tx, call.id, report, user_id=other.user_id, now=stage.now))
    found = sound_quality.of(await stage.fresh(call.id))
    assert found is not None
    assert (found.mos, found.lost, found.warnings, found.poor) == (3.1, 1, {"high-rtt": 1}, True)
    events = await stage.all_of(select(CallEvent).where(CallEvent.kind == "sound-warning"))
    assert [event.raw for event in events] == [{"warning": "high-rtt"}]
    await stage.do(lambda tx: desk.hang_up(tx, call.id, agent_id=line.user_id, now=stage.now))
    # The last report comes when the call is over.
    await stage.do(lambda tx: sound_quality.report(tx, call.id, report, user_id=line.user_id, now=stage.now))
    await stage.check()


async def first_offer(stage: Stage) -> Offer | None:
    return next(iter(await stage.all_of(select(Offer))), None)
