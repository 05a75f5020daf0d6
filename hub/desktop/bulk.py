"""Many contacts or leads at once: what it will do, one question where it is many, and a way back."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from crm_core import bulk
from crm_core.bulk import BulkChange, Forecast
from crm_core.db import Tx
from hub.desktop.render import render
from hub.desktop.timeline import users_of
from hub.web import STAFF, Route, now_of, runtime_of, user_of

PATHS = {"contacts": "/desk/contacts", "leads": "/desk/leads"}
ID = "[0-9a-z]{26}"


@dataclass(frozen=True, slots=True)
class BulkPage:
    """Before: what it will do. After: what it did. Undone: what was given back."""

    noun: str
    back: str
    forecast: Forecast | None
    ids: list[str]
    lines: list[tuple[str, str, str]]  # who, before, after
    done: BulkChange | None
    undone: tuple[int, int] | None


async def _lines(tx: Tx, forecast: Forecast) -> list[tuple[str, str, str]]:
    """The first rows as people read them."""
    rows = forecast.rows[:20]
    named = await bulk.names_of(tx, forecast.noun, [row["id"] for row in rows])
    owners = await users_of(
        tx, [one for row in rows for one in (row["before"], row["after"]) if row["field"] == "owner_id"]
    )

    def shown(row: dict[str, object], value: object) -> str:
        if row["field"] == "owner_id":
            return owners.get(str(value or ""), "–")
        return ", ".join(value) if isinstance(value, list) else str(value or "–")

    return [(named.get(row["id"], ""), shown(row, row["before"]), shown(row, row["after"])) for row in rows]


async def act(request: web.Request) -> web.StreamResponse:
    """Look first; few rows are changed at once, many when the question was answered."""
    form = await request.post()
    user, now, noun = user_of(request), now_of(request), request.match_info["noun"]
    ids = [str(value) for value in form.getall("id", [])]
    action = str(form.get("action", ""))
    value = str(form.get(f"value_{action}", form.get("value", "")))
    sure = bool(form.get("sure"))

    async def unit(tx: Tx) -> tuple[Forecast, list[tuple[str, str, str]], BulkChange | None]:
        forecast = await bulk.look(tx, noun=noun, action=action, value=value, ids=ids)
        lines = await _lines(tx, forecast)
        if not forecast.rows or (forecast.asks and not sure):
            return forecast, lines, None
        return forecast, lines, await bulk.carry_out(tx, forecast, user_id=user.id, now=now)

    forecast, lines, done = await runtime_of(request).db.write(unit)
    return await render(request, "bulk.html", BulkPage(noun, PATHS[noun], forecast, ids, lines, done, None))


async def undo(request: web.Request) -> web.StreamResponse:
    """The way back."""
    user, now, wanted = user_of(request), now_of(request), request.match_info["change"]

    async def unit(tx: Tx) -> tuple[BulkChange, tuple[int, int]]:
        result = await bulk.undo(tx, wanted, user_id=user.id, now=now)
        return await bulk.get(tx, wanted, user_id=user.id), result

    change, result = await runtime_of(request).db.write(unit)
    return await render(request, "bulk.html", BulkPage(change.noun, PATHS[change.noun], None, [], [], change, result))


routes = [
    Route("POST", "/desk/bulk/{noun:contacts|leads}", act, roles=STAFF),
    Route("POST", f"/desk/bulk/{{change:{ID}}}/undo", undo, roles=STAFF),
]
