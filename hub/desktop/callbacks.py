"""Callbacks: what was promised, to whom and by when; what is due first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from aiohttp import web
from sqlmodel import col, select

from crm_core import addresses, contacts
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.users import Role
from hub.desktop.render import render
from hub.desktop.templating import told
from hub.desktop.timeline import users_of
from hub.desktop.work_actions import local_instant
from hub.desktop.worklist import names_of
from hub.web import Route, now_of, runtime_of, user_of
from routing import callbacks, queues
from routing.callbacks import Callback, CallbackState
from routing.queues import Queue

PAGE = 100
WORKERS = frozenset({Role.AGENT, Role.TELEMARKETER, Role.SUPERVISOR, Role.ADMIN})
WORDS = ("open", "mine", "ended")


@dataclass(frozen=True, slots=True)
class Row:
    """One promise."""

    callback: Callback
    contact: Contact | None
    queue: str
    owner: str
    late: bool
    theirs: str  # the clock where the customer is, at that instant; empty where it is the reader's own


@dataclass(frozen=True, slots=True)
class CallbacksPage:
    """The list and the form of a new one."""

    rows: list[Row]
    which: str
    queues: list[Queue]
    values: dict[str, str]
    error: str
    next_url: str
    now: datetime
    zone: str


async def _page(
    request: web.Request, *, values: dict[str, str] | None = None, error: str = "", status: int = 200
) -> web.Response:
    user, now = user_of(request), now_of(request)
    which = request.query.get("which", "open")
    after = request.query.get("after", "")
    async with runtime_of(request).db.reading() as tx:
        found = await _list(tx, which, user.id, after, now)
        more, found = len(found) > PAGE, found[:PAGE]
        people = await names_of(tx, [row.contact_id for row in found])
        owners = await users_of(tx, [row.owner_id for row in found])
        served = await queues.list_all(tx)
    named = {queue.id: queue.name for queue in served}
    rows = [
        Row(row, people.get(row.contact_id or ""), named.get(row.queue_id, ""), owners.get(row.owner_id or "", ""),
            callbacks.is_late(row, now), _theirs(row, people.get(row.contact_id or ""), user.zone, now))
        for row in found
    ]  # fmt: skip
    next_url = f"/desk/callbacks?{urlencode({'which': which, 'after': found[-1].id})}" if more else ""
    page = CallbacksPage(
        rows, which, [q for q in served if not q.retired], values or {}, error, next_url, now, user.zone
    )
    return await render(request, "callbacks.html", page, status=status)


def _theirs(row: Callback, contact: Contact | None, zone: str, now: datetime) -> str:
    """`14:30 (Europe/Madrid)` where the customer's clock differs from the reader's."""
    if row.ended_at is not None:
        return ""
    there = callbacks.zone_of(row.number_e164, contact)
    here = row.due_at.astimezone(ZoneInfo(zone or "UTC"))
    if not there or row.due_at.astimezone(ZoneInfo(there)).utcoffset() == here.utcoffset():
        return ""
    return f"{row.due_at.astimezone(ZoneInfo(there)):%H:%M} ({there})"


async def _list(tx: Tx, which: str, user_id: str, after: str, now: datetime) -> list[Callback]:
    if which == "ended":
        ended = select(Callback).where(
            col(Callback.state).in_(
                [CallbackState.REACHED, CallbackState.REFUSED, CallbackState.EXPIRED, CallbackState.BLOCKED]
            )
        )
        if after:
            ended = ended.where(col(Callback.id) < after)
        return await tx.all(ended.order_by(col(Callback.id).desc()).limit(PAGE + 1))
    if which == "late":
        return [row for row in await callbacks.list_open(tx, limit=PAGE) if callbacks.is_late(row, now)]
    return await callbacks.list_open(tx, owner_id=user_id if which == "mine" else "", limit=PAGE)


async def show(request: web.Request) -> web.StreamResponse:
    """The list."""
    return await _page(request)


async def create(request: web.Request) -> web.StreamResponse:
    """A new promise."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now = user_of(request), now_of(request)

    async def unit(tx: Tx) -> None:
        number = addresses.phone(form.get("number", ""))
        owners = await _owner_contact(tx, number)
        zone = user.zone
        if form.get("clock") == "theirs":
            zone = callbacks.zone_of(number.value, await contacts.find(tx, owners) if owners else None)
            if not zone:
                raise Invalid("Nobody knows the customer's zone. Choose your own clock.")
        await callbacks.request(
            tx, number=number, queue_id=form.get("queue", ""), due_at=local_instant(form.get("due", ""), zone),
            origin="agent", now=now, contact_id=owners, owner_id=user.id if form.get("mine") else None,
            note=form.get("note", "")[:200], created_by=user.id,
        )  # fmt: skip

    try:
        await runtime_of(request).db.write(unit)
    except Invalid as error:
        return await _page(request, values=form, error=told(request, error), status=422)
    return await _page(request)


async def _owner_contact(tx: Tx, number: addresses.Address) -> str | None:
    owners = await contacts.list_owners(tx, number)
    return owners[0][0].id if len(owners) == 1 else None


routes = [
    Route("GET", "/desk/callbacks", show, roles=WORKERS),
    Route("POST", "/desk/callbacks", create, roles=WORKERS),
]
