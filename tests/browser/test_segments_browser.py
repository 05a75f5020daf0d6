"""The composer's count of parts, in Chromium: the same corpus as channels/segments.py, and what a person sees of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page

from hub.desktop.assets import STATIC
from tests.browser.conftest import PageFactory

CORPUS = json.loads((Path(__file__).parents[1] / "fixtures" / "segments.json").read_text("utf-8"))
PAGE = """<!doctype html><meta charset=utf-8><title>t</title>
<textarea id=f data-segments=c data-part="1 part" data-parts="2 parts" data-special="special characters"
 data-warn-over=3></textarea>
<div><span id=c></span><span data-segments-long hidden>long</span>
<button data-segments-mend=f hidden>Replace <span data-segments-saves></span></button></div>
<script type=module>import * as s from "/segments.js"; s.bindSegments(); globalThis.segments = s;</script>"""

pytestmark = pytest.mark.needs_chromium


@pytest_asyncio.fixture(loop_scope="session")
async def composer(page_factory: PageFactory) -> AsyncIterator[Page]:
    """A page with one counted field, and the module as `segments`."""
    app = web.Application()

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def module(_: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "segments.js")

    app.router.add_get("/", page)
    app.router.add_get("/segments.js", module)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made = await page_factory(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    await made.wait_for_function("() => Boolean(globalThis.segments)")
    yield made
    await runner.cleanup()


async def test_counts_as_the_server_does(composer: Page) -> None:
    rows = await composer.evaluate(
        "(rows) => rows.map((row) => ({ ...segments.count(row.text), plain: segments.plain(row.text) }))", CORPUS
    )
    for row, told in zip(CORPUS, rows, strict=True):
        wanted = {name: row[name] for name in ("encoding", "units", "parts", "plain")} | {"perPart": row["per_part"]}
        assert told == wanted, row["name"]


async def test_the_count_follows_what_is_typed(composer: Page) -> None:
    field, count = composer.locator("#f"), composer.locator("#c")
    await field.fill("a" * 161)
    assert await count.text_content() == "161/306 · 2 parts"
    await field.fill("你好")
    assert await count.text_content() == "2/70 · 1 part · special characters"
    await field.fill("")
    assert await count.text_content() == ""
    assert not await composer.locator("[data-segments-long]").is_visible()
    await field.fill("a" * 460)
    assert await composer.locator("[data-segments-long]").is_visible(), "four parts"


async def test_typographic_characters_are_replaced_when_asked(composer: Page) -> None:
    field, mend = composer.locator("#f"), composer.locator("[data-segments-mend]")
    await field.fill("a" * 100 + " “Don’t”")
    assert await composer.locator("#c").text_content() == "108/134 · 2 parts · special characters"
    assert await mend.is_visible()
    assert await mend.locator("span").text_content() == "(2 → 1)"
    await mend.focus()
    await composer.keyboard.press("Enter")
    assert await field.input_value() == "a" * 100 + ' "Don\'t"'
    assert await composer.locator("#c").text_content() == "108/160 · 1 part"
    assert not await mend.is_visible()
    await field.fill("Łódź “OK”")
    assert not await mend.is_visible(), "the text stays dear all the same, so nothing is offered"
