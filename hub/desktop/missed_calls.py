"""Missed calls as work: who phoned in vain, how often, and whether somebody is calling them back already."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from aiohttp import web

from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.errors import HubError, NotFound
from crm_core.users import Role, User
from hub import rights
from hub.desktop.render import render
from hub.desktop.templating import told
from hub.desktop.timeline import users_of
from hub.desktop.work import ID
from hub.desktop.worklist import names_of
from hub.web import Route, now_of, runtime_of, user_of
from routing import missed, queues
from routing.missed import MissedCall

WORKERS = frozenset({Role.AGENT, Role.TELEMARKETER, Role.SUPERVISOR, Role.ADMIN})
PAGE = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One person who reached nobody. `trying`: somebody began to call them back within the last minutes."""

    call: MissedCall
    contact: Contact | None
    queue: str
    tried_by: str
    ended_by: str
    trying: bool


@dataclass(frozen=True, slots=True)
class MissedPage:
    """The list, open or closed."""

    rows: list[Row]
    which: str
    error: str
    next_url: str
    dials: bool  # the reader has a phone to call back with


async def served(tx: Tx, user: User) -> frozenset[str] | None:
    """Queues whose missed calls this user sees; None = all."""
    return None if rights.sees_everything(user) else await rights.queues_served(tx, user)


async def get_seen(tx: Tx, user: User, missed_id: str) -> MissedCall:
    """The line, or NotFound when it is of a queue that this user does not serve."""
    row = await missed.get(tx, missed_id)
    seen = await served(tx, user)
    if seen is not None and row.queue_id not in seen:
        raise NotFound("There is no such missed call.")
    return row


async def show(request: web.Request) -> web.StreamResponse:
    """The list."""
    return await _page(request)


async def _page(request: web.Request, error: HubError | None = None) -> web.Response:
    user, now = user_of(request), now_of(request)
    which = "ended" if request.query.get("which") == "ended" else "open"
    async with runtime_of(request).db.reading() as tx:
        seen = await served(tx, user)
        if which == "ended":
            found = await missed.list_ended(tx, queue_ids=seen, before=request.query.get("before", ""), limit=PAGE + 1)
        else:
            found = await missed.list_open(tx, queue_ids=seen)
        more, found = which == "ended" and len(found) > PAGE, found[: PAGE if which == "ended" else 200]
        people = await names_of(tx, [row.contact_id for row in found])
        names = await users_of(tx, [name for row in found for name in (row.tried_by, row.ended_by)])
        named = {queue.id: queue.name for queue in await queues.list_all(tx)}
    rows = [
        Row(row, people.get(row.contact_id or ""), named.get(row.queue_id, ""), names.get(row.tried_by or "", ""),
            names.get(row.ended_by or "", ""), _trying(row, now))
        for row in found
    ]  # fmt: skip
    next_url = f"/desk/callbacks/missed?{urlencode({'which': which, 'before': found[-1].id})}" if more else ""
    page = MissedPage(rows, which, told(request, error) if error else "", next_url, bool(set(user.roles) - {"admin"}))
    return await render(request, "missed.html", page, status=409 if error else 200)


def _trying(row: MissedCall, now: datetime) -> bool:
    return row.tried_at is not None and row.ended_at is None and now - row.tried_at < missed.TRYING


async def dismiss(request: web.Request) -> web.StreamResponse:
    """Nobody needs to call back, and why."""
    reason = str((await request.post()).get("reason", ""))
    user, now, missed_id = user_of(request), now_of(request), request.match_info["missed"]

    async def unit(tx: Tx) -> None:
        row = await get_seen(tx, user, missed_id)
        await missed.dismiss(tx, row.id, user_id=user.id, reason=reason, now=now)

    try:
        await runtime_of(request).db.write(unit)
    except NotFound:
        raise
    except HubError as error:
        return await _page(request, error)
    raise web.HTTPSeeOther("/desk/callbacks/missed")


routes = [
    Route("GET", "/desk/callbacks/missed", show, roles=WORKERS),
    Route("POST", f"/desk/callbacks/missed/{{missed:{ID}}}/dismiss", dismiss, roles=WORKERS),
]
