"""Journey 1: a newcomer takes the first call of a known customer, from the log-in page to the wrapped-up call."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import pytest
from playwright.async_api import expect

from tests.journeys.cast import ANA, SUPPORT, Cast, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(120)]


async def test_a_newcomer_takes_a_known_customers_call(cast: Cast) -> None:
    ana = await cast.outside_page(ANA)
    amy = await cast.at_desk("amy")
    await amy.available()
    await ana.locator("#hub-number").select_option(SUPPORT)
    began = time.monotonic()
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

    await until(lambda: was_told(cast, "participant-join", ago_s=2), told="the provider never reported the join")
    await amy.press("h")
    await expect(amy.callbar.get_by_text("On hold")).to_be_visible()
    await until(lambda: seat_is_held(cast, call["id"], held=True))
    await until(lambda: was_told(cast, "participant-hold", ago_s=2), told="the provider never reported the hold")
    await amy.press("h")
    await expect(amy.callbar.get_by_text("On hold")).to_be_hidden()
    await until(lambda: seat_is_held(cast, call["id"], held=False))

    # The page changes below the call; the call does not.
    await amy.page.locator(".rail").get_by_role("link", name="People").click()
    await expect(amy.page).to_have_url(re.compile("/desk/contacts"))
    await expect(amy.callbar).to_contain_text("Ana Example")
    await amy.in_call()

    # Nor does it end with the tab: after a reload the browser is back in it within five seconds.
    reloaded = time.monotonic()
    await amy.page.reload()
    await amy.in_call(within_s=5)
    assert time.monotonic() - reloaded < 5
    await expect(amy.callbar).to_contain_text("Ana Example")
    await expect(ana.locator("#talking-state")).to_contain_text("talking with")

    await amy.callbar.locator(".callbar-who").click()
    await expect(amy.timeline).to_contain_text("talking now")
    await amy.press("e")
    await amy.no_call()
    ended = time.monotonic()
    await expect(ana.locator("#idle")).to_be_visible()
    await amy.wrap_up("re", "Told her when the parcel comes")
    wrapped = time.monotonic()
    await expect(amy.timeline).to_contain_text("Told her when the parcel comes")
    await expect(amy.timeline).to_contain_text("dealt with")
    await picture(amy.page, "1-wrapped-up")
    await adds_up(cast, call["id"], call_s=ended - began, wrap_s=wrapped - ended)
    await amy.activity("Offline")


async def the_call(cast: Cast) -> dict[str, str]:
    """Ana's latest call, as the hub has it."""
    return cast.hub.rows(
        "SELECT id, state FROM interactions WHERE channel = 'voice' AND from_address = ? ORDER BY id DESC LIMIT 1", ANA
    )[0]


async def seat_is_held(cast: Cast, interaction_id: str, *, held: bool) -> bool:
    """Whether the provider keeps the customer on hold."""
    rooms = (await cast.outside.ask("GET", "/outside/state"))["conferences"]
    seats = [seat for room in rooms if interaction_id in room["name"] for seat in room["participants"]]
    return any(seat["label"] == "customer" and seat["hold"] == held for seat in seats)


async def was_told(cast: Cast, event: str, *, ago_s: float) -> bool:
    """Whether the provider reported this so many seconds ago. (Its reports are dated in whole seconds.)"""
    told = (await cast.outside.ask("GET", f"/outside/callbacks?kind={event}"))["callbacks"]
    return any((datetime.now(UTC) - datetime.fromisoformat(one["at"])).total_seconds() >= ago_s for one in told)


async def adds_up(cast: Cast, interaction_id: str, *, call_s: float, wrap_s: float) -> None:
    """Every second of the call is in exactly one part of its record."""

    async def wrapped() -> list[dict[str, int]]:
        return cast.hub.rows("SELECT * FROM call_records WHERE interaction_id = ? AND wrap_ms > 0", interaction_id)

    record = (await until(wrapped))[0]
    parts = sum(record[name] for name in ("menu_ms", "wait_ms", "ring_ms", "talk_ms", "hold_ms"))
    assert record["hold_ms"] > 0
    assert record["talk_ms"] > 0
    assert record["answered_at"]
    # One second is lost to its whole seconds, one is left for the browser between a key and its effect.
    assert abs(parts / 1000 - call_s) < 2, (record, call_s)
    assert abs(record["wrap_ms"] / 1000 - wrap_s) < 2, (record, wrap_s)
    assert record["disposition"] == "resolved"
