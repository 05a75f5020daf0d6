"""The twin's first call: in, asked, spoken to, gathered, queued, moved, joined, ended; all signed, nothing unknown."""

from __future__ import annotations

from twilio.request_validator import RequestValidator


async def test_inbound_call_is_gathered_queued_moved_and_joined_by_an_agent(hub, sandbox, rest):
    hub.says("/voice", "<Gather numDigits='1' action='/menu'><Say>Press one.</Say></Gather><Say>Bye</Say>")
    hub.says("/menu", "<Enqueue waitUrl='/wait' action='/left'>support</Enqueue>")
    hub.says("/wait", "<Say>You are number one.</Say><Pause length='60'/>")
    hub.says(
        "/join",
        f"<Dial action='/dialled'><Conference endConferenceOnExit='true' statusCallback='{hub.url}/room' "
        "statusCallbackEvent='start end join leave'>room-1</Conference></Dial>",
    )
    sid = await sandbox.dial("+12025550101", "+442079460000")
    await sandbox.act(sid, "digits", digits="1")
    waiting = await hub.gets("/wait")
    assert waiting.params["QueuePosition"] == "1"
    await rest("POST", f"/Calls/{sid}.json", Url=f"{hub.url}/join")
    left = await hub.gets("/left")
    assert left.params["QueueResult"] == "redirected"
    await hub.gets("/room", StatusCallbackEvent="participant-join", CallSid=sid)
    agent = await rest(
        "POST", "/Conferences/room-1/Participants.json", expect=201, To="+12025550195", From_="+442079460000"
    )
    await hub.gets("/room", StatusCallbackEvent="conference-start")
    await sandbox.act(sid, "hangup")
    assert await sandbox.over(sid) == "completed"
    assert await sandbox.over(agent["call_sid"]) == "completed"
    ended = await hub.gets("/room", StatusCallbackEvent="conference-end")
    assert ended.params["ReasonConferenceEnded"] == "participant-with-end-conference-on-exit-left"
    await hub.gets("/dialled", DialCallStatus="answered")
    done = await hub.gets("/status", CallStatus="completed")
    assert done.params["CallbackSource"] == "call-progress-events"
    validator = RequestValidator(sandbox.config.auth_token)
    for seen in hub.seen:
        assert validator.validate(hub.url + seen.path, seen.params, seen.headers["X-Twilio-Signature"]), seen
    assert sandbox.twin_faults == []
