"""What the provider's callbacks failed to tell is healed from its own lists, and callbacks that come late change nothing more."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web
from sqlmodel import select

from crm_core.addresses import phone
from crm_core.calls import CallLeg, CallRecord
from crm_core.consent import Purpose
from crm_core.outbox import OutboxTask
from hub.reconciler import Reconciler
from routing import desk
from routing.queues import QueueEntry
from routing.rooms import CallRoom
from tests.twin.stage import ANA, BEN, Stage, until


async def test_a_call_that_nobody_told_us_of_is_fetched_into_the_queue(stage: Stage) -> None:
    """The webhook met a hub that was down and the fallback bin holds the line: the call is in the provider's list."""
    await stage.open("kim")
    number = stage.sandbox.world.number_of("+442079460000")
    assert number is not None
    async with holding_the_line() as url:
        kept, number.voice_url = number.voice_url, url
        sid = await stage.call()
        number.voice_url = kept
        await stage.until(lambda: _hears(stage, sid, "hold the line"))
        look = Reconciler(stage.runtime)
        assert await look.look() == {}  # too young to judge
        stage.clock.tick(61)
        await stage.beat()
        assert await look.look() == {"fetched": 1}
        await stage.hears(sid, "You are next")
        interaction = await stage.talk(stage.lines[0], sid)
    assert interaction.from_address == ANA
    stage.clock.tick(61)
    await stage.beat()
    assert await look.look() == {}
    await stage.check()


@contextlib.asynccontextmanager
async def holding_the_line() -> AsyncIterator[str]:
    """A TwiML bin: what answers while the hub does not."""

    async def answer(request: web.Request) -> web.Response:
        said = "<Response><Say>Please hold the line.</Say><Pause length='600'/></Response>"
        return web.Response(text=said, content_type="text/xml")

    app = web.Application()
    app.router.add_route("*", "/bin", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/bin"
    await runner.cleanup()


async def _hears(stage: Stage, sid: str, words: str) -> bool:
    return words in await stage.heard(sid)


async def test_a_call_that_came_and_went_untold_is_on_the_timeline_once(stage: Stage) -> None:
    await stage.open("kim")
    number = stage.sandbox.world.number_of("+442079460000")
    assert number is not None
    kept = number.voice_url, number.status_callback
    number.voice_url = number.status_callback = ""
    sid = await stage.call(BEN)
    await stage.until(lambda: _over(stage, sid))
    number.voice_url, number.status_callback = kept
    stage.clock.tick(61)
    look = Reconciler(stage.runtime)
    assert await look.look() == {"created": 1}
    assert await look.look() == {}
    found = await stage.interaction(sid)
    assert found is not None
    assert (found.state, found.outcome, found.from_address) == ("ended", "abandoned", BEN)
    (record,) = await stage.all_of(select(CallRecord).where(CallRecord.interaction_id == found.id))
    assert record.end_reason == "failed"
    stage.sandbox.world.twin_faults.clear()  # a number without a URL is a fault that the provider notes
    await stage.check()


async def _over(stage: Stage, sid: str) -> bool:
    return await stage.status_of(sid) in ("completed", "busy", "failed", "no-answer")


async def test_the_end_of_a_call_that_was_lost_ends_it_here(stage: Stage) -> None:
    await stage.open("kim")
    line = stage.lines[0]
    sid = await stage.call()
    interaction = await stage.talk(line, sid)
    await stage.fault("lost", next=1000)
    await stage.outside("POST", f"/outside/calls/{sid}/hangup")
    await stage.turn()
    assert (await stage.fresh(interaction.id)).state == "connected"
    stage.clock.tick(61)
    await stage.beat()
    look = Reconciler(stage.runtime)
    assert (await look.look())["ended"] >= 1
    assert (await stage.fresh(interaction.id)).state == "wrapup"
    await look.look()
    assert await look.look() == {}
    (room,) = await stage.all_of(select(CallRoom))
    assert room.ended_at is not None
    legs = await stage.all_of(select(CallLeg))
    assert {leg.status for leg in legs} == {"completed"}
    await stage.check()


async def test_late_callbacks_after_the_healing_change_nothing_more(stage: Stage) -> None:
    await stage.open("kim")
    line = stage.lines[0]
    sid = await stage.call()
    interaction = await stage.talk(line, sid)
    stage.clock.tick(61)
    await stage.beat()
    await stage.fault("late", next=1000, delay_s=0.5)
    await stage.outside("POST", f"/outside/calls/{sid}/hangup")
    await Reconciler(stage.runtime).look()
    assert (await stage.fresh(interaction.id)).state == "wrapup"
    await stage.until(lambda: _told(stage, sid), within_s=60)
    (after,) = await stage.all_of(select(CallRecord).where(CallRecord.interaction_id == interaction.id))
    assert (after.end_reason, after.hung_up_by) == ("completed", "customer")
    assert (await stage.fresh(interaction.id)).state == "wrapup"
    assert len(await stage.all_of(select(QueueEntry))) == 1
    await stage.check()


async def _told(stage: Stage, sid: str) -> bool:
    told = (await stage.outside("GET", f"/outside/callbacks?call={sid}"))["callbacks"]
    return any(one["kind"] == "call-completed" and one["status"] for one in told)


async def test_joins_that_were_never_told_are_seen_at_the_second_look(stage: Stage) -> None:
    """The agent sits in the room and nobody said so: two looks agree, and the customer is brought to them."""
    await stage.open("kim", accept_timeout_s=120)
    line = stage.lines[0]
    sid = await stage.call()
    await stage.offered("kim")
    await stage.fault("lost", next=1000)
    await stage.accept(line)
    look = Reconciler(stage.runtime)
    assert await look.look() == {}
    assert (await look.look())["seats"] == 1
    await stage.outside("DELETE", "/outside/faults")
    await stage.state_of(sid, "connected")
    await stage.check()


async def test_a_leave_that_was_never_told_frees_the_customer(stage: Stage) -> None:
    await stage.open("kim")
    line = stage.lines[0]
    sid = await stage.call()
    interaction = await stage.talk(line, sid)
    await stage.fault("lost", next=1000)
    await line.hang_up()
    await stage.until(lambda: _one_left(stage))
    stage.clock.tick(61)
    await stage.beat()
    look = Reconciler(stage.runtime)
    await look.look()  # the leg's end is believed at once
    await stage.later(31)
    await stage.outside("DELETE", "/outside/faults")
    assert (await stage.fresh(interaction.id)).state in ("waiting", "offered")
    await stage.hears(sid, "You are first in line")
    await stage.check()


async def _one_left(stage: Stage) -> bool:
    return [len(room["participants"]) for room in await stage.rooms()] == [1]


async def test_a_dial_whose_id_was_never_learnt_is_adopted(stage: Stage) -> None:
    """The process died between the provider's answer and our row: the phone rings, and its call finds its dial."""
    await stage.open("kim")
    line = stage.lines[0]
    call = await stage.do(
        lambda tx: desk.start_call(
            tx, agent_id="kim", address=phone(ANA), purpose=Purpose.REPLY, account_id="acc-q", now=stage.now
        )
    )
    await line.connect({"call": call.id, "nonce": str(call.data["nonce"])})
    await until(lambda: stage.all_of(select(OutboxTask).where(OutboxTask.kind == "call.place")))
    await stage.fault("rest_500_after", next=1, match="/Participants")
    await stage.fault("lost", next=1000)
    placed = await stage.until(lambda: _placed(stage))
    stage.clock.tick(61)
    await stage.beat()
    look = Reconciler(stage.runtime)
    assert (await look.look()).get("adopted") == 1
    (leg,) = [each for each in await stage.all_of(select(CallLeg)) if each.role == "customer"]
    assert (leg.id, leg.interaction_id) == (placed, call.id)
    assert await stage.status_of(placed) in ("canceled", "completed", "no-answer")
    assert (await look.look()).get("adopted") is None
    await stage.check()


async def _placed(stage: Stage) -> str:
    """The call to the customer, once the hub has given up on it."""
    for call in (await stage.outside("GET", "/outside/calls"))["calls"]:
        if call["to"] == ANA and call["status"] not in ("ringing", "queued"):
            return str(call["sid"])
    return ""
