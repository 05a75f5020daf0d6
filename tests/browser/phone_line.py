"""The sandbox line's server, as small as its protocol allows (the whole of it stands in hub/sandbox/line.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import WSMsgType, web

from tests.browser.phone_rig import PHONE, SECRET

OUTSIDE_PAGE = '<!doctype html><title>outside</title><script type="module" src="/outside.js"></script>'
OUTSIDE_SCRIPT = """
import { openMicrophone, PeerSound } from "/static/phone/peer_sound.js";
globalThis.join = (call) => {
  const socket = new WebSocket(`ws://${location.host}/far?call=${call}`);
  globalThis.microphone = openMicrophone();
  const sound = new PeerSound((data) => socket.send(JSON.stringify({type: "signal", data})), globalThis.microphone);
  sound.on("state", (state) => { globalThis.soundState = state; });
  socket.addEventListener("message", ({data}) => sound.receive(JSON.parse(data).data));
  socket.addEventListener("open", () => sound.start());
  globalThis.sound = sound;
};
globalThis.ready = true;
"""


@dataclass
class LineCall:
    """One call of the agent's line."""

    id: str
    params: dict[str, str]
    muted: bool = False
    digits: str = ""
    over: bool = False
    answered: bool = False
    far: web.WebSocketResponse | None = None


@dataclass
class LineServer:
    """The twin's end of the line: takes what the agent's browser says, and says what a twin would."""

    url: str = ""
    agent: web.WebSocketResponse | None = None
    calls: list[LineCall] = field(default_factory=list)
    registered: int = 0
    refuse_tokens: int = 0
    resumed: list[str] = field(default_factory=list)
    may_join: Callable[[dict[str, str]], bool] = lambda params: True

    @property
    def live(self) -> list[LineCall]:
        """The calls that are up or ringing."""
        return [call for call in self.calls if not call.over]

    def app(self) -> web.Application:
        """The line, the far end's socket and the far end's page."""
        app = web.Application()
        app.router.add_get("/line", self._line)
        app.router.add_get("/far", self._far)
        app.router.add_get("/outside", self._page)
        app.router.add_get("/outside.js", self._script)
        app.router.add_static("/static/phone", PHONE)
        return app

    async def ring(self, params: dict[str, str]) -> LineCall:
        """Someone outside calls the agent."""
        call = self._new(params)
        numbers = {"from": params.pop("From"), "to": "client:agent_1"}
        await self.say("incoming", call, params=params, **numbers)
        return call

    async def say(self, kind: str, call: LineCall, **more: Any) -> None:
        """One message to the agent's browser."""
        assert self.agent is not None
        await self.agent.send_json({"type": kind, "call": call.id, **more})

    async def hang_up(self, call: LineCall, *, reason: str = "remote") -> None:
        """The other side ends the call."""
        call.over = True
        await self.say("disconnected", call, reason=reason)

    async def drop(self) -> None:
        """The socket is lost; the calls are not."""
        assert self.agent is not None
        await self.agent.close(code=1012)

    def _new(self, params: dict[str, str]) -> LineCall:
        call = LineCall(f"line-call-{len(self.calls) + 1}", params)
        self.calls.append(call)
        return call

    async def _line(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if self.refuse_tokens > 0:
            self.refuse_tokens -= 1
            await socket.send_json({"type": "error", "code": 20104, "message": "the access token has expired"})
            await socket.close(code=4001)
            return socket
        grants = jwt.decode(request.query["token"], SECRET, algorithms=["HS256"])["grants"]
        assert grants["identity"] == "agent_1"
        self.agent = socket
        self.registered += 1
        await socket.send_json({"type": "registered"})
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await self._take(json.loads(message.data))
        return socket

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "connect":
            call = self._new(message["params"])
            await self.say("ringing", call, ref=message["ref"])
            if self.may_join(call.params):
                call.answered = True
                await self.say("accepted", call)
            else:
                await self.hang_up(call)
            return
        call = next(one for one in self.calls if one.id == message["call"])
        match message["type"]:
            case "accept":
                call.answered = True
                await self.say("accepted", call)
            case "hangup" | "reject":
                call.over = True
            case "mute":
                call.muted = message["muted"]
            case "digits":
                call.digits += message["digits"]
            case "signal":
                if call.far is not None:
                    await call.far.send_json({"type": "signal", "data": message["data"]})
            case "resume":
                self.resumed.append(call.id)
                if call.over:
                    await self.say("error", call, code=31005, message="no such call")
                else:
                    await self.say("accepted", call)

    async def _far(self, request: web.Request) -> web.WebSocketResponse:
        (call,) = [one for one in self.calls if one.id == request.query["call"]]
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        call.far = socket
        await self.say("peers", call, peers=[{"call": "far", "address": "+12025550123"}])
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await self.say("signal", call, **{"from": "far"}, data=json.loads(message.data)["data"])
        call.far = None
        return socket

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=OUTSIDE_PAGE, content_type="text/html")

    async def _script(self, _request: web.Request) -> web.Response:
        return web.Response(text=OUTSIDE_SCRIPT, content_type="text/javascript")


async def serve(line: LineServer) -> web.AppRunner:
    """Start on a free loopback port of its own; the line's address is then in `line.url`."""
    runner = web.AppRunner(line.app(), shutdown_timeout=0.2, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    line.url = f"ws://127.0.0.1:{site.port}/line"
    return runner
