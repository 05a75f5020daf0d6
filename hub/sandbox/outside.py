"""The outside world's control API: what the page does, and what tests do instead of a person. JSON in and out.

POST   /outside/calls                 {from, to, name?}      → 201 call; `from` is any number, `to` one of the hub's
GET    /outside/calls                                        → {calls: […]} newest first
GET    /outside/calls/{sid}                                  → call
POST   /outside/calls/{sid}/answer    {as?: "machine"}       a call that rings outside (or at a browser nobody plays)
POST   /outside/calls/{sid}/refuse                           busy
POST   /outside/calls/{sid}/hangup                           a ringing call is refused
POST   /outside/calls/{sid}/digits    {digits, wait_s?: 5}   waits until the call listens (Gather, Record) or talks
POST   /outside/calls/{sid}/speech    {text, wait_s?: 5}     typed speech, likewise
POST   /outside/calls/{sid}/signal    {data}                 relayed to the other party (WebRTC)
POST   /outside/messages              {from, to, body, media?: [{content_type, data}]} → 201; data: base 64
GET    /outside/messages?number=
GET    /outside/media/{sid}           → a file of a message
GET    /outside/state?number=                                → everything the page shows
GET    /outside/callbacks?since=&call=&kind=&url=            → {callbacks: […]} oldest first
POST   /outside/faults                {kind, next?, probability?, delay_s?, match?}   or {seed}
DELETE /outside/faults
GET    /outside/twin-faults           what the product did that Twilio would refuse; DELETE empties the list
POST   /outside/people                {people: [{name, number, email}], form_url?}
POST   /outside/settings              {speech_scale?, time_scale?, line_grace_s?}
GET    /outside/events                server-sent events: {kind, …} for every change
Mail is in `outside_mail.py`. A request is refused (403) when its Origin is not of this machine.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from hub.sandbox.calls import Hangup, Leg
from hub.sandbox.config import Person
from hub.sandbox.faults import UnknownFault
from hub.sandbox.line import Lines
from hub.sandbox.machine import Exchange
from hub.sandbox.media import LARGEST
from hub.sandbox.messages import Texts
from hub.sandbox.placing import NoSuchNumber, dial_in
from hub.sandbox.state import Call
from hub.sandbox.views import call_view, callback_view, message_view, settings_view
from hub.sandbox.world import is_e164

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BadRequest(Exception):
    """The request cannot be done; the message says why. Answered 400 (or `status`)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def _called_by_our_name(request: web.Request) -> bool:
    """Whether the Host header names this machine: a foreign name that was bound to loopback is no page of ours."""
    name = urlsplit(f"//{request.host}").hostname or ""
    socket = request.transport.get_extra_info("sockname") if request.transport else None
    return name in LOOPBACK or (socket is not None and name == socket[0])


@web.middleware
async def guard(request: web.Request, handler: Next) -> web.StreamResponse:
    """Only pages of this machine may steer the sandbox; errors of the control API become JSON."""
    origin = request.headers.get("Origin", "")
    own = origin == "" or (urlsplit(origin).hostname or "") in LOOPBACK
    if not (own and _called_by_our_name(request)):
        return web.json_response({"error": "only pages of this machine may use the sandbox"}, status=403)
    if request.method == "OPTIONS":
        response: web.StreamResponse = web.Response(status=204)
    else:
        try:
            response = await handler(request)
        except BadRequest as error:
            response = web.json_response({"error": str(error)}, status=error.status)
    if origin and not response.prepared:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Headers"] = "Content-Type"
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE, OPTIONS"
    return response


async def body_of(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request; an empty body is an empty object."""
    raw = await request.read()
    if not raw:
        return {}
    if request.content_type != "application/json":
        raise BadRequest("the body must be application/json", 415)
    try:
        body = json.loads(raw)
    except ValueError as exc:
        raise BadRequest("the body is not JSON") from exc
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


class Outside:
    """The handlers. They act as people do: on telephones, never on the provider's records."""

    def __init__(self, exchange: Exchange, texts: Texts, lines: Lines) -> None:
        self.exchange = exchange
        self.world = exchange.world
        self.texts = texts
        self.lines = lines
        self._listeners: set[asyncio.Queue[str]] = set()
        self.world.watch(self._news)

    def routes(self) -> list[web.AbstractRouteDef]:
        call = "/outside/calls/{sid}"
        return [
            web.post("/outside/calls", self.place),
            web.get("/outside/calls", self.calls),
            web.get(call, self.call),
            web.post(call + "/answer", self.answer),
            web.post(call + "/refuse", self.refuse),
            web.post(call + "/hangup", self.hangup),
            web.post(call + "/digits", self.digits),
            web.post(call + "/speech", self.speech),
            web.post(call + "/signal", self.signal),
            web.post("/outside/messages", self.text),
            web.get("/outside/messages", self.messages),
            web.get("/outside/media/{media:ME[0-9a-f]{32}}", self.media),
            web.get("/outside/state", self.state),
            web.get("/outside/callbacks", self.callbacks),
            web.post("/outside/faults", self.arm),
            web.delete("/outside/faults", self.disarm),
            web.get("/outside/faults", self.armed),
            web.get("/outside/twin-faults", self.twin_faults),
            web.delete("/outside/twin-faults", self.forgive),
            web.post("/outside/people", self.people),
            web.post("/outside/settings", self.settings),
            web.get("/outside/events", self.events),
        ]

    # --- calls -------------------------------------------------------------------------------------------------------

    async def place(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        from_, to = str(body.get("from", "")), str(body.get("to", ""))
        if not from_ or not to:
            raise BadRequest("from and to are required")
        name = str(body.get("name", "")) or (self.world.people[from_].name if from_ in self.world.people else "")
        try:
            leg = dial_in(
                self.exchange,
                from_=from_,
                to=to,
                caller_name=name.upper()[:15] or None if body.get("send_name") else None,
                forwarded_from=str(body.get("forwarded_from", "")) or None,
            )
        except NoSuchNumber as exc:
            raise BadRequest(f"{to} is not in service; the hub's numbers are in /outside/state", 404) from exc
        return web.json_response(call_view(leg.call, leg), status=201)

    async def calls(self, request: web.Request) -> web.Response:
        found = [call_view(each, self.exchange.legs.live.get(each.sid)) for each in self.world.calls.values()]
        return web.json_response({"calls": found[::-1][:200]})

    def _find(self, request: web.Request) -> tuple[Call, Leg | None]:
        call = self.world.calls.get(request.match_info["sid"])
        if call is None:
            raise BadRequest("no such call", 404)
        return call, self.exchange.legs.live.get(call.sid)

    def _live(self, request: web.Request) -> Leg:
        _, leg = self._find(request)
        if leg is None:
            raise BadRequest("the call is over", 409)
        return leg

    async def call(self, request: web.Request) -> web.Response:
        return web.json_response(call_view(*self._find(request)))

    async def answer(self, request: web.Request) -> web.Response:
        leg, body = self._live(request), await body_of(request)
        if leg.call.direction == "inbound" or leg.pickup.done():
            raise BadRequest("this call does not ring outside", 409)
        leg.pickup.set_result("machine" if body.get("as") == "machine" else "answered")
        return await self._settled(leg, lambda: leg.call.status not in ("queued", "ringing"))

    async def refuse(self, request: web.Request) -> web.Response:
        leg = self._live(request)
        if leg.call.direction == "inbound" or leg.pickup.done():
            raise BadRequest("this call does not ring outside", 409)
        leg.pickup.set_result("busy")
        return await self._settled(leg, lambda: leg.call.over)

    async def hangup(self, request: web.Request) -> web.Response:
        leg = self._live(request)
        if leg.call.direction != "inbound" and not leg.pickup.done() and leg.call.status == "ringing":
            leg.pickup.set_result("busy")
        else:
            leg.interrupt(Hangup("caller"))
        return await self._settled(leg, lambda: leg.call.over)

    async def _settled(self, leg: Leg, done: Callable[[], bool]) -> web.Response:
        """Wait a moment for what was asked, so that a test reads the outcome in the answer."""
        for _ in range(100):
            if done():
                break
            await asyncio.sleep(0.01)
        return web.json_response(call_view(leg.call, leg))

    async def digits(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        keys = str(body.get("digits", ""))
        if not keys or set(keys) - set("0123456789*#ABCDw"):
            raise BadRequest("digits must be made of 0-9, * and #")
        return await self._type(request, body, "digits", keys)

    async def speech(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        if not (words := str(body.get("text", "")).strip()):
            raise BadRequest("text is required")
        return await self._type(request, body, "speech", words)

    async def _type(self, request: web.Request, body: dict[str, Any], kind: str, text: str) -> web.Response:
        leg = self._live(request)
        deadline = self.world.clock.monotonic() + float(body.get("wait_s", 5))
        while not (leg.listening.is_set() or leg.company()):
            if leg.call.over or self.world.clock.monotonic() > deadline:
                raise BadRequest("nobody listens on this call now", 409)
            await asyncio.sleep(0.01)
        leg.type_(kind, text)
        return web.json_response(call_view(leg.call, leg))

    async def signal(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        self.lines.relay(self._live(request), body.get("data"), str(body.get("to", "")))
        return web.json_response({})

    # --- texts -------------------------------------------------------------------------------------------------------

    async def text(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        from_, to, words = str(body.get("from", "")), str(body.get("to", "")), str(body.get("body", ""))
        if self.world.number_of(to) is None:
            raise BadRequest(f"{to} is not a number of the hub", 404)
        if not is_e164(from_):
            raise BadRequest("from must be a telephone number with its plus sign")
        try:
            media = [
                (str(one["content_type"]), base64.b64decode(one["data"], validate=True))
                for one in body.get("media", [])
            ]
        except (KeyError, TypeError, ValueError) as exc:
            raise BadRequest("each of media has a content_type and its data in base 64") from exc
        if sum(len(content) for _, content in media) > LARGEST or len(media) > 10:
            raise BadRequest("at most 10 files and 5 MB together")
        message = self.texts.receive(from_=from_, to=to, body=words, media=media)
        return web.json_response(message_view(message), status=201)

    async def media(self, request: web.Request) -> web.Response:
        """A picture as the person's phone shows it."""
        found = self.world.media.get(request.match_info["media"])
        if found is None:
            raise BadRequest("no such file", 404)
        shown = found.content_type.startswith("image/")
        return web.Response(
            body=found.content,
            content_type=found.content_type if shown else "application/octet-stream",
            headers={"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"},
        )

    async def messages(self, request: web.Request) -> web.Response:
        number = request.query.get("number", "")
        found = [
            message_view(message)
            for message in self.world.messages.values()
            if not number or number in (message.from_, message.to)
        ]
        return web.json_response({"messages": found})

    # --- looking in, and trouble -------------------------------------------------------------------------------------

    async def state(self, request: web.Request) -> web.Response:
        number = request.query.get("number", "")
        calls = [
            call_view(call, self.exchange.legs.live.get(call.sid))
            for call in list(self.world.calls.values())[-300:]
            if not number or number in (call.from_, call.to)
        ]
        texts = [
            message_view(message)
            for message in list(self.world.messages.values())[-500:]
            if not number or number in (message.from_, message.to)
        ]
        rooms = [
            {
                "sid": room.sid,
                "name": room.name,
                "status": room.status,
                "participants": [
                    {"call": sid, "label": seat.label, "hold": seat.hold, "muted": seat.muted}
                    for sid, seat in room.seats.items()
                ],
            }
            for room in self.exchange.rooms.by_sid.values()
            if room.status != "completed"
        ]
        queues = [
            {"name": queue.friendly_name, "calls": [member.leg.call.sid for member in queue.members]}
            for queue in self.exchange.queues.by_sid.values()
        ]
        log = [callback_view(entry) for entry in list(self.world.callbacks.log)[-60:]]
        return web.json_response(
            {
                "settings": settings_view(self.world),
                "calls": calls[::-1],
                "messages": texts,
                "conferences": rooms,
                "queues": queues,
                "callbacks": log[::-1],
                "faults": [asdict(fault) for fault in self.world.faults.armed.values()],
                "twin_faults": self._twin_faults(),
            }
        )

    async def callbacks(self, request: web.Request) -> web.Response:
        query = request.query
        since = int(query.get("since", "0") or 0)
        found = [
            callback_view(entry)
            for entry in self.world.callbacks.log
            if entry.number > since
            and query.get("call", "") in ("", entry.params.get("CallSid", ""))
            and query.get("kind", "") in ("", entry.kind)
            and query.get("url", "") in entry.url
        ]
        return web.json_response({"callbacks": found})

    async def arm(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        if "seed" in body:
            self.world.faults.reseed(int(body["seed"]))
        if "kind" in body:
            try:
                self.world.faults.arm(
                    str(body["kind"]),
                    next_=int(body.get("next", 0)),
                    probability=float(body.get("probability", 0)),
                    delay_s=float(body.get("delay_s", 2)),
                    match=str(body.get("match", "")),
                )
            except UnknownFault as exc:
                raise BadRequest(str(exc)) from exc
        self.world.tell("faults")
        return await self.armed(request)

    async def disarm(self, request: web.Request) -> web.Response:
        self.world.faults.clear()
        self.world.tell("faults")
        return await self.armed(request)

    async def armed(self, request: web.Request) -> web.Response:
        return web.json_response({"faults": [asdict(fault) for fault in self.world.faults.armed.values()]})

    def _twin_faults(self) -> list[dict[str, Any]]:
        return [{**asdict(fault), "at": fault.at.isoformat()} for fault in self.world.twin_faults]

    async def twin_faults(self, request: web.Request) -> web.Response:
        return web.json_response({"twin_faults": self._twin_faults()})

    async def forgive(self, request: web.Request) -> web.Response:
        self.world.twin_faults.clear()
        return await self.twin_faults(request)

    async def people(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        try:
            given = [Person(**entry) for entry in body.get("people", [])]
        except TypeError as exc:
            raise BadRequest("a person has a name, a number and an email") from exc
        for person in given:
            self.world.people[person.number] = person
        if "form_url" in body:
            self.world.config = replace(self.world.config, hub_form_url=str(body["form_url"]))
        self.world.tell("people")
        return web.json_response({"people": [asdict(person) for person in self.world.people.values()]})

    async def settings(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        allowed = {"speech_scale", "time_scale", "line_grace_s"}
        if not body or set(body) - allowed:
            raise BadRequest(f"settings are {', '.join(sorted(allowed))}")
        values: dict[str, Any] = {key: float(value) for key, value in body.items()}
        self.world.config = replace(self.world.config, **values)
        return web.json_response(settings_view(self.world))

    # --- live --------------------------------------------------------------------------------------------------------

    def _news(self, kind: str, data: dict[str, Any]) -> None:
        line = json.dumps({"kind": kind, **data})
        for listener in self._listeners:
            if listener.qsize() < 1000:
                listener.put_nowait(line)

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        mine: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.add(mine)
        try:
            await response.write(b"retry: 1000\n: hello\n\n")
            while True:
                try:
                    async with asyncio.timeout(15):
                        line = await mine.get()
                except TimeoutError:
                    await response.write(b": still here\n\n")
                    continue
                await response.write(f"data: {line}\n\n".encode())
        except (ConnectionResetError, asyncio.CancelledError):
            return response
        finally:
            self._listeners.discard(mine)
