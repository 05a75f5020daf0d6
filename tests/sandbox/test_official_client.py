"""Twilio's own client library against the twin: what it sends is understood, what it gets it can read."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

LINE, ANA, HELPER = "+442079460000", "+12025550101", "+12025550195"


@pytest.fixture
def client(sandbox):
    class LocalHttp(TwilioHttpClient):
        def request(self, method, url, *args, **kwargs):
            return super().request(method, url.replace("https://api.twilio.com", sandbox.base_url, 1), *args, **kwargs)

    http = LocalHttp(pool_connections=True)
    yield Client(sandbox.config.account_sid, sandbox.config.auth_token, http_client=http)
    http.session.close()


async def test_calls_conferences_participants_and_recordings(hub, sandbox, client):
    hub.says("/voice", "<Enqueue waitUrl='/wait'>support</Enqueue>")
    hub.says("/wait", "<Pause length='3000'/>")
    hub.says("/join", "<Dial><Conference record='record-from-start'>room-1</Conference></Dial>")
    sid = await sandbox.dial(ANA, LINE)
    await hub.gets("/wait")

    def drive() -> None:
        call = client.calls(sid).fetch()
        assert (call.status, call.direction, call._from) == ("in-progress", "inbound", ANA)
        assert abs(call.start_time - datetime.now(UTC)) < timedelta(minutes=1)
        queue = client.queues.list()[0]
        assert (queue.friendly_name, queue.current_size) == ("support", 1)
        assert client.queues(queue.sid).members("Front").fetch().call_sid == sid
        client.calls(sid).update(url=f"{hub.url}/join", method="POST")

    await asyncio.to_thread(drive)
    await hub.gets("/join")

    def confer() -> str:
        room = client.conferences.list(friendly_name="room-1", status="init", limit=5)[0]
        seat = room.participants.create(
            from_=LINE,
            to=HELPER,
            label="helper",
            early_media=True,
            end_conference_on_exit=True,
            status_callback=f"{hub.url}/leg",
            status_callback_event=["initiated", "ringing", "answered", "completed"],
        )
        return f"{room.sid} {seat.call_sid}"

    room_sid, helper = (await asyncio.to_thread(confer)).split()
    await hub.gets("/leg", CallStatus="in-progress", CallSid=helper)

    def finish() -> None:
        room = client.conferences(room_sid)
        held = room.participants(sid).update(hold=True, muted=True)
        assert (held.hold, held.muted) == (True, True)
        assert {seat.label for seat in room.participants.list()} == {None, "helper"}
        tape = client.recordings.list(conference_sid=room_sid)[0]
        assert (tape.status, tape.source) == ("in-progress", "Conference")
        assert room.participants("helper").delete()
        ended = room.fetch()
        assert ended.status == "completed"
        assert ended.reason_conference_ended == "participant-with-end-conference-on-exit-kicked"
        assert ended.call_sid_ending_conference == helper

    await asyncio.to_thread(finish)
    assert await sandbox.over(sid) == "completed"
    assert sandbox.twin_faults == []


async def test_messages_and_their_errors(sandbox, client):
    def text() -> None:
        made = [client.messages.create(to=ANA, from_=LINE, body=f"text {number}") for number in range(7)]
        assert {message.status for message in made} == {"queued"}
        found = client.messages.list(to=ANA, date_sent_after=datetime.now(UTC) - timedelta(hours=1), page_size=3)
        assert [message.body for message in found] == [f"text {number}" for number in reversed(range(7))]
        with pytest.raises(TwilioRestException) as refused:
            client.messages.create(to="+1999", from_=LINE, body="x")
        assert (refused.value.code, refused.value.status) == (21211, 400)

    await asyncio.to_thread(text)


async def test_numbers_and_applications(hub, sandbox, client):
    def setup() -> None:
        app = client.applications.create(friendly_name="hub", voice_url=f"{hub.url}/app", voice_method="POST")
        number = client.incoming_phone_numbers.list(phone_number=LINE)[0]
        number.update(voice_url=f"{hub.url}/voice", voice_fallback_url=f"{hub.url}/bin", sms_url=f"{hub.url}/sms")
        assert client.incoming_phone_numbers(number.sid).fetch().voice_fallback_url == f"{hub.url}/bin"
        assert [each.sid for each in client.applications.list(friendly_name="hub")] == [app.sid]
        assert client.api.v2010.accounts(sandbox.config.account_sid).fetch().status == "active"
        assert app.delete()

    await asyncio.to_thread(setup)
