"""The journeys' stage: one whole hub per worker, one Chromium, and a fresh cast for each test."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.browser.conftest import FLAGS, PageFactory
from tests.journeys.cast import Cast, Outside
from tests.journeys.hub_process import HubProcess

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One loop for all journeys of a worker, as the browser lives in it."""
    for item in items:
        if HERE in item.path.parents and inspect.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def hub() -> Iterator[HubProcess]:
    """One hub per worker. Speech takes no time there; everything else goes at its own pace."""
    # A unix socket's path must be short: not below pytest's own folder.
    folder = Path(tempfile.mkdtemp(prefix="hub-j-"))
    hub = HubProcess(folder / "var")
    hub.start()
    yield hub
    hub.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium_path: str) -> AsyncIterator[Browser]:
    """One Chromium per worker."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def cast(hub: HubProcess, browser: Browser) -> AsyncIterator[Cast]:
    """Nobody is there yet. Afterwards: no complaint of any page, nothing that a provider would have refused."""
    pages = PageFactory(browser)
    async with aiohttp.ClientSession() as http:
        outside = Outside(hub.outside, http)
        await outside.ask("POST", "/outside/settings", {"speech_scale": 0})
        await outside.ask("DELETE", "/outside/twin-faults")
        yield Cast(hub, outside, pages)
        await pages.close()
        pages.check()
        assert await outside.twin_faults() == []
