"""The desktop's phone on the sandbox's line: the same desk, another wire, sound by WebRTC where both ends have it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.browser import phone_line
from tests.browser.conftest import PageFactory
from tests.browser.phone_line import LineServer
from tests.browser.phone_rig import Rig
from tests.browser.phone_steps import in_call, shows, until

pytestmark = pytest.mark.needs_chromium

# Lets a test look at the page's own peer connections.
WATCH_PEERS = """
globalThis.peers = [];
const Peer = RTCPeerConnection;
globalThis.RTCPeerConnection = class extends Peer {
  constructor(...options) {
    super(...options);
    globalThis.peers.push(this);
  }
};
"""
HEARD = """async () => {
  let bytes = 0;
  for (const entry of (await globalThis.peers.at(-1)?.getStats())?.values() ?? []) {
    if (entry.type === 'inbound-rtp') bytes += entry.bytesReceived;
  }
  return bytes;
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def line(rig: Rig, page_factory: PageFactory) -> AsyncIterator[LineServer]:
    """The desk with a sandbox line in place of Twilio's."""
    line = LineServer()
    runner = await phone_line.serve(line)
    rig.line = {"kind": "sandbox", "url": line.url}
    line.may_join = rig.joined
    yield line
    await page_factory.close()
    await runner.cleanup()


async def outside(line: LineServer, page_factory: PageFactory) -> Page:
    """The outside person's page, in a browser of its own."""
    page = await page_factory(
        line.url.replace("ws:", "http:").replace("/line", "/outside"), context=await page_factory.context()
    )
    await page.wait_for_function("() => globalThis.ready")
    return page


async def hears(page: Page, question: str) -> None:
    """Wait until sound has come in beyond a few packets."""
    await until(lambda: more_than(page, question, 1000), "sound arrives")


async def more_than(page: Page, question: str, least: int) -> bool:
    return bool(await page.evaluate(question) > least)


async def test_a_call_with_sound_both_ways(rig: Rig, line: LineServer, page_factory: PageFactory) -> None:
    context = await page_factory.context()
    await context.add_init_script(WATCH_PEERS)
    page = await in_call(rig, page_factory)
    (call,) = line.live
    assert call.params == {"offer": "offer-1", "nonce": rig.nonces["offer-1"]}
    # The customer comes after the agent: the agent's first hello met nobody.
    far = await outside(line, page_factory)
    await far.evaluate("(call) => globalThis.join(call)", call.id)
    await hears(far, "() => globalThis.sound.received()")
    await hears(page, HEARD)

    await page.click("#to-people")
    await expect(page.locator("#page h1")).to_have_text("people")
    await page.click("#mute")
    await until(lambda: call.muted, "the line hears of the mute")
    await page.click("#key5")
    await until(lambda: call.digits == "5", "the key arrives")
    await page.click("#hold")
    await expect(page.locator("#hold")).to_have_attribute("aria-pressed", "true")
    await page.click("#hangup")
    await shows(page, "idle")
    await until(lambda: call.over, "the call is over")
    # The SDK is not even fetched.
    assert rig.count("GET /static/vendor/twilio.min.js") == 0
    assert page_factory.foreign == []


async def test_without_a_microphone_the_agent_listens(rig: Rig, line: LineServer, page_factory: PageFactory) -> None:
    context = await page_factory.context()
    await context.add_init_script(
        WATCH_PEERS + "if (navigator.mediaDevices) navigator.mediaDevices.getUserMedia = async () => {"
        " throw new DOMException('', 'NotFoundError'); }"
    )
    page = await in_call(rig, page_factory)
    (call,) = line.live
    far = await outside(line, page_factory)
    await far.evaluate("(call) => globalThis.join(call)", call.id)
    await hears(page, HEARD)
    await expect(page.locator("#live")).to_be_visible()


async def test_incoming_answered_refused_and_given_up(rig: Rig, line: LineServer, page_factory: PageFactory) -> None:
    page = await page_factory(f"{rig.url}/page/work")
    await shows(page, "line-ready")
    first = await line.ring({"From": "+12025550123"})
    await expect(page.locator("#answer")).to_be_visible()
    assert await page.evaluate("hubPhone.snapshot.incoming.params.From") == "+12025550123"
    # Busy: a second caller is refused without disturbing the first.
    second = await line.ring({"From": "+12025550124"})
    await until(lambda: second.over, "the second is refused")
    await page.click("#answer")
    await expect(page.locator("#live")).to_be_visible()
    assert first.answered
    await line.hang_up(first)
    await shows(page, "idle")

    third = await line.ring({"From": "+12025550123"})
    await page.click("#reject")
    await until(lambda: third.over, "the third is refused")
    fourth = await line.ring({"From": "+12025550123"})
    await expect(page.locator("#answer")).to_be_visible()
    await line.hang_up(fourth, reason="cancelled")
    await expect(page.locator("#answer")).to_be_hidden()
    await shows(page, "idle")


async def test_a_lost_socket_resumes_the_same_call(rig: Rig, line: LineServer, page_factory: PageFactory) -> None:
    page = await in_call(rig, page_factory)
    (call,) = line.live
    line.refuse_tokens = 1  # the token that it comes back with is stale: it fetches another
    tokens = rig.count("GET /desk/phone/token")
    await line.drop()
    await until(lambda: line.resumed == [call.id], "the call is resumed")
    assert line.registered == 2
    assert rig.count("GET /desk/phone/token") == tokens + 1
    assert line.live == [call]
    await expect(page.locator("#live")).to_be_visible()
    await page.click("#mute")
    await until(lambda: call.muted, "the line carries commands again")


async def test_a_reload_rejoins_on_the_sandbox_line(rig: Rig, line: LineServer, page_factory: PageFactory) -> None:
    page = await in_call(rig, page_factory)
    (call,) = line.live
    await page.reload()
    await until(lambda: len(line.calls) == 2, "a second call")
    await expect(page.locator("#live")).to_be_visible()
    await until(lambda: call.over, "the first leg is over")
    (again,) = line.live
    assert again.params == {"rejoin": "offer-1", "nonce": rig.nonces["offer-1"]}
    rig.customer_leaves()
    await line.hang_up(again)
    await shows(page, "idle")
