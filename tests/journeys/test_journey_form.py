"""Journey 5: the web form sent twice, by a double click and by a program: one lead, one offer, on the screen in seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from playwright.async_api import Route, expect

from tests.journeys.cast import Cast, Desk, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]


async def test_a_double_click_makes_one_lead_and_one_offer(
    cast: Cast, record_property: Callable[[str, object], None]
) -> None:
    amy = await cast.at_desk("amy")
    await amy.available()
    visitor = await cast.pages(f"{cast.hub.url}/forms/website", context=await cast.pages.context())
    await visitor.get_by_label("Your name").fill("Nora Newcomer")
    await visitor.get_by_label("E-mail", exact=True).fill("nora@example.com")
    await visitor.get_by_label("Phone").fill("+44 20 7946 0551")
    await visitor.get_by_label("What is it about?").select_option("A repair")
    await visitor.get_by_label("Your message").fill("=cmd|' /C calc'!A0 <img src=x onerror=alert(1)>")
    await picture(visitor, "5-form")
    began = time.monotonic()
    await visitor.get_by_role("button", name="Send").dblclick()
    await expect(amy.offer).to_contain_text("Nora Newcomer")
    took = time.monotonic() - began
    await picture(amy.page, "5-offer")
    record_property("speed_to_lead_s", round(took, 2))  # the goal is 5, on a calm machine
    await expect(visitor.get_by_role("status")).to_contain_text("Thank you")

    await amy.press("a")
    await expect(amy.timeline).to_contain_text("<img src=x onerror=alert(1)>")
    await one_of_each(cast, "nora@example.com", "+442079460551")
    await amy.finish_enquiry()


async def test_a_program_that_posts_twice_makes_one_lead_and_one_offer(cast: Cast) -> None:
    amy = await cast.at_desk("amy")
    await amy.available()
    post = {"name": "Otto Once", "email": "otto@example.com", "phone": "+442079460552", "topic": "A new bicycle"}

    async def send() -> int:
        async with cast.outside.http.post(f"{cast.hub.url}/webhooks/forms/website", json=post) as answer:
            return answer.status

    assert set(await asyncio.gather(send(), send())) <= {200, 201, 202}
    await expect(amy.offer).to_contain_text("Otto Once")
    assert await send() in {200, 201, 202}
    await one_of_each(cast, "otto@example.com", "+442079460552")
    await amy.press("a")
    await expect(amy.timeline).to_contain_text("A new bicycle")
    await expect(amy.page.get_by_role("button", name="Call", exact=False).first).to_be_visible()
    await opened_past_an_old_answer(amy)
    await finished(amy)


async def one_of_each(cast: Cast, mail: str, number: str) -> None:
    """One contact, one lead, one interaction, one offer."""
    leads = cast.hub.rows(
        "SELECT id FROM leads WHERE contact_id IN (SELECT l.contact_id FROM contact_points p JOIN contact_links l"
        " ON l.point_id = p.id WHERE p.value IN (?, ?))", mail, number,
    )  # fmt: skip
    touches = cast.hub.rows("SELECT id, entry_id FROM interactions WHERE from_address = ?", number)
    assert len(leads) == len(touches) == 1
    offers = cast.hub.rows("SELECT id, state FROM offers WHERE entry_id = ?", touches[0]["entry_id"])
    assert len(offers) == 1, offers


async def opened_past_an_old_answer(desk: Desk) -> None:
    """The wrap-up that a person opened is not closed by an answer that was asked for before the click and comes after it."""
    asked: list[str] = []
    answered, released = asyncio.Event(), asyncio.Event()

    async def late(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) > 1:
            await route.continue_()
            return
        answer = await route.fetch()
        answered.set()
        await released.wait()
        await route.fulfill(response=answer)

    await desk.page.route("**/wrapup*", late)
    await desk.page.locator("#wrapup").dispatch_event("live")
    async with asyncio.timeout(60):
        await answered.wait()
    await desk.press("w")
    pick = desk.page.locator("[data-pick=disposition]")
    await expect(pick).to_be_focused()
    async with desk.page.expect_response(lambda answer: "wrapup" in answer.url and "entry=" in answer.url):
        released.set()  # the old answer comes last, and is asked for again
    await expect(pick).to_be_focused()
    assert "entry=" not in asked[0]
    await desk.page.unroute("**/wrapup*")


async def finished(desk: Desk) -> None:
    await desk.wrap_up("re")
    await desk.close_conversation()
    await desk.activity("Offline")
    await until(desk.has_nothing)
