"""GET /desk/events: what happened, to every open desktop, as server-sent events that can be replayed.

An event carries ids; what they stand for is fetched under the reader's own rights. The form is that of static/phone/stream.js:
unnamed events with a `type`, `hello` first, a `beat`, `resync` when the last id is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime

from aiohttp import web
from sqlmodel import select

from crm_core import users
from crm_core.db import DatabaseUnavailable
from crm_core.users import Role
from hub.desktop.fan import BEAT_S, Fan, Listener, fan_of, gathered, written
from hub.log import get_logger
from hub.slow_clients import until_shutdown
from hub.web import STAFF, Route, now_of, roles_of, runtime_of, session_of, user_of
from routing.queues import QueueMember

log = get_logger(__name__)

WRITE_S = 10
RIGHTS_S = 30
SUPERVISING = frozenset({Role.SUPERVISOR, Role.ADMIN})
BEAT = written({"type": "beat"})


async def _queues_of(request: web.Request) -> frozenset[str]:
    async with runtime_of(request).db.reading(snapshot=False) as tx:
        mine = await tx.all(select(QueueMember.queue_id).where(QueueMember.user_id == user_of(request).id))
    return frozenset(mine)


class _Out:
    """The answer; a client that does not read is let go."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    async def send(self, lines: bytes) -> None:
        async with asyncio.timeout(WRITE_S):
            await self._response.write(lines)


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
    newest = fan.newest
    missed = [] if not asked else await fan.since(int(asked), listener) if asked.isdigit() else None
    start = newest if missed is None or not asked else int(asked)
    lines = [f"id: {start}\n".encode() + written({"type": "hello", "beat_s": BEAT_S})]
    if missed is None:
        lines.append(f"id: {newest}\n".encode() + written({"type": "resync"}))
    lines += [listener.line(event) for event in gathered(missed or [])]
    await out.send(b"".join(lines))


async def _talk(request: web.Request, listener: Listener, out: _Out) -> None:
    loop = asyncio.get_running_loop()
    rights_at = loop.time() + RIGHTS_S
    while True:
        if loop.time() >= rights_at:
            if not await _still_here(request, listener):
                return
            rights_at = loop.time() + RIGHTS_S
        try:
            async with asyncio.timeout(BEAT_S):
                await listener.wake.wait()
        except TimeoutError:
            await out.send(BEAT)
            continue
        lines = listener.take()
        if lines:
            await out.send(lines)


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
