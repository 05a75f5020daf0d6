"""Files that go with texts, at the provider: taken over from the sender, told in the webhook, behind the account's login."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from tests.sandbox.conftest import ANA, HUB_NUMBER

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"


@pytest.fixture
async def store() -> AsyncIterator[str]:
    """A place where the hub's files lie; its address."""
    app = web.Application()

    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=PNG, content_type="image/png")

    async def lies(_: web.Request) -> web.Response:
        return web.Response(body=b"<html>", content_type="image/png")

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"\x89PNG\r\n\x1a\n" + b"x" * (5 * 1024 * 1024), content_type="image/png")

    for name, answer in (("/picture", picture), ("/lies", lies), ("/large", large)):
        app.router.add_get(name, answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def outcome(rest, sid, *words):
    """The message once it has one of these statuses."""
    for _ in range(500):
        message = await rest("GET", f"/Messages/{sid}.json")
        if message["status"] in words:
            return message
        await asyncio.sleep(0.01)
    raise AssertionError(message)


async def test_what_a_person_sends_is_told_and_kept_behind_the_login(hub, sandbox, rest):
    sent = await sandbox.request(
        "POST",
        "/outside/messages",
        {
            "from": ANA, "to": HUB_NUMBER, "body": "Look",
            "media": [{"content_type": "image/png", "data": base64.b64encode(PNG).decode()}],
        },
    )  # fmt: skip
    assert sent["sid"].startswith("MM")
    seen = await hub.gets("/sms", NumMedia="1")
    assert seen.params["MediaContentType0"] == "image/png"
    url = seen.params["MediaUrl0"]
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as refused:
            assert refused.status == 401
        async with session.get(url, headers={"Authorization": rest.auth}) as found:
            assert (found.status, found.content_type, await found.read()) == (200, "image/png", PNG)
        async with session.get(sandbox.base_url + sent["media"][0]["url"]) as shown:
            assert (await shown.read(), shown.headers["X-Content-Type-Options"]) == (PNG, "nosniff")
    (listed,) = (await rest("GET", f"/Messages/{sent['sid']}/Media.json"))["media_list"]
    assert (listed["parent_sid"], listed["content_type"]) == (sent["sid"], "image/png")
    await rest("DELETE", f"/Messages/{sent['sid']}/Media/{listed['sid']}.json", expect=204)
    await rest("GET", f"/Messages/{sent['sid']}/Media/{listed['sid']}.json", expect=404)


async def test_the_provider_takes_over_what_the_hub_sends(store, sandbox, rest):
    made = await rest(
        "POST", "/Messages.json", expect=201, To=ANA, From_=HUB_NUMBER, Body="See", MediaUrl=f"{store}/picture"
    )
    assert (made["num_media"], made["sid"][:2]) == ("1", "MM")
    await outcome(rest, made["sid"], "delivered")
    (listed,) = (await rest("GET", f"/Messages/{made['sid']}/Media.json"))["media_list"]
    assert listed["content_type"] == "image/png"


@pytest.mark.parametrize(("path", "code"), [("/gone", 11200), ("/lies", 12300), ("/large", 11751)])
async def test_what_cannot_be_had_fails_the_message(store, sandbox, rest, path, code):
    made = await rest("POST", "/Messages.json", expect=201, To=ANA, From_=HUB_NUMBER, MediaUrl=f"{store}{path}")
    failed = await outcome(rest, made["sid"], "failed")
    assert failed["error_code"] == code
    assert (await rest("GET", f"/Messages/{made['sid']}/Media.json"))["media_list"] == []


async def test_what_is_no_address_is_refused(rest):
    told = await rest("POST", "/Messages.json", expect=400, To=ANA, From_=HUB_NUMBER, MediaUrl="ftp://example.test/a")
    assert told["code"] == 21620
