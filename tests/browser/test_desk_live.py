"""What moves on the desk, in a real Chromium: earlier parts of a talk, the call bar while dialling, the activity's word."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from crm_core.ids import new_id
from hub.demo import PASSWORD
from tests.browser.conftest import PageFactory
from tests.journeys.cast import until
from tests.journeys.hub_process import HubProcess

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def house() -> Iterator[HubProcess]:
    """A whole hub with its demo company."""
    folder = Path(tempfile.mkdtemp(prefix="hub-v-"))
    hub = HubProcess(folder / "var")
    hub.start()
    yield hub
    hub.stop()
    shutil.rmtree(folder, ignore_errors=True)


async def log_in(page: Page, hub: HubProcess, login: str) -> None:
    await page.goto(hub.url + "/login")
    await page.get_by_label("Login").fill(login)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url("**/desk/**")


def lengthen(hub: HubProcess, number: int) -> str:
    """A text conversation with so many more messages, as long ago as it takes; its id."""
    talk = hub.rows("SELECT * FROM interactions WHERE channel = 'sms' ORDER BY id LIMIT 1")[0]
    columns = list(talk.keys())
    first = datetime.now(UTC) - timedelta(days=30)
    with sqlite3.connect(hub.data / "hub.db", timeout=20) as rows:
        for place in range(number):
            at = first + timedelta(minutes=place)
            told = {**dict(talk), "id": new_id(at), "body": f"old text {place}", "external_id": f"old{place}"}
            told |= {
                name: at.isoformat(sep=" ") for name in ("first_arrival_at", "created_at", "ended_at") if told.get(name)
            }
            marks = ",".join("?" for _ in columns)
            rows.execute(f"INSERT INTO interactions ({','.join(columns)}) VALUES ({marks})", [told[c] for c in columns])
    return str(talk["conversation_id"])


async def test_earlier_parts_come_by_scroll_and_by_key(house: HubProcess, page_factory: PageFactory) -> None:
    talk = lengthen(house, 150)
    context = await page_factory.context()
    page = await context.new_page()
    await log_in(page, house, "ada")
    await page.goto(f"{house.url}/desk/work/{talk}")
    timeline = page.locator("#timeline")
    texts = timeline.locator("li[id^=t-] p")
    before = await texts.count()
    assert before <= 70
    # It is read from its end.
    assert await timeline.evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight") < 30
    # The wheel reaches the top: the part before comes by itself, and what was read stays where it was.
    top = await timeline.evaluate(
        "e => { const li = [...e.children].find(c => c.id.startsWith('t-')); e.scrollTop = 0; return li.id; }"
    )
    await expect(texts).not_to_have_count(before)
    place = await timeline.evaluate(
        "(e, id) => document.getElementById(id).getBoundingClientRect().top - e.getBoundingClientRect().top", top
    )
    assert 0 <= place < 200
    # By keyboard: the button is reached by Tab and keeps the focus while there is more.
    count = await texts.count()
    if await page.locator("#timeline-more").count():
        await page.locator("#timeline-more").focus()
        await page.keyboard.press("Enter")
        await expect(texts).not_to_have_count(count)

    async def at_the_beginning() -> bool:
        await timeline.evaluate("e => { e.scrollTop = 400; requestAnimationFrame(() => { e.scrollTop = 0; }); }")
        return not await page.locator("[data-earlier]").count()

    await until(at_the_beginning)
    await expect(timeline.get_by_text("old text 0", exact=True)).to_have_count(1)
    await expect(page.locator("[data-earlier]")).to_have_count(0)
    # What is new comes in, and leaves them where they read.
    async with page.expect_response("**/timeline?start=*") as news:
        await timeline.dispatch_event("live")
    await (await news.value).finished()
    await expect(timeline.get_by_text("old text 0", exact=True)).to_have_count(1)
    await expect(page.locator("[data-earlier]")).to_have_count(0)


async def test_the_call_bar_names_who_is_called_before_the_server_answers(
    house: HubProcess, page_factory: PageFactory
) -> None:
    page_factory.allow("status of 409 .*/desk/calls")  # the gate may refuse the demo's people at this hour
    context = await page_factory.context()
    page = await context.new_page()
    await log_in(page, house, "amy")
    await page.goto(house.url + "/desk/contacts")
    await page.locator("tr[data-row] a").first.click()
    await page.wait_for_url("**/desk/contacts/*")
    name = await page.locator("h1").inner_text()
    held = asyncio.Event()

    async def late(route: Route) -> None:
        await held.wait()
        await route.continue_()

    await page.route("**/desk/calls", late)
    await page.wait_for_function("document.documentElement.dataset.phoneWords?.includes('line-ready')")
    await page.locator("[data-phone-do=dial]").first.click()
    await expect(page.locator(".callbar-who strong")).to_have_text(name.split("\n")[0])
    await expect(page.locator(".callbar")).to_be_visible()
    held.set()


async def test_a_renamed_call_flow_keeps_what_was_typed_into_its_steps(
    house: HubProcess, page_factory: PageFactory
) -> None:
    context = await page_factory.context()
    page = await context.new_page()
    page_factory.allow("status of 422")  # a name that is taken
    await log_in(page, house, "ada")
    await page.goto(house.url + "/desk/admin/flows")
    for name in ("Summer", "Winter"):
        await page.get_by_role("form", name="New call flow").get_by_label("Name").fill(name)
        await page.get_by_role("form", name="New call flow").get_by_role("button", name="Save").click()
        await expect(page.get_by_role("heading", name=name)).to_be_visible()
    await page.get_by_role("region", name="Summer").get_by_role("link", name="Open the editor").click()
    await page.wait_for_url("**/desk/admin/flows/*")
    editor = page.url
    await page.get_by_text("Say first").first.click()
    words = page.get_by_label("Say first: English").first
    await words.fill("We are closed until Monday.")
    rename = page.get_by_role("form", name="Rename")
    for name in ("Winter", "Autumn"):
        await rename.get_by_label("Name").fill(name)
        await rename.get_by_role("button", name="Rename").click()
        if name == "Winter":
            await expect(rename).to_contain_text("There is a call flow of this name already.")
        else:
            await expect(page.get_by_role("heading", name=name)).to_be_visible()
        await expect(words).to_have_value("We are closed until Monday.")
    assert page.url == editor
    await page.locator("#flow-editor").get_by_role("button", name="Save").click()
    await expect(page.get_by_text("New calls hear it")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("heading", name="Autumn")).to_be_visible()
    await expect(words).to_have_value("We are closed until Monday.")
