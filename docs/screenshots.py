"""Take the README's screenshots from a hub of its own: `.venv/bin/python docs/screenshots.py` writes docs/images/*.png.

Plays a short shift in the sandbox (a call, a text, a campaign), so that every picture shows the product at work.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
from pathlib import Path

import aiohttp
from playwright.async_api import Page, async_playwright, expect

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT))

from tests.browser.conftest import FLAGS, PageFactory  # noqa: E402
from tests.journeys.cast import ANA, Cast, Desk, Outside  # noqa: E402
from tests.journeys.hub_process import HubProcess  # noqa: E402

BO = "+12025550102"


async def shot(page: Page, name: str) -> None:
    """One picture, 1280×800."""
    await page.screenshot(path=IMAGES / f"{name}.png")


async def log_in(cast: Cast) -> None:
    page = await cast.pages(f"{cast.hub.url}/login", context=await cast.pages.context())
    await shot(page, "log-in")


async def a_text(cast: Cast, ben: Desk) -> None:
    await ben.available()
    await cast.outside.text(BO, "Hello! Is my bicycle ready?")
    await expect(ben.offer).to_contain_text("Bo Sample")
    await ben.press("a")
    await ben.page.locator("#reply-body").fill("Hello Bo, yes: new chain, new brakes. We are open until six.")
    await ben.press("Control+Enter")
    await expect(ben.timeline.locator("li.mine").last).to_contain_text("delivered")
    await cast.outside.text(BO, "Great, I come at five. Can I pay by card?")
    await expect(ben.timeline).to_contain_text("pay by card")
    await shot(ben.page, "text-thread")
    await ben.activity("Break")  # the call is Amy's


async def a_call(cast: Cast, amy: Desk) -> None:
    ana = await cast.outside_page(ANA)
    await amy.available()
    await ana.get_by_role("button", name="Call the company").click()
    await expect(amy.offer).to_contain_text("Ana Example")
    await shot(amy.page, "offer")
    await amy.press("a")
    await amy.in_call()
    await expect(amy.timeline).to_contain_text("talking now")
    await shot(amy.page, "call")
    await shot(ana, "outside")


async def a_campaign(cast: Cast, mara: Desk) -> None:
    page = mara.page
    await page.get_by_label("Name").fill("Autumn sale")
    sender = page.get_by_label("Sent by").locator("option", has_text="Support mailbox")
    await page.get_by_label("Sent by").select_option(await sender.get_attribute("value"))
    await page.get_by_label("Purpose").select_option("marketing")
    await page.get_by_role("button", name="Next").click()
    await page.get_by_label("Or everybody with this tag").fill("newsletter")
    await page.get_by_role("button", name="Next").click()
    await page.get_by_label("Subject").fill("Autumn sale for {{ first_name }}")
    await page.get_by_label("Text", exact=True).fill(
        "Hello {{ first_name }}, the sale begins.\n\n{{ unsubscribe_url }}"
    )
    await page.get_by_role("button", name="Next").click()
    await page.get_by_label("At most this many a minute").fill("300")
    await page.get_by_role("button", name="Next").click()
    await page.get_by_role("link", name="Next").click(timeout=30_000)
    await page.get_by_role("button", name="Launch").click()
    await expect(page.locator("#progress .legend")).to_contain_text(
        re.compile("[1-9][0-9] (sent|delivered)"), timeout=30_000
    )
    await shot(page, "campaign")


async def the_wallboard(cast: Cast) -> None:
    sam = await cast.at_desk("sam", "/desk/wallboard")
    if await sam.page.locator("html").get_attribute("data-bs-theme") != "dark":
        await sam.page.get_by_role("button", name="Light or dark").click()
    await sam.page.mouse.move(640, 700)
    await shot(sam.page, "wallboard")


async def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="hub-shots-"))
    hub = HubProcess(folder / "var")
    hub.start()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        async with async_playwright() as playwright, aiohttp.ClientSession() as http:
            browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            cast = Cast(hub, Outside(hub.outside, http), PageFactory(browser))
            await cast.outside.ask("POST", "/outside/settings", {"speech_scale": 0})
            await log_in(cast)
            await a_text(cast, await cast.at_desk("ben"))
            await a_call(cast, await cast.at_desk("amy"))
            await a_campaign(cast, await cast.at_desk("mara", "/desk/campaigns/new"))
            await the_wallboard(cast)
            await cast.pages.close()
            await browser.close()
    finally:
        hub.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
