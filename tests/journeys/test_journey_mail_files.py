"""Journey 4b: an answer by mail with files and a hidden copy, kept through a reload; then the address turns out to be dead,
and the bounce stands at the answer without becoming anybody's work.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Route, expect

from tests.journeys.cast import Cast, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]

GONE = "dsn@example.com"  # the sandbox takes mail for it, and then reports that there is no such user
BOSS = "boss@example.com"


async def test_an_answer_with_files_that_bounces(cast: Cast, tmp_path: Path) -> None:
    chen = await cast.at_desk("chen")
    await chen.available()
    await cast.outside.mail(
        f"Dora Gone <{GONE}>", subject="The manual, please", text="Do you have it?\n\nOn Monday, you wrote:\n> Ask us."
    )
    await expect(chen.offer).to_contain_text(GONE, timeout=60_000)
    await chen.press("a")
    theirs = chen.timeline.locator("li.mail", has_text="Do you have it?")
    await expect(theirs.get_by_text("Quoted text")).to_be_visible()
    await expect(theirs.get_by_text("> Ask us.")).to_be_hidden()

    manual, plan = tmp_path / "manual <1>.txt", tmp_path / "plan.pdf"
    manual.write_bytes(b"Turn it on.\n" * 100)
    plan.write_bytes(b"%PDF-1.4 plan")
    await chen.page.locator("#reply-body").fill("Here it is.")
    # What was to wait for a file does not go without it.
    cast.pages.allow("status of 422")
    large = tmp_path / "large.bin"
    large.write_bytes(b"x" * (19 << 20))
    clicked = asyncio.Event()

    async def late(route: Route) -> None:
        await clicked.wait()
        await route.continue_()

    await chen.page.route("**/mail/files", late)
    await chen.page.locator(".draft-attach input").set_input_files(large)
    await chen.page.get_by_role("button", name="Send").click()
    clicked.set()
    await expect(chen.page.locator("#draft-files")).to_contain_text("18 MB together.")
    await expect(chen.page.locator("#reply-body")).to_have_value("Here it is.")
    assert await cast.outside.mails(GONE) == []
    await chen.page.unroute("**/mail/files")
    await chen.page.locator(".draft-attach input").set_input_files([manual, plan])
    await expect(chen.page.locator(".draft-file")).to_have_count(2)
    await chen.page.get_by_text("Copies", exact=True).click()
    async with chen.page.expect_response(lambda answer: "boss" in (answer.request.post_data or "")):
        await chen.page.get_by_label("Hidden copy to").fill(BOSS)
    await expect(chen.page.locator("#counter")).to_have_text("Draft kept", timeout=60_000)
    await chen.page.reload()
    await expect(chen.page.locator("#reply-body")).to_have_value("Here it is.")
    await expect(chen.page.get_by_label("Hidden copy to")).to_have_value(BOSS)
    await expect(chen.page.locator(".draft-file")).to_have_count(2)
    await picture(chen.page, "4b-composer")
    await chen.page.get_by_role("button", name="Take plan.pdf away").click()
    await expect(chen.page.locator(".draft-file")).to_have_count(1)
    await chen.page.locator("#reply-body").press("Control+Enter")

    ours = chen.timeline.locator("li.mail.mine", has_text="Here it is.")
    await expect(ours).to_contain_text("manual 1.txt", timeout=60_000)
    boss = await cast.outside.read((await until(lambda: cast.outside.mails(BOSS)))[0])
    assert [one["name"] for one in boss["attachments"]] == ["manual 1.txt"]
    theirs_copy = await cast.outside.read((await until(lambda: cast.outside.mails(GONE)))[0])
    assert BOSS not in str(theirs_copy["headers"]), "a hidden copy is hidden"
    assert "> Do you have it?" in boss["text"]

    await expect(ours).to_contain_text("bounced", timeout=60_000)
    await expect(ours).to_contain_text("5.1.1")
    await expect(chen.timeline).to_contain_text("delivery report")
    await expect(chen.offer).to_have_count(0)
    await picture(chen.page, "4b-bounced")
    await chen.close_conversation()
    await chen.activity("Offline")
