"""The desktop's phone against the sandbox's real twin: TwiML App, conference, customer, sound, reload."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page, Route, expect

from hub.sandbox.config import NumberConfig, SandboxConfig
from hub.sandbox.twin import Sandbox, running_sandbox
from tests.browser.conftest import PageFactory
from tests.browser.phone_rig import PHONE, Rig
from tests.browser.phone_steps import in_call, shows, until

pytestmark = pytest.mark.needs_chromium

HUB_NUMBER, ANA = "+442079460000", "+12025550101"
# The outside person's end: signals go out by POST, one after another, and come in by the twin's event stream.
OUTSIDE = """
import { openMicrophone, PeerSound } from "/rig/peer_sound.js";
globalThis.join = (sid) => {
  let posts = Promise.resolve();
  const send = (data) => {
    posts = posts.then(() => fetch(`/outside/calls/${sid}/signal`, {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({data}),
    }));
  };
  const sound = new PeerSound(send, openMicrophone());
  const events = new EventSource("/outside/events");
  events.addEventListener("message", ({data}) => {
    const event = JSON.parse(data);
    if (event.kind === "signal" && event.sid === sid) sound.receive(event.data);
  });
  events.addEventListener("open", () => sound.start(), {once: true});
  globalThis.sound = sound;
};
globalThis.ready = true;
"""


@dataclass
class Twin:
    """The sandbox, and the customer's call in it."""

    sandbox: Sandbox
    customer: str = ""


@pytest_asyncio.fixture(loop_scope="session")
async def twin(rig: Rig, page_factory: PageFactory, tmp_path: Path) -> AsyncIterator[Twin]:
    """The rig as the hub of a real twin: it answers the twin's webhooks with TwiML."""

    async def agent(request: web.Request) -> web.Response:
        form = await request.post()
        params = {key: str(form[key]) for key in ("offer", "nonce", "rejoin") if key in form}
        return twiml(room("false") if rig.joined(params) else "<Hangup/>")

    async def customer(_request: web.Request) -> web.Response:
        return twiml(room("true"))

    hub = web.Application()
    hub.add_routes([web.post("/agent", agent), web.post("/customer", customer)])
    runner = web.AppRunner(hub, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{site.port}"
    config = SandboxConfig(
        data_dir=str(tmp_path / "outside"),
        numbers=(NumberConfig(HUB_NUMBER, voice_url=f"{url}/customer"),),
        speech_scale=0.0,
        time_scale=0.3,
        line_grace_s=2.0,
    )
    async with running_sandbox(config) as sandbox:
        rig.line = {"kind": "sandbox", "url": sandbox.base_url.replace("http", "ws", 1) + "/line"}
        rig.account_sid, rig.key_sid, rig.key_secret = config.account_sid, config.api_key_sid, config.api_key_secret
        rig.application_sid = await make_application(sandbox, f"{url}/agent")
        yield Twin(sandbox)
        await page_factory.close()
    await runner.cleanup()


def twiml(inner: str) -> web.Response:
    return web.Response(text=f"<Response>{inner}</Response>", content_type="text/xml")


def room(ends_it: str) -> str:
    return f'<Dial><Conference endConferenceOnExit="{ends_it}" beep="false">room-1</Conference></Dial>'


async def make_application(sandbox: Sandbox, voice_url: str) -> str:
    """The TwiML App that a browser's calls ask, made by REST as the hub makes it."""
    config = sandbox.config
    headers = {"Authorization": aiohttp.encode_basic_auth(config.account_sid, config.auth_token)}
    address = f"{sandbox.base_url}/2010-04-01/Accounts/{config.account_sid}/Applications.json"
    form = {"FriendlyName": "desktop", "VoiceUrl": voice_url}
    async with aiohttp.ClientSession() as client, client.post(address, data=form, headers=headers) as response:
        assert response.status == 201, await response.text()
        return str((await response.json())["sid"])


async def outside(twin: Twin, page_factory: PageFactory) -> Page:
    """The outside person's page, on the twin's origin."""
    context = await page_factory.context()

    async def module(route: Route) -> None:
        await route.fulfill(path=PHONE / route.request.url.rpartition("/")[2], content_type="text/javascript")

    async def blank(route: Route) -> None:
        await route.fulfill(body='<link rel="icon" href="data:,">', content_type="text/html")

    await context.route("**/rig/*", module)
    await context.route("**/outside-page", blank)
    page = await page_factory(f"{twin.sandbox.base_url}/outside-page", context=context)
    await page.add_script_tag(type="module", content=OUTSIDE)
    await page.wait_for_function("() => globalThis.ready")
    return page


async def hears_more(far: Page) -> None:
    """Wait until more of the agent's sound reaches the outside person."""
    before = await far.evaluate("() => globalThis.sound.received()")

    async def more() -> bool:
        return bool(await far.evaluate("() => globalThis.sound.received()") > before + 500)

    await until(more, "the agent's sound outside")


async def test_agent_and_customer_talk_through_the_twin_and_after_a_reload_again(
    rig: Rig, twin: Twin, page_factory: PageFactory
) -> None:
    twin.customer = await twin.sandbox.dial(ANA, HUB_NUMBER)
    page = await in_call(rig, page_factory)
    assert rig.joins == [{"offer": "offer-1", "nonce": rig.nonces["offer-1"]}]
    far = await outside(twin, page_factory)
    await far.evaluate("(sid) => globalThis.join(sid)", twin.customer)
    await hears_more(far)
    await page.click("#key5")
    await expect(page.locator("#key5")).not_to_have_attribute("aria-busy", "true")

    await page.reload()
    await expect(page.locator("#live")).to_be_visible()
    assert rig.joins[1] == {"rejoin": "offer-1", "nonce": rig.nonces["offer-1"]}
    await hears_more(far)

    # The customer ends the conference; for the server the call is over, and the phone does not join again.
    rig.customer_leaves()
    await twin.sandbox.act(twin.customer, "hangup")
    await shows(page, "idle")
    assert await twin.sandbox.over(twin.customer) == "completed"
    assert len(rig.joins) == 2
    assert twin.sandbox.twin_faults == []


async def test_a_call_to_the_client_rings_on_the_desktop(rig: Rig, twin: Twin, page_factory: PageFactory) -> None:
    page = await page_factory(f"{rig.url}/page/work")
    await shows(page, "line-ready")
    config = twin.sandbox.config
    headers = {"Authorization": aiohttp.encode_basic_auth(config.account_sid, config.auth_token)}
    address = f"{twin.sandbox.base_url}/2010-04-01/Accounts/{config.account_sid}/Calls.json"
    form = {"From": HUB_NUMBER, "To": "client:agent_1", "Twiml": f"<Response>{room('true')}</Response>"}
    async with aiohttp.ClientSession() as client, client.post(address, data=form, headers=headers) as response:
        assert response.status == 201, await response.text()
        sid = (await response.json())["sid"]
    await expect(page.locator("#answer")).to_be_visible()
    assert await page.evaluate("hubPhone.snapshot.incoming.params.From") == HUB_NUMBER
    await page.click("#answer")
    await expect(page.locator("#live")).to_be_visible()
    await page.click("#hangup")
    await shows(page, "idle")
    assert await twin.sandbox.over(sid) == "completed"
