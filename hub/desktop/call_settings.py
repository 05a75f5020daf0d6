"""Administration of calls: recording, voicemail and music of each queue; uploaded sounds; blocked callers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField

from crm_core import accounts, blocked_callers, sounds
from crm_core.accounts import ChannelAccount
from crm_core.blocked_callers import BlockedCaller
from crm_core.db import Tx
from crm_core.errors import HubError, Invalid
from crm_core.sounds import Sound
from hub.desktop.render import render
from hub.desktop.templating import told
from hub.desktop.work import ID
from hub.web import ADMINS, SUPERVISORS, Route, now_of, runtime_of, user_of
from routing import call_rules, queues
from routing import call_settings as settings
from routing.call_rules import CallRules
from routing.queues import Queue

BODY = sounds.LARGEST + 1024 * 1024


@dataclass(frozen=True, slots=True)
class CallSettings:
    """The page."""

    rows: list[tuple[Queue, CallRules]]
    sounds: list[Sound]
    blocked: list[BlockedCaller]
    numbers: list[ChannelAccount]
    error: str
    faults: Mapping[str, str]  # what is wrong with which field, of the queue `at`
    at: str
    saved: str
    sound_name: str  # as typed, of a sound that was refused


async def show(request: web.Request) -> web.StreamResponse:
    """Recording, voicemail, music, sounds, blocked callers."""
    return await _page(request)


async def _page(
    request: web.Request, *, error: HubError | None = None, at: str = "", saved: str = "", sound_name: str = ""
) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        rows = [(queue, call_rules.of(queue)) for queue in await queues.list_all(tx)]
        page = CallSettings(
            rows, await sounds.list_all(tx), await blocked_callers.list_all(tx), await accounts.list_channel(tx, "voice"),
            told(request, error) if error else "", error.fields if isinstance(error, Invalid) else {}, at, saved,
            sound_name,
        )  # fmt: skip
    return await render(request, "admin/calls.html", page, status=422 if error else 200)


async def save_rules(request: web.Request) -> web.StreamResponse:
    """How one queue treats calls."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now, queue_id = user_of(request), now_of(request), request.match_info["queue"]

    def whole(name: str) -> int:
        return int(form[name]) if form.get(name, "").isdigit() and len(form[name]) < 6 else -1

    async def unit(tx: Tx) -> None:
        values: dict[str, Any] = {
            "record": form.get("record", ""), "pause_s": whole("pause_s"), "voicemail_max_s": whole("voicemail_max_s"),
            "music": form.get("music", "")[:60], "keep_days": whole("keep_days"),
            "voicemail_keep_days": whole("voicemail_keep_days"),
            **{name: name in form for name in ("voicemail_closed", "voicemail_overflow", "voicemail_key")},
        }  # fmt: skip
        await settings.put_rules(tx, queue_id, values, version=whole("version"), actor=user.id, now=now)

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _page(request, error=error, at=queue_id)
    return await _page(request, saved=queue_id)


async def upload(request: web.Request) -> web.StreamResponse:
    """A new sound: bytes first, then the row."""
    form, user, now = await request.post(), user_of(request), now_of(request)
    given, runtime, name = form.get("file"), runtime_of(request), str(form.get("name", "")).strip()
    try:
        if not isinstance(given, FileField) or not given.filename:
            raise Invalid("Choose a WAV or MP3 file.")
        content = await asyncio.to_thread(given.file.read)
        content_type, ending = sounds.kind_of(content)
        called = name or given.filename.rpartition(".")[0]
        key = await runtime.files.put(content, folder="sounds", now=now)
        made = await runtime.db.write(
            lambda tx: sounds.add(
                tx, name=called, file_key=key, content_type=content_type, ending=ending, size=len(content), actor=user.id,
                now=now,
            )
        )  # fmt: skip
    except HubError as error:
        return await _page(request, error=error, at="sounds", sound_name=name)
    return await _page(request, saved=made.id)


async def retire(request: web.Request) -> web.StreamResponse:
    """Take a sound out of the lists. Refused while a queue plays it."""
    sound_id, user, now = request.match_info["sound"], user_of(request), now_of(request)

    try:
        await runtime_of(request).db.write(lambda tx: settings.retire_sound(tx, sound_id, actor=user.id, now=now))
    except HubError as error:
        return await _page(request, error=error)
    return await _page(request, saved="sounds")


async def save_screening(request: web.Request) -> web.StreamResponse:
    """Which callers of one number must press a key, or are refused; and the countries that are no foreign ones."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now, account_id = user_of(request), now_of(request), request.match_info["account"]

    rules = {name: form.get(name, "accept") for name in ("withheld", "foreign")}
    countries = form.get("countries", "").replace(",", " ").split()
    try:
        await runtime_of(request).db.write(
            lambda tx: settings.put_screening(
                tx,
                account_id,
                rules,
                countries=countries,
                actor=user.id,
                now=now,
                detect_machines="detect_machines" in form,
            )
        )
    except HubError as error:
        return await _page(request, error=error)
    return await _page(request, saved=account_id)


async def block(request: web.Request) -> web.StreamResponse:
    """Refuse a number's calls, or take them again."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now = user_of(request), now_of(request)

    async def unit(tx: Tx) -> None:
        if form.get("unblock"):
            await blocked_callers.unblock(tx, form["unblock"], user_id=user.id, now=now)
            return
        await blocked_callers.block(
            tx, form.get("number", ""), user_id=user.id, now=now, reason=form.get("reason", ""),
            country=await accounts.home_country(tx),
        )  # fmt: skip

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _page(request, error=error, at="blocked")
    return await _page(request, saved="blocked")


A = "/desk/admin/calls"
routes = [
    Route("GET", A, show, roles=SUPERVISORS),
    Route("POST", f"{A}/queues/{{queue:{ID}}}", save_rules, roles=ADMINS),
    Route("POST", f"{A}/sounds", upload, roles=ADMINS, body_limit=BODY),
    Route("POST", f"{A}/sounds/{{sound:{ID}}}/retire", retire, roles=ADMINS),
    Route("POST", f"{A}/numbers/{{account:{ID}}}", save_screening, roles=ADMINS),
    Route("POST", f"{A}/blocked", block, roles=SUPERVISORS),
]
