"""The wallboard: each queue, each agent, and the line that accounts for everything that came today. Reads only."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiohttp import web
from sqlmodel import col, func, select

from crm_core import tallies
from crm_core.calls import CallRecord
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.interactions import Interaction
from crm_core.users import User
from hub.desktop import figures
from hub.desktop.render import render
from hub.desktop.templating import part
from hub.desktop.worklist import names_of
from hub.web import SUPERVISORS, Route, now_of, runtime_of
from routing.agents import Agent, shown
from routing.queues import EntryState, Queue, QueueMember

SAMPLE = 2000


@dataclass(frozen=True, slots=True)
class QueueTile:
    """One queue. `service_level` is the share of today's answered calls that were answered within the queue's limit; calls
    that were abandoned within the limit do not count, later ones count against it."""

    id: str
    name: str
    waiting: int
    oldest_at: datetime | None
    alarm: bool
    service_level: float | None
    limit_s: int
    answered: int
    abandoned: int
    agents: dict[str, int]


@dataclass(frozen=True, slots=True)
class AgentTile:
    """One agent."""

    user_id: str
    name: str
    word: str
    reason: str
    since: datetime
    with_whom: str
    conversation_id: str
    voice_ready: bool


@dataclass(frozen=True, slots=True)
class Conservation:
    """What came today = what became of it. The parts are counted apart from the sum, and shown when they differ."""

    came: int
    parts: list[tuple[str, str, int]]  # word, class of the colour, number

    @property
    def holds(self) -> bool:
        """True when the parts add up."""
        return self.came == sum(number for _, _, number in self.parts)


@dataclass(frozen=True, slots=True)
class Board:
    """The whole board."""

    queues: list[QueueTile]
    agents: list[AgentTile]
    line: Conservation
    as_of: datetime


async def read(tx: Tx, *, now: datetime) -> Board:
    """The board as it stands."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    queues = await tx.all(select(Queue).where(col(Queue.retired).is_(False)).order_by(col(Queue.name)).limit(100))
    waiting = await figures.waiting_by_queue(tx)
    members: dict[str, list[str]] = defaultdict(list)
    for queue_id, user_id in await tx.all(select(QueueMember.queue_id, QueueMember.user_id).limit(5000)):
        members[queue_id].append(user_id)
    present = await figures.busy_agents(tx)
    words = {user.id: shown(agent)[0] for user, agent in present}
    waits = await _waits(tx, day)
    tiles = []
    for queue in queues:
        number, oldest = waiting.get(queue.id, (0, None))
        answered, abandoned, level = service_level(waits.get(queue.id, []), queue.service_level_s)
        states: dict[str, int] = defaultdict(int)
        for user_id in members[queue.id]:
            if user_id in words:
                states[words[user_id]] += 1
        tiles.append(
            QueueTile(
                id=queue.id, name=queue.name, waiting=number, oldest_at=oldest,
                alarm=oldest is not None and now - oldest > timedelta(seconds=queue.service_level_s),
                service_level=level, limit_s=queue.service_level_s, answered=answered, abandoned=abandoned,
                agents=dict(states),
            )
        )  # fmt: skip
    return Board(tiles, await _agent_tiles(tx, present), await conservation(tx, day), now)


async def _waits(tx: Tx, day: datetime) -> dict[str, list[tuple[int, bool, bool]]]:
    """Queue → (wait in ms, answered, abandoned) of today's latest calls."""
    rows = await tx.all(
        select(Interaction.queue_id, CallRecord)
        .join(CallRecord, col(CallRecord.interaction_id) == col(Interaction.id))
        .where(
            Interaction.channel == "voice", col(Interaction.id) >= _first_id(day), Interaction.direction == "inbound"
        )
        .order_by(col(Interaction.id).desc())
        .limit(SAMPLE)
    )
    found: dict[str, list[tuple[int, bool, bool]]] = defaultdict(list)
    for queue_id, record in rows:
        waited = record.wait_ms + record.ring_ms
        found[queue_id or ""].append((waited, record.answered_at is not None, record.end_reason == "abandoned"))
    return found


def _first_id(day: datetime) -> str:
    """The smallest id that can have been made on this day: ids begin with their milliseconds."""
    return new_id(day)[:10]


def service_level(calls: list[tuple[int, bool, bool]], limit_s: int) -> tuple[int, int, float | None]:
    """(answered, abandoned, share answered within the limit of answered + abandoned after the limit)."""
    limit_ms = limit_s * 1000
    answered = [wait for wait, was_answered, _ in calls if was_answered]
    abandoned = [wait for wait, _, was_abandoned in calls if was_abandoned]
    counted = len(answered) + sum(1 for wait in abandoned if wait > limit_ms)
    good = sum(1 for wait in answered if wait <= limit_ms)
    return len(answered), len(abandoned), good / counted if counted else None


async def _agent_tiles(tx: Tx, present: list[tuple[User, Agent]]) -> list[AgentTile]:
    work = await figures.work_of_agents(tx, [EntryState.CONNECTED, EntryState.WRAPUP])
    held = {entry.agent_id: entry for entry in work}
    people = await names_of(tx, [entry.contact_id for entry in work])
    tiles = []
    for user, agent in present:
        word, reason = shown(agent)
        entry = held.get(user.id)
        person = people.get(entry.contact_id or "") if entry else None
        tiles.append(
            AgentTile(
                user.id, user.name, word, reason, agent.since, person.name if person else "",
                entry.conversation_id if entry else "", agent.voice_ready,
            )
        )  # fmt: skip
    return tiles


GROUPS = (
    ("handled", "st-done", ("ended:handled", "ended:automated", "ended:overflow", "ended:voicemail", "ended:callback")),
    ("abandoned", "st-abandoned", ("ended:abandoned",)),
    ("refused", "st-refused", ("ended:rejected", "ended:spam", "ended:failed", "ended:unreached", "ended:sent")),
    ("waiting", "st-waiting", ("menu", "waiting", "offered")),
    ("agents", "st-agents", ("connected", "wrapup")),
    ("promised", "st-promised", ("promised",)),
)


async def conservation(tx: Tx, day: datetime) -> Conservation:
    """Everything that arrived on this day, counted once as rows, and once by what became of it."""
    counts: dict[str, int] = defaultdict(int)
    for count in await tallies.list_counts(tx, day=day):
        counts[count.state] += count.number
    came = await tx.one(
        select(func.count())
        .select_from(Interaction)
        .where(
            col(Interaction.id) >= _first_id(day),
            Interaction.direction == "inbound",
            col(Interaction.first_arrival_at) >= day,
        )
    )
    parts = [(word, colour, sum(counts.get(state, 0) for state in states)) for word, colour, states in GROUPS]
    return Conservation(int(came or 0), parts)


async def show(request: web.Request) -> web.StreamResponse:
    """The page."""
    async with runtime_of(request).db.reading(slow=True) as tx:
        board = await read(tx, now=now_of(request))
    if "part" in request.query:
        return part(request, "board.html", board)
    return await render(request, "wallboard.html", board)


routes = [Route("GET", "/desk/wallboard", show, roles=SUPERVISORS)]
