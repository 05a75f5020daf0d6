"""A sandbox in this process, and a small hub that answers its callbacks from a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

import aiohttp
import pytest
from aiohttp import web

from hub.sandbox.config import MailboxConfig, NumberConfig, Person, SandboxConfig
from hub.sandbox.twin import Sandbox, running_sandbox

HUB_NUMBER = "+442079460000"
ANA, BEN = "+12025550101", "+12025550102"
Reply = str | Callable[[dict[str, str]], str]


@dataclass
class Seen:
    """One request that the script hub got."""

    path: str
    method: str
    params: dict[str, str]
    headers: dict[str, str]
    body: str
    query: str


@dataclass
class ScriptHub:
    """Answers each path with a prepared TwiML document (or what a function makes of the parameters)."""

    url: str = ""
    replies: dict[str, Reply] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def says(self, path: str, reply: Reply) -> None:
        self.replies[path] = reply

    async def handle(self, request: web.Request) -> web.Response:
        body = (await request.read()).decode()
        params = dict(parse_qsl(body or request.query_string, keep_blank_values=True))
        self.seen.append(
            Seen(request.path, request.method, params, dict(request.headers), body, request.rel_url.raw_query_string)
        )
        self.arrived.set()
        if request.path in self.held:
            await self.held[request.path].wait()
        planned = self.statuses.get(request.path)
        if planned and (status := planned.pop(0)) != 200:
            return web.Response(status=status, text="planned")
        reply = self.replies.get(request.path)
        if reply is None:
            return web.Response(status=204)
        text = reply if isinstance(reply, str) else reply(params)
        return web.Response(text=f"<Response>{text}</Response>", content_type="text/xml")

    def at(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    async def gets(self, path: str, count: int = 1, *, within_s: float = 60.0, **params: str) -> Seen:
        """Wait for the count-th request to a path whose parameters hold these values."""
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            found = [
                seen for seen in self.at(path) if all(seen.params.get(key) == value for key, value in params.items())
            ]
            if len(found) >= count:
                return found[count - 1]
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise AssertionError(f"no {path} {params}; came: {[(s.path, s.params) for s in self.seen]}")
            self.arrived.clear()
            try:
                await asyncio.wait_for(self.arrived.wait(), left)
            except TimeoutError:
                continue


@pytest.fixture
async def hub() -> AsyncIterator[ScriptHub]:
    script = ScriptHub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    script.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield script
    await runner.cleanup()


@pytest.fixture
def config(tmp_path: Path, hub: ScriptHub) -> SandboxConfig:
    return SandboxConfig(
        data_dir=str(tmp_path / "outside"),
        numbers=(
            NumberConfig(
                HUB_NUMBER,
                "Support",
                voice_url=f"{hub.url}/voice",
                status_callback=f"{hub.url}/status",
                sms_url=f"{hub.url}/sms",
            ),
            NumberConfig("+442079460001", "Sales"),
        ),
        mailbox=MailboxConfig("support@example.test", "support@example.test", "secret"),
        people=(Person("Ana Example", ANA, "ana@example.com"), Person("Ben Example", BEN, "ben@example.com")),
        speech_scale=0.0,
        time_scale=0.3,  # a ring of 60 s is 18: a machine that stands still for some seconds must not end it
        line_grace_s=0.2,
    )


@pytest.fixture
async def sandbox(config: SandboxConfig) -> AsyncIterator[Sandbox]:
    async with running_sandbox(config) as running:
        yield running


class Rest:
    """The provider's REST API as a client sees it: form in, JSON out, status kept."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session
        self.base = f"{sandbox.base_url}/2010-04-01/Accounts/{sandbox.config.account_sid}"
        self.auth = aiohttp.encode_basic_auth(sandbox.config.account_sid, sandbox.config.auth_token)

    async def __call__(
        self, method: str, path: str, *, expect: int = 200, auth: str | None = None, **form: str | list[str]
    ) -> dict:  # type: ignore[type-arg]
        pairs = [(key, item) for key, value in form.items() for item in (value if isinstance(value, list) else [value])]
        pairs = [(key.rstrip("_"), value) for key, value in pairs]
        data = aiohttp.FormData(pairs) if method == "POST" else None
        params = pairs if method != "POST" else None
        async with self.session.request(
            method, self.base + path, data=data, params=params, headers={"Authorization": auth or self.auth}
        ) as response:
            text = await response.text()
            assert response.status == expect, (response.status, text)
            return await response.json() if text else {}


@pytest.fixture
async def rest(sandbox: Sandbox) -> AsyncIterator[Rest]:
    async with aiohttp.ClientSession() as session:
        yield Rest(sandbox, session)
