"""Recording with consent, pauses that end by themselves, our own copy of the sound; voicemail that becomes work."""

from __future__ import annotations

import pytest
from sqlmodel import select

from crm_core.addresses import phone
from crm_core.calls import CallEvent, CallRecord
from crm_core.consent import Purpose
from crm_core.errors import Conflict, Invalid
from crm_core.interactions import Interaction
from crm_core.recordings import Recording
from hub.files import FileMissing
from hub.reconciler import Reconciler
from routing import desk, recordings
from routing.hours import Hours
from tests.twin.stage import ANA, BEN, Stage


async def recording_of(stage: Stage, state: str, *, kind: str = "call") -> Recording:
    async def look() -> Recording | None:
        found = await stage.all_of(select(Recording).where(Recording.kind == kind))
        return found[-1] if found and found[-1].state == state else None

    found: Recording = await stage.until(look, told=f"no recording came to be {state}")
    return found


async def test_a_call_is_recorded_paused_resumed_by_itself_and_kept(stage: Stage) -> None:
    await stage.open("kim", voice={"record": "announce", "pause_s": 30})
    sid = await stage.call()
    await stage.hears(sid, "may be recorded")
    interaction = await stage.talk(stage.lines[0], sid)
    running = await recording_of(stage, "running")
    assert (running.consent, running.leg_id, running.interaction_id) == ("announced", sid, interaction.id)
    twins = stage.sandbox.world.recordings[str(running.external_id)]
    assert (twins.status, twins.channels) == ("in-progress", 2)

    await stage.do(lambda tx: recordings.pause(tx, interaction.id, agent_id="kim", now=stage.now))
    await stage.until(lambda: twin_says(stage, running, "paused"))
    await stage.do(lambda tx: recordings.pause(tx, interaction.id, agent_id="kim", now=stage.now))  # twice is once
    await stage.later(29)
    assert twins.status == "paused"
    await stage.later(2)
    await stage.until(lambda: twin_says(stage, running, "in-progress"))
    assert (await recording_of(stage, "running")).paused_until is None

    # A second pause that the agent ends: the first one's timer does not end it, nor its own end anything later.
    await stage.do(lambda tx: recordings.pause(tx, interaction.id, agent_id="kim", now=stage.now))
    await stage.until(lambda: twin_says(stage, running, "paused"))
    await stage.do(lambda tx: recordings.resume(tx, interaction.id, agent_id="kim", now=stage.now))
    await stage.until(lambda: twin_says(stage, running, "in-progress"))
    await stage.later(40)
    assert twins.status == "in-progress"

    twins.words = ["Hello"]
    await stage.do(lambda tx: desk.hang_up(tx, interaction.id, agent_id="kim", now=stage.now))
    kept = await recording_of(stage, "kept")
    sound = await stage.runtime.files.get(kept.file_key)
    assert (kept.content_type, kept.size) == ("audio/x-wav", len(sound))
    assert sound[:4] == b"RIFF"
    told = await stage.all_of(select(CallEvent).where(CallEvent.interaction_id == interaction.id))
    marks = [event.kind for event in sorted(told, key=lambda e: e.id) if event.kind.startswith("recording-")]
    assert marks == ["recording-asked", *["recording-paused", "recording-resumed"] * 2]
    await stage.check()


async def twin_says(stage: Stage, recording: Recording, status: str) -> bool:
    return stage.sandbox.world.recordings[str(recording.external_id)].status == status


async def test_who_says_no_is_not_recorded(stage: Stage) -> None:
    await stage.open("kim", voice={"record": "ask"})
    sid = await stage.call()
    await stage.hears(sid, "Press 1 if you do not want that")
    await stage.press(sid, "1")
    await stage.hears(sid, "will not be recorded")
    interaction = await stage.talk(stage.lines[0], sid)
    assert interaction.data["consent"] == "refused"
    with pytest.raises(Conflict):
        await stage.do(lambda tx: recordings.begin_by_agent(tx, interaction.id, agent_id="kim", now=stage.now))
    assert await stage.all_of(select(Recording)) == []
    await stage.check()


async def test_nothing_is_recorded_where_the_queue_does_not_say_so(stage: Stage) -> None:
    await stage.open("kim")
    sid = await stage.call()
    interaction = await stage.talk(stage.lines[0], sid)
    assert "recorded" not in await stage.heard(sid)
    with pytest.raises(Invalid):
        await stage.do(lambda tx: recordings.begin_by_agent(tx, interaction.id, agent_id="kim", now=stage.now))
    assert await stage.all_of(select(Recording)) == []
    await stage.check()


async def test_a_call_of_ours_is_recorded_only_when_the_agent_asked(stage: Stage) -> None:
    await stage.open("kim", voice={"record": "announce"})
    call = await stage.do(
        lambda tx: desk.start_call(
            tx, agent_id="kim", address=phone("+12025550195"), purpose=Purpose.REPLY, account_id="acc-q", now=stage.now
        )
    )
    await stage.lines[0].connect({"call": call.id, "nonce": str(call.data["nonce"])})

    async def connected() -> bool:
        return (await stage.fresh(call.id)).state == "connected"

    await stage.until(connected)
    assert await stage.all_of(select(Recording)) == []
    await stage.do(lambda tx: recordings.begin_by_agent(tx, call.id, agent_id="kim", now=stage.now))
    assert (await recording_of(stage, "running")).consent == "asked"
    await stage.check()


async def closed_for_ever(stage: Stage) -> None:
    from sqlalchemy import update
    from sqlmodel import col

    from routing.queues import Queue

    async def unit(tx) -> None:  # type: ignore[no-untyped-def]
        await tx.add(Hours(id="never", name="never", zone="Europe/London", week={}, days={}))
        await tx.run(update(Queue).where(col(Queue.id) == "q").values(hours_id="never"))

    await stage.do(unit)


async def leave_a_message(stage: Stage, sid: str, words: str = "It is about my order") -> None:
    await stage.hears(sid, "leave a message after the tone")
    await stage.outside("POST", f"/outside/calls/{sid}/speech", text=words)
    await stage.press(sid, "#")


async def the_message(stage: Stage) -> Interaction:
    async def look() -> Interaction | None:
        found = await stage.all_of(select(Interaction))
        return next((each for each in found if "voicemail_of" in each.data), None)

    found: Interaction = await stage.until(look, told="no message came")
    return found


async def test_out_of_hours_a_message_becomes_work_and_is_answered_by_a_call(stage: Stage) -> None:
    await stage.open("kim", voice={"voicemail_closed": True})
    await closed_for_ever(stage)
    sid = await stage.call()
    await stage.hears(sid, "closed at the moment")
    await leave_a_message(stage, sid)
    await stage.hears(sid, "Your message has been left")
    call = await stage.state_of(sid, "ended")
    assert call.outcome == "voicemail"
    message = await the_message(stage)
    assert (message.channel, message.from_address, message.data["voicemail_of"]) == ("voice", ANA, call.id)
    kept = await recording_of(stage, "kept", kind="voicemail")
    assert (kept.interaction_id, kept.consent) == (message.id, "own")
    assert (await stage.runtime.files.get(kept.file_key))[:4] == b"RIFF"

    offer = await stage.offered("kim")
    await stage.do(lambda tx: desk.accept(tx, offer.id, agent_id="kim", now=stage.now))
    assert (await stage.fresh(message.id)).state == "connected"
    back = await stage.do(
        lambda tx: desk.start_call(
            tx,
            agent_id="kim",
            address=phone(ANA),
            purpose=Purpose.REQUESTED_CALLBACK,
            account_id="acc-q",
            now=stage.now,
        )
    )
    assert back.entry_id == message.entry_id
    await stage.check()


async def test_the_message_is_there_once_whatever_the_provider_says_how_often(stage: Stage) -> None:
    """Reports doubled and out of order, then the list: one recording, one message, one piece of work."""
    await stage.open(voice={"voicemail_closed": True})
    await closed_for_ever(stage)
    await stage.fault("twice", next=1000)
    sid = await stage.call()
    await leave_a_message(stage, sid)
    message = await the_message(stage)
    await recording_of(stage, "kept", kind="voicemail")
    stage.clock.tick(61)
    assert "recording" not in await Reconciler(stage.runtime).look()
    messages = [each for each in await stage.all_of(select(Interaction)) if "voicemail_of" in each.data]
    assert [each.id for each in messages] == [message.id]
    assert len(await stage.entries()) == 1
    await stage.check()


async def test_a_message_whose_report_was_lost_is_found_in_the_list(stage: Stage) -> None:
    await stage.open(voice={"voicemail_closed": True})
    await closed_for_ever(stage)
    sid = await stage.call(BEN)
    await stage.hears(sid, "after the tone")
    await stage.fault("lost", next=1000)
    await leave_a_message(stage, sid)
    await stage.until(lambda: over(stage, sid))
    await stage.turn()
    assert await stage.all_of(select(Recording)) == []
    stage.clock.tick(61)
    assert (await Reconciler(stage.runtime).look())["recording"] == 1
    assert (await the_message(stage)).from_address == BEN
    await recording_of(stage, "kept", kind="voicemail")
    await stage.check()


async def over(stage: Stage, sid: str) -> bool:
    return await stage.status_of(sid) == "completed"


async def test_a_key_while_waiting_leaves_a_message_at_the_place_of_the_call(stage: Stage) -> None:
    await stage.open(voice={"voicemail_key": True})
    sid = await stage.call()
    await stage.hears(sid, "Press 2 to leave a message")
    (before,) = await stage.entries()
    stage.clock.tick(50)
    await stage.press(sid, "2")
    await leave_a_message(stage, sid)
    call = await stage.state_of(sid, "ended")
    assert call.outcome == "voicemail"
    message = await the_message(stage)
    entry = next(each for each in await stage.entries() if each.id == message.entry_id)
    assert (entry.kind, entry.order_at) == ("voicemail", before.order_at)

    async def folded() -> CallRecord | None:
        (record,) = await stage.all_of(select(CallRecord).where(CallRecord.interaction_id == call.id))
        return record if record.ended_at else None

    record = await stage.until(folded)
    assert record.end_reason == "voicemail"
    await stage.check()


async def test_nobody_took_the_call_so_a_message_may_be_left(stage: Stage) -> None:
    await stage.open(max_wait_s=60, voice={"voicemail_overflow": True})
    sid = await stage.call()
    await stage.hears(sid, "You are next")
    await stage.later(61)
    await stage.hears(sid, "nobody could take your call")
    await leave_a_message(stage, sid)
    assert (await stage.state_of(sid, "ended")).outcome == "voicemail"
    assert (await the_message(stage)).state == "waiting"
    await stage.check()


async def test_who_says_nothing_leaves_nothing(stage: Stage) -> None:
    await stage.open(voice={"voicemail_closed": True})
    await closed_for_ever(stage)
    sid = await stage.call()
    await stage.hears(sid, "after the tone")
    await stage.outside("POST", f"/outside/calls/{sid}/hangup")
    await recording_of(stage, "empty", kind="voicemail")
    assert [each for each in await stage.all_of(select(Interaction)) if "voicemail_of" in each.data] == []
    await stage.check()


async def test_a_deleted_recording_is_gone_here_and_at_the_provider(stage: Stage) -> None:
    await stage.open("kim", voice={"record": "announce"})
    sid = await stage.call()
    interaction = await stage.talk(stage.lines[0], sid)
    running = await recording_of(stage, "running")
    with pytest.raises(Conflict):
        await stage.do(lambda tx: recordings.delete(tx, running.id, actor="ada", reason="", now=stage.now))
    stage.sandbox.world.recordings[str(running.external_id)].words = ["Hello"]
    await stage.do(lambda tx: desk.hang_up(tx, interaction.id, agent_id="kim", now=stage.now))
    kept = await recording_of(stage, "kept")
    await stage.do(lambda tx: recordings.delete(tx, kept.id, actor="ada", reason="asked for", now=stage.now))

    async def gone() -> bool:
        return str(kept.external_id) not in stage.sandbox.world.recordings

    await stage.until(gone)
    with pytest.raises(FileMissing):
        await stage.runtime.files.get(kept.file_key)
    assert (await recording_of(stage, "deleted")).file_key == ""
