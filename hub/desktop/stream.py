"""GET /desk/events: what happened, to every open desktop, as server-sent events that can be replayed.

One reader task per process follows the Redis stream `hub:events` and hands each event to the connections here. Decides who may
hear of what, and how often; an event carries ids, and what they stand for is fetched under the reader's own rights. The form is
that of static/phone/stream.js: unnamed events with a `type`, `hello` first, a `beat`, `resync` when the last id is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

import redis.asyncio as aioredis
from aiohttp import web
from redis.exceptions import RedisError
from sqlmodel import col, select

from crm_core import users
from crm_core.db import DatabaseUnavailable
from crm_core.interactions import Interaction
from crm_core.users import Role
from hub.log import get_logger
from hub.publisher import STREAM
from hub.runtime import Runtime, redis_url
from hub.slow_clients import until_shutdown
from hub.tasks import end_tasks
from hub.web import STAFF, Route, now_of, roles_of, runtime_of, session_of, user_of
from routing.offers import Offer, OfferState
from routing.queues import Lane, QueueEntry, QueueMember

log = get_logger(__name__)

BEAT_S = 2
ASK_S = 5 * BEAT_S  # bounds a question to Redis; it may wait a beat for news
GATHER_S = 0.25  # boards hear at most four times a second
REPLAY = 1000
BACKLOG = 2000
WRITE_S = 10
RIGHTS_S = 30
SUPERVISING = frozenset({Role.SUPERVISOR, Role.ADMIN})


@dataclass(slots=True)
class Told:
    """One event as it stands in the stream, with what the desktops need to know beside it."""

    seq: int
    kind: str
    subject: str
    version: int
    user: str | None
    queue: str | None
    data: dict[str, Any]
    agent: str = ""  # of a call: whose it is
    ring: bool | None = None  # of an offer: whether it rings now


@dataclass(eq=False, slots=True)
class Listener:
    """One open connection."""

    user_id: str
    supervises: bool
    queues: frozenset[str]
    heard: asyncio.Queue[Told | None] = field(default_factory=lambda: asyncio.Queue(BACKLOG))

    def may_hear(self, event: Told) -> bool:
        """Rights: what is for one user, for those who serve or supervise a queue, or for everybody who works here."""
        if event.agent == self.user_id:
            return True
        if event.user is not None:
            return event.user == self.user_id or (self.supervises and event.kind.startswith("agent."))
        return event.queue is None or self.supervises or event.queue in self.queues

    def shown(self, event: Told) -> dict[str, Any]:
        """The event as this desktop gets it."""
        noun = event.kind.partition(".")[0]
        kind = "call" if noun == "interaction" and event.agent == self.user_id else noun
        told: dict[str, Any] = {**event.data, "type": kind, "kind": event.kind, "id": event.subject,
                                "subject": event.subject, "version": event.version, "seq": event.seq}  # fmt: skip
        if event.ring is not None:
            told["ring"] = event.ring
        return told


def parsed(fields: dict[Any, Any]) -> Told:
    """One entry of the stream."""
    raw = json.loads(fields.get(b"e", fields.get("e", b"{}")))
    return Told(
        seq=int(raw["seq"]), kind=raw["kind"], subject=raw["subject"], version=int(raw.get("version") or 0),
        user=raw.get("user"), queue=raw.get("queue"), data=raw.get("data") or {},
    )  # fmt: skip


class Fan:
    """The process's one reader of the stream, and everybody who listens to it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._client: aioredis.Redis = aioredis.Redis.from_url(
            redis_url(runtime.settings), socket_timeout=None, socket_connect_timeout=2
        )
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._last = "$"

    @property
    def listeners(self) -> int:
        """Open connections."""
        return len(self._listeners)

    async def latest(self) -> int:
        """The number of the newest event in the stream; 0 when it is empty."""
        async with asyncio.timeout(ASK_S):
            rows: Any = await self._client.xrevrange(STREAM, count=1)
        return _number(rows[0][0]) if rows else 0

    async def since(self, number: int) -> list[Told] | None:
        """Events after `number`, or None when the stream does not know that number any more."""
        async with asyncio.timeout(ASK_S):
            rows: Any = await self._client.xrange(STREAM, min=f"{number}-0", count=REPLAY + 1)
        if not rows or _number(rows[0][0]) != number or len(rows) > REPLAY:
            return None
        return [await self._with_facts(parsed(fields)) for _, fields in rows[1:]]

    @contextlib.asynccontextmanager
    async def listening(self, listener: Listener) -> Any:
        """Hear everything from now on, for as long as the block lasts."""
        self._listeners.add(listener)
        if self._task is None or self._task.done():
            self._last = f"{await self._safe_latest()}-0"
            self._task = asyncio.create_task(self._follow())
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            task, idle = self._task, not self._listeners
            if idle and task is not None:
                self._task = None
                await end_tasks([task])
                if not self._listeners:
                    await self._client.aclose()

    async def _safe_latest(self) -> int:
        try:
            return await self.latest()
        except (RedisError, OSError):
            return 0

    async def _follow(self) -> None:
        lost = False
        while True:
            try:
                async with asyncio.timeout(ASK_S):
                    found: Any = await self._client.xread({STREAM: self._last}, count=500, block=BEAT_S * 1000)
                if lost or await self._was_emptied():
                    lost = False
                    self._last = f"{await self.latest()}-0"
                    self._hand(None)
                    continue
                for _, rows in found or []:
                    for entry_id, fields in rows:
                        self._last = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
                        self._hand(await self._with_facts(parsed(fields)))
            except (RedisError, OSError) as error:
                if not lost:
                    log.warning("event stream lost", error=type(error).__name__)
                lost = True
                await asyncio.sleep(1)

    async def _was_emptied(self) -> bool:
        """Redis was flushed under us: its newest number lies below what we have read."""
        return await self.latest() < _number(self._last)

    async def _with_facts(self, event: Told) -> Told:
        try:
            async with self._runtime.db.reading(snapshot=False) as tx:
                if event.kind.startswith("offer."):
                    row = await tx.one(
                        select(Offer.state, QueueEntry.lane)
                        .join(QueueEntry, col(QueueEntry.id) == col(Offer.entry_id))
                        .where(Offer.id == event.subject)
                    )
                    event.ring = row is not None and row[0] == OfferState.OPEN and row[1] == Lane.LIVE
                elif event.kind.startswith("interaction."):
                    row = await tx.one(
                        select(Interaction.agent_id, Interaction.channel).where(Interaction.id == event.subject)
                    )
                    if row is not None and row[1] == "voice":
                        event.agent = row[0] or ""
        except DatabaseUnavailable:
            log.warning("event without its facts", kind=event.kind)
        return event

    def _hand(self, event: Told | None) -> None:
        """None = everybody looks at everything again."""
        for listener in list(self._listeners):
            if event is None or listener.may_hear(event):
                try:
                    listener.heard.put_nowait(event)
                except asyncio.QueueFull:
                    while not listener.heard.empty():
                        listener.heard.get_nowait()
                    listener.heard.put_nowait(None)


def _number(entry_id: bytes | str) -> int:
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    return int(text.partition("-")[0])


_FANS: WeakKeyDictionary[web.Application, Fan] = WeakKeyDictionary()


def fan_of(request: web.Request) -> Fan:
    """The application's fan, made when the first desktop listens."""
    app = request.app
    if app not in _FANS:
        _FANS[app] = Fan(runtime_of(request))
    return _FANS[app]


async def _queues_of(request: web.Request) -> frozenset[str]:
    async with runtime_of(request).db.reading(snapshot=False) as tx:
        mine = await tx.all(select(QueueMember.queue_id).where(QueueMember.user_id == user_of(request).id))
    return frozenset(mine)


def gathered(events: Iterable[Told]) -> list[Told]:
    """The latest of each kind and subject, in order: what a board needs to hear."""
    latest = {(event.kind, event.subject): event for event in events}
    return sorted(latest.values(), key=lambda event: event.seq)


def urgent(listener: Listener, event: Told) -> bool:
    """True for what cannot wait a quarter of a second: this user's own offers and calls."""
    return event.agent == listener.user_id or (event.kind.startswith("offer.") and event.user == listener.user_id)


class _Out:
    """The answer, written one event at a time; a client that does not read is let go."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    async def send(self, payload: dict[str, Any], number: int | None = None) -> None:
        head = f"id: {number}\n" if number is not None else ""
        data = json.dumps(payload, separators=(",", ":"), default=str)
        async with asyncio.timeout(WRITE_S):
            await self._response.write(f"{head}data: {data}\n\n".encode())


async def events(request: web.Request) -> web.StreamResponse:
    """The stream. Ends when the session does, or this process."""
    user = user_of(request)
    fan = fan_of(request)
    listener = Listener(user.id, bool(roles_of(user) & SUPERVISING), await _queues_of(request))
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    out = _Out(response)
    with contextlib.suppress(ConnectionResetError, ConnectionAbortedError, TimeoutError):
        async with until_shutdown(request.app), fan.listening(listener):
            await _begin(request, fan, listener, out)
            await _talk(request, listener, out)
    return response


async def _begin(request: web.Request, fan: Fan, listener: Listener, out: _Out) -> None:
    """Hello, then what was missed, or the word that it is not known what was."""
    asked = request.headers.get("Last-Event-ID") or request.query.get("after", "")
    missed: list[Told] | None = []
    newest = 0
    try:
        newest = await fan.latest()
        if asked and asked != str(newest):
            missed = await fan.since(int(asked)) if asked.isdigit() else None
    except (RedisError, OSError):
        missed = None
    unknown = missed is None
    start = int(asked) if asked.isdigit() and not unknown else newest
    await out.send({"type": "hello", "beat_s": BEAT_S}, start)
    if unknown:
        await out.send({"type": "resync"}, newest)
    for event in gathered(event for event in missed or [] if listener.may_hear(event)):
        await out.send(listener.shown(event), event.seq)


async def _talk(request: web.Request, listener: Listener, out: _Out) -> None:
    loop = asyncio.get_running_loop()
    held: list[Told] = []
    flush_at: float | None = None
    rights_at = loop.time() + RIGHTS_S
    while True:
        now = loop.time()
        if now >= rights_at:
            if not await _still_here(request, listener):
                return
            rights_at = now + RIGHTS_S
        wait = BEAT_S if flush_at is None else max(0.0, flush_at - now)
        try:
            async with asyncio.timeout(wait):
                event = await listener.heard.get()
        except TimeoutError:
            if flush_at is None:
                await out.send({"type": "beat"})
            else:
                await _flush(listener, held, out)
                flush_at = None
            continue
        if event is None:
            held.clear()
            await out.send({"type": "resync"})
        else:
            held.append(event)
            if urgent(listener, event):
                await _flush(listener, held, out)
                flush_at = None
            elif flush_at is None:
                flush_at = loop.time() + GATHER_S


async def _flush(listener: Listener, held: list[Told], out: _Out) -> None:
    for event in gathered(held):
        await out.send(listener.shown(event), event.seq)
    held.clear()


async def _still_here(request: web.Request, listener: Listener) -> bool:
    """Whether the session or the token still stands; the queues served are read anew."""
    session = session_of(request)
    secret = request.headers.get("Authorization", "").partition(" ")[2].strip()
    now: datetime = now_of(request)
    try:
        async with runtime_of(request).db.reading() as tx:
            user = await users.get(tx, listener.user_id)
            row = await tx.one(select(users.Session).where(users.Session.id == session.id)) if session else None
            revoked = session is None and await users.find_token(tx, secret, now=now) is None
        if revoked or user.disabled_at is not None or (session is not None and (row is None or row.expires_at <= now)):
            return False
        listener.queues = await _queues_of(request)
        listener.supervises = bool(roles_of(user) & SUPERVISING)
    except DatabaseUnavailable:
        log.warning("rights of a stream not looked at")
    return True


routes = [Route("GET", "/desk/events", events, roles=STAFF)]
