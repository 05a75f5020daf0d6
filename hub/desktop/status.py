"""The parts of the frame that change by themselves, global search, help for a decision ("why")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web
from sqlmodel import col, select

from crm_core import contacts, interactions
from crm_core.addresses import find_email, find_phone, is_emergency
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.interactions import Interaction
from crm_core.outgoing_rules import EMERGENCY_TEXT
from hub import rights
from hub.desktop import figures
from hub.desktop.figures import AgentNow, QueueFigure
from hub.desktop.people import Candidate, candidates_of
from hub.desktop.render import render, takes_work
from hub.desktop.templating import part
from hub.desktop.timeline import users_of
from hub.web import STAFF, Route, runtime_of, user_of
from routing import entries, moves
from routing.offers import Offer


@dataclass(frozen=True, slots=True)
class ActivityPart:
    """The activity control."""

    agent: AgentNow | None


@dataclass(frozen=True, slots=True)
class QueuesPart:
    """The queues I serve."""

    queues: list[QueueFigure]


@dataclass(frozen=True, slots=True)
class SearchPage:
    """People and conversations found."""

    query: str
    people: list[Candidate]
    touches: list[Interaction]
    address: str  # what was typed, when it is an address that this user may write to or call
    emergency: str  # why nobody is called, where the police or an ambulance was typed


@dataclass(frozen=True, slots=True)
class WhyPart:
    """The trace that the deciding call left: why this agent, and what stood against the others."""

    why: str
    chosen: str
    position: int
    ring: int
    skills: dict[str, int]
    others: list[tuple[str, str]]
    more: list[tuple[str, int]]
    road: list[dict[str, Any]]  # the queues it came through: from, to, why


async def activity_part(request: web.Request) -> web.Response:
    """The activity control as the server knows it."""
    async with runtime_of(request).db.reading() as tx:
        agent = await figures.agent_now(tx, user_of(request).id)
    return part(request, "parts/activity.html", ActivityPart(agent))


async def show_activity(request: web.Request) -> web.StreamResponse:
    """GET of the activity control."""
    return await activity_part(request)


async def show_queues(request: web.Request) -> web.StreamResponse:
    """The queue figures of the status bar."""
    async with runtime_of(request).db.reading() as tx:
        queues = await figures.queue_figures(tx, user_of(request))
    return part(request, "parts/queues.html", QueuesPart(queues))


async def _search(tx: Tx, query: str, *, limit: int, writes: bool) -> SearchPage:
    found: list[Contact] = await contacts.search(tx, query, limit=limit) if len(query) > 1 else []
    touches: list[Interaction] = []
    if found:
        touches = await tx.all(
            select(Interaction)
            .where(col(Interaction.contact_id).in_([contact.id for contact in found[:5]]))
            .order_by(col(Interaction.id).desc())
            .limit(limit)
        )
    address = emergency = ""
    if writes:
        typed = find_email(query) if "@" in query else find_phone(query)
        address = typed.value if typed else ""
        emergency = EMERGENCY_TEXT if is_emergency(query, "") else ""
    people = await candidates_of(tx, [contact.id for contact in found])
    return SearchPage(query, people, touches, address, emergency)


async def search_found(request: web.Request) -> web.StreamResponse:
    """What the search field shows while one types."""
    query = request.query.get("q", "").strip()[:200]
    async with runtime_of(request).db.reading(slow=True) as tx:
        found = await _search(tx, query, limit=8, writes=takes_work(user_of(request)))
    return part(request, "parts/found.html", found)


async def search_page(request: web.Request) -> web.StreamResponse:
    """The page of everything found."""
    query = request.query.get("q", "").strip()[:200]
    async with runtime_of(request).db.reading(slow=True) as tx:
        found = await _search(tx, query, limit=50, writes=takes_work(user_of(request)))
    return await render(request, "search.html", found)


async def why(request: web.Request) -> web.StreamResponse:
    """Why an offer went to whom it went: the stored trace, never thought again."""
    async with runtime_of(request).db.reading() as tx:
        offer = await tx.one(select(Offer).where(Offer.id == request.match_info["offer"]))
        if offer is None:
            raise NotFound("There is no such decision.")
        entry = await entries.get(tx, offer.entry_id)
        await rights.conversation(tx, user_of(request), entry.conversation_id)
        trace = offer.trace
        first = await interactions.get(tx, entry.interaction_id)
        agents = trace.get("agents") or {}
        named: dict[str, str] = agents.get("by_agent", {})
        counts: dict[str, int] = agents.get("by_reason", {})
        names = await users_of(tx, [*named, str(trace.get("agent", ""))])
    return part(
        request,
        "parts/why.html",
        WhyPart(
            why=str(trace.get("why", "")),
            position=int(trace.get("position", 0)),
            ring=int(trace.get("ring", 0)),
            skills=dict(trace.get("skills", {})),
            chosen=names.get(str(trace.get("agent", "")), ""),
            others=[(names.get(key, ""), str(told)) for key, told in named.items()],
            more=list(counts.items()) if sum(counts.values()) > len(named) else [],
            road=moves.road(first.data),
        ),
    )


routes = [
    Route("GET", "/desk/frame/activity", show_activity, roles=STAFF),
    Route("GET", "/desk/frame/queues", show_queues, roles=STAFF),
    Route("GET", "/desk/search/found", search_found, roles=STAFF),
    Route("GET", "/desk/search", search_page, roles=STAFF),
    Route("GET", "/desk/why/{offer:[0-9a-z]{26}}", why, roles=STAFF),
]
