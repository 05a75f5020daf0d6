"""Leads: enquiries by stage, and one enquiry with what they filled in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from crm_core import contacts, interactions, leads
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.interactions import Interaction
from crm_core.leads import Lead, LeadStage
from hub.desktop import people, views
from hub.desktop.contacts import colleagues_of
from hub.desktop.people import PersonPane
from hub.desktop.render import render
from hub.desktop.timeline import users_of
from hub.desktop.views import ViewBar
from hub.desktop.worklist import names_of
from hub.web import STAFF, Route, now_of, runtime_of, user_of
from routing.forms import labels_of
from webhooks.form_posts import find_kept_form

PAGE = 50


@dataclass(frozen=True, slots=True)
class Row:
    """One lead in the list."""

    lead: Lead
    contact: Contact | None
    owner: str


@dataclass(frozen=True, slots=True)
class LeadsPage:
    """The list."""

    rows: list[Row]
    stage: str
    owner: str  # an id, "me", or empty
    sort: str
    colleagues: list[tuple[str, str]]
    views: ViewBar
    next_url: str


@dataclass(frozen=True, slots=True)
class LeadPage:
    """One lead."""

    lead: Lead
    owner: str
    person: PersonPane
    fields: list[tuple[str, str]]  # what they filled in, as the form labels it
    replays: list[tuple[str, datetime]]  # who had the post read again, and when


async def show_list(request: web.Request) -> web.StreamResponse:
    """The list, all or of one stage."""
    after, user = request.query.get("after", ""), user_of(request)
    async with runtime_of(request).db.reading() as tx:
        bar = await views.bar_of(tx, request, "leads")
        stage, owner = bar.query.get("stage", ""), bar.query.get("owner", "")
        stage = stage if stage in set(LeadStage) else ""
        oldest = bar.query.get("sort") == "oldest"
        found = await leads.list_page(
            tx, stage=stage, after=after, limit=PAGE + 1, owner_id=user.id if owner == "me" else owner, oldest=oldest
        )
        colleagues = await colleagues_of(tx)
        more, found = len(found) > PAGE, found[:PAGE]
        named = await names_of(tx, [lead.contact_id for lead in found])
        owners = await users_of(tx, [lead.owner_id for lead in found])
    rows = [Row(lead, named.get(lead.contact_id), owners.get(lead.owner_id or "", "")) for lead in found]
    next_url = views.next_url(bar, found[-1].id, request) if more else ""
    page = LeadsPage(rows, stage, owner, "oldest" if oldest else "", colleagues, bar, next_url)
    return await render(request, "leads/list.html", page)


async def show(request: web.Request) -> web.StreamResponse:
    """One lead, with the person."""
    async with runtime_of(request).db.reading() as tx:
        lead = await leads.get(tx, request.match_info["lead"])
        owner = (await users_of(tx, [lead.owner_id])).get(lead.owner_id or "", "")
        person = await people.pane_of_contact(tx, await contacts.get(tx, lead.contact_id))
        said = await interactions.get(tx, lead.interaction_id) if lead.interaction_id else None
        labels = await _labels(tx, lead, said)
        again = said.data.get("replays", []) if said is not None else []
        names = await users_of(tx, [one["by"] for one in again])
    fields = [(labels.get(name, name), str(value)) for name, value in lead.fields.items() if value not in ("", None)]
    replays = [(names.get(one["by"], one["by"]), datetime.fromisoformat(one["at"])) for one in again]
    return await render(request, "leads/card.html", LeadPage(lead, owner, person, fields, replays))


async def _labels(tx: Tx, lead: Lead, said: Interaction | None) -> dict[str, str]:
    """Name → label: as the form said when it was filled in, or says now."""
    if said is not None and isinstance(said.data.get("labels"), dict):
        return {str(name): str(label) for name, label in said.data["labels"].items()}
    kind, _, slug = lead.source.partition(":")
    form = await find_kept_form(tx, slug) if kind == "form" else None
    return labels_of(form.fields) if form is not None else {}


async def change(request: web.Request) -> web.StreamResponse:
    """Another stage, or "mine"."""
    form = await request.post()
    stage, user, now = str(form.get("stage", "")), user_of(request), now_of(request)
    if stage and stage not in set(LeadStage):
        raise Invalid("There is no such stage.")

    async def unit(tx: Tx) -> None:
        lead = await leads.get(tx, request.match_info["lead"])
        if stage:
            await leads.change(tx, lead, now=now, stage=LeadStage(stage))
        if form.get("mine"):
            await leads.change(tx, lead, now=now, owner_id=user.id)

    await runtime_of(request).db.write(unit)
    return await show(request)


routes = [
    Route("GET", "/desk/leads", show_list, roles=STAFF),
    Route("GET", "/desk/leads/{lead:[0-9a-z]{26}}", show, roles=STAFF),
    Route("POST", "/desk/leads/{lead:[0-9a-z]{26}}", change, roles=STAFF),
]
