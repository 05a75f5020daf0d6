"""The desktop in a real Chromium: no fault that axe knows, no console complaint, no sideways scrolling, in both themes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from hub.demo import PASSWORD
from tests.browser.conftest import PageFactory
from tests.journeys.hub_process import HubProcess

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
PAGES = {
    "ada": [
        "/desk/work", "/desk/contacts", "/desk/contacts/new", "/desk/contacts/import",
        "/desk/callbacks", "/desk/leads", "/desk/lists", "/desk/lists/new",
        "/desk/campaigns", "/desk/campaigns/new", "/desk/wallboard", "/desk/search?q=ana", "/desk/profile", "/desk/patterns",
        "/desk/admin", "/desk/admin/queues", "/desk/admin/users", "/desk/admin/users/new", "/desk/admin/accounts",
        "/desk/admin/accounts/number", "/desk/admin/accounts/mailbox", "/desk/admin/provider", "/desk/admin/forms/new",
        "/desk/admin/hours", "/desk/admin/hours/new", "/desk/profile/second",
        "/desk/admin/flows", "/desk/admin/dispositions", "/desk/admin/tokens", "/desk/admin/audit",
        "/desk/messages/new", "/desk/messages/new?to=%2B12025550199", "/desk/messages/new?to=nobody@example.com",
        "/desk/leads?sort=oldest&columns=who,stage", "/desk/contacts?tag=newsletter&columns=name,tags",
        "/desk/admin/calls", "/desk/admin/mail",
    ],
}  # fmt: skip
# One of each noun: looked up in the hub's own rows.
ROWS = {
    "/desk/contacts/": "SELECT id FROM contacts LIMIT 1",
    "/desk/leads/": "SELECT id FROM leads LIMIT 1",
    "/desk/admin/queues/": "SELECT id FROM queues LIMIT 1",
    "/desk/admin/users/": "SELECT id FROM users LIMIT 1",
    "/desk/admin/forms/": "SELECT id FROM forms LIMIT 1",
    "/desk/admin/accounts/": "SELECT id FROM channel_accounts WHERE channel = 'email' LIMIT 1",
    "/desk/admin/accounts/ ": "SELECT id FROM channel_accounts WHERE channel = 'voice' LIMIT 1",
    "/desk/admin/hours/": "SELECT id FROM hours LIMIT 1",
    "/desk/admin/flows/": "SELECT id FROM flows LIMIT 1",
    "/desk/lists/": "SELECT id FROM call_lists LIMIT 1",
    "/desk/campaigns/": "SELECT id FROM campaigns LIMIT 1",
}
THREADS = "SELECT conversation_id AS id FROM interactions WHERE channel = ? ORDER BY id DESC LIMIT 1"

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def house() -> Iterator[HubProcess]:
    """A whole hub with its demo company."""
    folder = Path(tempfile.mkdtemp(prefix="hub-l-"))
    hub = HubProcess(folder / "var")
    hub.start()
    yield hub
    hub.stop()
    shutil.rmtree(folder, ignore_errors=True)


def paths(hub: HubProcess) -> list[str]:
    """Every kind of page there is."""
    found = list(PAGES["ada"])
    found += [path.strip() + hub.rows(sql)[0]["id"] for path, sql in ROWS.items()]
    campaign, form = (hub.rows(f"SELECT id FROM {table} LIMIT 1")[0]["id"] for table in ("campaigns", "forms"))
    found += [f"/desk/campaigns/{campaign}/{step}" for step in ("who", "what", "when", "check", "launch")]
    found.append(f"/desk/admin/forms/{form}/posts")
    found += ["/desk/work/" + hub.rows(THREADS, channel)[0]["id"] for channel in ("voice", "sms", "email", "webform")]
    return found


async def log_in(page: Page, hub: HubProcess, login: str) -> None:
    await page.goto(hub.url + "/login")
    await page.get_by_label("Login").fill(login)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url("**/desk/**")


async def make_rows(page: Page, hub: HubProcess) -> None:
    """Through the screens, what the demo company has none of: hours, a call flow, a saved view, a blocked caller."""
    await page.goto(hub.url + "/desk/admin/hours/new")
    await page.get_by_label("Name").fill("Office")
    await page.get_by_role("button", name="Save").click()
    await page.wait_for_url(re.compile(r"/desk/admin/hours(/[0-9a-z]{26})?(\?.*)?$"))
    await page.goto(hub.url + "/desk/admin/flows")
    await page.get_by_label("Name").fill("Office")
    await page.get_by_role("button", name="Save").click()
    await page.get_by_role("link", name="Open the editor").first.wait_for()
    await page.goto(hub.url + "/desk/contacts?tag=newsletter")
    await page.get_by_role("button", name="Views").click()
    await page.get_by_label("Keep what is shown now as").fill("Newsletter")
    await page.get_by_role("button", name="Keep the view").click()
    await page.get_by_role("link", name="Newsletter").first.wait_for()
    await page.goto(hub.url + "/desk/admin/calls")
    await page.get_by_label("Phone number").fill("+12025550198")
    await page.get_by_role("button", name="Block").click()
    await page.get_by_role("button", name="Take their calls again").wait_for()


STANDARD = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# What a theme can change; the rest is the same in both.
COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}


async def faults(page: Page, only: object, *, within: str) -> list[str]:
    """What axe finds in an element: rule, element."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    found = await page.evaluate(
        "([only, within]) => axe.run(within, {runOnly: only, resultTypes: ['violations'], preload: false}).then(r => r.violations"
        ".flatMap(v => v.nodes.map(n => v.id + ' ' + n.target.join(' ') + ' ' + (n.any[0]?.message ?? ''))))",
        [only, within],
    )
    return [str(fault) for fault in found]


async def look(page: Page, path: str, *, within: str = "#page") -> list[str]:
    """What is wrong with the page that is shown: everything by light, and what a theme can change once more in the dark."""
    found = await faults(page, STANDARD, within=within)
    if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append("scrolls sideways")
    await picture(page, path, "light")
    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    await expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    found += [f"{fault} in the dark" for fault in await faults(page, COLOURS, within=within)]
    await picture(page, path, "dark")
    await page.emulate_media(color_scheme="light", reduced_motion="reduce")
    return [f"{fault} ({path})" for fault in found]


async def picture(page: Page, path: str, theme: str) -> None:
    if folder := os.environ.get("DESK_PICTURES"):
        await page.screenshot(path=f"{folder}/{path.strip('/').replace('/', '_').split('?')[0]}-{theme}.png")


async def test_no_page_has_a_fault_that_axe_knows(house: HubProcess, page_factory: PageFactory) -> None:
    context = await page_factory.context()
    page = await context.new_page()
    await page.emulate_media(color_scheme="light", reduced_motion="reduce")
    await page.set_viewport_size({"width": 1280, "height": 800})
    await page.goto(house.url + "/login")
    found = await look(page, "/login", within="html")
    await log_in(page, house, "ada")
    await make_rows(page, house)
    whole, *others = paths(house)
    await page.goto(house.url + whole)
    found += await look(page, whole, within="html")
    for path in others:  # by the way that a click takes: what is around the page stays, and was looked at
        await page.evaluate("path => htmx.ajax('GET', path, {target: '#page', swap: 'innerHTML', push: 'true'})", path)
        assert path.partition("?")[0] in page.url
        found += await look(page, path)
    assert not found, "\n".join(sorted(set(found)))
