"""Journey 3: a text comes in, is answered and delivered; STOP from outside, and the next answer is refused with the reason."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.journeys.cast import SUPPORT, Cast, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]

BO = "+12025550102"


async def test_a_text_is_answered_until_they_say_stop(cast: Cast) -> None:
    cast.pages.allow("status of 422 .*/reply")  # the refusal that this journey is about
    bo = await cast.outside_page(BO)
    ben = await cast.at_desk("ben")
    await ben.available()

    await bo.get_by_role("tab", name="Messages").click()
    await bo.locator("#text-number").select_option(SUPPORT)
    await bo.locator("#text-body").fill("Is my bicycle <b>ready</b>? {{ 7 * 7 }}")
    await bo.get_by_role("button", name="Send").click()
    await expect(ben.offer).to_contain_text("Bo Sample")
    await expect(ben.offer).to_contain_text("Is my bicycle <b>ready</b>?")
    await ben.press("a")
    await expect(ben.timeline.locator("li", has_text="Is my bicycle <b>ready</b>? {{ 7 * 7 }}")).to_be_visible()

    reply = ben.page.locator("#reply-body")
    await reply.fill("Yes, it is ready. Come by until six. ✓")
    await expect(ben.page.locator("#counter")).to_contain_text("1 part")
    await ben.press("Control+Enter")
    await expect(bo.locator("#thread li.theirs")).to_contain_text("Yes, it is ready. Come by until six. ✓")
    mine = ben.timeline.locator("li.mine", has_text="Yes, it is ready")
    await expect(mine).to_contain_text("delivered")
    await expect(reply).to_have_value("")
    await picture(ben.page, "3-delivered")

    await bo.locator("#text-body").fill("STOP")
    await bo.get_by_role("button", name="Send").click()
    await expect(ben.timeline.locator("li", has_text="STOP").first).to_be_visible()
    await expect(ben.page.locator("#person")).to_contain_text("STOP")
    await reply.fill("One more thing: the bell is free.")
    await ben.press("Control+Enter")
    # The reason stands beside the box, what was typed is not lost, and nothing went out.
    await expect(ben.page.locator("#reply-error")).to_contain_text("They answered STOP to this number")
    await expect(reply).to_have_value("One more thing: the bell is free.")
    await picture(ben.page, "3-refused")
    assert not [text for text in await cast.outside.texts(BO) if "the bell is free" in text["body"]]

    await reply.fill("")
    await ben.close_conversation()
    await until(ben.has_nothing)
    await ben.activity("Offline")
