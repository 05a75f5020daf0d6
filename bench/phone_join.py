"""How long an agent waits for the phone: click to joined, reload to rejoined, dead tab to rejoined.

    python -m bench.phone_join [rounds]

Twilio's real Voice JS SDK in Chromium, its signalling played on loopback over TLS, the desk of the browser tests. So
it measures our part and the browser's; a live account adds its own way to the conference.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import time

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.browser import phone_rig, phone_signalling
from tests.browser.conftest import FLAGS
from tests.browser.phone_rig import Rig
from tests.browser.phone_signalling import Leg, Signalling
from tests.browser.phone_steps import JOINED_MS, shows, until


async def one_round(browser: Browser, signalling: Signalling, times: dict[str, list[float]]) -> None:
    """One agent's call: accept, reload, then the owning tab is killed beside another."""
    rig = Rig()
    desk = await phone_rig.serve(rig)
    agent = await browser.new_context(permissions=["microphone"])
    await signalling.reset()

    async def invited(leg: Leg) -> bool:
        return rig.joined(leg.params)

    signalling.on_invite = invited
    page = await agent.new_page()
    await page.goto(f"{rig.url}/page/work")
    await shows(page, "line-ready")
    await page.click("#accept")
    await expect(page.locator("#live")).to_be_visible()
    times["click to joined"].append(await page.evaluate(JOINED_MS))

    start = time.monotonic()
    await page.reload()
    await expect(page.locator("#live")).to_be_visible()
    times["reload to rejoined"].append((time.monotonic() - start) * 1000)

    other = await agent.new_page()
    await other.goto(f"{rig.url}/page/people")
    await shows(other, "follower")
    await shows(other, "live")
    dead = signalling.live[0]
    start = time.monotonic()
    await kill(page)
    await shows(other, "owner")
    times["killed tab to new owner"].append((time.monotonic() - start) * 1000)
    await until(lambda: dead.over, "the dead tab's leg is over")
    await shows(other, "live")
    times["killed tab to rejoined"].append((time.monotonic() - start) * 1000)
    await agent.close()
    await desk.cleanup()


async def kill(page: Page) -> None:
    """End the page's process."""
    session = await page.context.new_cdp_session(page)
    crash = asyncio.ensure_future(session.send("Page.crash"))
    await page.wait_for_event("crash")
    crash.cancel()


async def main(rounds: int) -> None:
    """Measure and print."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("Chromium is not installed (Debian: apt-get install chromium)")
    signalling = Signalling()
    server = await phone_signalling.serve(signalling)
    rules = f"--host-resolver-rules=MAP *.twilio.com 127.0.0.1:{signalling.port}"
    times: dict[str, list[float]] = {
        name: []
        for name in ("click to joined", "reload to rejoined", "killed tab to new owner", "killed tab to rejoined")
    }
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, rules])
        await phone_signalling.open_far_end(signalling, browser)
        for _ in range(rounds):
            await one_round(browser, signalling, times)
        await browser.close()
    await server.cleanup()
    print(f"{rounds} rounds, milliseconds         min  median     max")
    for name, values in times.items():
        print(f"{name:28}  {min(values):8.0f}{statistics.median(values):8.0f}{max(values):8.0f}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
