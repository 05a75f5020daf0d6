"""Journey 2: somebody unknown gets a contact while talking; a caller who waits too long is called back in their place."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.journeys.cast import Cast, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]

UNKNOWN, PATIENT, BUSY = "+442079460561", "+442079460562", "+442079460563"


async def test_an_unknown_caller_gets_a_contact_while_talking(cast: Cast) -> None:
    amy = await cast.at_desk("amy")
    await amy.available()
    sid = await cast.outside.call(UNKNOWN)
    await expect(amy.offer).to_contain_text("+44 20 7946 0561")
    await amy.press("a")
    await amy.in_call()
    person = amy.page.locator("#person")
    await person.get_by_placeholder("Name").fill("Uma Unknown")
    await person.get_by_placeholder("Firm").fill("Umbrella Repairs")
    await person.get_by_role("button", name="Create contact").click()
    await expect(person.get_by_role("link", name="Uma Unknown")).to_be_visible()
    await expect(person).to_contain_text("Umbrella Repairs")
    await expect(amy.timeline).to_contain_text("talking now")  # and the call went on meanwhile
    await picture(amy.page, "2-contact-made")

    await cast.outside.act(sid, "hangup")
    await amy.no_call()
    await amy.wrap_up("re")
    found = cast.hub.rows(
        "SELECT c.name, i.state, i.outcome FROM interactions i JOIN contacts c ON c.id = i.contact_id"
        " WHERE i.from_address = ?",
        UNKNOWN,
    )
    assert found == [{"name": "Uma Unknown", "state": "ended", "outcome": "handled"}]
    # Who calls again is known.
    sid = await cast.outside.call(UNKNOWN)
    await expect(amy.offer).to_contain_text("Uma Unknown")
    await cast.outside.act(sid, "hangup")
    await expect(amy.offer).to_have_count(0)
    await amy.activity("Offline")


async def test_a_caller_who_waits_is_called_back_in_their_place(cast: Cast) -> None:
    await offer_callbacks_at_once(cast)
    ben = await cast.at_desk("ben")
    # Nobody is free. One waits before them, so that there is a place to be told.
    ahead = await cast.outside.call(BUSY)
    sid = await cast.outside.call(PATIENT)
    await hears(cast, sid, "You are number 2")
    await hears(cast, sid, "Press 1")
    await cast.outside.act(sid, "digits", digits="1")
    await until(lambda: is_over(cast, sid), within_s=90)
    assert "call you back" in (await cast.outside.heard(sid)).lower()
    call, promise = places(cast)
    assert promise["order_at"] == call["order_at"], "the callback lost the caller's place"
    await cast.outside.act(ahead, "hangup")

    # An agent comes, is offered the promise, and calls back.
    await ben.available()
    await expect(ben.offer).to_contain_text("Callback", timeout=60_000)
    await picture(ben.page, "2-callback-offered")
    await ben.press("a")
    await expect(ben.page.locator(".pane-head h1")).to_contain_text("+44 20 7946 0562")
    await ben.press("d")
    await picture(ben.page, "2-dialling")
    await answer(cast, PATIENT)
    await ben.in_call()
    await expect(ben.timeline).to_contain_text("talking now")
    await picture(ben.page, "2-calling-back")
    await ben.press("e")
    await ben.no_call()
    await ben.wrap_up("re")
    await picture(ben.page, "2-called-back")
    ended = cast.hub.rows("SELECT state FROM callbacks WHERE number_e164 = ?", PATIENT)
    assert [row["state"] for row in ended] == ["reached"]
    await ben.activity("Offline")


async def offer_callbacks_at_once(cast: Cast) -> None:
    """The administrator has the support queue offer callbacks from the first second."""
    ada = await cast.at_desk("ada", "/desk/admin/queues")
    await ada.page.locator('a[href^="/desk/admin/queues/"]', has_text="Support").first.click()
    await ada.page.get_by_label("Callback offered after").fill("0")
    await ada.page.get_by_role("button", name="Save").click()
    await ada.page.context.close()


async def hears(cast: Cast, sid: str, words: str) -> None:
    """Wait until this was said to the caller."""
    said = ""

    async def told() -> bool:
        nonlocal said
        said = await cast.outside.heard(sid)
        return words in said

    try:
        await until(told)
    except AssertionError:
        raise AssertionError(f"never said {words!r}; heard: {said}") from None


async def is_over(cast: Cast, sid: str) -> bool:
    return bool((await cast.outside.of_call(sid))["status"] == "completed")


def places(cast: Cast) -> tuple[dict[str, str], dict[str, str]]:
    """Where the call stood in the queue, and where the promise stands."""
    call = cast.hub.rows(
        "SELECT e.order_at FROM queue_entries e JOIN interactions i ON i.id = e.interaction_id WHERE i.from_address = ?"
        " AND e.kind = 'voice'",
        PATIENT,
    )[0]
    promise = cast.hub.rows("SELECT order_at, state FROM callbacks WHERE number_e164 = ?", PATIENT)[0]
    return call, promise


async def answer(cast: Cast, number: str) -> None:
    """The outside person's telephone rings, and they take the call."""

    async def ringing() -> str:
        calls = (await cast.outside.ask("GET", "/outside/calls"))["calls"]
        return next((one["sid"] for one in calls if one["to"] == number and one["status"] == "ringing"), "")

    await cast.outside.act(await until(ringing, within_s=90), "answer")
