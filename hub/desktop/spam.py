"""Mail kept as spam, for supervisors: who wrote, what the first lines say, and a way back to work for what is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from crm_core import blocked, interactions
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.interactions import Interaction
from hub.desktop.render import render
from hub.desktop.templating import told
from hub.web import SUPERVISORS, Route, now_of, runtime_of, user_of
from routing import spam

PAGE = "/desk/spam"
ONE = f"{PAGE}/{{mail:[0-9A-Za-z-]{{1,40}}}}"
AT_ONCE = 50
PREVIEW = 400  # characters of text shown; nothing of the mail's design is


@dataclass(frozen=True, slots=True)
class SpamMail:
    """One row."""

    id: str
    conversation_id: str
    at: datetime
    sender: str
    name: str
    to: str
    subject: str
    preview: str
    blocked: bool
    marked: bool  # by the mail server or a block; otherwise somebody here said so


@dataclass(frozen=True, slots=True)
class SpamPage:
    """Newest first."""

    mails: Sequence[SpamMail]
    more: str
    error: str
    said: str


async def show(request: web.Request) -> web.StreamResponse:
    """The list."""
    return await _page(request)


async def _page(request: web.Request, *, error: str = "", said: str = "") -> web.Response:
    before = request.query.get("before", "")[:40]
    async with runtime_of(request).db.reading() as tx:
        rows = await spam.list_spam(tx, before=before, limit=AT_ONCE)
        shown = [await _row(tx, row) for row in rows]
    more = f"{PAGE}?before={rows[-1].id}" if len(rows) == AT_ONCE else ""
    return await render(request, "spam.html", SpamPage(shown, more, error, said), status=422 if error else 200)


async def _row(tx: Tx, row: Interaction) -> SpamMail:
    return SpamMail(
        id=row.id, conversation_id=row.conversation_id, at=row.first_arrival_at, sender=row.from_address,
        name=str(row.data.get("from_name") or ""), to=row.to_address, subject=row.subject, preview=row.body.strip()[:PREVIEW],
        blocked=await blocked.is_blocked(tx, row.from_address), marked=row.data.get("automatic") == "spam",
    )  # fmt: skip


async def rescue(request: web.Request) -> web.StreamResponse:
    """It is none: the normal way from here."""
    user, now, wanted = user_of(request), now_of(request), request.match_info["mail"]

    async def unit(tx: Tx) -> bool:
        done = await spam.rescue(tx, wanted, user_id=user.id, now=now)
        return await blocked.is_blocked(tx, done[0].from_address) if done else False

    try:
        still = await runtime_of(request).db.write(unit)
    except (Invalid, Conflict) as error:
        return await _page(request, error=told(request, error))
    return await _page(request, said="still" if still else "rescued")


async def block(request: web.Request) -> web.StreamResponse:
    """Take no more mail from who wrote it."""
    user, now, wanted = user_of(request), now_of(request), request.match_info["mail"]

    async def unit(tx: Tx) -> None:
        await blocked.block(tx, (await interactions.get(tx, wanted)).from_address, user_id=user.id, now=now)

    try:
        await runtime_of(request).db.write(unit)
    except (Invalid, Conflict) as error:
        return await _page(request, error=told(request, error))
    return await _page(request, said="blocked")


routes = [
    Route("GET", PAGE, show, roles=SUPERVISORS),
    Route("POST", f"{ONE}/rescue", rescue, roles=SUPERVISORS),
    Route("POST", f"{ONE}/block", block, roles=SUPERVISORS),
]
