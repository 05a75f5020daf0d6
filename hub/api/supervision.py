"""API: waiting work and why, moving it, agents and their days, missed calls."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Literal

from pydantic import Field

from crm_core import users
from crm_core.db import Tx
from crm_core.errors import Invalid, NotFound
from crm_core.users import Role
from hub import rights
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, operation
from hub.desktop import figures, missed_calls
from hub.web import SUPERVISORS
from routing import agents, entries, explain, missed, supervise, time_ledger
from routing.agents import Activity, shown
from routing.missed import MissedCall

AGENTS = frozenset({Role.AGENT, Role.TELEMARKETER, Role.SUPERVISOR})
READERS = AGENTS | {Role.ADMIN}


class WaitingShown(Shown):
    """One piece of waiting work. `order_at` decides who is served first and never changes."""

    id: str
    queue_id: str
    kind: str
    state: str
    conversation_id: str
    contact_id: str | None
    order_at: datetime
    first_arrival_at: datetime
    entered_at: datetime
    preferred_agent_id: str | None
    preferred_until: datetime | None
    offers: int


class WaitingList(Shown):
    """In the order in which it is served."""

    items: list[WaitingShown]


class WhyWaiting(Shown):
    """Why work waits, its place, its offers so far, and the queues it came through; `trace` is what the router wrote down."""

    entry: str
    state: str
    trace: dict[str, Any]


class MoveIn(Strict):
    """Either a queue or an agent."""

    queue_id: str | None = Field(None, max_length=40)
    agent_id: str | None = Field(None, max_length=40)
    reason: str = Field("", max_length=200)


class AgentNow(Shown):
    """An agent: `state` as boards show it."""

    user_id: str
    name: str
    state: str
    reason: str
    since: datetime
    next_activity: str
    seen_at: datetime | None
    voice_ready: bool
    live_load: int
    text_load: int


class AgentsNow(Shown):
    """Those who are not offline, by name."""

    items: list[AgentNow]


class ActivityIn(Strict):
    """What they do from now on; during live work it takes effect when that ends."""

    activity: Literal["available", "paused", "offline"]
    reason: str = Field("", max_length=40)


class DayQuery(Strict):
    """A day in a zone; today in yours when nothing is given."""

    day: date | None = None


class PeriodShown(Shown):
    """One period of the time ledger."""

    state: str
    reason: str
    cause: str
    started_at: datetime
    ended_at: datetime
    running: bool


class TotalShown(Shown):
    """What a state adds up to."""

    state: str
    reason: str
    seconds: float


class DayShown(Shown):
    """An agent's day: the totals add up to the periods, without a gap."""

    user_id: str
    day: date
    zone: str
    periods: list[PeriodShown]
    totals: list[TotalShown]
    logged_in_s: float
    occupancy: float | None


class MissedShown(Shown):
    """Somebody who phoned and reached nobody."""

    id: str
    number_e164: str
    queue_id: str
    contact_id: str | None
    conversation_id: str
    state: str
    first_at: datetime
    last_at: datetime
    times: int
    waited_s: int
    attempts: int
    tried_at: datetime | None
    tried_by: str | None
    ended_at: datetime | None
    ended_by: str | None
    reason: str


class MissedList(Shown):
    """Open ones longest ago first; closed ones newest first."""

    items: list[MissedShown]


class MissedQuery(Strict):
    """Open or closed."""

    state: Literal["open", "closed"] = "open"
    before: str = Field("", max_length=40)
    limit: int = Field(100, ge=1, le=200)


class DismissIn(Strict):
    """Why nobody calls back."""

    reason: str = Field(min_length=1, max_length=200)


async def _served(tx: Tx, call: Call[Any, Any], queue_id: str) -> None:
    """NotFound unless the user serves or supervises this queue."""
    if not rights.sees_everything(call.user) and queue_id not in await rights.queues_served(tx, call.user):
        raise NotFound("There is no such queue.")


@operation("GET", "/api/v1/queues/{id}/waiting", "What waits", scope="work:read", roles=READERS, answer=WaitingList)
async def list_waiting(call: Call[Nothing, Nothing]) -> WaitingList:
    """At most 200. 404 unless you serve the queue."""
    async with call.runtime.db.reading() as tx:
        await _served(tx, call, call.path["id"])
        rows = await supervise.list_waiting(tx, call.path["id"])
    return WaitingList(
        items=[WaitingShown.model_validate(row.model_dump(include=set(WaitingShown.model_fields))) for row in rows]
    )


@operation("GET", "/api/v1/entries/{id}/why", "Why it waits", scope="work:read", roles=READERS, answer=WhyWaiting)
async def why_waiting(call: Call[Nothing, Nothing]) -> WhyWaiting:
    """As the last pass that decided differently said it; empty when it waits no more."""
    async with call.runtime.db.reading() as tx:
        entry = await entries.get(tx, call.path["id"])
        await _served(tx, call, entry.queue_id)
        trace = await explain.why_waiting(tx, entry.id)
    return WhyWaiting(entry=entry.id, state=str(entry.state), trace=trace or {})


@operation(
    "POST",
    "/api/v1/entries/{id}/move",
    "Move waiting work",
    scope="work:write",
    roles=SUPERVISORS,
    body=MoveIn,
    answer=None,
)
async def move_entry(call: Call[Nothing, MoveIn]) -> None:
    """To another queue, or before one agent at once. Its place in time is kept. 409 when it waits no more."""
    body = call.body
    if (body.queue_id is None) == (body.agent_id is None):
        raise Invalid("Choose where it goes.", fields={"queue_id": "Give a queue or an agent."})

    async def unit(tx: Tx) -> None:
        told: dict[str, Any] = {"actor": call.user.id, "now": call.now, "reason": body.reason}
        if body.queue_id is not None:
            await supervise.move_to_queue(tx, call.path["id"], queue_id=body.queue_id, **told)
        else:
            await supervise.give_to_agent(tx, call.path["id"], agent_id=body.agent_id or "", **told)

    await call.runtime.db.write(unit)


@operation("GET", "/api/v1/agents", "Agents now", scope="work:read", roles=SUPERVISORS, answer=AgentsNow)
async def list_agents(call: Call[Nothing, Nothing]) -> AgentsNow:
    """Everybody who is not offline."""
    async with call.runtime.db.reading() as tx:
        rows = await figures.busy_agents(tx)
    return AgentsNow(
        items=[
            AgentNow(
                user_id=user.id, name=user.name, state=shown(agent)[0], reason=shown(agent)[1], since=agent.since,
                next_activity=agent.next_activity, seen_at=agent.seen_at, voice_ready=agent.voice_ready,
                live_load=agent.live_load, text_load=agent.text_load,
            )
            for user, agent in rows
        ]
    )  # fmt: skip


@operation(
    "PUT",
    "/api/v1/agents/{id}/activity",
    "Change what an agent does",
    scope="work:write",
    roles=SUPERVISORS,
    body=ActivityIn,
    answer=None,
)
async def set_agent_activity(call: Call[Nothing, ActivityIn]) -> None:
    """Audited. 409 when somebody whose tab does not answer should be available."""
    body = call.body
    await call.runtime.db.write(
        lambda tx: supervise.set_activity(
            tx, call.path["id"], Activity(body.activity), actor=call.user.id, reason=body.reason, now=call.now
        )
    )


@operation(
    "GET",
    "/api/v1/agents/{id}/day",
    "An agent's day",
    scope="work:read",
    roles=READERS,
    query=DayQuery,
    answer=DayShown,
)
async def get_day(call: Call[DayQuery, Nothing]) -> DayShown:
    """Your own; supervisors see all. In your zone."""
    if call.path["id"] != call.user.id and not rights.sees_everything(call.user):
        raise NotFound("There is no such agent.")
    zone = call.user.zone or "UTC"
    wanted = call.query.day or call.now.astimezone(UTC).date()
    if not 2000 < wanted.year < 2200:
        raise Invalid("There is no such day.", fields={"day": "Between the years 2001 and 2199."})
    async with call.runtime.db.reading() as tx:
        person = await users.get(tx, call.path["id"])
        if await agents.find(tx, person.id) is None:
            raise NotFound("There is no such agent.")
        day = await time_ledger.read(tx, person.id, day=wanted, zone=zone, now=call.now)
    return DayShown(
        user_id=person.id, day=day.day, zone=zone,
        periods=[
            PeriodShown(state=one.state, reason=one.reason, cause=one.cause, started_at=one.started_at,
                        ended_at=one.ended_at, running=one.running)
            for one in day.periods
        ],
        totals=[TotalShown(state=state, reason=reason, seconds=seconds) for state, reason, seconds in day.totals],
        logged_in_s=day.logged_in_s, occupancy=day.occupancy,
    )  # fmt: skip


def shown_missed(row: MissedCall) -> MissedShown:
    """For output."""
    return MissedShown.model_validate(row.model_dump(include=set(MissedShown.model_fields)))


@operation(
    "GET",
    "/api/v1/missed-calls",
    "Missed calls",
    scope="callbacks:read",
    roles=READERS,
    query=MissedQuery,
    answer=MissedList,
)
async def list_missed(call: Call[MissedQuery, Nothing]) -> MissedList:
    """Of the queues you serve."""
    query = call.query
    async with call.runtime.db.reading() as tx:
        seen = await missed_calls.served(tx, call.user)
        if query.state == "open":
            rows = await missed.list_open(tx, queue_ids=seen, limit=query.limit)
        else:
            rows = await missed.list_ended(tx, queue_ids=seen, before=query.before, limit=query.limit)
    return MissedList(items=[shown_missed(row) for row in rows])


@operation(
    "POST",
    "/api/v1/missed-calls/{id}/dismiss",
    "Close a missed call",
    scope="callbacks:write",
    roles=READERS,
    body=DismissIn,
    answer=MissedShown,
)
async def dismiss_missed(call: Call[Nothing, DismissIn]) -> MissedShown:
    """Without a call back. 409 when it is closed already."""

    async def unit(tx: Tx) -> MissedShown:
        row = await missed_calls.get_seen(tx, call.user, call.path["id"])
        return shown_missed(
            await missed.dismiss(tx, row.id, user_id=call.user.id, reason=call.body.reason, now=call.now)
        )

    return await call.runtime.db.write(unit)


OPERATIONS: list[Operation] = [
    list_waiting,
    why_waiting,
    move_entry,
    list_agents,
    set_agent_activity,
    get_day,
    list_missed,
    dismiss_missed,
]
