"""Journey 1: a newcomer takes the first call of a known customer, from the log-in page to the wrapped-up call."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.async_api import expect

from tests.journeys.cast import ANA, SUPPORT, Cast, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]


async def test_a_newcomer_takes_a_known_customers_call(cast: Cast) -> None:
    ana = await cast.outside_page(ANA)
    amy = await cast.at_desk("amy")
    await amy.available()
    await ana.locator("#hub-number").select_option(SUPPORT)
    await ana.get_by_role("button", name="Call the company").click()

    # Who it is stands there with the offer, before anybody answers.
    await expect(amy.offer).to_contain_text("Ana Example")
    await expect(amy.offer).to_contain_text("% certain")
    await amy.no_call()
    await picture(amy.page, "1-offer")
    await amy.press("a")
    await amy.in_call()
    await expect(amy.callbar).to_contain_text("Ana Example")
    await expect(ana.locator("#talking-state")).to_contain_text("talking with")
    await picture(amy.page, "1-talking")
    await picture(ana, "1-outside")
    call = await the_call(cast)
    sid = call["external_id"]

    await until(lambda: was_told(cast, sid, "participant-join", ago_s=2), told="the provider never reported the join")
    await amy.press("h")
    await expect(amy.callbar.get_by_text("On hold")).to_be_visible()
    await until(lambda: seat_is_held(cast, call["id"], held=True))
    await until(lambda: was_told(cast, sid, "participant-hold", ago_s=2), told="the provider never reported the hold")
    await amy.press("h")
    await expect(amy.callbar.get_by_text("On hold")).to_be_hidden()
    await until(lambda: seat_is_held(cast, call["id"], held=False))

    # The page changes below the call; the call does not.
    await amy.page.locator(".rail").get_by_role("link", name="People").click()
    await expect(amy.page).to_have_url(re.compile("/desk/contacts"))
    await expect(amy.callbar).to_contain_text("Ana Example")
    await amy.in_call()

    # Nor does it end with the tab: after a reload the browser is back in it.
    await amy.page.reload()
    await amy.in_call()
    await expect(amy.callbar).to_contain_text("Ana Example")
    await expect(ana.locator("#talking-state")).to_contain_text("talking with")

    await amy.callbar.locator(".callbar-who").click()
    await expect(amy.timeline).to_contain_text("talking now")
    await amy.press("e")
    await amy.no_call()
    await expect(ana.locator("#idle")).to_be_visible()
    await amy.wrap_up("re", "Told her when the parcel comes")
    await expect(amy.timeline).to_contain_text("Told her when the parcel comes")
    await expect(amy.timeline).to_contain_text("dealt with")
    await picture(amy.page, "1-wrapped-up")
    await adds_up(cast, call["id"])
    await amy.activity("Offline")


async def test_a_page_that_reloads_while_the_line_joins_is_in_the_call(cast: Cast) -> None:
    amy = await cast.at_desk("amy")
    await amy.available()
    sid = await cast.outside.call(ANA)
    await expect(amy.offer).to_be_visible()
    async with amy.page.expect_response("**/desk/offers/*/accept"):
        await amy.press("a")
    await amy.page.reload()
    await amy.in_call()
    await expect(amy.callbar).to_contain_text("Ana Example")
    await expect(amy.timeline).to_contain_text("talking now")
    call = await the_call(cast)
    offers = cast.hub.rows(
        "SELECT o.state FROM offers o JOIN interactions i ON i.entry_id = o.entry_id WHERE i.id = ?", call["id"]
    )
    assert [offer["state"] for offer in offers] == ["won"]
    assert "nobody" not in await cast.outside.heard(sid)
    await amy.press("e")
    await amy.wrap_up("re")
    await until(amy.has_nothing)
    await amy.activity("Offline")


async def the_call(cast: Cast) -> dict[str, str]:
    """Ana's latest call, as the hub has it."""
    return cast.hub.rows(
        "SELECT id, external_id FROM interactions WHERE channel = 'voice' AND from_address = ? ORDER BY id DESC LIMIT 1",
        ANA,
    )[0]


async def seat_is_held(cast: Cast, interaction_id: str, *, held: bool) -> bool:
    """Whether the provider keeps the customer on hold."""
    rooms = (await cast.outside.ask("GET", "/outside/state"))["conferences"]
    seats = [seat for room in rooms if interaction_id in room["name"] for seat in room["participants"]]
    return any(seat["label"] == "customer" and seat["hold"] == held for seat in seats)


async def was_told(cast: Cast, sid: str, event: str, *, ago_s: float) -> bool:
    """Whether the provider reported this of the call so many seconds ago. (Its reports are dated in whole seconds.)"""
    told = (await cast.outside.ask("GET", f"/outside/callbacks?call={sid}&kind={event}"))["callbacks"]
    return any((datetime.now(UTC) - datetime.fromisoformat(one["at"])).total_seconds() >= ago_s for one in told)


async def adds_up(cast: Cast, interaction_id: str) -> None:
    """Every second of the call is in exactly one part of its record."""

    async def wrapped() -> list[dict[str, Any]]:
        return cast.hub.rows("SELECT * FROM call_records WHERE interaction_id = ? AND wrap_ms > 0", interaction_id)

    record = (await until(wrapped))[0]
    assert record["hold_ms"] > 0
    assert record["talk_ms"] > 0
    assert record["answered_at"]
    whole = datetime.fromisoformat(record["ended_at"]) - datetime.fromisoformat(record["started_at"])
    parts = sum(record[name] for name in ("menu_ms", "wait_ms", "ring_ms", "talk_ms", "hold_ms"))
    assert abs(parts - whole.total_seconds() * 1000) <= 5, record  # each of the five is rounded by itself
    assert record["disposition"] == "resolved"
