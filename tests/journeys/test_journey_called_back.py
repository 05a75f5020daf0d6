"""Journey 9: a visitor of the company's own site leaves a number and is called back, the agent's phone first; and the same site,
under a strict policy, shows a form in its own style that takes a proof of work, a condition and a correction."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page, expect

from tests.journeys.cast import Cast, Desk, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]

VISITOR = "+442079460571"
LEAST_MS = 3200  # what a form of three seconds' least time asks of people as well


class Site:
    """The company's own site: one page that holds what the administrator copied, under a policy without exceptions."""

    def __init__(self) -> None:
        self.url, self.body, self.policy = "", "", ""

    async def show(self, request: web.Request) -> web.Response:
        page = f'<!doctype html><html lang="en"><title>Bicycles</title><h1>Bicycles</h1>{self.body}</html>'
        headers = {"Content-Security-Policy": f"default-src 'none'; {self.policy}"}
        return web.Response(text=page, content_type="text/html", headers=headers)


@pytest_asyncio.fixture(loop_scope="session")
async def site() -> AsyncIterator[Site]:
    made = Site()
    app = web.Application()
    app.router.add_get("/", made.show)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def copied(page: Page, name: str) -> str:
    """What the copy button beside a snippet puts where the snippet stands."""
    await page.locator(f"[data-copies=code-{name}]").click()
    await expect(page.locator(f"[data-copies=code-{name}]")).to_have_text("Copied")
    return await page.locator(f"#code-{name}").input_value()


async def build(cast: Cast, site: Site, path: str, queue: str) -> Desk:
    """The administrator builds a form for that site."""
    ada = await cast.at_desk("ada", path)
    await ada.page.get_by_label("Goes to the queue").select_option(label=queue)
    await ada.page.get_by_label("Sites that may show it").fill(site.url)
    return ada


async def test_a_visitor_is_called_back_the_agent_first(cast: Cast, site: Site) -> None:
    ada = await build(cast, site, "/desk/admin/forms/new?kind=calls", "Support")
    await picture(ada.page, "9-builder")
    await ada.page.get_by_role("button", name="Save").last.click()
    await expect(ada.page.get_by_text("Saved. It holds from now on.")).to_be_visible()
    site.body = await copied(ada.page, "button")
    assert 'data-mode="button"' in site.body
    site.policy = f"script-src {cast.hub.url}; frame-src {cast.hub.url}"
    await ada.page.context.close()

    amy = await cast.at_desk("amy")
    await amy.available()
    visitor = await cast.pages(site.url, context=await cast.pages.context())
    cast.pages.allow("422")
    await visitor.get_by_role("button", name="Call me back").click()
    frame = visitor.frame_locator("iframe.hub-form-frame")
    await frame.get_by_label("Name").fill("Vera Visitor")
    await expect(frame.get_by_label("When shall we call?").locator("option").nth(1)).to_be_attached()
    await frame.get_by_label("Your phone number").fill("+44 900 123 4567")  # at the caller's cost
    await visitor.wait_for_timeout(LEAST_MS)
    await frame.get_by_role("button", name="Send").click()
    await expect(frame.locator(".invalid-feedback")).to_contain_text("number")
    await picture(visitor, "9-refused")
    await frame.get_by_label("Your phone number").fill("020 7946 0571")
    await frame.get_by_label("What is it about?").fill("A flat tyre")
    await frame.get_by_label("I agree to be called").check()
    await frame.get_by_role("button", name="Send").click()
    await expect(frame.get_by_role("status")).to_contain_text("Thank you")
    height = (await visitor.locator("iframe.hub-form-frame").bounding_box() or {})["height"]
    assert height < 400, "the frame took the size of the few words"
    await picture(visitor, "9-thanked")

    await expect(amy.offer).to_contain_text("Callback", timeout=60_000)
    await expect(amy.offer).to_contain_text("Vera Visitor")
    await amy.press("a")
    await expect(amy.timeline).to_contain_text("A flat tyre")
    await expect(amy.timeline).to_contain_text("What is it about?")
    assert not await dialled(cast), "nobody is rung before the agent asks for it"
    await amy.press("d")
    sid = await until(lambda: dialled(cast))
    placed = cast.hub.rows(
        "SELECT e.kind, e.raw FROM call_events e JOIN interactions i ON i.id = e.interaction_id WHERE i.to_address = ?"
        " ORDER BY e.id", VISITOR,
    )  # fmt: skip
    assert placed, "the call was begun before the visitor's phone rang"
    await cast.outside.act(sid, "answer")
    await amy.in_call()
    await picture(amy.page, "9-called-back")
    await amy.press("e")
    await amy.no_call()
    await amy.wrap_up("re")  # on the call's own page, though the work began with the form
    (promise,) = cast.hub.rows("SELECT state, origin, created_by FROM callbacks WHERE number_e164 = ?", VISITOR)
    assert (promise["state"], promise["origin"]) == ("reached", "form")
    (agreed,) = cast.hub.rows(
        "SELECT evidence FROM consent_events WHERE value = ? AND channel = 'voice' AND action = 'granted'", VISITOR
    )
    assert "I agree to be called at this number" in agreed["evidence"]
    await amy.activity("Offline")


async def dialled(cast: Cast) -> str:
    """The call that rings at the visitor's."""
    calls = (await cast.outside.ask("GET", "/outside/calls"))["calls"]
    return next((str(one["sid"]) for one in calls if one["to"] == VISITOR and one["status"] == "ringing"), "")


async def test_a_form_in_the_sites_own_page(cast: Cast, site: Site) -> None:
    ada = await build(cast, site, "/desk/admin/forms/new", "Sales")
    page = ada.page
    await page.get_by_label("Title").fill("Ask for an offer")
    await page.get_by_label("Strict against machines").check()
    await page.get_by_role("button", name="Add a field").click()
    await expect(page.locator("fieldset")).to_have_count(5)
    last = page.locator("fieldset").last
    await last.get_by_label("Label").fill("Firm's size")
    await last.get_by_label("Name in posts").fill("size")
    await last.locator("summary").click()
    await last.get_by_label("Shown if").select_option(label="Phone")
    await last.get_by_label("Must be filled in if").select_option(label="Phone")
    await last.get_by_label("Other names in posts").fill("company.size")
    await page.get_by_label("A sample of what a program sends").fill(
        '{"email": "nils@example.com", "phone": "+44 20 7946 0572", "company": {"size": "12"}, "shoe": "44"}'
    )
    await page.get_by_role("button", name="Show what it fills").click()
    await expect(page.locator("#try")).to_contain_text("company.size")
    await expect(page.locator("#try")).to_contain_text("Name: Please fill this in.")
    await expect(page.locator("#try")).to_contain_text("No field takes shoe")
    await picture(page, "9-sample")
    await page.get_by_role("button", name="Save").last.click()
    await expect(page.get_by_text("Saved. It holds from now on.")).to_be_visible()
    site.body = await copied(page, "inline")
    site.policy = f"script-src {cast.hub.url}; connect-src {cast.hub.url}"

    visitor = await cast.pages(site.url, context=await cast.pages.context())
    form = visitor.get_by_role("form", name="Ask for an offer")
    await form.get_by_label("Name").fill("Nils Newer")
    await form.get_by_label("E-mail").fill("nils@example.com")
    await expect(form.get_by_label("Firm's size")).to_be_hidden()
    await form.get_by_label("Phone").fill("12")
    await expect(form.get_by_label("Firm's size")).to_be_visible()
    assert await form.get_by_label("Firm's size").evaluate("field => field.required")
    await form.get_by_label("Firm's size").fill("12")
    await visitor.wait_for_timeout(LEAST_MS)
    cast.pages.allow("422")
    await form.get_by_role("button", name="Send").click()
    await expect(form.locator(".hub-form-error:visible")).to_contain_text("This is not a phone number")
    await form.get_by_label("Phone").fill("+44 20 7946 0572")
    await form.get_by_role("button", name="Send").click()
    await expect(visitor.get_by_role("status")).to_contain_text("Thank you")
    (lead,) = cast.hub.rows("SELECT l.id, l.fields FROM leads l JOIN contacts c ON c.id = l.contact_id WHERE c.name = ?",
                            "Nils Newer")  # fmt: skip
    assert '"size": "12"' in lead["fields"].replace('":"', '": "')
    await ada.go(f"/desk/leads/{lead['id']}")
    await expect(page.locator("dl.facts").first).to_contain_text("Firm's size")
    await picture(page, "9-lead")
    tina = await cast.at_desk("tina")
    await tina.available()
    await expect(tina.offer).to_contain_text("Nils Newer")
    await tina.press("a")
    await expect(tina.timeline).to_contain_text("Firm's size")
    await tina.finish_enquiry()
