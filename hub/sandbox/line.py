"""The browser's telephone line: a WebSocket that stands for the provider's signalling.

`GET /line?token=JWT` with a Twilio access token (HS256, signed with the API key's secret, voice grant). Then JSON:

client → twin
    {"type": "connect", "params": {…}, "ref": "x"}      call the TwiML App of the grant, params become form fields
    {"type": "accept" | "reject" | "ignore", "call"}    an incoming call
    {"type": "hangup", "call"}
    {"type": "mute", "call", "muted": true}             the browser's own microphone; echoed, no event at the provider
    {"type": "digits", "call", "digits": "12#"}
    {"type": "resume", "call"}                          take over a call of this identity after a reload
    {"type": "signal", "call", "data": …, "to"?}        relayed untouched to those it is connected with (WebRTC)
    {"type": "token", "token"}                          a fresh token for the same identity
    {"type": "ping"}

twin → client
    {"type": "registered", "identity", "calls": [{"call", "status"}]}   calls: those of this identity without a line
    {"type": "ringing", "call", "ref"}  {"type": "accepted", "call", "ref"}
    {"type": "disconnected", "call", "reason", "status"}
    {"type": "incoming", "call", "from", "to", "params": {…}}
    {"type": "mute", "call", "muted"}  {"type": "signal", "call", "from", "data"}
    {"type": "peers", "call", "peers": [{"call", "address"}], "hold": false}
    {"type": "heard", "call", "kind", "text"}           what the provider plays on this leg
    {"type": "error", "call"?, "ref"?, "code", "message"}   {"type": "pong"}

Sound is made by the pages: each end says {hello: NAME, answer: false}, answers a hello that is no answer with its own,
and the greater name offers; then {description, to} and {candidate, to}. The twin carries these unread.

A socket that drops does not end its calls at once: they live on for `line_grace_s` and can be resumed.
Error codes: 20101 invalid token, 20104 expired, 31002 no such application, 31005 no such call, 31000 anything else.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jwt
from aiohttp import WSMsgType, web

from hub.sandbox.calls import Hangup, Leg
from hub.sandbox.machine import Exchange
from hub.sandbox.placing import NoSuchApplication, dial_from_client

INVALID_TOKEN, EXPIRED_TOKEN = 20101, 20104


class BadToken(Exception):
    """The access token was refused. `code` is Twilio's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Line:
    """One socket of one identity."""

    def __init__(self, socket: web.WebSocketResponse, identity: str, application_sid: str, *, incoming: bool) -> None:
        self.socket = socket
        self.identity = identity
        self.application_sid = application_sid
        self.incoming = incoming
        self.out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def send(self, **message: Any) -> None:
        self.out.put_nowait(message)

    async def pump(self) -> None:
        while True:
            message = await self.out.get()
            if self.socket.closed:
                return
            await self.socket.send_str(json.dumps(message))


class Lines:
    """All registered lines, and which of them holds which call."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.lines: set[Line] = set()
        self.holder: dict[str, Line] = {}
        self.refs: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._heard: dict[str, int] = {}
        self._peers: dict[str, str] = {}
        self._ringing: dict[str, set[Line]] = {}
        self._grace: dict[str, asyncio.TimerHandle] = {}
        exchange.legs.watch(self.on_leg)
        exchange.reachable = self.reachable

    def reachable(self, address: str) -> bool:
        """Whether any line of this `client:identity` takes calls."""
        return any(line.incoming and f"client:{line.identity}" == address for line in self.lines)

    def read_token(self, token: str) -> tuple[str, str, bool]:
        """Identity, application and whether calls may come in. Raises BadToken."""
        config = self.exchange.world.config
        try:
            claims = jwt.decode(token, config.api_key_secret, algorithms=["HS256"], issuer=config.api_key_sid)
        except jwt.ExpiredSignatureError as exc:
            raise BadToken(EXPIRED_TOKEN, "the access token has expired") from exc
        except jwt.PyJWTError as exc:
            raise BadToken(INVALID_TOKEN, f"the access token is invalid: {exc}") from exc
        grants = claims.get("grants") or {}
        voice = grants.get("voice")
        if claims.get("sub") != config.account_sid or not isinstance(voice, dict) or not grants.get("identity"):
            raise BadToken(INVALID_TOKEN, "the access token lacks the account, the identity or the voice grant")
        app = str((voice.get("outgoing") or {}).get("application_sid", ""))
        return str(grants["identity"]), app, bool((voice.get("incoming") or {}).get("allow"))

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=20)
        await socket.prepare(request)
        try:
            identity, app, incoming = self.read_token(request.query.get("token", ""))
        except BadToken as error:
            await socket.send_str(json.dumps({"type": "error", "code": error.code, "message": str(error)}))
            await socket.close(code=4001, message=b"token refused")
            return socket
        line = Line(socket, identity, app, incoming=incoming)
        self.lines.add(line)
        pump = asyncio.create_task(line.pump())
        orphans = [
            {"call": leg.call.sid, "status": leg.call.status}
            for leg in self.exchange.legs.live.values()
            if leg.device() == f"client:{identity}" and leg.call.sid not in self.holder and leg.call.status != "ringing"
        ]
        line.send(type="registered", identity=identity, calls=orphans)
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self._take(line, message.data)
        finally:
            pump.cancel()
            self._drop(line)
        return socket

    def _drop(self, line: Line) -> None:
        """The socket is gone: its calls wait for a new one, then they are hung up."""
        self.lines.discard(line)
        loop = asyncio.get_running_loop()
        for sid in [sid for sid, holder in self.holder.items() if holder is line]:
            del self.holder[sid]
            leg = self.exchange.legs.live.get(sid)
            if leg is not None:
                grace = self.exchange.world.config.line_grace_s
                self._grace[sid] = loop.call_later(grace, leg.interrupt, Hangup("line"))

    def _take(self, line: Line, raw: str) -> None:
        try:
            message = json.loads(raw)
            kind = message["type"]
        except (ValueError, KeyError, TypeError):
            line.send(type="error", code=31000, message="not a JSON message with a type")
            return
        if kind == "ping":
            line.send(type="pong")
        elif kind == "connect":
            self._connect(line, message)
        elif kind == "token":
            self._renew(line, str(message.get("token", "")))
        else:
            self._for_call(line, str(kind), message)

    def _renew(self, line: Line, token: str) -> None:
        try:
            identity, line.application_sid, line.incoming = self.read_token(token)
        except BadToken as error:
            line.send(type="error", code=error.code, message=str(error))
            return
        if identity != line.identity:
            line.send(type="error", code=INVALID_TOKEN, message="a fresh token must be for the same identity")

    def _connect(self, line: Line, message: dict[str, Any]) -> None:
        ref = str(message.get("ref", ""))
        params = {str(key): str(value) for key, value in (message.get("params") or {}).items()}
        try:
            leg = dial_from_client(
                self.exchange, identity=line.identity, application_sid=line.application_sid, params=params
            )
        except NoSuchApplication:
            line.send(type="error", ref=ref, code=31002, message="the application of the token does not exist")
            return
        self.holder[leg.call.sid] = line
        self.refs[leg.call.sid] = ref
        line.send(type="ringing", call=leg.call.sid, ref=ref)

    def _for_call(self, line: Line, kind: str, message: dict[str, Any]) -> None:
        sid = str(message.get("call", ""))
        leg = self.exchange.legs.live.get(sid)
        if leg is None or leg.device() != f"client:{line.identity}":
            line.send(type="error", call=sid, code=31005, message="no such call")
            return
        if kind == "accept":
            self._accept(line, leg)
        elif kind == "reject":
            if not leg.pickup.done():
                leg.pickup.set_result("busy")
        elif kind == "ignore":
            self._ringing.get(sid, set()).discard(line)
        elif kind == "resume":
            self._resume(line, leg)
        elif self.holder.get(sid) is not line:
            line.send(type="error", call=sid, code=31005, message="this call is on another line")
        elif kind == "hangup":
            leg.interrupt(Hangup("caller"))
        elif kind == "mute":
            line.send(type="mute", call=sid, muted=bool(message.get("muted")))
        elif kind == "digits":
            leg.type_("digits", str(message.get("digits", "")))
        elif kind == "signal":
            self.relay(leg, message.get("data"), str(message.get("to", "")))
        else:
            line.send(type="error", call=sid, code=31000, message=f"unknown message {kind!r}")

    def _accept(self, line: Line, leg: Leg) -> None:
        sid = leg.call.sid
        if leg.pickup.done():
            line.send(type="error", call=sid, code=31005, message="the call is not ringing any more")
            return
        self.holder[sid] = line
        leg.pickup.set_result("answered")
        for other in self._ringing.pop(sid, set()):
            if other is not line:
                other.send(type="disconnected", call=sid, reason="answered elsewhere", status="completed")

    def _resume(self, line: Line, leg: Leg) -> None:
        sid = leg.call.sid
        if timer := self._grace.pop(sid, None):
            timer.cancel()
        former = self.holder.get(sid)
        if former is not None and former is not line:
            former.send(type="disconnected", call=sid, reason="taken over by another line", status=leg.call.status)
        self.holder[sid] = line
        self._peers.pop(sid, None)
        line.send(type="accepted", call=sid, ref=self.refs.get(sid, ""), resumed=True)
        self._send_peers(line, leg)

    # --- news from the legs ------------------------------------------------------------------------------------------

    def on_leg(self, leg: Leg, what: str) -> None:
        if not leg.is_client():
            return
        sid = leg.call.sid
        if what == "closed":
            self._closed(leg)
            return
        rings = leg.call.direction != "inbound" and leg.call.status == "ringing" and not leg.pickup.done()
        if rings and sid not in self._ringing:
            self._ring(leg)
        line = self.holder.get(sid)
        if line is None:
            return
        if leg.call.status == "in-progress" and self._told.get(sid) != "accepted":
            self._told[sid] = "accepted"
            line.send(type="accepted", call=sid, ref=self.refs.get(sid, ""))
        for item in leg.call.heard[self._heard.get(sid, 0) :]:
            line.send(type="heard", call=sid, kind=item["kind"], text=item["text"])
        self._heard[sid] = len(leg.call.heard)
        self._send_peers(line, leg)

    def _ring(self, leg: Leg) -> None:
        ringing = {line for line in self.lines if line.incoming and leg.device() == f"client:{line.identity}"}
        self._ringing[leg.call.sid] = ringing
        for line in ringing:
            line.send(
                type="incoming", call=leg.call.sid, **{"from": leg.call.from_}, to=leg.call.to, params=leg.ringing_to
            )

    def _closed(self, leg: Leg) -> None:
        sid = leg.call.sid
        for line in self._ringing.pop(sid, set()):
            if self.holder.get(sid) is not line:
                line.send(type="disconnected", call=sid, reason="caller left", status=leg.call.status)
        if timer := self._grace.pop(sid, None):
            timer.cancel()
        held_by = self.holder.pop(sid, None)
        if held_by is not None:
            held_by.send(type="disconnected", call=sid, reason="ended", status=leg.call.status)
        for memory in (self.refs, self._told, self._peers):
            memory.pop(sid, None)
        self._heard.pop(sid, None)

    def _send_peers(self, line: Line, leg: Leg) -> None:
        others = [{"call": other.call.sid, "address": other.device()} for other in leg.company()]
        packed = json.dumps(others)
        if self._peers.get(leg.call.sid, "[]") != packed:
            self._peers[leg.call.sid] = packed
            line.send(type="peers", call=leg.call.sid, peers=others)

    def relay(self, leg: Leg, data: object, to: str = "") -> None:
        """Hand data to everybody this leg is connected with (or to one of them), wherever his telephone is."""
        for other in leg.company():
            sid = other.call.sid
            if to and sid != to:
                continue
            line = self.holder.get(sid)
            if line is not None:
                line.send(type="signal", call=sid, **{"from": leg.call.sid}, data=data)
            else:
                self.exchange.world.tell("signal", sid=sid, sender=leg.call.sid, data=data)
