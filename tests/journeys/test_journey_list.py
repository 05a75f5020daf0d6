"""Journey 7: two telemarketers work one list of 30 numbers at once; nobody is asked for twice, and one is never called again."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import Route, expect

from tests.journeys.cast import Cast, Desk, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]

NUMBERS = [f"+4420794607{n:02d}" for n in range(30)]
ZONES = ("Europe/Berlin", "America/New_York", "America/Los_Angeles", "Asia/Tokyo", "Pacific/Auckland", "Asia/Kolkata")


async def test_two_telemarketers_work_one_list(cast: Cast) -> None:
    await people(cast, NUMBERS, tag="journey-seven")
    list_id = await a_list(cast, "Thirty people", tag="journey-seven")
    tina, tom = await asyncio.gather(cast.at_desk("tina", "/desk/lists"), cast.at_desk("tom", "/desk/lists"))
    await asyncio.gather(tina.available(), tom.available())
    had: list[tuple[str, str]] = []
    await asyncio.gather(*(work_the_list(cast, desk, list_id, had) for desk in (tina, tom)))

    assert Counter(number for _, number in had) == Counter(NUMBERS), "a number was given out twice, or never"
    assert {login for login, _ in had} == {"tina", "tom"}
    states = cast.hub.rows("SELECT state, count(*) AS n FROM list_entries WHERE list_id = ? GROUP BY state", list_id)
    assert {row["state"]: row["n"] for row in states} == {"done": 29, "blocked": 1}
    # Never again: not by this list, not by another one, not by a click on the number.
    never = cast.hub.rows("SELECT value FROM list_entries WHERE list_id = ? AND state = 'blocked'", list_id)[0]["value"]
    assert cast.hub.rows("SELECT reason FROM suppressions WHERE value = ?", never)[0]["reason"] == "do_not_call"
    cast.pages.allow("status of 409 .*/desk/calls")  # the refusal
    contact = cast.hub.rows("SELECT contact_id FROM list_entries WHERE value = ?", never)[0]["contact_id"]
    await tina.go(f"/desk/contacts/{contact}")
    await tina.phone_shows("line-ready")
    await tina.page.locator("[data-phone-do=dial]").first.click()
    await picture(tina.page, "7-never-again")
    await expect(tina.page.get_by_role("alert").filter(has_text="never to be called again").first).to_be_visible()
    await picture(tina.page, "7-never-again")
    assert not [call for call in (await cast.outside.ask("GET", "/outside/calls"))["calls"] if call["to"] == never][1:]
    await asyncio.gather(tina.activity("Offline"), tom.activity("Offline"))


async def test_news_from_elsewhere_does_not_show_the_next_one_before_the_answer_is_there(cast: Cast) -> None:
    """The page's news, fetched between the disposition and its answer, would stand there with a form that takes no click."""
    await people(cast, [f"+4420794608{n:02d}" for n in range(3)], tag="journey-seven-news")
    list_id = await a_list(cast, "Three people", tag="journey-seven-news")
    tina = await cast.at_desk("tina", f"/desk/lists/{list_id}/call")
    one = tina.page.locator("#one")
    disposed, shown = asyncio.Event(), asyncio.Event()

    async def late(route: Route) -> None:
        answer = await route.fetch()
        disposed.set()
        await shown.wait()
        await route.fulfill(response=answer)

    await tina.page.route("**/dispose", late)
    seen = []
    for _ in range(3):
        number = await one.locator("[data-phone-do=dial]").get_attribute("data-to")
        seen.append(number)
        await one.get_by_role("button", name="Not interested").click()
        await disposed.wait()
        async with tina.page.expect_response(f"**/desk/lists/{list_id}/call") as news:
            await one.dispatch_event("live")
        await (await news.value).finished()
        await expect(one.locator("[data-phone-do=dial]")).to_have_attribute("data-to", str(number))
        disposed.clear()
        shown.set()
        await expect(tina.page.locator(f"#one [data-to='{number}']")).to_have_count(0)
        shown.clear()
    await expect(tina.page.get_by_text("Nobody may be called now")).to_be_visible()
    assert len(set(seen)) == 3
    await tina.activity("Offline")


async def people(cast: Cast, numbers: list[str], *, tag: str) -> None:
    """Everybody agreed to calls, and lives where it is day now."""
    now = datetime.now(UTC)
    zone = next(name for name in ZONES if 9 <= now.astimezone(ZoneInfo(name)).hour < 18)
    machine = cast.machine()
    for n, number in enumerate(numbers):
        await machine.person(
            f"Person {n}", "phone", number, channel="voice", purpose="telemarketing", zone=zone, tags=[tag]
        )


async def a_list(cast: Cast, name: str, *, tag: str) -> str:
    """The marketer makes the list; its id once it may be called."""
    mara = await cast.at_desk("mara", "/desk/lists/new")
    await mara.page.get_by_label("Name").fill(name)
    await mara.page.get_by_label("Everybody with this tag").fill(tag)
    await mara.page.get_by_label("Script").fill("Hello {{ first_name }}, our new bicycle is here.")
    await mara.page.get_by_role("button", name="Make the list").click()
    # It may be called from now on; calling is the telemarketers' work, pausing the marketer's.
    await expect(mara.page.locator("#list-head").get_by_role("button", name="Pause")).to_be_visible(timeout=60_000)
    await expect(mara.page.get_by_role("row", name="Person 1").first).to_be_visible()
    await picture(mara.page, "7-list")
    list_id = mara.page.url.rpartition("/")[2]
    await mara.page.context.close()
    return list_id


async def work_the_list(cast: Cast, desk: Desk, list_id: str, had: list[tuple[str, str]]) -> None:
    """One after the other until nobody is left: the first is called, the rest is disposed of by key."""
    await desk.go(f"/desk/lists/{list_id}/call")
    await desk.phone_shows("line-ready")
    first = True
    while await desk.page.locator("#one").count():
        number = str(await desk.page.locator("[data-phone-do=dial]").get_attribute("data-to"))
        had.append((desk.login, number))
        if first:
            await call_them(cast, desk, number)
            await picture(desk.page, f"7-{desk.login}")
        never = first and desk.login == "tina"
        first = False
        entry = str(await desk.page.locator("#one input[name=entry]").first.get_attribute("value"))
        await desk.page.get_by_role("button", name="Never call again" if never else "Not interested").click()
        await expect(desk.page.locator(f"#one input[value='{entry}']")).to_have_count(0)


async def call_them(cast: Cast, desk: Desk, number: str) -> None:
    """Dial by key, talk, hang up."""
    await desk.press("d")

    async def ringing() -> str:
        calls = (await cast.outside.ask("GET", "/outside/calls"))["calls"]
        return next((one["sid"] for one in calls if one["to"] == number and one["status"] == "ringing"), "")

    await cast.outside.act(await until(ringing, within_s=90), "answer")
    await desk.in_call()
    await expect(desk.page.get_by_text("talking now")).to_be_visible()
    note = desk.page.get_by_role("textbox", name="Note")
    await note.fill("Has two bicyc")
    await desk.page.reload()
    await expect(note).to_have_value("Has two bicyc")
    await desk.in_call()
    await desk.press("e")
    await desk.no_call()
