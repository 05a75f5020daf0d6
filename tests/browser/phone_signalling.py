"""Twilio's softphone signalling, played on this machine for the real Voice JS SDK.

A TLS server on loopback; Chromium is started with a resolver rule that sends Twilio's host names here, so the SDK opens
a real WebSocket to its real address, under the page's real content security policy. The far end of each call is a
second page with an RTCPeerConnection of its own. Message shapes: SDK 2.18.5, protocol version 1.6, read 2026-11-21.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

from aiohttp import WSMsgType, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from playwright.async_api import Browser, Page

# The far end of a call, in a page of its own: one peer connection per call id.
FAR_END = """() => {
globalThis.ends = {};
globalThis.voice = null;
globalThis.end = async (id) => {
  const peer = new RTCPeerConnection();
  globalThis.ends[id] = peer;
  globalThis.voice ??= await navigator.mediaDevices.getUserMedia({audio: true});
  globalThis.voice.getTracks().forEach((track) => peer.addTrack(track, globalThis.voice));
  return peer;
};
globalThis.forget = () => {
  Object.values(globalThis.ends).forEach((peer) => peer.close());
  globalThis.ends = {};
};
globalThis.gathered = (peer) => new Promise((resolve) => {
  const look = () => peer.iceGatheringState === 'complete' && resolve(peer.localDescription.sdp);
  peer.addEventListener('icegatheringstatechange', look);
  look();
});
globalThis.answer = async ([id, sdp]) => {
  const peer = await globalThis.end(id);
  await peer.setRemoteDescription({type: 'offer', sdp});
  await peer.setLocalDescription();
  return globalThis.gathered(peer);
};
globalThis.offer = async (id) => {
  const peer = await globalThis.end(id);
  await peer.setLocalDescription();
  return globalThis.gathered(peer);
};
globalThis.answered = ([id, sdp]) => globalThis.ends[id].setRemoteDescription({type: 'answer', sdp});
globalThis.heard = async (id) => {
  let packets = 0;
  for (const entry of (await globalThis.ends[id].getStats()).values()) {
    if (entry.type === 'inbound-rtp') packets += entry.packetsReceived;
  }
  return packets;
};
}"""


@dataclass
class Leg:
    """One call between the SDK and the far end."""

    callsid: str
    socket: web.WebSocketResponse
    params: dict[str, str]
    over: bool = False


@dataclass
class Signalling:
    """The server; `reset` makes it fresh for a test."""

    port: int = 0
    far: Page | None = None
    legs: list[Leg] = field(default_factory=list)
    sockets: set[web.WebSocketResponse] = field(default_factory=set)
    registered: int = 0
    tokens: list[str] = field(default_factory=list)
    dtmf: list[str] = field(default_factory=list)
    refuse_tokens: int = 0
    on_invite: Callable[[Leg], Awaitable[bool]] | None = None
    on_over: Callable[[Leg], None] | None = None
    _calls: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def reset(self) -> None:
        """Forget everything of the last test."""
        if self.far is not None:
            await self.far.evaluate("forget")
        self.on_invite = self.on_over = None
        self.legs, self.tokens, self.dtmf, self.registered, self.refuse_tokens = [], [], [], 0, 0

    @property
    def live(self) -> list[Leg]:
        """The legs that are up now."""
        return [leg for leg in self.legs if not leg.over]

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """One SDK's WebSocket at /signal."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.add(socket)
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    continue
                if not message.data.strip():
                    await socket.send_str("\n")
                    continue
                # A call is answered beside the reading, as a hang-up may come while the far end still thinks.
                task = asyncio.create_task(self._take(socket, json.loads(message.data)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            self.sockets.discard(socket)
            for leg in self.live:
                if leg.socket is socket:
                    self._over(leg)
        return socket

    async def _take(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        payload = message.get("payload") or {}
        match message["type"]:
            case "listen":
                self.tokens.append(payload["token"])
                if self.refuse_tokens > 0:
                    self.refuse_tokens -= 1
                    await _send(socket, "error", error={"code": 31204, "message": "JWT is invalid"})
                    return
                token = {"identity": "agent_1", "ttl": 3600}
                await _send(socket, "connected", gateway="gw", region="us1", home="us1", edge="roaming", token=token)
            case "register":
                self.registered += 1
                await _send(socket, "ready")
            case "invite":
                await self._invited(socket, payload)
            case "answer":
                assert self.far is not None
                await self.far.evaluate("answered", [payload["callsid"], payload["sdp"]])
            case "dtmf":
                self.dtmf.append(payload["dtmf"])
            case "hangup" | "reject":
                for leg in self.live:
                    if payload["callsid"] == leg.callsid:
                        self._over(leg)

    async def _invited(self, socket: web.WebSocketResponse, payload: dict[str, Any]) -> None:
        params = dict(parse_qsl(payload["twilio"].get("params", "")))
        leg = Leg(self._next_callsid(), socket, params)
        self.legs.append(leg)
        # Until the SDK learns the call's own id, it names the call by the id that it made up.
        await _send(socket, "ringing", callsid=leg.callsid)
        if self.on_invite is not None and not await self.on_invite(leg):
            leg.over = True
            await _send(socket, "hangup", callsid=leg.callsid)
            return
        assert self.far is not None, "call open_far_end first"
        sdp = await self.far.evaluate("answer", [leg.callsid, payload["sdp"]])
        if not socket.closed:
            await _send(socket, "answer", callsid=leg.callsid, sdp=sdp)

    async def ring(self, params: dict[str, str]) -> Leg:
        """Call the registered SDK, as `<Dial><Client>` would."""
        assert self.far is not None
        (socket,) = self.sockets
        leg = Leg(self._next_callsid(), socket, params)
        self.legs.append(leg)
        sdp = await self.far.evaluate("offer", leg.callsid)
        query = "&".join(f"{key}={value}" for key, value in params.items())
        parameters = {"From": "+442079460123", "To": "client:agent_1", "CallSid": leg.callsid, "Params": query}
        await _send(socket, "invite", callsid=leg.callsid, sdp=sdp, parameters=parameters)
        return leg

    async def cancel(self, leg: Leg) -> None:
        """The caller gave up before the answer."""
        leg.over = True
        await _send(leg.socket, "cancel", callsid=leg.callsid)

    async def hang_up(self, leg: Leg) -> None:
        """The provider ends the leg."""
        self._over(leg)
        await _send(leg.socket, "hangup", callsid=leg.callsid)

    async def packets(self, leg: Leg) -> int:
        """Sound packets that the far end has received so far."""
        assert self.far is not None
        return cast(int, await self.far.evaluate("heard", leg.callsid))

    def _over(self, leg: Leg) -> None:
        leg.over = True
        if self.on_over is not None:
            self.on_over(leg)

    def _next_callsid(self) -> str:
        self._calls += 1
        return f"CA{self._calls:032x}"


async def _send(socket: web.WebSocketResponse, kind: str, **payload: Any) -> None:
    await socket.send_str(json.dumps({"type": kind, "version": "1.6", "payload": payload}))


async def open_far_end(signalling: Signalling, browser: Browser) -> None:
    """The page that plays the far end of every call; it lives as long as the browser."""
    context = await browser.new_context(permissions=["microphone"])
    signalling.far = await context.new_page()
    await signalling.far.goto(f"https://127.0.0.1:{signalling.port}/far")
    await signalling.far.evaluate(FAR_END)


async def _far(_request: web.Request) -> web.Response:
    return web.Response(text='<!doctype html><link rel="icon" href="data:,">', content_type="text/html")


async def serve(signalling: Signalling) -> web.AppRunner:
    """Start the server on a free loopback port; its number is then in `signalling.port`."""
    app = web.Application()
    app.router.add_get("/signal", signalling.handle)
    app.router.add_get("/far", _far)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_own_certificate())
    await site.start()
    signalling.port = site.port
    return runner


def _own_certificate() -> ssl.SSLContext:
    """A certificate made for this run; the browser is told to accept any."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signalling.example.test")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
        file.flush()
        context.load_cert_chain(Path(file.name))
    return context
