"""Recordings on screen: the call bar's switch for the agent, and the sound itself; who listened is in the audit log."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web
from sqlmodel import select

from crm_core import audit, recordings
from crm_core.db import Tx
from crm_core.errors import HubError, NotFound
from crm_core.recordings import Recording, RecordingState
from crm_core.sounds import Sound
from hub import rights
from hub.desktop.files import KEPT_APART, send
from hub.desktop.templating import part, told
from hub.desktop.work import ID, WORKERS
from hub.runtime import Runtime
from hub.web import ADMINS, PUBLIC, STAFF, Route, now_of, runtime_of, user_of
from routing import answered_by, call_rules, queues, transfers
from routing import recordings as behaviour

RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


@dataclass(frozen=True, slots=True)
class RecordingSwitch:
    """What the call bar shows; `state` empty: not recorded. `allowed`: the agent may begin, having asked."""

    call: str
    state: str
    recording: Recording | None
    allowed: bool
    machine: bool  # an answering machine took the call
    error: str


@dataclass(frozen=True, slots=True)
class RecordingGone:
    """What stands where the player was."""

    error: str


async def _switch(request: web.Request, *, error: str = "") -> web.Response:
    user = user_of(request)
    async with runtime_of(request).db.reading() as tx:
        call = await transfers.find_mine(tx, user.id)
        found, allowed = None, False
        if call is not None:
            found = await recordings.running(tx, call.id)
            rules = call_rules.of(await queues.get(tx, call.queue_id) if call.queue_id else None)
            allowed = found is None and rules.record != "off" and call.data.get("consent") != "refused"
    page = RecordingSwitch(
        call.id if call else "", str(found.state) if found else "", found, allowed, answered_by.by_machine(call), error
    )
    return part(request, "parts/recording.html", page)


async def show_switch(request: web.Request) -> web.StreamResponse:
    """Is the call that I am in recorded now?"""
    return await _switch(request)


async def switch(request: web.Request) -> web.StreamResponse:
    """Begin (the customer agreed), pause, go on."""
    user, now, action = user_of(request), now_of(request), request.match_info["action"]
    acts = {"start": behaviour.begin_by_agent, "pause": behaviour.pause, "resume": behaviour.resume}

    async def unit(tx: Tx) -> None:
        call = await transfers.find_mine(tx, user.id)
        if call is None:
            raise NotFound("There is no call now.")
        await acts[action](tx, call.id, agent_id=user.id, now=now)

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _switch(request, error=told(request, error))
    return await _switch(request)


# --- the sound --------------------------------------------------------------------------------------------------------


def part_of(wanted: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header; None for the whole. Raises ValueError when it lies outside (416)."""
    if not wanted:
        return None
    found = RANGE.fullmatch(wanted.strip())
    if found is None or not any(found.groups()):
        return None  # several ranges, or another unit: the whole is allowed then
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size - 1
    begin, end = int(first), min(int(last), size - 1) if last else size - 1
    if begin >= size or end < begin:
        raise ValueError("outside")
    return begin, end


async def listen(request: web.Request) -> web.StreamResponse:
    """The sound, whole or in part. Each listening is in the audit log, with who and when."""
    runtime, user, now = runtime_of(request), user_of(request), now_of(request)
    async with runtime.db.reading() as tx:
        found = await recordings.get(tx, request.match_info["recording"])
        await rights.interaction(tx, user, found.interaction_id)
    if found.state != RecordingState.KEPT:
        raise NotFound("The sound is not here (yet).")
    try:
        wanted = part_of(request.headers.get("Range", ""), found.size)
    except ValueError:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{found.size}"})
    if wanted is None or wanted[0] == 0:
        # A player asks for many parts; who begins to listen is noted once.
        await runtime.db.write(
            lambda tx: audit.record(
                tx, actor=user.id, action="recording.played", subject=f"recording:{found.id}", now=now,
                interaction=found.interaction_id,
            )
        )  # fmt: skip
    begin, end = wanted or (0, found.size - 1)
    response = web.StreamResponse(
        status=206 if wanted else 200,
        headers={
            "Content-Type": "audio/mpeg" if "mpeg" in found.content_type else "audio/wav",
            "Content-Length": str(end - begin + 1),
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'inline; filename="{found.kind}-{found.id}"',
            **KEPT_APART,
            **({"Content-Range": f"bytes {begin}-{end}/{found.size}"} if wanted else {}),
        },
    )
    return await send(request, response, _cut(runtime, found.file_key, begin, end))


async def _cut(runtime: Runtime, key: str, begin: int, end: int) -> AsyncIterator[bytes]:
    """The bytes from `begin` to `end`, in pieces; what comes before is read over."""
    at = 0
    async for piece in runtime.files.stream(key):
        if at > end:
            return
        cut = piece[max(0, begin - at) : end - at + 1]
        at += len(piece)
        if cut:
            yield cut


async def remove(request: web.Request) -> web.StreamResponse:
    """Delete the sound for good, here and at the provider."""
    user, now, recording_id = user_of(request), now_of(request), request.match_info["recording"]
    try:
        await runtime_of(request).db.write(
            lambda tx: behaviour.delete(tx, recording_id, actor=user.id, reason="deleted by hand", now=now)
        )
    except HubError as error:
        return part(request, "parts/recording_gone.html", RecordingGone(told(request, error)))
    return part(request, "parts/recording_gone.html", RecordingGone(""))


async def play_prompt(request: web.Request) -> web.StreamResponse:
    """An uploaded prompt or music, for the provider, which fetches it without a log-in; its name cannot be guessed."""
    runtime = runtime_of(request)
    async with runtime.db.reading() as tx:
        found = await tx.one(select(Sound).where(Sound.id == request.match_info["sound"]))
    if found is None or found.ending != request.match_info["ending"]:
        raise NotFound("There is no such sound.")
    headers = {"Cache-Control": "public, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=await runtime.files.get(found.file_key), content_type=found.content_type, headers=headers)


routes = [
    Route("GET", "/desk/recording", show_switch, roles=WORKERS),
    Route("POST", "/desk/recording/{action:start|pause|resume}", switch, roles=WORKERS),
    Route("GET", f"/desk/recordings/{{recording:{ID}}}", listen, roles=STAFF, scope="calls:read"),
    Route("POST", f"/desk/recordings/{{recording:{ID}}}/delete", remove, roles=ADMINS),
    Route("GET", f"/sounds/{{sound:{ID}}}.{{ending:wav|mp3}}", play_prompt, access=PUBLIC),
]
