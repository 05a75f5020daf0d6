"""One tab owns the phone and the event stream; a reload, a closed tab or a dead one costs the customer a moment."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import PageFactory
from tests.browser.phone_rig import Rig
from tests.browser.phone_signalling import Signalling
from tests.browser.phone_steps import has, heard, in_call, shows, until

pytestmark = pytest.mark.needs_chromium


async def followers(rig: Rig, page_factory: PageFactory, count: int) -> list[Page]:
    """More tabs of the same browser, all showing what the owner shows."""
    pages = list(await asyncio.gather(*(page_factory(f"{rig.url}/page/people") for _ in range(count))))
    for page in pages:
        await shows(page, "line-ready")
    return pages


async def test_a_reload_rejoins_the_call(rig: Rig, signalling: Signalling, page_factory: PageFactory) -> None:
    page = await in_call(rig, page_factory)
    (leg,) = signalling.live
    await page.click("#mute")
    await until(lambda: rig.call is not None and rig.call["muted"], "the server hears of the mute")

    await page.reload()
    await expect(page.locator("#live")).to_be_visible()
    assert leg.over
    (again,) = signalling.live
    assert again.params == {"rejoin": "offer-1", "nonce": rig.nonces["offer-1"]}
    await expect(page.locator("#customer")).to_have_text("Ana Example")
    # Who was muted stays muted: nothing said beside the reload reaches the customer.
    await expect(page.locator("#mute")).to_have_attribute("aria-pressed", "true")
    await heard(signalling, again)


async def test_seven_tabs_share_one_stream_and_one_line(
    rig: Rig, signalling: Signalling, page_factory: PageFactory
) -> None:
    owner = await in_call(rig, page_factory)
    tabs = await followers(rig, page_factory, 6)
    assert rig.streams == 1
    assert len(signalling.sockets) == 1
    assert await has(owner, "owner")
    for page in tabs:
        assert await has(page, "follower")
        await expect(page.locator("#customer")).to_have_text("Ana Example")
        await page.evaluate(
            "document.addEventListener('hub:event:note', (event) => document.title = event.detail.text)"
        )

    rig.emit(type="note", text="seen by all")
    for page in tabs:
        await expect(page).to_have_title("seen by all")
    assert rig.streams == rig.streams_ever == 1

    # A button in any tab works the one line, and every tab shows it.
    await tabs[3].click("#mute")
    for page in [owner, *tabs]:
        await expect(page.locator("#mute")).to_have_attribute("aria-pressed", "true")
    await tabs[5].click("#hangup")
    for page in [owner, *tabs]:
        await shows(page, "idle")
    await until(lambda: not signalling.live, "the leg is over")
    # Refusals reach the tab that asked.
    await tabs[0].click("#mute")
    assert await tabs[0].evaluate("hubPhone.mute(true).catch((error) => error.code)") == "no_call"
    await tabs[2].click("#accept")
    await expect(tabs[4].locator("#live")).to_be_visible(timeout=60_000)


@pytest.mark.parametrize("end", ["closed", "killed"])
async def test_another_tab_takes_over_and_rejoins(
    rig: Rig, signalling: Signalling, page_factory: PageFactory, end: str
) -> None:
    owner = await in_call(rig, page_factory)
    tabs = await followers(rig, page_factory, 2)
    (leg,) = signalling.live
    before = rig.event_ids

    if end == "closed":
        await owner.close()
    else:
        await kill(owner)
    # Nobody listens in this moment; the next owner asks for what it missed.
    rig.emit(type="note", text="missed by nobody")

    async def one_owner() -> bool:
        return sum([await has(page, "owner") for page in tabs]) == 1

    await until(one_owner, "a new owner")
    for page in tabs:
        await expect(page.locator("#live")).to_be_visible()
    assert leg.over
    (again,) = signalling.live
    assert again.params["rejoin"] == "offer-1"
    await heard(signalling, again)
    await until(lambda: rig.streams == 1, "one stream again")
    for page in tabs:
        await page.wait_for_function("(before) => Number(hubPhone.snapshot.after) > before", arg=before)


async def test_a_tab_that_hangs_loses_the_phone_to_the_tab_that_asks(
    rig: Rig, signalling: Signalling, page_factory: PageFactory
) -> None:
    rig.config["answerMs"] = 1000
    owner = await in_call(rig, page_factory)
    (tab,) = await followers(rig, page_factory, 1)
    (leg,) = signalling.live
    # A script that never ends, as seen by every other tab: the lock is held and nobody answers.
    hanging = asyncio.ensure_future(
        owner.evaluate("() => { const end = Date.now() + 3500; while (Date.now() < end); }")
    )
    await until(lambda: tab.evaluate("document.visibilityState === 'visible'"), "the tab is visible")
    await tab.click("#hold")
    await shows(tab, "owner")
    await expect(tab.locator("#hold")).to_have_attribute("aria-pressed", "true", timeout=60_000)
    await hanging
    # Back from its loop, the old owner finds the lock gone: it gives up its leg and follows.
    await shows(owner, "follower")
    await until(lambda: leg.over, "the old owner's leg is over")
    await until(lambda: len(signalling.live) == 1, "one leg, the new owner's")
    await expect(owner.locator("#live")).to_be_visible()
    assert rig.streams == 1


async def test_a_lost_server_is_said_and_found_again(rig: Rig, page_factory: PageFactory) -> None:
    page_factory.allow(r"ERR_FAILED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_INTERNET_DISCONNECTED")
    page = await page_factory(f"{rig.url}/page/work")
    await shows(page, "stream-live")
    context = page.context
    await context.set_offline(True)
    rig.drop_streams()
    await shows(page, "stream-lost")
    rig.emit(type="note", text="while away")
    await context.set_offline(False)
    await shows(page, "stream-live")
    await page.wait_for_function("(id) => hubPhone.snapshot.after === id", arg=str(rig.event_ids))


async def test_an_offer_rings_in_the_owning_tab_until_it_is_gone(rig: Rig, page_factory: PageFactory) -> None:
    owner = await page_factory(f"{rig.url}/page/work")
    await shows(owner, "line-ready")
    (tab,) = await followers(rig, page_factory, 1)
    rig.ringing = True
    rig.emit(type="offer", id="offer-1")
    await shows(owner, "ringing-offer")
    await shows(tab, "ringing-offer")
    # The next owner goes on ringing.
    await owner.close()
    await shows(tab, "owner")
    await shows(tab, "ringing-offer")
    rig.ringing = False
    rig.emit(type="offer", id="offer-1")
    await tab.wait_for_function("() => hubPhone.snapshot.ringing === false")
    # The event alone is enough to start it.
    rig.ringing = True
    rig.emit(type="offer", id="offer-2", ring=True)
    await shows(tab, "ringing-offer")


async def test_whoever_has_no_phone_still_has_the_events(rig: Rig, page_factory: PageFactory) -> None:
    rig.line = {"kind": "none", "code": "no_phone", "url": "ws://127.0.0.1/line"}
    page = await page_factory(f"{rig.url}/page/work")
    await shows(page, "stream-live")
    await page.wait_for_function("() => hubPhone.snapshot.line.code === 'no_phone'")
    rig.emit(type="note", text="to all")
    await page.wait_for_function("(id) => hubPhone.snapshot.after === id", arg=str(rig.event_ids))
    assert rig.count("GET /desk/phone/token") == 1


async def kill(page: Page) -> None:
    """End the page's process, as the system does when memory runs out."""
    session = await page.context.new_cdp_session(page)
    crash = asyncio.ensure_future(session.send("Page.crash"))
    await page.wait_for_event("crash")
    crash.cancel()
