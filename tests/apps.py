"""The whole application in this process, over real HTTP: fixtures `runtime`, `hub_url` and a browser-like `Visitor`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crm_core import users
from crm_core.clock import FixedClock
from crm_core.users import Role, User
from hub.app import serving
from hub.passwords import hash_password
from hub.runtime import Runtime, running
from hub.settings import read_settings

PASSWORD = "a password for tests"
AUTH_TOKEN = "0123456789abcdef0123456789abcdef"


def test_environment(data_dir: Path, database_url: str, redis_url: str) -> dict[str, str]:
    """A hub whose provider is nobody: what leaves the house in such a test is a mistake and fails."""
    return {
        "HUB_DATA_DIR": str(data_dir),
        "HUB_DATABASE_URL": database_url,
        "HUB_REDIS_URL": redis_url,
        "HUB_SECRET_KEY": "tests tests tests tests tests tests",
        "HUB_SANDBOX": "1",
        "HUB_TWILIO_API_BASE": "http://127.0.0.1:9",
        "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
        "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
        "TWILIO_API_KEY_SID": "SK" + "0" * 32,
        "TWILIO_API_KEY_SECRET": "s" * 32,
        "TWILIO_APP_SID": "AP" + "0" * 32,
    }


test_environment.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture
async def runtime(sqlite_url: str, valkey_url: str, tmp_path: Path, clock: FixedClock) -> AsyncIterator[Runtime]:
    """A runtime on SQLite and a real Valkey, nobody at home."""
    settings = read_settings(test_environment(tmp_path / "data", sqlite_url, valkey_url))
    async with running(settings, clock=clock) as made:
        yield made


@pytest.fixture
async def hub_url(runtime: Runtime) -> AsyncIterator[str]:
    """The hub, listening on a port of this machine."""
    async with serving(runtime, host="127.0.0.1", port=0) as (_, port):
        yield f"http://127.0.0.1:{port}"


async def add_user(runtime: Runtime, login: str, roles: Iterable[Role]) -> User:
    """Somebody who may log in with PASSWORD."""
    password_hash = await hash_password(PASSWORD)
    return await runtime.db.write(
        lambda tx: users.create(
            tx, login=login, name=login.title(), roles=roles, password_hash=password_hash, now=runtime.clock.now(),
            actor="test",
        )
    )  # fmt: skip


@dataclass
class Visitor:
    """A browser without a screen: cookies, the page's CSRF token, no redirects followed."""

    url: str
    http: aiohttp.ClientSession
    csrf: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def log_in(self, login: str, password: str = PASSWORD) -> int:
        """Log in; the status (303 = inside)."""
        async with self.http.post(
            self.url + "/login", data={"login": login, "password": password}, allow_redirects=False
        ) as answer:
            status = answer.status
        if status == 303:
            async with self.http.get(self.url + "/desk/profile") as page:
                found = re.search(r'name="csrf-token" content="([^"]+)"', await page.text())
                self.csrf = found.group(1) if found else ""
        return status

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """One request; status and parsed JSON or text."""
        headers = {"Accept": "application/json", "X-CSRF": self.csrf, **self.headers, **more.pop("headers", {})}
        async with self.http.request(method, self.url + path, headers=headers, allow_redirects=False, **more) as answer:
            text = await answer.text()
            told = await answer.json(content_type=None) if "json" in answer.content_type and text else text
            return answer.status, told


@pytest.fixture
async def visitor(hub_url: str) -> AsyncIterator[Visitor]:
    """Nobody yet: log in first."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        yield Visitor(hub_url, http)
