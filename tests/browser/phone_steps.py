"""Steps that the phone's tests share: waiting on other processes, getting a page into a call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from playwright.async_api import Page, expect

from tests.browser.conftest import PageFactory
from tests.browser.phone_rig import Rig
from tests.browser.phone_signalling import Leg, Signalling

JOINED_MS = """() => {
  const at = (name) => performance.getEntriesByName(name).at(-1).startTime;
  return at('hub-phone-joined') - at('hub-phone-accept');
}"""


async def until(look: Callable[[], bool | Awaitable[bool]], what: str, deadline_s: float = 60.0) -> float:
    """Wait for another process to get there; gives the seconds it took, fails with `what` at the deadline."""
    start = time.monotonic()
    while True:
        seen = look()
        if seen if isinstance(seen, bool) else await seen:
            return time.monotonic() - start
        assert time.monotonic() < start + deadline_s, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.02)


async def shows(page: Page, word: str) -> None:
    """Wait until the phone of this page shows the word (`words` in bar.js)."""
    await page.wait_for_function(
        "word => document.documentElement.dataset.phoneWords?.split(' ').includes(word)", arg=word
    )


async def has(page: Page, word: str) -> bool:
    """Does the phone of this page show the word now?"""
    words = await page.evaluate("document.documentElement.dataset.phoneWords")
    return word in (words or "").split()


async def in_call(rig: Rig, page_factory: PageFactory) -> Page:
    """A page whose agent has accepted the offer and is in the call."""
    page = await page_factory(f"{rig.url}/page/work")
    await shows(page, "line-ready")
    await page.click("#accept")
    await expect(page.locator("#live")).to_be_visible()
    await expect(page.locator("#customer")).to_have_text("Ana Example")
    return page


async def heard(signalling: Signalling, leg: Leg) -> None:
    """Wait until more of the agent's sound arrives at the far end than had before."""
    before = await signalling.packets(leg)

    async def more() -> bool:
        return await signalling.packets(leg) > before + 5

    await until(more, "sound from the agent")
