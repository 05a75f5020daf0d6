"""Journey 6: a CSV becomes a campaign into the outside mailboxes; paused, its worker killed, resumed; and people leave it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.journeys.cast import Cast, Desk, Machine, picture, until
from tests.journeys.hub_process import eventually

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(400)]

PEOPLE = 30
SILENT = 2  # of them agreed to nothing
BODY = "Hello {{ first_name }}, the autumn sale begins.\n\nNo more of this: {{ unsubscribe_url }}"


def mailbox(n: int) -> str:
    return f"reader{n}@example.com"


async def test_a_csv_becomes_a_campaign_that_survives_its_worker(cast: Cast, tmp_path: Path) -> None:
    machine = cast.machine()
    ids = [
        await machine.person(
            f"Reader{n} Muster",
            "email",
            mailbox(n),
            channel="email" if n < PEOPLE - SILENT else "",
            purpose="marketing",
        )
        for n in range(PEOPLE)
    ]
    mara = await cast.at_desk("mara", "/desk/campaigns/new")
    await the_wizard(mara, tmp_path)
    await expect(mara.page.locator("#check")).to_contain_text("30 recipients", timeout=60_000)
    await expect(mara.page.get_by_role("row", name="may be sent")).to_contain_text("28")
    await expect(mara.page.get_by_role("row", name="no proof of consent")).to_contain_text("2")
    await picture(mara.page, "6-forecast")
    await mara.page.get_by_role("link", name="Next").click()
    await mara.page.get_by_role("button", name="Launch").click()

    # Paused in the middle, the worker killed; what was not sent waits.
    await expect(mara.page.locator("#progress .legend")).to_contain_text("sent", timeout=60_000)
    await mara.page.get_by_role("button", name="Pause").click()
    await expect(mara.page.get_by_text("Paused", exact=True)).to_be_visible(timeout=60_000)
    await picture(mara.page, "6-paused")
    pid = cast.hub.kill("bulk")
    assert eventually(lambda: cast.hub.children().get("bulk", pid) != pid), "the worker never came back"
    await mara.page.reload()
    await mara.page.get_by_role("button", name="Go on").click()
    await expect(mara.page.get_by_text("Finished", exact=True)).to_be_visible(timeout=90_000)
    await mara.page.reload()
    await adds_up(cast, mara)
    await picture(mara.page, "6-finished")
    for n in range(PEOPLE):
        assert len(await cast.outside.mails(mailbox(n))) == (1 if n < PEOPLE - SILENT else 0), mailbox(n)

    await leave_by_one_click(cast, machine, mailbox(0), ids[0])
    await leave_by_page(cast, machine, mailbox(1), ids[1])


def midday_zone() -> str:
    """A zone in which it is about one o'clock now: texts go out only when it is a decent hour where people are."""
    ahead = 13 - datetime.now(UTC).hour
    return f"Etc/GMT{-ahead:+d}" if ahead else "Etc/GMT"


async def test_a_text_reaches_the_outside_phones(cast: Cast, tmp_path: Path) -> None:
    machine = cast.machine()
    phones = [f"+120255501{n}" for n in range(40, 50)]
    for number in phones:
        (found,) = cast.hub.rows(
            "SELECT l.contact_id, c.version FROM contact_links l JOIN contact_points p ON p.id = l.point_id"
            f" JOIN contacts c ON c.id = l.contact_id WHERE p.value = '{number}'"
        )
        where = f"/contacts/{found['contact_id']}"
        await machine.ask("PATCH", where, {"zone": midday_zone(), "version": found["version"]})
        grant = {"kind": "phone", "value": number, "channel": "sms", "purpose": "marketing"}
        await machine.ask("POST", f"{where}/consents", {**grant, "evidence": {"text": "Yes, by text"}})
    await cast.outside.text(phones[-1], "STOP")
    await until(lambda: is_stopped(machine, str(found["contact_id"])))

    mara = await cast.at_desk("mara", "/desk/campaigns/new")
    page = mara.page
    await page.get_by_label("Name").fill("Sale by text")
    sender = page.get_by_label("Sent by").locator("option", has_text="SMS ·").first
    await page.get_by_label("Sent by").select_option(await sender.get_attribute("value"))
    await page.get_by_label("Purpose").select_option("marketing")
    await page.get_by_role("button", name="Next").click()
    file = tmp_path / "phones.csv"
    file.write_text("name,phone\n" + "".join(f"Phone {number[-2:]},{number}\n" for number in phones))
    await page.get_by_label("CSV file of recipients").set_input_files(file)
    await page.get_by_role("button", name="Next").click()
    await page.get_by_label("Text", exact=True).fill(
        "Hello {{ name }}, the sale begins. STOP ends this. {{ unsubscribe_url }}"
    )
    await page.get_by_role("button", name="Next").click()
    await page.wait_for_url("**/when")
    await page.get_by_role("button", name="Next").click()
    await page.wait_for_url("**/check")
    await expect(page.locator("#check")).to_contain_text("10 recipients", timeout=60_000)
    await picture(page, "6b-forecast")
    await page.get_by_role("link", name="Next").click()
    await page.get_by_role("button", name="Launch").click()
    await expect(page.get_by_text("Finished", exact=True)).to_be_visible(timeout=60_000)
    await picture(page, "6b-finished")
    for number in phones[:-1]:
        got = [text["body"] for text in await cast.outside.texts(number) if "the sale begins" in text["body"]]
        assert len(got) == 1, (number, got)
    assert not [text for text in await cast.outside.texts(phones[-1]) if "the sale begins" in text["body"]]

    # STOP on the phone ends it, and the campaign counts it.
    await cast.outside.text(phones[0], "STOP")
    (stopper,) = cast.hub.rows(
        f"SELECT contact_id FROM contact_links l JOIN contact_points p ON p.id = l.point_id WHERE p.value = '{phones[0]}'"
    )
    await until(lambda: is_stopped(machine, str(stopper["contact_id"])))


async def the_wizard(mara: Desk, folder: Path) -> None:
    """Who, what, when, as far as the check."""
    page = mara.page
    await page.get_by_label("Name").fill("Autumn sale")
    sender = page.get_by_label("Sent by").locator("option", has_text="Support mailbox")
    await page.get_by_label("Sent by").select_option(await sender.get_attribute("value"))
    await page.get_by_label("Purpose").select_option("marketing")
    await page.get_by_role("button", name="Next").click()
    file = folder / "readers.csv"
    file.write_text("name,email\n" + "".join(f"Reader{n} Muster,{mailbox(n)}\n" for n in range(PEOPLE)))
    await page.get_by_label("CSV file of recipients").set_input_files(file)
    await page.get_by_role("button", name="Next").click()
    await page.get_by_label("Subject").fill("Autumn sale for {{ first_name }}")
    await page.get_by_label("Text", exact=True).fill(BODY)
    await page.get_by_role("button", name="Next").click()
    await page.get_by_label("At most this many a minute").fill("120")
    await page.get_by_role("button", name="Next").click()
    await page.wait_for_url("**/check")


async def adds_up(cast: Cast, mara: Desk) -> None:
    """The audience is the sum of the states, on the screen and in the rows."""
    legend = await mara.page.locator("#progress .legend li").all_inner_texts()
    numbers = [int(re.sub(r"\D", "", text)) for text in legend]
    assert sum(numbers[:-1]) == numbers[-1] == PEOPLE, legend
    states = cast.hub.rows("SELECT state, count(*) AS n FROM deliveries GROUP BY state")
    assert sum(row["n"] for row in states) == PEOPLE
    assert {row["state"] for row in states} <= {"accepted", "sent", "delivered", "suppressed", "skipped", "unknown"}, (
        states
    )


async def unsubscribe_url(cast: Cast, address: str) -> str:
    mail = await cast.outside.read((await cast.outside.mails(address))[0])
    found = re.search(r"<(http[^>]+)>", mail["list_unsubscribe"])
    assert found, mail["headers"]
    headers = {one["name"].lower(): one["value"] for one in mail["headers"]}
    assert headers["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    return found[1]


async def leave_by_one_click(cast: Cast, machine: Machine, address: str, contact: str) -> None:
    """As a mail program does it (RFC 8058): a POST without looking at anything."""
    url = await unsubscribe_url(cast, address)
    async with cast.outside.http.post(url, data={"List-Unsubscribe": "One-Click"}) as answer:
        assert answer.status == 200
    await until(lambda: is_stopped(machine, contact))


async def leave_by_page(cast: Cast, machine: Machine, address: str, contact: str) -> None:
    """By the link in the mail; looking at the page alone changes nothing."""
    page = await cast.pages(await unsubscribe_url(cast, address), context=await cast.pages.context())
    assert not await is_stopped(machine, contact)
    await page.get_by_role("button").first.click()
    await until(lambda: is_stopped(machine, contact))
    await picture(page, "6-left")


async def is_stopped(machine: Machine, contact: str) -> bool:
    return bool((await machine.ask("GET", f"/contacts/{contact}/consent"))["suppressions"])
