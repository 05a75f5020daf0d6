"""The desktop's phone with Twilio's real Voice JS SDK in Chromium, under the desktop's strict policy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import PageFactory
from tests.browser.phone_rig import Rig
from tests.browser.phone_signalling import Leg, Signalling

pytestmark = pytest.mark.needs_chromium

JOINED_MS = """() => {
  const at = (name) => performance.getEntriesByName(name).at(-1).startTime;
  return at('hub-phone-joined') - at('hub-phone-accept');
}"""


async def until(look: Callable[[], bool | Awaitable[bool]], what: str, deadline_s: float = 8.0) -> None:
    """Wait for another process to get there; fails with `what` at the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        seen = look()
        if seen if isinstance(seen, bool) else await seen:
            return
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.02)


async def ready(page: Page, words: str = "line-ready") -> None:
    """Wait until the phone of this page shows the word."""
    await page.wait_for_function(
        "word => document.documentElement.dataset.phoneWords?.split(' ').includes(word)", arg=words
    )


async def in_call(rig: Rig, page_factory: PageFactory) -> Page:
    """A page whose agent has accepted the offer and is in the call."""
    page = await page_factory(f"{rig.url}/page/work")
    await ready(page)
    await page.click("#accept")
    await expect(page.locator("#live")).to_be_visible()
    return page


async def heard(signalling: Signalling, leg: Leg) -> None:
    """Wait until more of the agent's sound arrives at the far end than had before."""
    before = await signalling.packets(leg)

    async def more() -> bool:
        return await signalling.packets(leg) > before + 5

    await until(more, "sound from the agent")


async def test_accepting_an_offer_joins_with_its_parameters_in_under_two_seconds(
    rig: Rig, signalling: Signalling, page_factory: PageFactory
) -> None:
    page = await in_call(rig, page_factory)

    (leg,) = signalling.live
    assert leg.params == {"offer": "offer-1", "nonce": rig.nonces["offer-1"]}
    assert len(signalling.tokens[0].split(".")) == 3
    await expect(page.locator("#customer")).to_have_text("Ana Example")
    await heard(signalling, leg)
    assert rig.csrf == {"token-of-the-rig"}
    # Nothing foreign was asked for but Twilio's Voice Insights: no sound, script or font from elsewhere.
    assert {url.split("/")[2] for url in page_factory.foreign} <= {"eventgw.twilio.com", "eventgw.us1.twilio.com"}
    joined_ms = await page.evaluate(JOINED_MS)
    print(f"click to joined: {joined_ms:.0f} ms")
    assert joined_ms < 2000
