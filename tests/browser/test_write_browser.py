"""Writing from a card in a real Chromium: by the keyboard, counted while typed, sent once by a double click."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from playwright.async_api import Page, Route, expect

from hub.demo import PASSWORD
from tests.browser.conftest import PageFactory
from tests.journeys.hub_process import HubProcess, eventually

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
BOTH = (
    "SELECT l.contact_id AS id FROM contact_links l JOIN contact_points p ON p.id = l.point_id "
    "GROUP BY l.contact_id HAVING count(DISTINCT p.kind) = 2 ORDER BY l.contact_id LIMIT 1"
)

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def house() -> Iterator[HubProcess]:
    """A whole hub with its demo company."""
    folder = Path(tempfile.mkdtemp(prefix="hub-w-"))
    hub = HubProcess(folder / "var")
    hub.start()
    yield hub
    hub.stop()
    shutil.rmtree(folder, ignore_errors=True)


def picture() -> bytes:
    """A small PNG that a browser can show."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([y * 8, 80, 160] * 32) for y in range(24))
    head = struct.pack(">IIBBBBB", 32, 24, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def they_write(hub: HubProcess) -> str:
    """Somebody with a number and a mail address texts us, so that an answer is allowed at any hour; their id."""
    contact = str(hub.rows(BOTH)[0]["id"])
    number = hub.rows(
        "SELECT p.value FROM contact_points p JOIN contact_links l ON p.id = l.point_id "
        "WHERE l.contact_id = ? AND p.kind = 'phone'", contact,
    )[0]["value"]  # fmt: skip
    ours = hub.rows(
        "SELECT a.address FROM channel_accounts a JOIN queue_members m ON m.queue_id = a.queue_id "
        "JOIN users u ON u.id = m.user_id WHERE a.channel = 'sms' AND u.login = 'amy' ORDER BY a.address LIMIT 1"
    )[0]["address"]
    body = json.dumps({"from": number, "to": ours, "body": "Are you there?"}).encode()
    with urlopen(Request(hub.outside + "/outside/messages", body, {"Content-Type": "application/json"})) as answer:
        assert answer.status == 201
    assert eventually(lambda: hub.rows("SELECT id FROM interactions WHERE body = 'Are you there?'"), within_s=60)
    return contact


async def logged_in(page_factory: PageFactory, house: HubProcess, login: str) -> Page:
    page = await page_factory(house.url + "/login")
    await page.get_by_label("Login").fill(login)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/desk/**")
    return page


async def test_a_text_is_written_by_the_keyboard_and_a_double_click_sends_once(
    page_factory: PageFactory, house: HubProcess
) -> None:
    contact = they_write(house)
    page = await logged_in(page_factory, house, "amy")
    await page.goto(f"{house.url}/desk/contacts/{contact}")
    await page.keyboard.press("c")
    await page.wait_for_url("**/desk/messages/new?**")
    field = page.locator("#f-body")
    await expect(field).to_be_focused()
    await expect(page.get_by_text("They know this sender from before.")).to_be_visible()
    await expect(page.locator("input[value=reply]")).to_be_checked()
    await page.keyboard.type("“Hello” from us")
    await expect(page.locator("#f-body-count")).to_have_text("15/70 · 1 part · special characters")
    await page.get_by_role("button", name="Replace typographic characters").click()
    await expect(page.locator("#f-body-count")).to_have_text("15/160 · 1 part")
    assert await faults_of(page) == []
    await page.reload()
    await expect(field).to_have_value('"Hello" from us')

    # A mail address instead, and back: what was typed stays.
    await page.locator("#f-to").select_option(index=1)
    await expect(page.get_by_label("Subject")).to_be_visible()
    await expect(field).to_have_value('"Hello" from us')
    await page.locator("#f-to").select_option(index=0)
    await expect(page.get_by_label("Subject")).to_have_count(0)
    await expect(page.locator("input[value=reply]")).to_be_checked()
    await page.get_by_text("Add pictures").click()
    await page.locator("#f-pictures").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": picture()})
    await page.get_by_role("button", name="Send").dblclick()
    await page.wait_for_url("**/desk/work/*")
    bubble = page.locator(".bubble", has_text='"Hello" from us')
    await expect(bubble).to_have_count(1)
    await expect(bubble.get_by_text("delivered")).to_be_visible()  # without a reload
    shown = bubble.locator("img")
    await expect(shown).to_be_visible()
    assert await shown.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 32
    assert len(house.rows("SELECT id FROM interactions WHERE body = ?", '"Hello" from us')) == 1
    await page.goto(f"{house.url}/desk/messages/new?contact={contact}")
    await expect(field).to_have_value("")  # what was sent is not given back


async def test_a_double_click_makes_one_contact(page_factory: PageFactory, house: HubProcess) -> None:
    """For every form alike, also those that carry no key: what is under way already is not asked for again."""
    page = await logged_in(page_factory, house, "ada")
    await page.goto(f"{house.url}/desk/contacts/new")
    await page.get_by_label("Name", exact=True).fill("Clicked Twice")
    posts = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    await page.get_by_role("button", name="Create contact").dblclick()
    await page.wait_for_url("**/desk/contacts/0*")
    assert [one for one in posts if "contacts" in one] == [f"{house.url}/desk/contacts/new"]
    assert len(house.rows("SELECT id FROM contacts WHERE name = ?", "Clicked Twice")) == 1


async def test_what_a_visitor_typed_outlives_an_answer_that_could_not_read_it(
    page_factory: PageFactory, house: HubProcess
) -> None:
    page_factory.allow("status of 413")
    page = await page_factory(house.url + "/forms/website")

    async def too_large(route: Route) -> None:
        if route.request.method == "POST":
            await route.continue_(post_data=b"x" * (11 << 20))
        else:
            await route.continue_()

    await page.route("**/forms/website", too_large)
    await page.get_by_label("Your name").fill("Nora Newcomer")
    await page.get_by_label("Your message").fill("A long story")
    await page.get_by_label("What is it about?").select_option("A repair")
    await page.get_by_label("E-mail", exact=True).fill("nora@example.com")
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_role("alert")).to_contain_text("too large")
    await expect(page.get_by_label("Your name")).to_have_value("Nora Newcomer")
    await expect(page.get_by_label("Your message")).to_have_value("A long story")
    await expect(page.get_by_label("What is it about?")).to_have_value("A repair")

    # A file that would be refused is told before it travels.
    await page.unroute("**/forms/website")
    await page.evaluate(
        """() => { const form = document.forms[0]; form.dataset.mostBytes = 10;
        form.append(Object.assign(document.createElement("input"), { type: "file", name: "photo" })); }"""
    )
    photo = page.locator("[name=photo]")
    await photo.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": picture()})
    told = "e => e.validationMessage"
    assert await photo.evaluate(told) == "The files of one message may have 9 MB together."
    await photo.set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"small"})
    assert await photo.evaluate(told) == ""
    await page.goto(house.url + "/forms/website")
    await expect(page.get_by_label("Your name")).to_have_value("")


async def faults_of(page: Page) -> list[str]:
    """What axe finds on this page."""
    await page.evaluate(AXE.read_text("utf-8"))
    told = await page.evaluate("axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa'] })")
    return [f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in told["violations"]]


async def test_a_refused_form_comes_back_as_it_was_filled_in(page_factory: PageFactory, house: HubProcess) -> None:
    page = await logged_in(page_factory, house, "ada")
    await page.goto(f"{house.url}/desk/admin/calls")
    page_factory.allow("422")
    form = page.locator("form[aria-label=Support]")
    await form.get_by_label("Recording", exact=True).select_option("announce")
    await form.get_by_label("when the queue is closed").check()
    await form.get_by_label("Longest message").fill("5")
    await form.get_by_role("button", name="Save").click()
    await expect(form.locator(".invalid-feedback")).to_have_text("Between 10 and 600.")
    await expect(form.get_by_label("Recording", exact=True)).to_have_value("announce")
    await expect(form.get_by_label("when the queue is closed")).to_be_checked()
    await expect(form.get_by_label("Longest message")).to_have_value("5")
    await form.get_by_label("Longest message").fill("50")
    await form.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("It holds from now on")).to_be_visible()
    assert house.rows("SELECT voice FROM queues WHERE name = 'Support'")[0]["voice"].count('"announce"') == 1
