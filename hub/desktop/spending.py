"""Administration of what goes out: where calls and texts may go, how many, at what cost; the stop and its release."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import web

from crm_core import outgoing, outgoing_rules
from crm_core.db import Tx
from crm_core.errors import HubError, Invalid, NotFound
from crm_core.outgoing_rules import CHANNELS, UNIT, Rules
from hub.desktop.admin_channels import fields_of, posted, told_of, version_of
from hub.desktop.render import render
from hub.web import ADMINS, SUPERVISORS, Route, now_of, runtime_of, user_of

WHOLE = (
    "call_hour", "call_day", "text_hour", "text_day", "agent_call_hour", "agent_call_day", "agent_text_hour",
    "agent_text_day", "country_day", "night_call_hour", "night_text_hour", "night_from", "night_to",
)  # fmt: skip
MONEY = ("cost_hour", "cost_day", "call_price", "text_price", "far_call_price", "far_text_price")


@dataclass(frozen=True, slots=True)
class Lane:
    """One channel: what went out this hour and today, and whether it is stopped."""

    channel: str
    hour: int
    day: int
    hour_cost: float
    day_cost: float
    stopped_at: datetime | None
    reason: str
    used_up: str


@dataclass(frozen=True, slots=True)
class SpendingPage:
    """The page. `values` are what the form shows."""

    lanes: list[Lane]
    rules: Rules
    values: dict[str, str]
    home: list[str]
    abroad: list[tuple[str, int]]
    version: int
    errors: dict[str, str]
    error: str
    saved: bool


def lanes_of(guard: outgoing.Guard) -> list[Lane]:
    """How each channel stands."""
    made = []
    for channel in CHANNELS:
        hour, day = outgoing.hour_of(guard.now), outgoing.day_of(guard.now)
        stop, used_up = guard.stopped(channel), guard.reached(channel)
        in_hour, in_day = (guard.counts.get((period, "", channel), (0, 0)) for period in (hour, day))
        made.append(
            Lane(
                channel, in_hour[0], in_day[0], in_hour[1] / UNIT, in_day[1] / UNIT,
                datetime.fromisoformat(stop["at"]) if stop else None, stop["reason"] if stop else "",
                used_up[0] if used_up else "",
            )
        )  # fmt: skip
    return made


def values_of(rules: Rules) -> dict[str, str]:
    """The rules as the form shows them."""
    shown = {name: str(getattr(rules, name)) for name in WHOLE}
    shown |= {name: f"{getattr(rules, name):g}" for name in MONEY}
    prices = "\n".join(f"{code} {both[0]:g} {both[1]:g}" for code, both in sorted(rules.prices.items()))
    return shown | {
        "countries": " ".join(rules.countries), "prefixes": "\n".join(rules.prefixes), "prices": prices,
        "currency": rules.currency, "zone": rules.zone,
    }  # fmt: skip


def _number(text: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(text.strip().replace(",", ".") or "0")
    except ValueError:
        return -1  # refused by the check, with its sentence at the field


def rules_of(form: dict[str, str]) -> Rules:
    """The rules as the form gives them; Invalid with a sentence at each wrong field."""
    given: dict[str, Any] = {name: _number(form.get(name, ""), int) for name in WHOLE}
    given |= {name: _number(form.get(name, ""), float) for name in MONEY}
    given |= {name: form.get(name, "") for name in ("currency", "zone")}
    given["countries"] = form.get("countries", "").replace(",", " ").split()
    given["prefixes"] = form.get("prefixes", "").replace(",", " ").split()
    prices: dict[str, list[float]] = {}
    for line in form.get("prices", "").splitlines():
        words = line.split()
        if words:
            prices[words[0]] = [_number(word, float) for word in words[1:]]
    return outgoing_rules.check({**given, "prices": prices})


async def show(request: web.Request) -> web.StreamResponse:
    """What went out, the limits, the stop."""
    return await _page(request, saved="saved" in request.query)


async def _page(
    request: web.Request, *, values: dict[str, str] | None = None, error: HubError | None = None, saved: bool = False
) -> web.Response:
    now = now_of(request)
    async with runtime_of(request).db.reading() as tx:
        guard = await outgoing.load(tx, now=now)
    day = outgoing.day_of(now)
    abroad: dict[str, int] = {}
    for (period, scope, _), (number, _) in guard.counts.items():
        country = scope.removeprefix("country:")
        if period == day and scope.startswith("country:") and country not in guard.home:
            abroad[country] = abroad.get(country, 0) + number
    page = SpendingPage(
        lanes_of(guard), guard.rules, values_of(guard.rules) | (values or {}), sorted(guard.home),
        sorted(abroad.items(), key=lambda each: -each[1])[:12], guard.version, fields_of(error), told_of(error), saved,
    )  # fmt: skip
    return await render(request, "admin/spending.html", page, status=422 if error else 200)


async def save(request: web.Request) -> web.StreamResponse:
    """Other limits."""
    form, user, now = await posted(request), user_of(request), now_of(request)
    try:
        rules = rules_of(form)
        await runtime_of(request).db.write(
            lambda tx: outgoing.set_rules(tx, rules, version=version_of(form), actor=user.id, now=now)
        )
    except HubError as error:
        return await _page(request, values=form, error=error)
    raise web.HTTPSeeOther("/desk/admin/spending?saved=1")


async def switch(request: web.Request) -> web.StreamResponse:
    """Stop a channel at once, or let it go on."""
    form, user, now = await posted(request), user_of(request), now_of(request)
    channel = form.get("channel", "")

    async def unit(tx: Tx) -> None:
        if channel not in CHANNELS:
            raise NotFound("There is no such channel.")
        if form.get("act") == "release":
            await outgoing.release(tx, channel, actor=user.id, now=now)
        elif form.get("act") == "stop":
            await outgoing.stop(tx, channel, reason=form.get("reason", ""), actor=user.id, now=now)
        else:
            raise Invalid("Choose one of the list.")

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _page(request, error=error)
    raise web.HTTPSeeOther("/desk/admin/spending?saved=1")


A = "/desk/admin/spending"
routes = [
    Route("GET", A, show, roles=SUPERVISORS),
    Route("POST", A, save, roles=ADMINS),
    Route("POST", f"{A}/switch", switch, roles=ADMINS),
]
