"""A call given away at the desk: to a colleague who is free, who takes it; and back to the front after a dead browser."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from tests.journeys.cast import ANA, Cast, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]


async def test_amy_gives_the_call_to_ben(cast: Cast) -> None:
    amy = await cast.at_desk("amy")
    await amy.available()
    sid = await cast.outside.call(ANA)
    await expect(amy.offer).to_be_visible()
    await amy.press("a")
    await amy.in_call()
    ben = await cast.at_desk("ben")
    await ben.available()

    await amy.press("t")
    dialog = amy.page.locator("#transfer")
    await expect(dialog).to_be_visible()
    await expect(dialog.get_by_role("button", name="Ben")).to_contain_text("Available")
    await picture(amy.page, "transfer-dialog")
    await dialog.locator("#transfer-search").fill("ben")
    await expect(dialog.locator(".list-group-item")).to_have_count(1)
    await dialog.locator("#transfer-note").fill("wants to know about the blue one")
    await dialog.get_by_role("button", name="Ben").click()
    await expect(dialog).to_be_hidden()
    await amy.no_call()

    await expect(ben.offer).to_contain_text("wants to know about the blue one")
    await picture(ben.page, "transfer-offer")
    await until(lambda: heard(cast, sid, "putting you through"))
    await ben.press("a")
    await ben.in_call()
    await expect(ben.callbar).to_contain_text("Ana Example")
    await expect(ben.timeline).to_contain_text("talking now")  # the customer is with him
    # What Ben types is there again after a reload, in the call and in its wrap-up.
    note = ben.page.get_by_role("textbox", name="Note for colleagues")
    await note.fill("Likes bl")
    await ben.page.reload()
    await ben.in_call()
    await expect(note).to_have_value("Likes bl")
    await note.fill("Likes blue")
    await ben.page.get_by_role("button", name="Keep the note").click()
    await expect(ben.timeline).to_contain_text("Likes blue")
    await expect(note).to_have_value("")
    # Amy wraps up her part meanwhile.
    await amy.wrap_up("re", "Asked about colours\n" + "and more\n" * 30)
    await ben.press("e")
    await expect(ben.page.locator("#wrapup")).to_contain_text("Asked about colours")
    await expect(ben.page.locator("#wrapup [type=submit]")).to_be_in_viewport()  # however much Amy wrote
    await ben.page.locator("#wrapup textarea").fill("Told her")
    await ben.page.reload()
    await expect(ben.page.locator("#wrapup textarea")).to_have_value("Told her")
    await ben.wrap_up("re", "Told her about blue")
    await expect(ben.timeline).to_contain_text("Told her about blue")
    await ben.page.reload()
    await expect(ben.timeline).to_contain_text("Asked about colours")
    await expect(ben.timeline).to_contain_text("Told her about blue")
    # What Amy chose for her part stands where she gave it away.
    await expect(ben.timeline).to_contain_text(re.compile(r"wants to know about the blue one\s+Resolved"))
    await picture(ben.page, "transfer-done")
    for desk in (amy, ben):
        await until(desk.has_nothing)
        await desk.activity("Offline")


async def heard(cast: Cast, sid: str, words: str) -> bool:
    return words in await cast.outside.heard(sid)


async def test_the_agents_browser_is_killed_in_the_middle_of_a_call(cast: Cast) -> None:
    """The customer stays, hears music, then why, and is at the front of the queue again."""
    amy = await cast.at_desk("amy")
    await amy.available()
    sid = await cast.outside.call(ANA)
    await expect(amy.offer).to_be_visible()
    await amy.press("a")
    await amy.in_call()
    await expect(amy.timeline).to_contain_text("talking now")  # the customer is with her
    interaction = cast.hub.rows("SELECT id, entry_id FROM interactions WHERE external_id = ?", sid)[0]
    before = cast.hub.rows("SELECT order_at FROM queue_entries WHERE id = ?", interaction["entry_id"])[0]
    await amy.page.context.close()  # nothing is said to anybody

    await until(lambda: on_hold(cast, interaction["id"]), within_s=90)
    assert (await cast.outside.of_call(sid))["status"] == "in-progress"
    ben = await cast.at_desk("ben")
    await ben.available()
    await until(lambda: heard(cast, sid, "You are first in line"), within_s=90)
    await expect(ben.offer).to_contain_text("Ana Example")
    after = cast.hub.rows("SELECT order_at FROM queue_entries WHERE id = ?", interaction["entry_id"])[0]
    assert after == before
    await ben.press("a")
    await ben.in_call()
    await expect(ben.timeline).to_contain_text("talking now")
    await ben.press("e")
    await ben.wrap_up("re")
    await until(ben.has_nothing)
    await ben.activity("Offline")


async def on_hold(cast: Cast, interaction_id: str) -> bool:
    rooms = (await cast.outside.ask("GET", "/outside/state"))["conferences"]
    seats = [seat for room in rooms if interaction_id in room["name"] for seat in room["participants"]]
    return any(seat["label"] == "customer" and seat["hold"] for seat in seats)
