"""What waits in a queue and why, an agent's day, and what a supervisor does about both: move, give, change an activity."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from aiohttp import web
from sqlmodel import select

from crm_core import users
from crm_core.db import Tx
from crm_core.errors import HubError, Invalid, NotFound
from crm_core.interactions import Interaction
from crm_core.users import Role, User
from hub import rights
from hub.desktop.render import render
from hub.desktop.templating import told
from hub.desktop.timeline import users_of
from hub.desktop.work import ID, WORKERS
from hub.desktop.worklist import names_of
from hub.web import SUPERVISORS, Route, now_of, runtime_of, user_of
from routing import agents, entries, explain, pauses, queues, supervise, time_ledger, transfers
from routing.agents import Activity
from routing.queues import Queue
from routing.time_ledger import Day
from routing.transfers import Targets

READERS = WORKERS | {Role.ADMIN}


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """One piece of waiting work. `agents`: (name, what stands against them). `road`: the queues it came through, and why."""

    id: str
    kind: str
    name: str
    number: str
    contact_id: str
    conversation_id: str
    arrived_at: datetime
    due_at: datetime | None
    rings_at: str
    place: int
    why: str
    preferred: str
    agents: list[tuple[str, str]]
    road: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class WaitingPage:
    """A queue and what waits in it. `acts`: the reader may move and give."""

    queue: Queue
    rows: list[WaitingRow]
    targets: Targets
    acts: bool
    error: str
    now: datetime


@dataclass(frozen=True, slots=True)
class DayPage:
    """One agent's day."""

    person: User
    mine: bool
    day: Day
    before_url: str
    after_url: str
    here: str
    word: str
    next_activity: str
    reasons: list[str]
    error: str


async def show_waiting(request: web.Request) -> web.StreamResponse:
    """What waits, in order, and why: for those who serve the queue, and for supervisors."""
    return await _waiting(request)


async def _waiting(request: web.Request, error: HubError | None = None) -> web.Response:
    user, now = user_of(request), now_of(request)
    async with runtime_of(request).db.reading() as tx:
        queue = await queues.get(tx, request.match_info["queue"])
        acts = rights.sees_everything(user)
        if not acts and queue.id not in await rights.queues_served(tx, user):
            raise NotFound("There is no such queue.")
        rows = [
            await _row(tx, entry_id) for entry_id in [e.id for e in await supervise.list_waiting(tx, queue.id)][:100]
        ]
        targets = await transfers.list_targets(tx, user_id="", now=now)
    page = WaitingPage(queue, rows, targets, acts, told(request, error) if error else "", now)
    return await render(request, "waiting.html", page, status=409 if error else 200)


async def _row(tx: Tx, entry_id: str) -> WaitingRow:
    entry = await entries.get(tx, entry_id)
    why = await explain.why_waiting(tx, entry_id) or {}
    first = await tx.one(select(Interaction).where(Interaction.id == entry.interaction_id))
    person = (await names_of(tx, [entry.contact_id])).get(entry.contact_id or "")
    against: dict[str, str] = (why.get("agents") or {}).get("by_agent", {})
    names = await users_of(tx, [*against, why.get("preferred"), entry.agent_id])
    outbound = first is not None and first.direction == "outbound"
    road = [dict(move) for move in why.get("moves", [])]
    movers = await users_of(tx, [str(move["by"]) for move in road if move["by"]])
    for move in road:
        move["by"] = movers.get(str(move["by"]), "")
    return WaitingRow(
        id=entry.id, kind=entry.kind, name=person.name if person else "",
        number=(first.to_address if outbound else first.from_address) if first else "", contact_id=entry.contact_id or "",
        conversation_id=entry.conversation_id, arrived_at=entry.first_arrival_at, due_at=entry.not_before,
        rings_at=names.get(entry.agent_id or "", "") if entry.state == "offered" else "",
        place=int(why.get("position", 0)), why=str(why.get("why", "")),
        preferred=names.get(str(why.get("preferred") or ""), ""),
        agents=[(names.get(key, ""), str(obstacle)) for key, obstacle in against.items()], road=road,
    )  # fmt: skip


async def move(request: web.Request) -> web.StreamResponse:
    """Waiting work goes to another queue (`to` = queue:ID) or to an agent (`to` = agent:ID)."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now, entry_id = user_of(request), now_of(request), request.match_info["entry"]
    kind, _, target = form.get("to", "").partition(":")
    reason = form.get("reason", "")

    async def unit(tx: Tx) -> None:
        if kind == "queue" and target:
            await supervise.move_to_queue(tx, entry_id, queue_id=target, actor=user.id, now=now, reason=reason)
        elif kind == "agent" and target:
            await supervise.give_to_agent(tx, entry_id, agent_id=target, actor=user.id, now=now, reason=reason)
        else:
            raise Invalid("Choose where it goes.")

    try:
        await runtime_of(request).db.write(unit)
    except NotFound:
        raise
    except HubError as error:
        return await _waiting(request, error)
    raise web.HTTPSeeOther(f"/desk/queues/{request.match_info['queue']}")


# --- an agent's day ---------------------------------------------------------------------------------------------------


async def show_own(request: web.Request) -> web.StreamResponse:
    """My day: every activity, and what it adds up to."""
    return await _day(request, user_of(request).id)


async def show_day(request: web.Request) -> web.StreamResponse:
    """A colleague's day, and the means to change what they do."""
    return await _day(request, request.match_info["user"])


async def _day(request: web.Request, user_id: str, error: HubError | None = None) -> web.Response:
    reader, now = user_of(request), now_of(request)
    today = now.astimezone(ZoneInfo(reader.zone or "UTC")).date()
    try:
        wanted = date.fromisoformat(request.query.get("day", "")) if request.query.get("day") else today
    except ValueError as fault:
        raise Invalid("Write the day as 2026-12-24.") from fault
    wanted = min(max(wanted, date(2000, 1, 2)), today)
    async with runtime_of(request).db.reading() as tx:
        person = await users.get(tx, user_id)
        agent = await agents.find(tx, user_id)
        day = await time_ledger.read(tx, user_id, day=wanted, zone=reader.zone, now=now)
        reasons = await pauses.list_all(tx)
    here = "/desk/time" if request.path == "/desk/time" else f"/desk/agents/{user_id}"
    days = [f"{here}?{urlencode({'day': (wanted + timedelta(days=step)).isoformat()})}" for step in (-1, 1)]
    page = DayPage(
        person, here == "/desk/time", day, days[0], days[1] if wanted < today else "", here,
        agents.shown(agent)[0] if agent else "offline", agent.next_activity if agent else "", reasons,
        told(request, error) if error else "",
    )  # fmt: skip
    return await render(request, "agent_day.html", page, status=409 if error else 200)


async def set_activity(request: web.Request) -> web.StreamResponse:
    """A supervisor changes what an agent does."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now, agent_id = user_of(request), now_of(request), request.match_info["user"]
    wanted, _, reason = form.get("activity", "").partition(":")
    if wanted not in (Activity.AVAILABLE, Activity.PAUSED, Activity.OFFLINE):
        raise Invalid("There is no such activity.")
    try:
        await runtime_of(request).db.write(
            lambda tx: supervise.set_activity(tx, agent_id, Activity(wanted), actor=user.id, reason=reason, now=now)
        )
    except NotFound:
        raise
    except HubError as error:
        return await _day(request, agent_id, error)
    raise web.HTTPSeeOther(f"/desk/agents/{agent_id}")


routes = [
    Route("GET", f"/desk/queues/{{queue:{ID}}}", show_waiting, roles=READERS),
    Route("POST", f"/desk/queues/{{queue:{ID}}}/move/{{entry:{ID}}}", move, roles=SUPERVISORS),
    Route("GET", "/desk/time", show_own, roles=WORKERS),
    Route("GET", f"/desk/agents/{{user:{ID}}}", show_day, roles=SUPERVISORS),
    Route("POST", f"/desk/agents/{{user:{ID}}}/activity", set_activity, roles=SUPERVISORS),
]
