"""The browser line's edges, the outside API's edges, the page's policy, and a real sandbox process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from typing import Any

import aiohttp
import jwt
import pytest

from hub.sandbox.config import BadConfig, config_from_dict

LINE, ANA = "+442079460000", "+12025550101"


def token_for(config, identity="agent1", app="", *, secret=None, exp=600, **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "jti": f"{config.api_key_sid}-{now}",
        "iss": config.api_key_sid,
        "sub": config.account_sid,
        "exp": now + exp,
        "grants": {
            "identity": identity,
            "voice": {"incoming": {"allow": True}, "outgoing": {"application_sid": app}},
        },
        **changes,
    }
    return jwt.encode(claims, secret or config.api_key_secret, algorithm="HS256")


async def gets(socket, kind: str) -> dict[str, Any]:
    while True:
        message = json.loads((await asyncio.wait_for(socket.receive(), 60)).data)
        if message["type"] == kind:
            return message


async def line(session, sandbox, token: str):
    return await session.ws_connect(f"{sandbox.base_url}/line?token={token}")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": -10}, 20104),
        ({"secret": "another-secret-that-is-long-enough"}, 20101),
        ({"iss": "SKother"}, 20101),
        ({"sub": "ACother"}, 20101),
        ({"grants": {"identity": "agent1"}}, 20101),
    ],
)
async def test_bad_token_is_refused_with_the_providers_code(sandbox, changes, code):
    async with aiohttp.ClientSession() as session:
        socket = await line(session, sandbox, token_for(sandbox.config, **changes))
        assert (await gets(socket, "error"))["code"] == code
        assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_a_token_of_the_real_helper_library_is_accepted(sandbox):
    from twilio.jwt.access_token import AccessToken
    from twilio.jwt.access_token.grants import VoiceGrant

    config = sandbox.config
    token = AccessToken(config.account_sid, config.api_key_sid, config.api_key_secret, identity="agent7")
    token.add_grant(VoiceGrant(outgoing_application_sid="AP" + "1" * 32, incoming_allow=True))
    async with aiohttp.ClientSession() as session:
        socket = await line(session, sandbox, token.to_jwt())
        assert (await gets(socket, "registered"))["identity"] == "agent7"
        await socket.send_str('{"type": "connect", "ref": "a"}')
        assert (await gets(socket, "error"))["code"] == 31002


async def test_every_tab_rings_and_the_first_to_accept_has_the_call(hub, sandbox):
    hub.says("/voice", "<Dial><Client>agent1</Client></Dial>")
    async with aiohttp.ClientSession() as session:
        one = await line(session, sandbox, token_for(sandbox.config))
        two = await line(session, sandbox, token_for(sandbox.config))
        sid = await sandbox.dial(ANA, LINE)
        ringing = await gets(one, "incoming")
        assert ringing["from"] == ANA
        assert (await gets(two, "incoming"))["call"] == ringing["call"]
        await two.send_str(json.dumps({"type": "accept", "call": ringing["call"]}))
        assert (await gets(one, "disconnected"))["reason"] == "answered elsewhere"
        await gets(two, "accepted")
        assert (await gets(two, "peers"))["peers"] == [{"call": sid, "address": ANA}]
        await one.send_str(json.dumps({"type": "hangup", "call": ringing["call"]}))
        assert (await gets(one, "error"))["code"] == 31005
        await two.send_str(json.dumps({"type": "mute", "call": ringing["call"], "muted": True}))
        assert (await gets(two, "mute"))["muted"] is True
        await two.send_str(json.dumps({"type": "digits", "call": ringing["call"], "digits": "5"}))
        await two.send_str(json.dumps({"type": "hangup", "call": ringing["call"]}))
        assert (await gets(two, "disconnected"))["status"] == "completed"
        assert await sandbox.over(sid) == "completed"
        assert {"kind": "keys", "text": "5"}.items() <= sandbox.world.calls[sid].heard[-1].items()


async def test_signals_are_relayed_between_line_and_page(hub, sandbox):
    hub.says("/voice", "<Dial><Client>agent1</Client></Dial>")
    async with aiohttp.ClientSession() as session:
        agent = await line(session, sandbox, token_for(sandbox.config))
        news = await session.get(f"{sandbox.base_url}/outside/events")
        sid = await sandbox.dial(ANA, LINE)
        call = (await gets(agent, "incoming"))["call"]
        await agent.send_str(json.dumps({"type": "accept", "call": call}))
        await gets(agent, "peers")
        await sandbox.request("POST", f"/outside/calls/{sid}/signal", {"data": {"sdp": {"type": "offer"}}})
        signal_in = await gets(agent, "signal")
        assert (signal_in["from"], signal_in["data"]) == (sid, {"sdp": {"type": "offer"}})
        await agent.send_str(json.dumps({"type": "signal", "call": call, "data": {"want": True}}))
        async with asyncio.timeout(60):
            async for raw in news.content:
                if raw.startswith(b"data: ") and (event := json.loads(raw[6:]))["kind"] == "signal":
                    break
        assert (event["sid"], event["sender"], event["data"]) == (sid, call, {"want": True})
        news.close()
        await sandbox.act(sid, "hangup")


async def test_nobody_registered_means_no_answer(hub, sandbox):
    hub.says("/voice", "<Dial action='/done'><Client>agent1</Client></Dial>")
    await sandbox.over(await sandbox.dial(ANA, LINE))
    assert hub.at("/done")[0].params["DialCallStatus"] == "no-answer"


async def test_line_refuses_nonsense_politely(sandbox):
    async with aiohttp.ClientSession() as session:
        socket = await line(session, sandbox, token_for(sandbox.config))
        await gets(socket, "registered")
        for raw in ("{", "[]", '{"type": "hangup", "call": "CA0"}', '{"no": "type"}'):
            await socket.send_str(raw)
            assert (await gets(socket, "error"))["code"] in (31000, 31005)
        await socket.send_str('{"type": "ping"}')
        await gets(socket, "pong")


async def test_strange_origin_is_kept_out(sandbox):
    async with aiohttp.ClientSession() as session:
        url = f"{sandbox.base_url}/outside/state"
        async with session.get(url, headers={"Origin": "https://evil.example.com"}) as response:
            assert response.status == 403
        for foreign in ({"Origin": "null"}, {"Host": "rebound.example.com"}):
            async with session.get(url, headers=foreign) as response:
                assert response.status == 403
        async with session.get(url, headers={"Origin": "http://localhost:8080"}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:8080"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/outside/calls", {"from": ANA, "to": "+442079469999"}, 404),
        ("/outside/calls", {}, 400),
        ("/outside/calls/CAnone/hangup", {}, 404),
        ("/outside/messages", {"from": "anonymous", "to": LINE, "body": "x"}, 400),
        ("/outside/messages", {"from": ANA, "to": "+442079469999", "body": "x"}, 404),
        ("/outside/mails", {"from": "nobody"}, 400),
        ("/outside/mails", {"from": "a@example.com", "subject": "x\r\nBcc: y@example.com"}, 400),
        ("/outside/mails", {"from": "a@example.com", "raw_base64": "%%%"}, 400),
        ("/outside/people", {"people": [{"nome": "x"}]}, 400),
        ("/outside/settings", {"colour": 1}, 400),
    ],
)
async def test_bad_input_gets_a_sentence(sandbox, path, body, status):
    async with (
        aiohttp.ClientSession() as session,
        session.post(sandbox.base_url + path, json=body) as response,
    ):
        assert response.status == status
        assert len((await response.json())["error"]) > 5


async def test_keys_pressed_when_nobody_listens_are_refused(hub, sandbox):
    hub.says("/voice", "<Enqueue waitUrl=''>support</Enqueue>")
    sid = await sandbox.dial(ANA, LINE)
    with pytest.raises(RuntimeError, match="nobody listens"):
        await sandbox.act(sid, "digits", digits="1", wait_s=0.1)
    await sandbox.act(sid, "hangup")


async def test_people_can_be_told_later(sandbox):
    person = {"name": "Cleo Example", "number": "+12025550103", "email": "cleo@example.com"}
    await sandbox.request("POST", "/outside/people", {"people": [person], "form_url": "http://127.0.0.1/forms/x"})
    shown = (await sandbox.request("GET", "/outside/state"))["settings"]
    assert person in shown["people"]
    assert shown["form_url"] == "http://127.0.0.1/forms/x"


async def test_page_has_a_strict_policy_and_mail_html_has_no_power(sandbox):
    await sandbox.request(
        "POST", "/outside/mails", {"from": "a@example.com", "to": "ana@example.com", "html": "<script>x</script>"}
    )
    async with aiohttp.ClientSession() as session:
        async with session.get(sandbox.base_url + "/") as page:
            text = await page.text()
            assert "unsafe" not in page.headers["Content-Security-Policy"]
            assert "style=" not in text
            assert "onclick" not in text
        for name in ("outside.js", "outside.css", "icon.svg"):
            async with session.get(f"{sandbox.base_url}/page/{name}") as part:
                assert part.status == 200
        async with session.get(f"{sandbox.base_url}/outside/mails/ana@example.com/1/html") as mail:
            assert mail.headers["Content-Security-Policy"].startswith("sandbox")
            assert "script-src" not in mail.headers["Content-Security-Policy"]


async def test_call_to_an_own_number_comes_in_there(hub, sandbox, rest):
    hub.says("/voice", "<Say>Hello me.</Say>")
    hub.says("/out", "<Say>Self test.</Say>")
    made = await rest("POST", "/Calls.json", expect=201, To=LINE, From_="+442079460001", Url=f"{hub.url}/out")
    assert await sandbox.over(made["sid"]) == "completed"
    assert len(hub.at("/voice")) == 1
    assert len(hub.at("/out")) == 1


def test_unknown_setting_is_refused():
    with pytest.raises(BadConfig, match="speach_scale"):
        config_from_dict({"speach_scale": 0})


async def test_process_writes_its_ports_serves_and_ends_on_sigterm(tmp_path):
    ports = tmp_path / "ports.json"
    file = tmp_path / "config.json"
    raw = {"ports_file": str(ports), "data_dir": str(tmp_path / "data"), "numbers": [LINE]}
    file.write_text(json.dumps(raw))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hub.sandbox", "--config", str(file), stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            while not ports.exists():
                assert process.returncode is None
                await asyncio.sleep(0.02)
        found = json.loads(ports.read_text())
        assert set(found) == {"http", "smtp", "imap"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{found['http']}/healthz") as response,
        ):
            assert (await response.json())["status"] == "ok"
        process.send_signal(signal.SIGTERM)
        _, complaints = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        assert complaints == b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_process_with_a_bad_configuration_says_one_sentence(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"colour": 1}')
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hub.sandbox", "--config", str(file), stderr=asyncio.subprocess.PIPE
    )
    _, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert complaints.decode() == "sandbox: unknown sandbox setting: colour\n"
