"""What happened, handed to every open desktop of this process.

One reader task follows the Redis stream `hub:events`. What an event costs must not grow with all that every desktop does with it:
it is written once, each listener keeps only a reference, and is woken at most four times a second unless it cannot wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import redis.asyncio as aioredis
from aiohttp import web
from redis.exceptions import RedisError
from sqlmodel import col, select

from crm_core.db import DatabaseUnavailable
from crm_core.interactions import Interaction
from hub.log import get_logger
from hub.publisher import STREAM
from hub.runtime import Runtime, redis_url
from hub.tasks import end_tasks
from hub.web import runtime_of
from routing.offers import Offer, OfferState
from routing.queues import Lane, QueueEntry

log = get_logger(__name__)

BEAT_S = 2
ASK_S = 5 * BEAT_S  # bounds a question to Redis; it may wait a beat for news
GATHER_S = 0.25  # boards hear at most four times a second
REPLAY = 1000
BACKLOG = 2000


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
    facts: bool = False  # `agent` and `ring` were looked up
    lines: dict[str, bytes] = field(default_factory=dict)

    def line(self, kind: str) -> bytes:
        """The event as a desktop gets it that knows it as this kind of thing; made once for all of them."""
        if kind not in self.lines:
            told = {**self.data, "type": kind, "kind": self.kind, "id": self.subject, "subject": self.subject,
                    "version": self.version, "seq": self.seq}  # fmt: skip
            if self.ring is not None:
                told["ring"] = self.ring
            self.lines[kind] = f"id: {self.seq}\n".encode() + written(told)
        return self.lines[kind]


def written(payload: dict[str, Any]) -> bytes:
    """A message of the stream, without a number."""
    return f"data: {json.dumps(payload, separators=(',', ':'), default=str)}\n\n".encode()


@dataclass(eq=False, slots=True)
class Listener:
    """One open connection: what it may hear, and what it has not been told yet."""

    user_id: str
    supervises: bool
    queues: frozenset[str]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _held: list[Told] = field(default_factory=list)
    _lost: bool = False
    _later: asyncio.TimerHandle | None = None

    def may_hear(self, event: Told) -> bool:
        """Rights: what is for one user, for those who serve or supervise a queue, or for everybody who works here."""
        if event.agent == self.user_id:
            return True
        if event.user is not None:
            return event.user == self.user_id or (self.supervises and event.kind.startswith("agent."))
        return event.queue is None or self.supervises or event.queue in self.queues

    def urgent(self, event: Told) -> bool:
        """True for what cannot wait a quarter of a second: this user's own offers and calls."""
        return event.agent == self.user_id or (event.kind.startswith("offer.") and event.user == self.user_id)

    def line(self, event: Told) -> bytes:
        """The event as this desktop gets it: its own call is a `call`."""
        noun = event.kind.partition(".")[0]
        return event.line("call" if noun == "interaction" and event.agent == self.user_id else noun)

    def hear(self, event: Told | None) -> None:
        """Keep it until the connection takes it; None, or too much of it = look at everything again."""
        if event is None or len(self._held) >= BACKLOG:
            self._held.clear()
            self._lost = True
            self.wake.set()
            return
        self._held.append(event)
        if self.urgent(event):
            self.wake.set()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(GATHER_S, self.wake.set)

    def take(self) -> bytes:
        """What is to be sent now."""
        self.wake.clear()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        parts = [written({"type": "resync"})] if self._lost else []
        parts += [self.line(event) for event in gathered(self._held)]
        self._held.clear()
        self._lost = False
        return b"".join(parts)


def gathered(events: Iterable[Told]) -> list[Told]:
    """The latest of each kind and subject, in order: what a board needs to hear."""
    latest = {(event.kind, event.subject): event for event in events}
    return sorted(latest.values(), key=lambda event: event.seq)


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
        self._starting = asyncio.Lock()  # a hub that comes back meets all its desktops at once
        self._recent: deque[Told] = deque(maxlen=REPLAY)
        self._last = 0  # the number of the newest event handed on
        self._lost = False

    @property
    def listeners(self) -> int:
        """Open connections."""
        return len(self._listeners)

    @property
    def newest(self) -> int:
        """The number of the newest event that listeners have been handed; 0 when there was none."""
        return self._last

    async def since(self, number: int, listener: Listener) -> list[Told] | None:
        """What it may hear of the events after `number`; None when that is not known any more."""
        if self._lost or number > self._last or (number < self._last and not self._reaches(number)):
            return None
        missed = []
        for event in [event for event in self._recent if event.seq > number]:
            if not event.facts and event.kind.startswith("interaction."):
                await self._with_facts(event)
            if listener.may_hear(event):
                # Whether an offer still rings is asked anew: it may be long ago.
                missed.append(await self._with_facts(event) if event.kind.startswith("offer.") else event)
        return missed

    def _reaches(self, number: int) -> bool:
        return bool(self._recent) and self._recent[0].seq <= number + 1

    @contextlib.asynccontextmanager
    async def listening(self, listener: Listener) -> AsyncIterator[Listener]:
        """Hear everything after `newest` as it is now, for as long as the block lasts."""
        async with self._starting:
            if self._task is None or self._task.done():
                await self._load()
                self._task = asyncio.create_task(self._follow())
            self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            async with self._starting:
                task = self._task
                if not self._listeners and task is not None:
                    self._task = None
                    await end_tasks([task])
                    await self._client.aclose()

    async def _load(self) -> None:
        """The latest events, for those who come back; later ones are heard."""
        self._recent.clear()
        try:
            async with asyncio.timeout(ASK_S):
                rows: Any = await self._client.xrevrange(STREAM, count=REPLAY)
            self._recent.extend(parsed(fields) for _, fields in reversed(rows))
            self._last, self._lost = (self._recent[-1].seq if self._recent else 0), False
        except (RedisError, OSError) as error:
            log.warning("event stream lost", error=type(error).__name__)
            self._last, self._lost = 0, True

    async def _follow(self) -> None:
        while True:
            try:
                if self._lost:
                    await self._begin_anew()
                async with asyncio.timeout(ASK_S):
                    found: Any = await self._client.xread({STREAM: f"{self._last}-0"}, count=500, block=BEAT_S * 1000)
                if not found and await self._number() < self._last:
                    await self._begin_anew()  # Redis was emptied under us
                for _, rows in found or []:
                    for _, fields in rows:
                        await self._hand(parsed(fields))
            except (RedisError, OSError) as error:
                if not self._lost:
                    log.warning("event stream lost", error=type(error).__name__)
                self._lost = True
                await asyncio.sleep(1)  # before the next try: a Redis that is gone is not asked without pause

    async def _number(self) -> int:
        """The number of the newest event in the stream; 0 when it is empty."""
        async with asyncio.timeout(ASK_S):
            rows: Any = await self._client.xrevrange(STREAM, count=1)
        return int(rows[0][0].partition(b"-")[0]) if rows else 0

    async def _begin_anew(self) -> None:
        """From the newest on; everybody looks at everything again."""
        self._last = await self._number()
        self._recent.clear()
        self._lost = False
        for listener in list(self._listeners):
            listener.hear(None)

    async def _hand(self, event: Told) -> None:
        await self._with_facts(event)
        self._last = event.seq
        self._recent.append(event)
        for listener in list(self._listeners):
            if listener.may_hear(event):
                listener.hear(event)

    async def _with_facts(self, event: Told) -> Told:
        event.facts = True
        event.lines.clear()
        try:
            if event.kind.startswith("offer."):
                async with self._runtime.db.reading(snapshot=False) as tx:
                    row = await tx.one(
                        select(Offer.state, QueueEntry.lane)
                        .join(QueueEntry, col(QueueEntry.id) == col(Offer.entry_id))
                        .where(Offer.id == event.subject)
                    )
                event.ring = row is not None and row[0] == OfferState.OPEN and row[1] == Lane.LIVE
            elif event.kind.startswith("interaction."):
                async with self._runtime.db.reading(snapshot=False) as tx:
                    row = await tx.one(
                        select(Interaction.agent_id, Interaction.channel).where(Interaction.id == event.subject)
                    )
                if row is not None and row[1] == "voice":
                    event.agent = row[0] or ""
        except DatabaseUnavailable:
            event.facts = False
            log.warning("event without its facts", kind=event.kind)
        return event


_FANS: WeakKeyDictionary[web.Application, Fan] = WeakKeyDictionary()


def fan_of(request: web.Request) -> Fan:
    """The application's fan, made when the first desktop listens."""
    app = request.app
    if app not in _FANS:
        _FANS[app] = Fan(runtime_of(request))
    return _FANS[app]
