"""The REST conventions: who may ask, what is refused and how, paging, filters; the resources by their edges."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

LINE, ANA = "+442079460000", "+12025550101"


async def test_wrong_secret_and_wrong_account_are_refused(rest, sandbox):
    wrong = aiohttp.encode_basic_auth(sandbox.config.account_sid, "wrong")
    answer = await rest("GET", ".json", expect=401, auth=wrong)
    assert answer["code"] == 20003
    rest.base = rest.base[:-4] + "ffff"
    assert (await rest("GET", "/Calls.json", expect=404))["code"] == 20404


async def test_api_key_is_accepted(rest, sandbox):
    key = aiohttp.encode_basic_auth(sandbox.config.api_key_sid, sandbox.config.api_key_secret)
    assert (await rest("GET", ".json", auth=key))["status"] == "active"


async def test_unknown_form_field_is_refused_and_recorded(rest, sandbox):
    answer = await rest("POST", "/Calls.json", expect=400, To=ANA, From_=LINE, Url="http://127.0.0.1:1/x", Tiemout="5")
    assert answer["code"] == 20001
    assert "Tiemout" in answer["message"]
    assert "Tiemout" in sandbox.twin_faults[0].message


@pytest.mark.parametrize(
    ("path", "form", "code"),
    [
        ("/Calls.json", {"From_": LINE, "Url": "http://x.example.com"}, 21201),
        ("/Calls.json", {"To": ANA, "Url": "http://x.example.com"}, 21213),
        ("/Calls.json", {"To": "12345", "From_": LINE, "Url": "http://x.example.com"}, 21211),
        ("/Calls.json", {"To": ANA, "From_": "+442079460999", "Url": "http://x.example.com"}, 21210),
        ("/Calls.json", {"To": ANA, "From_": LINE}, 21205),
        ("/Messages.json", {"From_": LINE, "Body": "x"}, 21604),
        ("/Messages.json", {"To": ANA, "Body": "x"}, 21603),
        ("/Messages.json", {"To": ANA, "From_": LINE}, 21602),
        ("/Messages.json", {"To": ANA, "From_": LINE, "Body": "x" * 1601}, 21617),
        ("/Messages.json", {"To": "nobody", "From_": LINE, "Body": "x"}, 21211),
        ("/Messages.json", {"To": ANA, "From_": "+442079460999", "Body": "x"}, 21660),
        ("/Queues.json", {}, 22000),
    ],
)
async def test_what_the_provider_refuses(rest, path, form, code):
    answer = await rest("POST", path, expect=400, **form)
    assert answer["code"] == code
    assert answer["status"] == 400
    assert str(code) in answer["more_info"]


async def test_a_call_that_is_over_cannot_be_redirected(hub, sandbox, rest):
    hub.says("/voice", "<Hangup/>")
    sid = await sandbox.dial(ANA, LINE)
    await sandbox.over(sid)
    assert (await rest("POST", f"/Calls/{sid}.json", expect=400, Url=f"{hub.url}/x"))["code"] == 21220
    assert (await rest("POST", f"/Calls/{sid}.json", Status="completed"))["status"] == "completed"


async def test_paging_walks_through_all_messages(sandbox, rest):
    for number in range(5):
        await rest("POST", "/Messages.json", expect=201, To=ANA, From_=LINE, Body=f"text {number}")
    first = await rest("GET", "/Messages.json", PageSize="2", To=ANA)
    assert [message["body"] for message in first["messages"]] == ["text 4", "text 3"]
    path = first["next_page_uri"].split(sandbox.config.account_sid)[1]
    second = await rest("GET", path)
    assert [message["body"] for message in second["messages"]] == ["text 2", "text 1"]
    assert second["previous_page_uri"] is not None
    last = await rest("GET", second["next_page_uri"].split(sandbox.config.account_sid)[1])
    assert [message["body"] for message in last["messages"]] == ["text 0"]
    assert last["next_page_uri"] is None


async def test_messages_are_filtered_by_day(rest):
    await rest("POST", "/Messages.json", expect=201, To=ANA, From_=LINE, Body="today")
    assert len((await rest("GET", "/Messages.json", **{"DateSent>": "2020-01-01"}))["messages"]) == 1
    assert (await rest("GET", "/Messages.json", **{"DateSent<": "2020-01-01"}))["messages"] == []


async def test_numbers_and_applications_survive_a_restart(config, hub):
    from hub.sandbox.twin import running_sandbox

    async def ask(sandbox, method, path, **form):
        auth = aiohttp.encode_basic_auth(sandbox.config.account_sid, sandbox.config.auth_token)
        url = f"{sandbox.base_url}/2010-04-01/Accounts/{sandbox.config.account_sid}{path}"
        data = aiohttp.FormData(list(form.items())) if form else None
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, data=data, headers={"Authorization": auth}) as response,
        ):
            assert response.status < 300, await response.text()
            return await response.json()

    async with running_sandbox(config) as first:
        app = await ask(first, "POST", "/Applications.json", FriendlyName="hub", VoiceUrl=f"{hub.url}/app")
        numbers = await ask(first, "GET", "/IncomingPhoneNumbers.json")
        sales = next(each for each in numbers["incoming_phone_numbers"] if each["phone_number"] == "+442079460001")
        await ask(first, "POST", f"/IncomingPhoneNumbers/{sales['sid']}.json", VoiceApplicationSid=app["sid"])
        await first.text(ANA, LINE, "STOP")
    async with running_sandbox(config) as second:
        kept = await ask(second, "GET", f"/Applications/{app['sid']}.json")
        assert kept["voice_url"] == f"{hub.url}/app"
        again = await ask(second, "GET", f"/IncomingPhoneNumbers/{sales['sid']}.json")
        assert again["voice_application_sid"] == app["sid"]
        assert second.texts.opted_out(LINE, ANA)


async def test_recording_is_a_wav_that_can_be_paused_and_deleted(hub, sandbox, rest):
    hub.says("/voice", "<Pause length='600'/>")
    sandbox.world.config = __import__("dataclasses").replace(sandbox.world.config, time_scale=1.0)
    sid = await sandbox.dial(ANA, LINE)
    await hub.gets("/voice")
    await sandbox.exchange.legs.live[sid].answered.wait()
    made = await rest("POST", f"/Calls/{sid}/Recordings.json", expect=201, RecordingChannels="dual")
    assert made["status"] == "in-progress"
    current = f"/Calls/{sid}/Recordings/Twilio.CURRENT.json"
    assert (await rest("POST", current, Status="paused"))["status"] == "paused"
    assert (await rest("POST", current, Status="in-progress"))["status"] == "in-progress"
    sandbox.world.recordings[made["sid"]].words.append("hello")
    assert (await rest("POST", current, Status="stopped"))["status"] == "completed"
    async with rest.session.get(
        f"{rest.base}/Recordings/{made['sid']}.wav", headers={"Authorization": rest.auth}
    ) as got:
        sound = await got.read()
    assert sound[:4] == b"RIFF"
    assert int.from_bytes(sound[22:24], "little") == 2
    await rest("DELETE", f"/Recordings/{made['sid']}.json", expect=204)
    await rest("GET", f"/Recordings/{made['sid']}.json", expect=404)
    await sandbox.act(sid, "hangup")


async def test_accepted_message_of_a_service_gets_its_sender_and_segments_later(sandbox, rest):
    service = sandbox.config.messaging_service_sid
    made = await rest("POST", "/Messages.json", expect=201, To=ANA, MessagingServiceSid=service, Body="é" * 161)
    assert (made["status"], made["num_segments"]) == ("accepted", "0")
    async with asyncio.timeout(60):
        while (shown := await rest("GET", f"/Messages/{made['sid']}.json"))["status"] != "delivered":
            assert shown["status"] in ("accepted", "queued", "sending", "sent")
    assert shown["num_segments"] == "2"
