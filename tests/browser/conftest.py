"""A real Chromium for the browser tests, and pages that fail their test on any console error or policy violation.

Browser tests share one Chromium and so one event loop per worker: every async test in this folder runs in the session's
loop. An async fixture of such a test must say `loop_scope="session"` (with `pytest_asyncio.fixture`).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Response,
    Route,
    async_playwright,
    expect,
)
from playwright.async_api import Error as PlaywrightError

from tests.browser import phone_rig, phone_signalling
from tests.browser.phone_rig import Rig
from tests.browser.phone_signalling import Signalling

HERE = Path(__file__).parent
LOOPBACK = {"127.0.0.1", "localhost", ""}
PATIENCE_MS = 60_000  # how fast it is, the benchmarks say; a busy machine must not fail a test

expect.set_options(timeout=PATIENCE_MS)

# A fake microphone, no question asked; sound plays without a click; peers on one machine find each other by address.
FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--ignore-certificate-errors",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One loop for all browser tests of a worker, as the browser lives in it."""
    for item in items:
        function = getattr(item, "function", None)
        if HERE in item.path.parents and inspect.iscoroutinefunction(function):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


class PageFactory:
    """Makes pages and remembers what their browser complained about.

    `await page_factory(url)` gives a page in the test's own context; `await page_factory.context()` a further context
    (another person, or another browser profile). What is not on this machine is answered by a stub and listed in
    `foreign`. `allow(pattern)` names a complaint that the test provokes.
    """

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.refusals: list[str] = []  # in the server's words, to explain a complaint
        self._asking: set[asyncio.Task[None]] = set()
        self._allowed: list[re.Pattern[str]] = []
        self._contexts: list[BrowserContext] = []

    async def __call__(self, url: str | None = None, *, context: BrowserContext | None = None) -> Page:
        """A page, at `url` if given."""
        if context is None:
            context = self._contexts[0] if self._contexts else await self.context()
        page = await context.new_page()
        if url is not None:
            await page.goto(url)
        return page

    async def context(self, *, microphone: bool = True, viewport: tuple[int, int] = (1280, 800)) -> BrowserContext:
        """A fresh browser profile, watched."""
        context = await self.browser.new_context(
            permissions=["microphone", "notifications"] if microphone else [],
            viewport={"width": viewport[0], "height": viewport[1]},
        )
        self._contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.on("console", self._heard)
        context.on("response", self._answered)
        context.on("weberror", lambda error: self.complaints.append(f"uncaught: {error.error}"))
        await context.expose_binding("reportPolicyViolation", lambda _source, text: self.complaints.append(text))
        await context.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) => globalThis.reportPolicyViolation("
            "`policy violation: ${event.effectiveDirective} ${event.blockedURI}`))"
        )
        await context.route(lambda url: (urlsplit(url).hostname or "") not in LOOPBACK, self._stub)
        return context

    def allow(self, pattern: str) -> None:
        """This test provokes complaints that match, such as a server that goes away."""
        self._allowed.append(re.compile(pattern))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            task = asyncio.create_task(self._note_refusal(response))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _note_refusal(self, response: Response) -> None:
        with contextlib.suppress(PlaywrightError):
            self.refusals.append(f"{response.status} {response.url}: {(await response.text())[:500]}")

    async def _stub(self, route: Route) -> None:
        if route.request.url.startswith(("data:", "blob:")):
            await route.fallback()
            return
        self.foreign.append(route.request.url)
        await route.fulfill(status=200, body="{}", headers={"Access-Control-Allow-Origin": "*"})

    async def close(self) -> None:
        """Close every page: call it before the server that they talk to stops, or they complain of that."""
        while self._contexts:
            await self._contexts.pop().close()

    def check(self) -> None:
        """Fails on any complaint that was not allowed."""
        rest = [text for text in self.complaints if not any(pattern.search(text) for pattern in self._allowed)]
        assert not rest, "\n".join(["the browser complained:", *rest, *self.refusals])


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def signalling_server() -> AsyncIterator[Signalling]:
    """Twilio's signalling on this machine, where the browser's resolver sends Twilio's host names."""
    signalling = Signalling()
    runner = await phone_signalling.serve(signalling)
    yield signalling
    await runner.cleanup()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium_path: str, signalling_server: Signalling) -> AsyncIterator[Browser]:
    """One Chromium per worker."""
    rules = f"--host-resolver-rules=MAP *.twilio.com 127.0.0.1:{signalling_server.port}"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=[*FLAGS, rules])
        await phone_signalling.open_far_end(signalling_server, browser)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page_factory(browser: Browser) -> AsyncIterator[PageFactory]:
    """Pages whose console errors, uncaught errors and policy violations fail the test."""
    factory = PageFactory(browser)
    yield factory
    await factory.close()
    factory.check()


@pytest_asyncio.fixture(loop_scope="session")
async def signalling(browser: Browser, signalling_server: Signalling) -> AsyncIterator[Signalling]:
    """The signalling server, fresh."""
    await signalling_server.reset()
    yield signalling_server


@pytest_asyncio.fixture(loop_scope="session")
async def rig(signalling: Signalling, page_factory: PageFactory) -> AsyncIterator[Rig]:
    """A desk with a Twilio line and a far end that answers."""
    rig = Rig()
    runner = await phone_rig.serve(rig)

    async def invited(leg: phone_signalling.Leg) -> bool:
        return rig.joined(leg.params)

    signalling.on_invite = invited
    yield rig
    await page_factory.close()
    await runner.cleanup()
