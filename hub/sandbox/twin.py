"""One sandbox, wired together, started and stopped: `running_sandbox(config)` for tests, `serve` for a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web

from hub.sandbox import page, rest_account, rest_calls, rest_conferences, rest_messages, rest_queues, rest_recordings
from hub.sandbox.calls import Leg, Legs
from hub.sandbox.clock import Clock
from hub.sandbox.conferences import Rooms
from hub.sandbox.config import SandboxConfig
from hub.sandbox.dialing import dial_verb
from hub.sandbox.imap import ImapServer
from hub.sandbox.line import Lines
from hub.sandbox.machine import Exchange
from hub.sandbox.mailstore import MailStore
from hub.sandbox.messages import Texts
from hub.sandbox.outside import Outside, guard
from hub.sandbox.outside_mail import OutsideMail
from hub.sandbox.placing import dial_in
from hub.sandbox.queues import Queues
from hub.sandbox.smtp import PostOffice, SmtpServer
from hub.sandbox.state import TwinFault
from hub.sandbox.verbs import VERBS
from hub.sandbox.world import World


def build_exchange(world: World) -> Exchange:
    """The telephone exchange: all verbs, all nouns."""
    exchange = Exchange(world, Legs(world), Rooms(world), Queues(world), {**VERBS, "Dial": dial_verb})

    def call_in(caller: Leg) -> None:
        """A call to one of the account's own numbers comes in there; the caller hears it when that side answers."""
        inner = dial_in(exchange, from_=caller.call.from_, to=caller.call.to)

        async def follow() -> None:
            waits = {asyncio.create_task(inner.answered.wait()), asyncio.create_task(inner.ended.wait())}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()
            if not caller.pickup.done():
                caller.pickup.set_result("answered" if inner.answered.is_set() else "busy")

        caller.spawn(follow())

    exchange.call_in = call_in
    return exchange


class Sandbox:
    """A running sandbox. `base_url` is Twilio's API origin and the outside page; `twin_faults` should stay empty."""

    def __init__(self, config: SandboxConfig, *, clock: Clock) -> None:
        self.config = config
        self.world = World(config, clock=clock)
        self.exchange = build_exchange(self.world)
        self.texts = Texts(self.world)
        self.lines = Lines(self.exchange)
        self.outside = Outside(self.exchange, self.texts, self.lines)
        self.store = MailStore(config.data / "mail", clock)
        self.imap = ImapServer(config.mailbox, config.data / "imap")
        self.office = PostOffice(self.world, self.store, self.imap)
        self.smtp = SmtpServer(self.office, config.mailbox.user, config.mailbox.password)
        self.outside_mail = OutsideMail(self.world, self.office, self.store)
        self.base_url = ""
        self.smtp_url = ""
        self.imap_url = ""
        self._runner: web.AppRunner | None = None
        self._client: aiohttp.ClientSession | None = None

    def app(self) -> web.Application:
        app = web.Application(middlewares=[guard], client_max_size=32 * 1024 * 1024)
        app.add_routes(rest_calls.routes(self.exchange))
        app.add_routes(rest_recordings.routes(self.exchange))
        app.add_routes(rest_conferences.routes(self.exchange))
        app.add_routes(rest_queues.routes(self.exchange))
        app.add_routes(rest_messages.routes(self.exchange, self.texts))
        app.add_routes(rest_account.routes(self.exchange))
        app.add_routes(self.outside.routes())
        app.add_routes(self.outside_mail.routes())
        app.add_routes(page.routes(self.store))
        app.add_routes([web.get("/line", self.lines.handle), web.get("/healthz", self._health)])
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "twin_faults": len(self.world.twin_faults)})

    async def start(self) -> None:
        config = self.config
        config.data.mkdir(parents=True, exist_ok=True)
        self._forget_ports()
        self._runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, config.host, config.port)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://{config.host}:{port}"
        self.world.base_url = self.base_url
        self.store.load()
        smtp = await self.smtp.start(config.host, config.smtp_port)
        imap = await self.imap.start(config.host, config.imap_port)
        login = f"{quote(config.mailbox.user, safe='')}:{quote(config.mailbox.password, safe='')}"
        self.smtp_url = f"smtp://{login}@{config.host}:{smtp}"
        self.imap_url = f"imap://{login}@{config.host}:{imap}"
        if config.ports_file:
            self._write_ports({"http": port, "smtp": smtp, "imap": imap})

    def _forget_ports(self) -> None:
        """A former run's ports must not be read as ours."""
        if self.config.ports_file:
            Path(self.config.ports_file).unlink(missing_ok=True)

    def _write_ports(self, ports: dict[str, int]) -> None:
        path = Path(self.config.ports_file)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(ports), "utf-8")
        os.replace(part, path)

    async def stop(self) -> None:
        await self.smtp.stop()
        await self.imap.stop()
        await self.exchange.legs.close()
        await self.texts.close()
        await self.world.callbacks.close()
        if self._client is not None:
            await self._client.close()
        if self._runner is not None:
            await self._runner.cleanup()

    # --- for tests in the same process -------------------------------------------------------------------------------

    @property
    def twin_faults(self) -> list[TwinFault]:
        return self.world.twin_faults

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Use the outside API; gives the parsed JSON, raises on an error answer."""
        if self._client is None:
            self._client = aiohttp.ClientSession()
        async with self._client.request(method, self.base_url + path, json=body) as response:
            answer = await response.json()
            if response.status >= 400:
                raise RuntimeError(f"{method} {path}: {response.status} {answer.get('error', answer)}")
            return answer

    async def dial(self, from_: str, to: str) -> str:
        """A person calls the hub; gives the call's SID."""
        return str((await self.request("POST", "/outside/calls", {"from": from_, "to": to}))["sid"])

    async def act(self, sid: str, what: str, **body: Any) -> Any:
        """`answer`, `refuse`, `hangup`, `digits`, `speech` on a call."""
        return await self.request("POST", f"/outside/calls/{sid}/{what}", body)

    async def text(self, from_: str, to: str, body: str) -> str:
        """A person texts the hub; gives the message's SID."""
        return str((await self.request("POST", "/outside/messages", {"from": from_, "to": to, "body": body}))["sid"])

    async def ringing(self, number: str, *, within_s: float = 5.0) -> str:
        """The SID of the call that rings at this number or client, as soon as there is one."""
        deadline = self.world.clock.monotonic() + within_s
        while self.world.clock.monotonic() < deadline:
            for leg in self.exchange.legs.live.values():
                if leg.call.to == number and leg.call.status == "ringing" and leg.call.direction != "inbound":
                    return leg.call.sid
            await asyncio.sleep(0.01)
        raise TimeoutError(f"no call rings at {number}")

    async def over(self, sid: str, *, within_s: float = 10.0) -> str:
        """Wait until a call is over and its callbacks are out; gives its status."""
        leg = self.exchange.legs.live.get(sid)
        if leg is not None:
            async with asyncio.timeout(2 * within_s):
                await leg.ended.wait()
                await leg.courier.idle()
        return self.world.calls[sid].status


@contextlib.asynccontextmanager
async def running_sandbox(config: SandboxConfig, *, clock: Clock | None = None) -> AsyncIterator[Sandbox]:
    """A sandbox in this process, on free ports where the configuration says 0."""
    sandbox = Sandbox(config, clock=clock or Clock())
    try:
        await sandbox.start()
        yield sandbox
    finally:
        await sandbox.stop()


async def serve(config: SandboxConfig) -> None:
    """Run until SIGTERM or SIGINT."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    async with running_sandbox(config):
        await done.wait()
