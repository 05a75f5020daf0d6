"""Administration of opening hours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import available_timezones

from aiohttp import web

from crm_core.db import Tx
from crm_core.errors import HubError
from hub.desktop.admin_channels import ID, fields_of, posted, told_of, version_of
from hub.desktop.render import render
from hub.web import ADMINS, Route, now_of, runtime_of, user_of
from routing import hour_settings, hours
from routing.hours import Hours


@dataclass(frozen=True, slots=True)
class HoursListPage:
    """All hours: open now, and when they open next."""

    rows: list[tuple[Hours, bool, datetime | None]]
    error: str


@dataclass(frozen=True, slots=True)
class HoursPage:
    """One set of hours, or the form of a new one. `next_open` is what the stored hours say."""

    row: Hours | None
    values: dict[str, str]
    zones: list[str]
    is_open: bool
    next_open: datetime | None
    errors: dict[str, str]
    error: str
    saved: bool


async def show_list(request: web.Request) -> web.StreamResponse:
    """All hours."""
    return await _list(request)


async def _list(request: web.Request, error: HubError | None = None) -> web.Response:
    now = now_of(request)
    async with runtime_of(request).db.reading() as tx:
        rows = [(row, hours.is_open(row, now), hours.next_open(row, now)) for row in await hour_settings.list_all(tx)]
    return await render(
        request, "admin/hours_list.html", HoursListPage(rows, told_of(error)), status=422 if error else 200
    )


async def show(request: web.Request) -> web.StreamResponse:
    """One set of hours."""
    return await _page(request, saved="saved" in request.query)


async def _page(
    request: web.Request, *, values: dict[str, str] | None = None, error: HubError | None = None, saved: bool = False
) -> web.Response:
    now, hours_id, row = now_of(request), request.match_info.get("hours", ""), None
    if hours_id:
        async with runtime_of(request).db.reading() as tx:
            row = await hour_settings.get(tx, hours_id)
    if values is None:
        values = {"zone": user_of(request).zone, **{f"day-{day}": "09:00-17:00" for day in range(5)}}
        if row is not None:
            values = {"name": row.name, "zone": row.zone, "days": hour_settings.write_days(row.days)}
            values |= {f"day-{day}": hour_settings.write_blocks(blocks) for day, blocks in row.week.items()}
    page = HoursPage(
        row, values, sorted(available_timezones()), row is not None and hours.is_open(row, now),
        hours.next_open(row, now) if row is not None else None, fields_of(error), told_of(error), saved,
    )  # fmt: skip
    return await render(request, "admin/hours.html", page, status=422 if error else 200)


async def save(request: web.Request) -> web.StreamResponse:
    """Make, change or delete."""
    form, user, now, hours_id = (
        await posted(request),
        user_of(request),
        now_of(request),
        request.match_info.get("hours", ""),
    )
    version = version_of(form)

    async def unit(tx: Tx) -> str:
        if form.get("act") == "delete":
            await hour_settings.remove(tx, hours_id, actor=user.id, now=now)
            return ""
        values = hour_settings.checked(
            name=form.get("name", ""), zone=form.get("zone", ""), days=form.get("days", ""),
            week={str(day): form.get(f"day-{day}", "") for day in range(7)},
        )  # fmt: skip
        if hours_id:
            await hour_settings.edit(tx, hours_id, values, version=version, actor=user.id, now=now)
            return hours_id
        return (await hour_settings.create(tx, values, actor=user.id, now=now)).id

    try:
        made = await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _page(request, values=form, error=error)
    raise web.HTTPSeeOther(f"/desk/admin/hours/{made}?saved=1" if made else "/desk/admin/hours")


A = "/desk/admin/hours"
routes = [
    Route("GET", A, show_list, roles=ADMINS),
    Route("GET", f"{A}/new", show, roles=ADMINS),
    Route("POST", f"{A}/new", save, roles=ADMINS),
    Route("GET", f"{A}/{{hours:{ID}}}", show, roles=ADMINS),
    Route("POST", f"{A}/{{hours:{ID}}}", save, roles=ADMINS),
]
