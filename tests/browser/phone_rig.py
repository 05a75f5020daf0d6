"""A small desk for the browser phone: the pages, the JSON answers and the event stream that the phone expects.

It plays the hub's part with the least that is true: offers that are accepted with a nonce, one call that belongs to the
agent as long as the customer is there, parameters that bring a lost tab back into it. No database, no routing.
"""

from __future__ import annotations

import asyncio
import html
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from twilio.jwt.access_token import AccessToken
from twilio.jwt.access_token.grants import VoiceGrant

ROOT = Path(__file__).parents[2]
PHONE = ROOT / "hub" / "desktop" / "static" / "phone"
VENDOR = {
    "twilio.min.js": ROOT / "node_modules" / "@twilio" / "voice-sdk" / "dist" / "twilio.min.js",
    "htmx.min.js": ROOT / "node_modules" / "htmx.org" / "dist" / "htmx.min.js",
}
# What the SDK reaches: signalling, also at another edge after a reconnect, and Voice Insights at the account's home.
TWILIO_SOURCES = "wss://*.twilio.com https://eventgw.twilio.com https://eventgw.us1.twilio.com"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' {connect}; "
    "media-src 'self' blob:; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

SECRET = "a secret of the rig, long enough for SHA-256"

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>
<meta name="hub-phone" content="{config}"><meta name="csrf-token" content="token-of-the-rig">
<meta name="htmx-config" content='{{"includeIndicatorCSS": false}}'>
<link rel="icon" href="data:,"><script src="/static/vendor/htmx.min.js" defer></script>
<script type="module" src="/static/phone/start.js"></script></head><body>
<nav>{links}</nav>
<main id="page"><h1>{name}</h1><button data-phone-do="dial" data-to="+12025550123">Call +1 202 555 0123</button></main>
<section id="offer"><button id="accept" data-phone-do="accept" data-offer="offer-1">Accept</button></section>
<footer id="bar"><span id="customer" data-phone-text="customer.name"></span>
<time data-phone-clock></time><span id="live" data-phone-show="live" hidden>in the call</span>
<span id="joining" data-phone-show="joining ringing rejoining" hidden>connecting</span>
<button id="mute" data-phone-do="mute">Mute</button><button id="hold" data-phone-do="hold">Hold</button>
<button id="key5" data-phone-do="digits" data-digits="5">5</button>
<span data-phone-show="incoming" hidden><button id="answer" data-phone-do="answer">Answer</button>
<button id="reject" data-phone-do="reject">Refuse</button></span>
<button id="hangup" data-phone-do="hangup">End</button>
<p id="refused" data-phone-message="microphone_refused" hidden>The browser does not let us use the microphone.</p>
<p id="gone" data-phone-message="offer_gone" hidden><span data-phone-detail></span></p></footer></body></html>"""


@dataclass
class Rig:
    """The desk's state, looked at and moved by the tests."""

    line: dict[str, str] = field(default_factory=lambda: {"kind": "twilio"})
    ttl_s: int = 3600
    account_sid: str = "AC" + "0" * 32
    key_sid: str = "SK" + "0" * 32
    key_secret: str = SECRET
    application_sid: str = "AP" + "0" * 32
    url: str = ""
    call: dict[str, Any] | None = None
    ringing: bool = False
    config: dict[str, Any] = field(default_factory=lambda: {"scope": "agent-1"})
    nonces: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    joins: list[dict[str, str]] = field(default_factory=list)
    streams_ever: int = 0
    event_ids: int = 0
    csrf: set[str] = field(default_factory=set)
    _streams: set[asyncio.Queue[tuple[int, dict[str, Any]]]] = field(default_factory=set)
    _kept: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    _sounded: list[dict[str, Any]] = field(default_factory=list)
    _stream_tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def sounded(self) -> list[dict[str, Any]]:
        """What browsers told of how calls sounded."""
        return self._sounded

    @property
    def streams(self) -> int:
        """Event streams that are open now."""
        return len(self._streams)

    def count(self, path: str) -> int:
        """How often this method and path was asked for."""
        return self.asked.count(path)

    def emit(self, **event: Any) -> None:
        """One event to whoever listens, kept for those who come later."""
        self.event_ids += 1
        self._kept.append((self.event_ids, event))
        for stream in self._streams:
            stream.put_nowait((self.event_ids, event))

    def joined(self, params: dict[str, str]) -> bool:
        """What the TwiML App decides: may a leg with these parameters enter the conference?"""
        if (nonce := params.get("nonce")) is None:
            return False
        if "offer" in params and self.nonces.get(params["offer"]) == nonce:
            self.call = {
                "interaction_id": f"interaction of {params['offer']}",
                "state": "connected",
                "customer": {"name": "Ana Example"},
                "since": "2026-11-21T10:00:00Z",
                "muted": False,
                "held": False,
                "rejoin_params": {"rejoin": params["offer"], "nonce": nonce},
            }
        elif self.call is None or self.call["rejoin_params"] != params:
            return False
        self.joins.append(params)
        self.emit(type="call", id=self.call["interaction_id"])
        return True

    def customer_leaves(self) -> None:
        """The call is over for the server; the provider then ends the agent's leg."""
        self.call = None
        self.emit(type="call", id="gone")

    def drop_streams(self) -> None:
        """End every open event stream, as a restart of the server does."""
        for task in self._stream_tasks:
            task.cancel()

    # ---- HTTP

    def app(self) -> web.Application:
        """The desk's web application."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/page/{name}", self._page)
        app.router.add_get("/static/vendor/{name}", self._vendor)
        app.router.add_static("/static/phone", PHONE)
        app.router.add_get("/desk/phone/token", self._token)
        app.router.add_get("/desk/phone/state", self._state)
        app.router.add_get("/desk/events", self._events)
        app.router.add_post("/desk/offers/{offer}/accept", self._accept)
        app.router.add_post("/desk/calls", self._dial)
        app.router.add_post("/desk/calls/{call}/{action}", self._act)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if request.method == "POST":
            self.csrf.add(request.headers.get("X-CSRF", ""))
        response: web.StreamResponse = await handler(request)
        if not response.prepared:
            connect = TWILIO_SOURCES if self.line["kind"] == "twilio" else self.line["url"].rpartition("/")[0]
            response.headers["Content-Security-Policy"] = POLICY.format(connect=connect)
        return response

    async def _page(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        links = "".join(
            f'<a id="to-{page}" href="/page/{page}" hx-get="/page/{page}" hx-target="#page" hx-select="#page" '
            f'hx-swap="outerHTML" hx-push-url="true">{page}</a> '
            for page in ("work", "people", "lists")
        )
        config = html.escape(json.dumps(self.config), quote=True)
        return web.Response(text=PAGE.format(name=name, links=links, config=config), content_type="text/html")

    async def _vendor(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(VENDOR[request.match_info["name"]])

    async def _token(self, _request: web.Request) -> web.Response:
        token = AccessToken(self.account_sid, self.key_sid, self.key_secret, identity="agent_1", ttl=self.ttl_s)
        token.add_grant(VoiceGrant(outgoing_application_sid=self.application_sid, incoming_allow=True))
        grant = {"token": token.to_jwt(), "line": self.line, "identity": "agent_1", "ttl_s": self.ttl_s}
        return web.json_response(grant)

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response({"call": self.call, "ringing": self.ringing})

    async def _accept(self, request: web.Request) -> web.Response:
        offer = request.match_info["offer"]
        if offer == "offer-gone":
            problem = {"code": "offer_gone", "detail": "A colleague was faster."}
            return web.json_response(problem, status=409, content_type="application/problem+json")
        nonce = self.nonces.setdefault(offer, secrets.token_urlsafe(16))
        return web.json_response({"nonce": nonce, "connect": {"offer": offer, "nonce": nonce}})

    async def _dial(self, request: web.Request) -> web.Response:
        to = (await request.json())["to"]
        nonce = self.nonces.setdefault(f"dial {to}", secrets.token_urlsafe(16))
        return web.json_response({"connect": {"offer": f"dial {to}", "nonce": nonce}})

    async def _act(self, request: web.Request) -> web.Response:
        if request.match_info["action"] == "quality":  # told when the call is over
            self._sounded.append(await request.json())
            return web.json_response({})
        assert self.call is not None
        assert request.match_info["call"] == self.call["interaction_id"]
        if (action := request.match_info["action"]) == "end":
            self.customer_leaves()
        else:
            name = {"hold": "held", "mute": "muted"}[action]
            self.call[name] = (await request.json())[name]
        return web.json_response({})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        after = int(request.headers.get("Last-Event-ID") or request.query.get("after") or self.event_ids)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        self.streams_ever += 1
        stream: asyncio.Queue[tuple[int, dict[str, Any]]] = asyncio.Queue()
        for kept in self._kept:
            if kept[0] > after:
                stream.put_nowait(kept)
        self._streams.add(stream)
        task = asyncio.current_task()
        assert task is not None
        self._stream_tasks.add(task)
        try:
            await response.write(f'id: {after}\ndata: {{"type": "hello", "beat_s": 1}}\n\n'.encode())
            while True:
                try:
                    number, event = await asyncio.wait_for(stream.get(), 1)
                    await response.write(f"id: {number}\ndata: {json.dumps(event)}\n\n".encode())
                except TimeoutError:
                    await response.write(b'data: {"type": "beat"}\n\n')
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._streams.discard(stream)
            self._stream_tasks.discard(task)
        return response


async def serve(rig: Rig) -> web.AppRunner:
    """Start the desk on a free loopback port; its address is then in `rig.url`."""
    runner = web.AppRunner(rig.app(), shutdown_timeout=0.2, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    rig.url = f"http://127.0.0.1:{site.port}"
    return runner
