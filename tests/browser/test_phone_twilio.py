"""The desktop's phone with Twilio's real Voice JS SDK in Chromium, under the desktop's strict policy."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.conftest import PageFactory
from tests.browser.phone_rig import Rig
from tests.browser.phone_signalling import Signalling
from tests.browser.phone_steps import JOINED_MS, heard, in_call, shows, until

pytestmark = pytest.mark.needs_chromium


async def test_accepting_an_offer_joins_with_its_parameters_in_under_two_seconds(
    rig: Rig, signalling: Signalling, page_factory: PageFactory
) -> None:
    page = await in_call(rig, page_factory)

    (leg,) = signalling.live
    assert leg.params == {"offer": "offer-1", "nonce": rig.nonces["offer-1"]}
    await heard(signalling, leg)
    assert rig.csrf == {"token-of-the-rig"}
    # Nothing foreign was asked for but Twilio's Voice Insights: no sound, script or font from elsewhere.
    assert {url.split("/")[2] for url in page_factory.foreign} <= {"eventgw.twilio.com", "eventgw.us1.twilio.com"}
    joined_ms = await page.evaluate(JOINED_MS)
    print(f"click to joined: {joined_ms:.0f} ms")  # noqa: T201
    assert joined_ms < 2000


async def test_the_call_survives_navigation_within_the_desktop(
    rig: Rig, signalling: Signalling, page_factory: PageFactory
) -> None:
    page = await in_call(rig, page_factory)
    (leg,) = signalling.live

    for name in ("people", "lists", "work"):
        await page.click(f"#to-{name}")
        await expect(page.locator("#page h1")).to_have_text(name)
        assert page.url == f"{rig.url}/page/{name}"
        await heard(signalling, leg)

    await page.go_back()
    await expect(page.locator("#page h1")).to_have_text("lists")
    await expect(page.locator("#live")).to_be_visible()
    await heard(signalling, leg)
    assert signalling.live == [leg]
    assert signalling.legs == [leg]
    assert rig.streams_ever == 1


async def test_mute_hold_keys_and_hanging_up(rig: Rig, signalling: Signalling, page_factory: PageFactory) -> None:
    page = await in_call(rig, page_factory)

    def on_server(name: str) -> bool:
        return rig.call is not None and bool(rig.call[name])

    await page.click("#mute")
    await expect(page.locator("#mute")).to_have_attribute("aria-pressed", "true")
    await until(lambda: on_server("muted"), "the server hears of the mute")
    await page.click("#hold")
    await expect(page.locator("#hold")).to_have_attribute("aria-pressed", "true")
    assert on_server("held")
    await page.click("#hold")
    await expect(page.locator("#hold")).to_have_attribute("aria-pressed", "false")
    assert not on_server("held")
    await page.click("#mute")
    await expect(page.locator("#mute")).to_have_attribute("aria-pressed", "false")
    await page.click("#key5")
    await expect(page.locator("#key5")).not_to_have_attribute("aria-busy", "true")

    await page.click("#hangup")
    await shows(page, "idle")
    await until(lambda: not signalling.live, "the leg is over")
    assert rig.count("POST /desk/calls/interaction of offer-1/end") == 1
    # The line is free for the next call.
    await page.evaluate("document.querySelector('#accept').dataset.offer = 'offer-2'")
    await page.click("#accept")
    await expect(page.locator("#live")).to_be_visible()
    assert [leg.params["offer"] for leg in signalling.legs] == ["offer-1", "offer-2"]


async def test_muted_means_silence_at_the_far_end(rig: Rig, signalling: Signalling, page_factory: PageFactory) -> None:
    page = await in_call(rig, page_factory)
    (leg,) = signalling.live
    assert signalling.far is not None
    loudest = """async (id) => {
      const track = globalThis.ends[id].getReceivers()[0].track;
      // Chromium decodes a remote track only for an element that plays it.
      const element = Object.assign(new Audio(), {srcObject: new MediaStream([track]), muted: true});
      await element.play();
      const context = new AudioContext();
      const meter = context.createAnalyser();
      context.createMediaStreamSource(new MediaStream([track])).connect(meter);
      const level = () => {
        const wave = new Float32Array(meter.fftSize);
        meter.getFloatTimeDomainData(wave);
        return Math.max(...wave.map(Math.abs));
      };
      globalThis.level = level;
    }"""
    await signalling.far.evaluate(loudest, leg.callsid)
    # The fake microphone beeps once a second: it is heard, and then, once muted, it is not.
    await signalling.far.wait_for_function("() => globalThis.level() > 0.05")
    await page.click("#mute")
    await expect(page.locator("#mute")).to_have_attribute("aria-pressed", "true")
    silent = """async () => {
      const start = performance.now();
      let quietSince = start;
      while (performance.now() - quietSince < 1500) {
        if (globalThis.level() > 0.01) quietSince = performance.now();
        if (performance.now() - start > 6000) return false;
        await new Promise(requestAnimationFrame);
      }
      return true;
    }"""
    assert await signalling.far.evaluate(silent)


async def test_click_to_call_reaches_the_signalling(
    rig: Rig, signalling: Signalling, page_factory: PageFactory
) -> None:
    page = await page_factory(f"{rig.url}/page/people")
    await shows(page, "line-ready")
    await page.click("#page [data-phone-do=dial]")
    await expect(page.locator("#live")).to_be_visible()
    (leg,) = signalling.live
    assert leg.params["offer"] == "dial +12025550123"


async def test_an_incoming_call_is_answered_and_another_refused(
    rig: Rig, signalling: Signalling, page_factory: PageFactory
) -> None:
    page = await page_factory(f"{rig.url}/page/work")
    await shows(page, "line-ready")
    leg = await signalling.ring({"queue": "sales"})
    await expect(page.locator("#answer")).to_be_visible()
    assert await page.evaluate("hubPhone.snapshot.incoming.params.queue") == "sales"
    assert await page.evaluate("hubPhone.snapshot.incoming.params.From") == "+442079460123"
    await page.click("#answer")
    await expect(page.locator("#live")).to_be_visible()
    await expect(page.locator("#answer")).to_be_hidden()
    await heard(signalling, leg)
    await page.click("#hangup")
    await shows(page, "idle")
    await until(lambda: leg.over, "the leg is over")

    second = await signalling.ring({"queue": "sales"})
    await page.click("#reject")
    await until(lambda: second.over, "the second call is refused")
    third = await signalling.ring({"queue": "sales"})
    await expect(page.locator("#answer")).to_be_visible()
    await signalling.cancel(third)
    await expect(page.locator("#answer")).to_be_hidden()
    await shows(page, "idle")


async def test_the_customer_hangs_up_and_nothing_joins_again(
    rig: Rig, signalling: Signalling, page_factory: PageFactory
) -> None:
    page = await in_call(rig, page_factory)
    (leg,) = signalling.live
    rig.customer_leaves()
    await signalling.hang_up(leg)
    await shows(page, "idle")
    assert signalling.legs == [leg]


async def test_a_leg_lost_while_the_customer_is_there_is_joined_again(
    rig: Rig, signalling: Signalling, page_factory: PageFactory
) -> None:
    page = await in_call(rig, page_factory)
    (leg,) = signalling.live
    await signalling.hang_up(leg)
    await until(lambda: len(signalling.live) == 1, "a new leg")
    (again,) = signalling.live
    assert again.params == {"rejoin": "offer-1", "nonce": rig.nonces["offer-1"]}
    await expect(page.locator("#live")).to_be_visible()
    await heard(signalling, again)


async def test_the_token_is_renewed_before_it_expires_but_not_during_a_call(
    rig: Rig, signalling: Signalling, page_factory: PageFactory
) -> None:
    rig.ttl_s = 2
    page = await page_factory(f"{rig.url}/page/work")
    await shows(page, "line-ready")
    await until(lambda: rig.count("GET /desk/phone/token") >= 2, "a second token, at half of a life of 2 s")
    await until(lambda: len(signalling.tokens) >= 2, "the second token reaches the signalling")
    rig.ttl_s = 10
    await page.click("#accept")
    await expect(page.locator("#live")).to_be_visible()
    asked = rig.count("GET /desk/phone/token")
    # Longer than half of the token's life: renewal falls due in the call and waits for its end.
    due = "() => performance.now() - performance.getEntriesByName('hub-phone-joined').at(-1).startTime > 1600"
    await page.wait_for_function(due)
    assert rig.count("GET /desk/phone/token") == asked
    await page.click("#hangup")
    await until(lambda: rig.count("GET /desk/phone/token") > asked, "a fresh token after the call")


async def test_a_refused_token_is_replaced_once(rig: Rig, signalling: Signalling, page_factory: PageFactory) -> None:
    signalling.refuse_tokens = 1
    page = await page_factory(f"{rig.url}/page/work")
    await shows(page, "line-ready")
    assert rig.count("GET /desk/phone/token") == 2
    assert len(signalling.tokens) == 2
    # A token that is refused although it is fresh: said, and not asked for again and again.
    signalling.refuse_tokens = 99
    await page.reload()
    await page.wait_for_function("() => hubPhone.snapshot.line.code === 'token_invalid'")
    await until(lambda: len(signalling.tokens) == 4, "the second try of the reloaded page")
    await shows(page, "line-error")
    assert rig.count("GET /desk/phone/token") == 4


async def test_a_double_click_takes_the_offer_once(rig: Rig, signalling: Signalling, page_factory: PageFactory) -> None:
    page = await page_factory(f"{rig.url}/page/work")
    await shows(page, "line-ready")
    await page.dblclick("#accept")
    await expect(page.locator("#live")).to_be_visible()
    assert await page.evaluate("document.querySelector('[data-phone-message]:not([hidden])')") is None
    assert rig.count("POST /desk/offers/offer-1/accept") == 1
    assert len(signalling.legs) == 1


async def test_a_refused_microphone_is_said_before_the_offer_is_taken(
    rig: Rig, page_factory: PageFactory, signalling: Signalling
) -> None:
    context = await page_factory.context(microphone=False)
    await context.add_init_script("navigator.permissions.query = async () => ({state: 'denied'})")
    page = await page_factory(f"{rig.url}/page/work", context=context)
    await shows(page, "line-ready")
    await page.click("#accept")
    await expect(page.locator("#refused")).to_be_visible()
    assert rig.count("POST /desk/offers/offer-1/accept") == 0
    assert signalling.legs == []


async def test_a_microphone_refused_while_joining_ends_the_attempt_with_the_reason(
    rig: Rig, page_factory: PageFactory, signalling: Signalling
) -> None:
    context = await page_factory.context()
    await context.add_init_script(
        "if (navigator.mediaDevices) navigator.mediaDevices.getUserMedia = async () => {"
        " throw new DOMException('', 'NotAllowedError'); }"
    )
    page = await page_factory(f"{rig.url}/page/work", context=context)
    await shows(page, "line-ready")
    await page.click("#accept")
    await expect(page.locator("#refused")).to_be_visible()
    await shows(page, "idle")
    assert signalling.legs == []


async def test_an_offer_that_is_gone_says_so_in_the_servers_words(rig: Rig, page_factory: PageFactory) -> None:
    page_factory.allow(r"status of 409")
    page = await page_factory(f"{rig.url}/page/work")
    await shows(page, "line-ready")
    await page.evaluate("document.querySelector('#accept').dataset.offer = 'offer-gone'")
    await page.click("#accept")
    await expect(page.locator("#gone")).to_have_text("A colleague was faster.")
    await shows(page, "idle")
