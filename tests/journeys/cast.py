"""Who plays in the journeys: somebody at a desk in a browser, and the outside world on its page or by its control API."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from playwright.async_api import Locator, Page, expect
from playwright.async_api import TimeoutError as PlaywrightTimeout

from tests.browser.conftest import PageFactory
from tests.journeys.hub_process import HubProcess

PASSWORD = "welcome to the hub"
SUPPORT, SALES = "+442079460000", "+442079460001"
MAILBOX = "support@hub.example.test"
ANA = "+12025550101"


async def until(what: Callable[[], Awaitable[Any]], *, within_s: float = 90.0, told: str = "") -> Any:
    """The first true answer of `what`; fails with the last answer when there is none in time."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        found = await what()
        if found:
            return found
        assert asyncio.get_running_loop().time() < deadline, told or f"never came true; at last {found!r}"
        await asyncio.sleep(0.05)


async def picture(page: Page, name: str) -> None:
    """A screenshot when somebody wants to look (JOURNEY_PICTURES names the folder)."""
    if folder := os.environ.get("JOURNEY_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=f"{folder}/{name}.png")


@dataclass
class Outside:
    """The outside world by its control API (docs/sandbox.md)."""

    url: str
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async with self.http.request(method, self.url + path, json=body) as answer:
            told = await answer.json(content_type=None)
            assert answer.status < 300, f"{method} {path}: {answer.status} {told}"
            return told

    async def call(self, number: str, to: str = SUPPORT) -> str:
        """Somebody calls the hub; the call's SID."""
        return str((await self.ask("POST", "/outside/calls", {"from": number, "to": to}))["sid"])

    async def act(self, sid: str, what: str, **body: Any) -> Any:
        """answer, hangup, refuse, digits, speech."""
        return await self.ask("POST", f"/outside/calls/{sid}/{what}", body)

    async def of_call(self, sid: str) -> dict[str, Any]:
        return dict(await self.ask("GET", f"/outside/calls/{sid}"))

    async def heard(self, sid: str) -> str:
        """All that was said to the caller."""
        return " | ".join(one["text"] for one in (await self.of_call(sid))["heard"])

    async def text(self, number: str, body: str, to: str = SUPPORT) -> Any:
        return await self.ask("POST", "/outside/messages", {"from": number, "to": to, "body": body})

    async def texts(self, number: str) -> list[dict[str, Any]]:
        return list((await self.ask("GET", f"/outside/messages?number={quote(number)}"))["messages"])

    async def mail(self, sender: str, **body: Any) -> str:
        """A mail into the hub's mailbox; its Message-ID. `raw` = the whole message as bytes."""
        if "raw" in body:
            body = {"raw_base64": base64.b64encode(body["raw"]).decode()}
        return str((await self.ask("POST", "/outside/mails", {"from": sender, **body}))["message_id"])

    async def mails(self, address: str) -> list[dict[str, Any]]:
        """What the hub sent there, newest first."""
        return list((await self.ask("GET", f"/outside/mails?address={quote(address)}"))["mails"])

    async def read(self, mail: dict[str, Any]) -> dict[str, Any]:
        return dict(await self.ask("GET", f"/outside/mails/{quote(mail['address'])}/{mail['id']}"))

    async def twin_faults(self) -> list[dict[str, Any]]:
        """What a real provider would have refused."""
        return list((await self.ask("GET", "/outside/twin-faults"))["twin_faults"])


@dataclass
class Desk:
    """Somebody at work: one browser page, logged in."""

    page: Page
    hub: HubProcess
    login: str

    async def go(self, path: str) -> None:
        await self.page.goto(self.hub.url + path)

    async def activity(self, word: str) -> None:
        """Choose an activity and see it stand there."""
        button = self.page.locator("#activity-button")
        wanted = self.page.locator("#activity .dropdown-menu").get_by_role("button", name=word).first

        async def chosen() -> bool:
            # The server's news may draw the control anew between the two clicks: then it is opened again.
            if not await wanted.is_visible():
                await button.click()
            try:
                await wanted.click(timeout=1_000)
            except PlaywrightTimeout:
                return False
            return True

        await until(chosen)
        await expect(button).to_contain_text(word)

    async def available(self) -> None:
        """Ready for work of every kind: the phone's line is up and the hub knows it."""
        await self.phone_shows("line-ready")
        await self.activity("Available")
        await until(self._voice_ready, told=f"the hub never heard that {self.login}'s phone is ready")

    async def _voice_ready(self) -> bool:
        found = self.hub.rows(
            "SELECT a.voice_ready FROM agents a JOIN users u ON u.id = a.user_id WHERE u.login = ?", self.login
        )
        return bool(found and found[0]["voice_ready"])

    @property
    def offer(self) -> Locator:
        """The offer's card that is on the screen."""
        return self.page.locator("article.offer:visible")

    @property
    def callbar(self) -> Locator:
        return self.page.locator("footer.callbar")

    @property
    def timeline(self) -> Locator:
        return self.page.locator("#timeline")

    async def press(self, key: str) -> None:
        await self.page.keyboard.press(key)

    async def in_call(self, *, within_s: float = 60) -> None:
        """The sound is there."""
        await self.phone_shows("live", within_s=within_s)

    async def no_call(self) -> None:
        await self.phone_shows("idle")

    async def phone_shows(self, word: str, *, within_s: float = 60) -> None:
        """One of the words of bar.js holds for the phone."""
        shown = re.compile(rf"(^| ){word}( |$)")
        await expect(self.page.locator("html")).to_have_attribute("data-phone-words", shown, timeout=within_s * 1000)

    async def close_conversation(self) -> None:
        """Put the conversation away for good."""
        await self.page.get_by_role("button", name="More").click()
        await self.page.get_by_role("button", name="Close the conversation").click()
        await expect(self.page.locator("#worklist")).to_contain_text("Nothing in hand")

    async def has_nothing(self) -> bool:
        """Whether no work is with this person any more."""
        return not self.hub.rows(
            "SELECT 1 FROM queue_entries e JOIN users u ON u.id = e.agent_id WHERE u.login = ?"
            " AND e.state IN ('offered', 'connected', 'wrapup')",
            self.login,
        )

    async def wrap_up(self, letters: str, note: str = "") -> None:
        """Dispose by two letters, write a note, finish: without a mouse."""
        pick = self.page.locator("[data-pick=disposition]:visible")
        await expect(pick).to_be_focused()
        await pick.press_sequentially(letters)
        await expect(self.page.locator("input[name=disposition]:checked")).to_have_count(1)
        if note:
            await self.page.locator("#wrapup textarea[name=notes]").fill(note)
        await self.press("Control+Enter")
        await expect(self.page.locator("#wrapup form")).to_have_count(0)

    async def finish_enquiry(self) -> None:
        """Finish what came by a form, and go home."""
        await self.press("w")
        await self.wrap_up("re")
        await self.close_conversation()
        await self.activity("Offline")
        await until(self.has_nothing)


@dataclass
class Machine:
    """A program with a token of the JSON API."""

    url: str
    http: aiohttp.ClientSession
    secret: str

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.secret}"}
        async with self.http.request(method, f"{self.url}/api/v1{path}", json=body, headers=headers) as answer:
            told = await answer.json(content_type=None) if answer.content_length else None
            assert answer.status < 300, f"{method} {path}: {answer.status} {told}"
            return told

    async def person(self, name: str, kind: str, value: str, *, channel: str, purpose: str, **more: Any) -> str:
        """A contact who agreed to be contacted, with the proof; their id. `channel` empty: they agreed to nothing."""
        made = await self.ask("POST", "/contacts", {"name": name, "points": [{"kind": kind, "value": value}], **more})
        if channel:
            grant = {
                "kind": kind,
                "value": value,
                "channel": channel,
                "purpose": purpose,
                "evidence": {"text": "Yes, please"},
            }
            await self.ask("POST", f"/contacts/{made['id']}/consents", grant)
        return str(made["id"])


@dataclass
class Cast:
    """Everybody, and the hub."""

    hub: HubProcess
    outside: Outside
    pages: PageFactory

    def machine(self) -> Machine:
        """A program that may keep contacts and consent."""
        scopes = ["contacts:read", "contacts:write", "consent:read", "consent:write"]
        secret = self.hub.command("token", "add", "ada", "--name", "journey", *(f"--scope={one}" for one in scopes))
        return Machine(self.hub.url, self.outside.http, secret.strip())

    async def at_desk(self, login: str, path: str = "/desk/work") -> Desk:
        """Log in through the page, in a browser profile of their own."""
        page = await (await self.pages.context()).new_page()
        desk = Desk(page, self.hub, login)
        await desk.go(path)
        await page.get_by_label("Login").fill(login)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Log in").click()
        await page.wait_for_url(f"**{path}*")
        return desk

    async def outside_page(self, person: str = ANA) -> Page:
        """The outside person's own page."""
        page = await (await self.pages.context()).new_page()
        await page.goto(self.outside.url + "/")
        await expect(page.locator("#live")).to_have_text("live")
        await page.locator("#person").select_option(person)
        return page
