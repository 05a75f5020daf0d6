"""The journeys' stage: one whole hub per worker, one Chromium, and a fresh cast for each test."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.browser.conftest import FLAGS, PageFactory
from tests.journeys.cast import Cast, Outside, until
from tests.journeys.hub_process import HubProcess

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One loop for all journeys of a worker, as the browser lives in it."""
    for item in items:
        if HERE in item.path.parents and inspect.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


class Stage:
    """The worker's hub. After a journey that did not end well the next one gets a new hub: a call left waiting would be its."""

    def __init__(self) -> None:
        self._hub: HubProcess | None = None
        self.spoiled = False

    def hub(self) -> HubProcess:
        """A hub that runs. Speech takes no time there; everything else goes at its own pace."""
        if self._hub is None or self.spoiled or not self._hub.running:
            self.clear()
            # A unix socket's path must be short: not below pytest's own folder.
            self._hub = HubProcess(Path(tempfile.mkdtemp(prefix="hub-j-")) / "var")
            self._hub.start()
            self.spoiled = False
        return self._hub

    def clear(self) -> None:
        """Stop it and remove what it wrote."""
        if self._hub is not None:
            self._hub.stop()
            shutil.rmtree(self._hub.data.parent, ignore_errors=True)
            self._hub = None


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """One hub per worker, as long as all goes well."""
    stage = Stage()
    yield stage
    stage.clear()


@pytest.fixture
def hub(stage: Stage) -> HubProcess:
    """The hub of this journey."""
    hub = stage.hub()
    stage.spoiled = True  # until the journey has ended well
    return hub


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note that a journey ended well."""
    report = yield
    if report.when == "call" and report.passed and "stage" in getattr(item, "fixturenames", ()):
        item.funcargs["stage"].spoiled = False  # type: ignore[attr-defined]
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium_path: str) -> AsyncIterator[Browser]:
    """One Chromium per worker."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=FLAGS)
        yield browser
        await browser.close()


LEFT = "SELECT id, kind, state, queue_id FROM queue_entries WHERE state <> 'done'"


async def nothing_waits(hub: HubProcess) -> bool:
    return not hub.rows(LEFT)


@pytest_asyncio.fixture(loop_scope="session")
async def cast(hub: HubProcess, stage: Stage, browser: Browser) -> AsyncIterator[Cast]:
    """Nobody is there yet. Afterwards: no complaint of any page, nothing that a provider would have refused, and no work left
    that the next journey's agents would be offered."""
    pages = PageFactory(browser)
    async with aiohttp.ClientSession() as http:
        outside = Outside(hub.outside, http)
        await outside.ask("POST", "/outside/settings", {"speech_scale": 0})
        await outside.ask("DELETE", "/outside/twin-faults")
        yield Cast(hub, outside, pages)
        await pages.close()
        pages.check()
        if not stage.spoiled:
            await until(lambda: nothing_waits(hub), told=f"left behind: {hub.rows(LEFT)}")
        assert await outside.twin_faults() == []
