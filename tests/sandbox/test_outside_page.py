"""The outside person's page in a real browser: call, keys, incoming call, texts, mail; no error on the console."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect
from twilio.jwt.access_token import AccessToken
from twilio.jwt.access_token.grants import VoiceGrant

pytestmark = pytest.mark.needs_chromium

LINE, ANA = "+442079460000", "+12025550101"
AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium found; install the distribution's chromium package")
    async with async_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser, sandbox) -> AsyncIterator[Page]:
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    page = await context.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(sandbox.base_url)
    await expect(page.locator("#live")).to_have_text("live")
    yield page
    await context.close()
    assert complaints == []


async def test_a_newcomer_calls_presses_keys_and_hangs_up(hub, sandbox, page):
    hub.says("/voice", "<Gather numDigits='1' timeout='3000' action='/menu'><Say>Press one please.</Say></Gather>")
    hub.says("/menu", "<Enqueue waitUrl='/wait'>support</Enqueue>")
    hub.says("/wait", "<Say>You are number one.</Say><Pause length='3000'/>")
    await page.get_by_role("button", name="Call the company").click()
    await expect(page.locator("#heard")).to_contain_text("Press one please.")
    await page.locator(".keys").get_by_role("button", name="1", exact=True).click()
    await expect(page.locator("#heard")).to_contain_text("You are number one.")
    assert hub.at("/menu")[0].params["Digits"] == "1"
    await page.get_by_role("button", name="Hang up").click()
    await expect(page.locator("#recent")).to_contain_text("completed")


async def test_a_call_of_the_hub_rings_and_is_answered(hub, sandbox, page, rest):
    hub.says("/out", "<Gather input='speech' timeout='3000' action='/said'><Say>How may we help?</Say></Gather>")
    await rest("POST", "/Calls.json", expect=201, To=ANA, From_=LINE, Url=f"{hub.url}/out", Timeout="600")
    await page.get_by_role("button", name="Answer").click()
    await expect(page.locator("#heard")).to_contain_text("How may we help?")
    await page.get_by_label("Say something").fill("my heating is broken")
    await page.get_by_role("button", name="Say", exact=True).click()
    assert (await hub.gets("/said")).params["SpeechResult"] == "my heating is broken"


async def test_texts_go_both_ways_with_their_state(hub, sandbox, page, rest):
    await page.get_by_role("tab", name="Messages").click()
    await page.get_by_label("Message", exact=True).fill("Is it ready?")
    await page.get_by_label("Message", exact=True).press("Enter")
    assert (await hub.gets("/sms")).params["Body"] == "Is it ready?"
    await rest("POST", "/Messages.json", expect=201, To=ANA, From_=LINE, Body="<b>Yes</b>")
    await expect(page.locator("#thread .theirs")).to_contain_text("<b>Yes</b>")
    await expect(page.locator("#thread .theirs")).to_contain_text("delivered")


async def test_mail_is_read_and_answered(sandbox, page):
    mail = {"from": "support@example.test", "to": "ana@example.com", "subject": "Your order", "text": "It is ready."}
    sent = await sandbox.request("POST", "/outside/mails", mail)
    await page.get_by_role("button", name="Your order").click()
    await expect(page.locator("#reader")).to_contain_text("It is ready.")
    await page.get_by_role("button", name="Reply").click()
    await page.get_by_label("Text", exact=True).fill("Thank you.")
    await page.get_by_role("button", name="Send").last.click()
    await expect(page.locator("#toast")).to_have_text("Sent.")
    raw = (sandbox.config.data / "imap" / "INBOX").glob("*.eml")
    letter = next(raw).read_text()
    assert f"In-Reply-To: {sent['message_id']}" in letter
    assert "Subject: Re: Your order" in letter


async def test_faults_are_armed_and_problems_are_shown(hub, sandbox, page):
    await page.get_by_role("button", name="Lost callback").click()
    await expect(page.get_by_role("button", name="Lost callback ×1")).to_be_visible()
    await page.get_by_role("button", name="All calm").click()
    await expect(page.get_by_role("button", name="Lost callback ×1")).to_have_count(0)
    hub.says("/voice", "<Sprecht/>")
    await sandbox.over(await sandbox.dial(ANA, LINE))
    await expect(page.locator("#problem-list")).to_contain_text("12200")


async def test_an_unknown_person_and_a_withheld_number_can_call(hub, sandbox, page):
    hub.says("/voice", "<Pause length='3000'/>")
    for label, number in (("Somebody unknown", "+12025550100"), ("Number withheld", "anonymous")):
        await page.get_by_label("I am").select_option(number)
        await page.get_by_role("button", name="Call the company").click()
        assert (await hub.gets("/voice", From=number)).params["From"] == number, label
        await page.get_by_role("button", name="Hang up").click()
        await expect(page.locator("#idle")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_page_is_accessible(hub, sandbox, browser, scheme):
    if not AXE.exists():
        pytest.skip("axe-core is not installed; `python3 run.py test` brings it")
    hub.says("/voice", "<Gather timeout='3000'><Say>Press one.</Say></Gather>")
    mail = {"from": "support@example.test", "to": "ana@example.com", "subject": "Hello", "html": "<b>Hello</b>"}
    await sandbox.request("POST", "/outside/mails", mail)
    context = await browser.new_context(bypass_csp=True, color_scheme=scheme)
    page = await context.new_page()
    await page.goto(sandbox.base_url)
    await page.evaluate(AXE.read_text("utf-8"))
    await page.get_by_role("button", name="Hello").click()
    await expect(page.locator("#reader iframe")).to_be_visible()
    await page.get_by_role("button", name="Call the company").click()
    await expect(page.locator("#heard")).to_contain_text("Press one.")
    found = await page.evaluate("() => axe.run(document).then((result) => result.violations)")
    assert [(fault["id"], [node["target"] for node in fault["nodes"]]) for fault in found] == []
    await context.close()


AGENT = """
async (url) => {
  const { Sound } = await import("/page/sound.js");
  const audio = new Audio();
  const sounds = new Map();
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const socket = new WebSocket(url);
  globalThis.audio = audio;
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    const tell = (to) => (data) => socket.send(JSON.stringify({ type: "signal", call: message.call, data, to }));
    if (message.type === "registered") socket.send(JSON.stringify({ type: "connect", params: {} }));
    if (message.type === "peers") for (const { call } of message.peers) {
      if (!sounds.has(call)) sounds.set(call, new Sound(tell(call), stream, audio));
    }
    if (message.type === "signal") sounds.get(message.from)?.take(message.data);
  };
}
"""


async def test_sound_goes_both_ways_between_the_page_and_an_agents_browser(hub, sandbox, rest):
    if CHROMIUM is None:
        pytest.skip("no Chromium found; install the distribution's chromium package")
    room = "<Dial><Conference beep='false'>room-1</Conference></Dial>"
    hub.says("/voice", room)
    hub.says("/client", room)
    app = await rest("POST", "/Applications.json", expect=201, FriendlyName="hub", VoiceUrl=f"{hub.url}/client")
    config = sandbox.config
    token = AccessToken(config.account_sid, config.api_key_sid, config.api_key_secret, identity="agent1")
    token.add_grant(VoiceGrant(outgoing_application_sid=app["sid"], incoming_allow=True))
    async with async_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--use-fake-ui-for-media-stream"]
        flags += ["--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required"]
        flags.append("--disable-features=WebRtcHideLocalIpsWithMdns")
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        context = await browser.new_context(permissions=["microphone"])
        person, agent = await context.new_page(), await context.new_page()
        await person.goto(sandbox.base_url)
        await agent.goto(f"{sandbox.base_url}/page/icon.svg")
        url = f"{sandbox.base_url.replace('http', 'ws', 1)}/line?token={token.to_jwt()}"
        await agent.evaluate(AGENT, url)
        await person.get_by_role("button", name="Call the company").click()
        await person.get_by_role("button", name="Sound off").click()
        await expect(person.locator("#talking-state")).to_contain_text("talking with an agent")
        playing = "(audio) => audio.srcObject?.getAudioTracks()[0]?.muted === false"
        await person.wait_for_function(f"() => ({playing})(document.getElementById('far'))", timeout=15000)
        await agent.wait_for_function(f"() => ({playing})(globalThis.audio)", timeout=15000)
        await browser.close()
