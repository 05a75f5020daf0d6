"""What the adapters ask of Twilio: the wire format of each command, and idempotent ends."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import replace

import jwt
import pytest

from channels import sms, voice
from channels.contract import OutboundCall, OutboundText
from channels.errors import ContentRejected, Gone, Misconfigured, RecipientInvalid, Unavailable
from channels.twilio_api import TwilioApi, settings_from
from tests.channels import wire
from tests.channels.wire import ACCOUNT, CALL, KEY_SECRET, MESSAGE, ORIGIN, ROOM

TEXT = OutboundText("+442079460000", "+12025550101", "Grüße €", "d-01J.1")
PHONED = OutboundCall("+442079460000", "+12025550101", "room-1", "customer", "/status", "/room?i=1", timeout_s=20)
ACCOUNT_PATH = f"/2010-04-01/Accounts/{ACCOUNT}"


@pytest.fixture
async def server():
    async with wire.twilio_wire() as server:
        yield server


@pytest.fixture
async def calls(server):
    channel = voice.build(wire.twilio_config("voice", base=server.base))
    yield channel
    await channel.close()


@pytest.fixture
async def texts(server):
    channel = sms.build(wire.twilio_config("sms", base=server.base))
    yield channel
    await channel.close()


async def test_a_text(server, texts):
    server.answers = [wire.says(201, wire.message_json())]
    receipt = await texts.send(TEXT)
    assert (receipt.external_id, receipt.status) == (MESSAGE, "queued")
    assert receipt.detail["encoding"] == "GSM-7"
    [asked] = server.asked
    assert (asked.method, asked.path) == ("POST", f"{ACCOUNT_PATH}/Messages.json")
    assert sorted(asked.form) == [
        ("Body", "Grüße €"),
        ("From", "+442079460000"),
        ("StatusCallback", f"{ORIGIN}/webhooks/twilio/sms/status?k=d-01J.1"),
        ("To", "+12025550101"),
    ]
    user, _, password = base64.b64decode(asked.headers["Authorization"].split()[1]).decode().partition(":")
    assert (user, password) == ("SK" + "2" * 32, KEY_SECRET)


async def test_a_text_with_pictures_through_a_service(server):
    server.answers = [wire.says(201, wire.message_json("accepted"))]
    channel = sms.build(wire.twilio_config("sms", base=server.base, messaging_service_sid="MG" + "4" * 32))
    media = ("https://cdn.example.com/a.png", "https://cdn.example.com/b.png")
    try:
        await channel.send(replace(TEXT, from_address="", media=media, status_url="/x?y=1"))
    finally:
        await channel.close()
    [asked] = server.asked
    assert asked.all("MediaUrl") == list(media)
    assert asked.field("MessagingServiceSid") == "MG" + "4" * 32
    assert asked.field("StatusCallback") == f"{ORIGIN}/x?y=1&k=d-01J.1"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"to_address": "12025550101"}, RecipientInvalid),
        ({"to_address": "+12025550101\r\n"}, RecipientInvalid),
        ({"to_address": "whatsapp:+12025550101"}, RecipientInvalid),
        ({"from_address": ""}, Misconfigured),
        ({"from_address": "A" * 12}, Misconfigured),
        ({"body": "  "}, ContentRejected),
        ({"body": "x" * 1601}, ContentRejected),
        ({"media": ("file:///etc/passwd",)}, ContentRejected),
        ({"media": ("https://a/b",) * 11}, ContentRejected),
        ({"our_key": ""}, Misconfigured),
        ({"our_key": "a&b=c"}, Misconfigured),
        ({"status_url": "javascript:x"}, Misconfigured),
    ],
)
async def test_what_cannot_be_sent_is_refused_before_sending(server, texts, change, error):
    with pytest.raises(error):
        await texts.send(replace(TEXT, **change))
    assert server.asked == []


async def test_finding_an_attempt_whose_outcome_is_unknown(server, texts):
    other = {**wire.message_json("sent"), "body": "Something else"}
    inbound = {**wire.message_json("received"), "body": TEXT.body, "direction": "inbound"}
    mine = {**wire.message_json("delivered"), "body": TEXT.body}
    server.answers = [wire.says(200, {"messages": [other, inbound, mine], "next_page_uri": None})]
    assert await texts.find_sent(TEXT) == [(MESSAGE, "delivered")]
    assert server.asked[0].field("To") == "+12025550101"
    server.answers = [wire.says(200, {**wire.message_json("undelivered"), "error_code": 30003})]
    report = await texts.report(MESSAGE, our_key="d-1")
    assert (report.status, report.error_class, report.our_key) == ("undelivered", "unavailable", "d-1")


async def test_placing_a_call(server, calls):
    server.answers = [wire.says(201, wire.participant_json())]
    receipt = await calls.place_call(PHONED)
    assert (receipt.external_id, receipt.status, receipt.detail) == (CALL, "initiated", {"room_id": ROOM})
    [asked] = server.asked
    assert asked.path == f"{ACCOUNT_PATH}/Conferences/room-1/Participants.json"
    assert dict(asked.form) == {
        "From": "+442079460000", "To": "+12025550101", "Label": "customer", "Timeout": "20", "Beep": "false",
        "StartConferenceOnEnter": "true", "EndConferenceOnExit": "true", "EarlyMedia": "true",
        "StatusCallback": f"{ORIGIN}/status", "StatusCallbackMethod": "POST", "StatusCallbackEvent": "completed",
        "ConferenceStatusCallback": f"{ORIGIN}/room?i=1", "ConferenceStatusCallbackMethod": "POST",
        "ConferenceStatusCallbackEvent": "hold",
    }  # fmt: skip
    assert asked.all("StatusCallbackEvent") == ["initiated", "ringing", "answered", "completed"]
    assert asked.all("ConferenceStatusCallbackEvent") == ["start", "end", "join", "leave", "mute", "hold"]


@pytest.mark.parametrize(
    "to", ["", "911", "+1900555010012345", "sip:a@example.com", "+12025550101;x", "+12025550101\n"]
)
async def test_a_number_that_cannot_be_dialled_is_refused_before_sending(server, calls, to):
    with pytest.raises(RecipientInvalid):
        await calls.place_call(replace(PHONED, to_address=to))
    assert server.asked == []


async def test_moving_and_ending_a_call(server, calls):
    server.answers = [wire.says(200, wire.call_json())]
    await calls.move_call(CALL, "/step?i=1&n=2")
    await calls.end_call(CALL)
    move, end = server.asked
    assert move.path == end.path == f"{ACCOUNT_PATH}/Calls/{CALL}.json"
    assert dict(move.form) == {"Url": f"{ORIGIN}/step?i=1&n=2", "Method": "POST"}
    assert dict(end.form) == {"Status": "completed"}


@pytest.mark.parametrize("answer", [wire.refuses(404, 20404), wire.refuses(400, 21220)])
async def test_what_is_already_over(server, calls, answer):
    server.answers = [answer]
    await calls.end_call(CALL)
    await calls.end_room(ROOM)
    with pytest.raises(Gone):
        await calls.move_call(CALL, "/x")
    with pytest.raises(Gone):
        await calls.call_status(CALL)


async def test_ids_that_are_none_never_reach_a_path(server, calls):
    for bad in ("", "../Messages", "CA" + "g" * 32, CALL + "/Recordings"):
        with pytest.raises(Gone):
            await calls.move_call(bad, "/x")
        await calls.end_call(bad)
    assert server.asked == []


async def test_rooms_by_our_name_and_by_twilios_id(server, calls):
    server.answers = [wire.says(200, wire.rooms_json()), wire.says(200, wire.participant_json())]
    await calls.hold("room-1", CALL, on=True, music_url="/hold.wav")
    look, hold = server.asked
    assert look.field("FriendlyName") == "room-1"
    assert hold.path == f"{ACCOUNT_PATH}/Conferences/{ROOM}/Participants/{CALL}.json"
    assert dict(hold.form) == {"Hold": "true", "HoldUrl": f"{ORIGIN}/hold.wav", "HoldMethod": "GET"}
    server.asked.clear()
    await calls.hold(ROOM, CALL, on=False, music_url="")
    await calls.mute(ROOM, CALL, on=True)
    await calls.announce(ROOM, "/say", call_id=CALL)
    assert [dict(one.form) for one in server.asked] == [
        {"Hold": "false"},
        {"Muted": "true"},
        {"AnnounceUrl": f"{ORIGIN}/say", "AnnounceMethod": "POST"},
    ]


async def test_ending_a_room_that_never_began_is_success(server, calls):
    server.answers = [wire.says(200, wire.rooms_json("completed"))]
    await calls.end_room("room-1")
    assert len(server.asked) == 1
    with pytest.raises(Gone):
        await calls.hold("room-1", CALL, on=True, music_url="")


async def test_the_total_time_is_limited_even_when_bytes_trickle(server):
    async def trickle(request):
        from aiohttp import web

        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    server.answers = [trickle]
    settings = settings_from(wire.twilio_config("voice", base=server.base))
    channel = voice.VoiceChannel(settings, api=TwilioApi(settings, timeout_s=0.4))
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await channel.move_call(CALL, "/x")
    assert time.monotonic() - started < 2
    await channel.close()


def test_one_channel_serves_several_loops(tmp_path):
    """An RQ worker opens a loop for each job; the client of an ended loop must not be used again."""
    channel = sms.build(wire.twilio_config("sms"))

    async def once() -> str:
        async with wire.twilio_wire() as server:
            server.answers = [wire.says(201, wire.message_json())]
            channel._api.settings = replace(channel._api.settings, api_base=server.base)
            try:
                return (await channel.send(TEXT)).external_id
            finally:
                await channel.close()

    assert [asyncio.run(once()) for _ in range(2)] == [MESSAGE, MESSAGE]


def test_phone_tokens():
    channel = voice.build(wire.twilio_config("voice"))
    token = jwt.decode(channel.phone_token("agent-01J", 600), KEY_SECRET, algorithms=["HS256"])
    assert token["sub"] == ACCOUNT
    assert token["grants"]["identity"] == "agent-01J"
    assert token["grants"]["voice"] == {"outgoing": {"application_sid": "AP" + "3" * 32}}
    assert token["exp"] - token["nbf"] == 600
    header = jwt.get_unverified_header(channel.phone_token("a"))
    assert header["cty"] == "twilio-fpa;v=1"
    for bad in ("", "a b", "a/b", "ü", "x" * 121):
        with pytest.raises(Misconfigured):
            channel.phone_token(bad)
    with pytest.raises(Misconfigured):
        voice.build(wire.twilio_config("voice", app_sid="")).phone_token("agent")
