"""Providers that count what they are given: a server speaking Twilio's Message resource, and an SMTP sink. Real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from aiohttp import web
from aiosmtpd.smtp import SMTP

SID = "AC" + "0" * 32


class CountingTwilio:
    """POST and GET /2010-04-01/Accounts/{sid}/Messages.json, as the Message resource's page shows them."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def counts(self) -> Counter[str]:
        """Messages taken, by recipient."""
        return Counter(message["to"] for message in self.messages)

    async def __aenter__(self) -> CountingTwilio:
        app = web.Application()
        app.router.add_post("/2010-04-01/Accounts/{sid}/Messages.json", self._create)
        app.router.add_get("/2010-04-01/Accounts/{sid}/Messages.json", self._list)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _create(self, request: web.Request) -> web.Response:
        form = await request.post()
        message = {
            "sid": f"SM{len(self.messages):032x}", "status": "queued", "to": str(form["To"]), "from": str(form["From"]),
            "body": str(form["Body"]), "direction": "outbound-api", "callback": str(form["StatusCallback"]),
        }  # fmt: skip
        self.messages.append(message)
        return web.json_response(self._shown(message), status=201)

    async def _list(self, request: web.Request) -> web.Response:
        found = [self._shown(one) for one in self.messages if one["to"] == request.query.get("To", one["to"])]
        page: dict[str, Any] = {
            "messages": found,
            "page": 0,
            "page_size": 50,
            "next_page_uri": None,
            "uri": str(request.rel_url),
        }
        return web.json_response(page)

    def _shown(self, message: dict[str, str]) -> dict[str, Any]:
        known = {name: message[name] for name in ("sid", "status", "to", "from", "body", "direction")}
        return {**known, "account_sid": SID, "api_version": "2010-04-01", "error_code": None, "num_segments": "1"}


class CountingMailbox:
    """An SMTP server that keeps every mail it answered 250 to; `envelopes` in order."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []
        self._server: Any = None
        self.port = 0

    @property
    def counts(self) -> Counter[str]:
        """Mails taken, by recipient."""
        return Counter(to for envelope in self.envelopes for to in envelope.rcpt_tos)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.envelopes.append(envelope)
        return "250 OK"

    async def __aenter__(self) -> CountingMailbox:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: SMTP(self, enable_SMTPUTF8=True), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
