"""Many calls at once, interrupted at random: each ends once, leaves its room and its queue, and says so."""

from __future__ import annotations

import asyncio
import random

import pytest

LINE, ANA = "+442079460000", "+12025550101"
DOCUMENTS = [
    "<Enqueue waitUrl='/wait' action='/left'>q{n}</Enqueue>",
    "<Dial action='/dialled'><Conference endConferenceOnExit='{flag}' statusCallback='/room' "
    "statusCallbackEvent='start end join leave hold mute'>r{n}</Conference></Dial>",
    "<Gather numDigits='1' timeout='20' action='/next'><Say>Press.</Say></Gather><Redirect>/next</Redirect>",
    "<Dial action='/dialled' timeout='20'><Number statusCallback='/leg' "
    "statusCallbackEvent='initiated ringing answered completed'>+12025550195</Number></Dial>",
    "<Record action='/next' timeout='20' recordingStatusCallback='/tape'/>",
    "<Pause length='20'/><Redirect>/next</Redirect>",
]


@pytest.mark.parametrize("seed", range(2))
async def test_every_call_ends_once_and_leaves_nothing_behind(hub, sandbox, rest, seed):
    chance = random.Random(seed)

    def instructions(_: dict[str, str]) -> str:
        flag = chance.choice(["true", "false"])
        return chance.choice(DOCUMENTS).format(n=chance.randrange(3), flag=flag)

    for path in ("/voice", "/next", "/moved"):
        hub.says(path, instructions)
    hub.says("/left", "<Redirect>/next</Redirect>")
    hub.says("/dialled", "<Redirect>/next</Redirect>")
    hub.says("/wait", "<Say>Wait.</Say><Pause length='20'/>")
    sandbox.world.faults.arm("twice", probability=0.05)
    exchange = sandbox.exchange
    calls = [await sandbox.dial(f"+1202555{1000 + number}", LINE) for number in range(12)]

    async def disturb() -> None:
        living = list(exchange.legs.live.values())
        rooms = [room for room in exchange.rooms.by_sid.values() if room.status != "completed"]
        if not living:
            return
        leg = chance.choice(living)
        path = f"/Calls/{leg.call.sid}.json"
        match chance.randrange(7):
            case 0:
                await rest("POST", path, Url=f"{hub.url}/moved") if leg.answered.is_set() else None
            case 1:
                await rest("POST", path, Status="completed")
            case 2 if leg.call.direction == "inbound":
                await sandbox.act(leg.call.sid, "hangup")
            case 3 if rooms and (room := chance.choice(rooms)).seats:
                sid = chance.choice(list(room.seats))
                await rest("POST", f"/Conferences/{room.sid}/Participants/{sid}.json", Hold="true")
            case 4 if rooms and (room := chance.choice(rooms)).seats:
                sid = chance.choice(list(room.seats))
                await rest("DELETE", f"/Conferences/{room.sid}/Participants/{sid}.json", expect=204)
            case 5 if rooms:
                name = chance.choice(rooms).sid
                form = {"To": chance.choice(["+12025550195", "+12025550192", ANA]), "From_": LINE}
                await rest("POST", f"/Conferences/{name}/Participants.json", expect=201, **form)
            case 6 if rooms:
                await rest("POST", f"/Conferences/{chance.choice(rooms).sid}.json", Status="completed")
            case _:
                leg.type_("digits", "1")

    refusals: list[str] = []
    for _ in range(60):
        try:
            await disturb()
        except (AssertionError, RuntimeError) as refused:  # it ended between the choice and the request
            refusals.append(str(refused))
        await asyncio.sleep(chance.random() * 0.01)
    assert [text for text in refusals if not any(code in text for code in ("404", "409", "21220"))] == []
    while exchange.legs.live:
        leg = next(iter(exchange.legs.live.values()))
        await rest("POST", f"/Calls/{leg.call.sid}.json", Status="completed")
        await asyncio.wait_for(leg.ended.wait(), 60)
    for sid in calls:
        assert sandbox.world.calls[sid].over
        await hub.gets("/status", CallSid=sid)
    ends = [seen for seen in hub.at("/status") if seen.params["CallStatus"] in ("completed", "no-answer")]
    tokens = {(seen.params["CallSid"], seen.headers["I-Twilio-Idempotency-Token"]) for seen in ends}
    assert sorted(sid for sid, _ in tokens) == sorted(calls)
    assert [room.name for room in exchange.rooms.by_sid.values() if room.seats or room.coming] == []
    assert {room.status for room in exchange.rooms.by_sid.values()} <= {"completed"}
    assert [queue.friendly_name for queue in exchange.queues.by_sid.values() if queue.members] == []
    assert [fault for fault in sandbox.twin_faults if fault.code == 0] == []
    for room in exchange.rooms.by_sid.values():
        events = [seen.params for seen in hub.at("/room") if seen.params["ConferenceSid"] == room.sid]
        assert max((int(event["SequenceNumber"]) for event in events), default=0) <= room.sequence
        joined = {event["CallSid"] for event in events if event["StatusCallbackEvent"] == "participant-join"}
        left = {
            event["CallSid"]
            for event in events
            if event.get("ReasonParticipantLeft", "participant_add_failed") != "participant_add_failed"
        }
        assert joined == left
