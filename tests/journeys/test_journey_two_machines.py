"""An agent logged in on two machines: one of them has the call, and it can be taken to the other."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.journeys.cast import ANA, Cast, Desk, picture, until

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]


async def test_one_machine_has_the_call_until_it_is_taken_to_the_other(cast: Cast) -> None:
    office, home = await cast.at_desk("amy"), await cast.at_desk("amy")
    await home.phone_shows("line-ready")
    await office.available()
    await cast.outside.call(ANA)
    await expect(office.offer).to_be_visible()
    await office.press("a")
    await office.in_call()
    await expect(office.timeline).to_contain_text("talking now")  # a reload while joining would be a second leg
    await home.phone_shows("elsewhere")
    await picture(home.page, "two-machines")
    # What the server does is at hand there as well, as it is for who talks on a telephone; what the line does is not.
    await expect(home.callbar.get_by_role("button", name="Transfer")).to_be_visible()
    await expect(home.callbar.get_by_role("button", name="Mute")).to_be_hidden()
    # Neither news nor a reload brings the other machine into the call.
    await home.page.reload()
    await home.phone_shows("elsewhere")
    assert await legs(cast) == 1
    await office.page.reload()
    await office.in_call()
    await home.phone_shows("elsewhere")

    await home.page.get_by_role("button", name="Take it here").click()
    await home.in_call()
    await office.phone_shows("elsewhere")
    await until(lambda: seats(cast, 1))

    # The machine that has it dies: the other comes into the call by itself.
    await home.page.context.close()
    await office.in_call()
    await finished(office)


async def finished(desk: Desk) -> None:
    await expect(desk.timeline).to_contain_text("talking now")
    await desk.press("e")
    await desk.wrap_up("re")
    await until(desk.has_nothing)
    await desk.activity("Offline")


async def legs(cast: Cast) -> int:
    """How many legs of agents the latest call has had."""
    return int(
        cast.hub.rows(
            "SELECT count(*) AS n FROM call_legs WHERE role = 'agent' AND interaction_id ="
            " (SELECT id FROM interactions WHERE channel = 'voice' ORDER BY id DESC LIMIT 1)"
        )[0]["n"]
    )


async def seats(cast: Cast, count: int) -> bool:
    """Whether so many agents sit in the rooms."""
    rooms = (await cast.outside.ask("GET", "/outside/state"))["conferences"]
    return sum(seat["label"].startswith("agent") for room in rooms for seat in room["participants"]) == count
