"""People: the list with its search, a contact's own page, and each field edited on its line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from aiohttp import web
from sqlmodel import col, func, select

from crm_core import addresses, consent, contacts, leads
from crm_core.addresses import Address, PointKind, find_email, find_phone
from crm_core.consent import Suppression, SuppressionReason
from crm_core.contacts import Contact, Organisation
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.interactions import Note
from crm_core.users import User
from hub.desktop import people, views
from hub.desktop.people import HistoryLine, PersonPane
from hub.desktop.render import render
from hub.desktop.templating import part, reader_of, told
from hub.desktop.timeline import users_of
from hub.desktop.views import ViewBar
from hub.desktop.work_actions import local_instant
from hub.i18n import Reader
from hub.web import STAFF, Route, now_of, runtime_of, user_of
from routing import callbacks, queues
from routing.queues import Queue

PAGE = 50
COLUMNS = ("organisation", "addresses", "tags", "owner", "since")
USUAL = ["organisation", "addresses", "tags", "since"]
ID = "[0-9a-z]{26}"


@dataclass(frozen=True, slots=True)
class Row:
    """One contact in the list."""

    contact: Contact
    organisation: str
    points: list[str]
    stopped: bool


@dataclass(frozen=True, slots=True)
class ListPage:
    """The list."""

    rows: list[Row]
    query: str
    tag: str
    owner: str  # an id, "me", or empty
    sort: str  # oldest, or empty for newest first
    columns: list[str]
    colleagues: list[tuple[str, str]]
    owners: dict[str, str]
    views: ViewBar
    next_url: str
    total: int | None  # None = more than was counted


@dataclass(frozen=True, slots=True)
class CardPage:
    """A contact's own page."""

    person: PersonPane
    history: list[HistoryLine]
    more_history: str
    queues: list[Queue]
    error: str


@dataclass(frozen=True, slots=True)
class NewPage:
    """The form of a new contact."""

    values: dict[str, str]
    errors: dict[str, str]
    twins: list[people.Candidate]


@dataclass(frozen=True, slots=True)
class LinePart:
    """One field on its line: shown, or being edited."""

    contact: Contact
    name: str
    label: str
    value: str
    editing: bool
    error: str
    options: list[tuple[str, str]]
    kind: str


FIELDS = {
    "name": "text", "organisation": "text", "job_title": "text", "language": "text", "zone": "text", "country": "text",
    "tags": "text", "born_on": "date", "vip": "check", "owner_id": "choice", "notes": "area",
}  # fmt: skip


def label_of(reader: Reader, name: str) -> str:
    """The field's name on the screen."""
    _ = reader.gettext
    return {
        "name": _("Name"), "organisation": _("Firm"), "job_title": _("Job title"), "language": _("Language"),
        "zone": _("Time zone"), "country": _("Country"), "tags": _("Tags"), "born_on": _("Born on"), "vip": _("VIP"),
        "owner_id": _("Looked after by"), "notes": _("Notes"),
    }[name]  # fmt: skip


async def _rows(tx: Tx, found: list[Contact]) -> list[Row]:
    firms: dict[str, str] = {}
    wanted = sorted({c.organisation_id for c in found if c.organisation_id})
    if wanted:
        firms = dict(await tx.all(select(Organisation.id, Organisation.name).where(col(Organisation.id).in_(wanted))))
    rows = []
    for contact in found:
        points = [point.value for point, _ in await contacts.list_points(tx, contact.id)]
        stopped = bool(points) and bool(
            await tx.one(
                select(Suppression.value)
                .where(col(Suppression.value).in_(points), col(Suppression.lifted_at).is_(None))
                .limit(1)
            )
        )
        rows.append(Row(contact, firms.get(contact.organisation_id or "", ""), points, stopped))
    return rows


async def colleagues_of(tx: Tx) -> list[tuple[str, str]]:
    """Id and name of everybody who may be given something, by name."""
    named = select(User.id, User.name).where(col(User.disabled_at).is_(None)).order_by(col(User.name)).limit(300)
    return [(str(key), str(name)) for key, name in await tx.all(named)]


async def show_list(request: web.Request) -> web.StreamResponse:
    """The list: newest first, or what a search finds."""
    after, user = request.query.get("after", ""), user_of(request)
    async with runtime_of(request).db.reading(slow=True) as tx:
        bar = await views.bar_of(tx, request, "contacts")
        query, tag, owner = bar.query.get("q", ""), bar.query.get("tag", "")[:60], bar.query.get("owner", "")
        oldest = bar.query.get("sort") == "oldest"
        if query:
            found = await contacts.search(tx, query, limit=PAGE)
            more = False
        else:
            found = await contacts.list_page(
                tx, after=after, limit=PAGE + 1, tag=tag, owner_id=user.id if owner == "me" else owner, oldest=oldest
            )
            more, found = len(found) > PAGE, found[:PAGE]
        rows = await _rows(tx, found)
        owners = await users_of(tx, [contact.owner_id for contact in found])
        colleagues = await colleagues_of(tx)
        bounded = select(Contact.id).where(col(Contact.merged_into).is_(None)).limit(10_001).subquery()
        counted = int(await tx.one(select(func.count()).select_from(bounded)) or 0)
    wanted = [name for name in bar.query.get("columns", "").split(",") if name in COLUMNS]
    page = ListPage(
        rows=rows, query=query, tag=tag, owner=owner, sort="oldest" if oldest else "", columns=wanted or USUAL,
        colleagues=colleagues, owners=owners, views=bar,
        next_url=views.next_url(bar, found[-1].id, request) if more else "", total=counted if counted <= 10_000 else None,
    )  # fmt: skip
    return await render(request, "contacts/list.html", page)


async def show_card(request: web.Request) -> web.StreamResponse:
    """The contact's page."""
    return await _card(request)


async def _card(request: web.Request, *, error: str = "", status: int = 200) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        contact = await contacts.get(tx, request.match_info["contact"])
        person = await people.pane_of_contact(tx, contact)
        before = request.query.get("before", "")
        history = await people.history_of(tx, contact.id, limit=PAGE + 1, before=before)
        served = await queues.list_all(tx)
    more = ""
    if len(history) > PAGE:
        history = history[:PAGE]
        more = f"/desk/contacts/{contact.id}?before={history[-1].id}"
    page = CardPage(person, history, more, [q for q in served if not q.retired], error)
    return await render(request, "contacts/card.html", page, status=status)


async def show_new(request: web.Request) -> web.StreamResponse:
    """The form of a new contact."""
    return await render(request, "contacts/new.html", NewPage({}, {}, []))


async def create(request: web.Request) -> web.StreamResponse:
    """Make the contact; those who have the address already are shown first."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    now = now_of(request)
    reader = reader_of(request)
    errors: dict[str, str] = {}
    points: list[Address] = []
    if not form.get("name"):
        errors["name"] = reader.gettext("Give a name.")
    for name, read in (("phone", addresses.phone), ("email", addresses.email)):
        if form.get(name):
            try:
                points.append(read(form[name]))
            except Invalid as error:
                errors[name] = reader.tell(error.message)
    if not errors and "sure" not in form:
        async with runtime_of(request).db.reading() as tx:
            owners = [contact.id for point in points for contact, _ in await contacts.list_owners(tx, point)]
            twins = await people.candidates_of(tx, list(dict.fromkeys(owners)))
        if twins:
            return await render(request, "contacts/new.html", NewPage(form, {}, twins), status=409)
    if errors:
        return await render(request, "contacts/new.html", NewPage(form, errors, []), status=422)

    async def unit(tx: Tx) -> str:
        firm = form.get("organisation", "")
        organisation_id = (await contacts.get_organisation(tx, firm, now=now)).id if firm else None
        made = await contacts.create(
            tx, name=form["name"], now=now, source="agent", points=points, organisation_id=organisation_id,
            language=form.get("language", "")[:20],
        )  # fmt: skip
        return made.id

    contact_id = await runtime_of(request).db.write(unit)
    raise web.HTTPSeeOther(f"/desk/contacts/{contact_id}")


async def _value(tx: Tx, contact: Contact, name: str) -> str:
    if name == "organisation":
        return await people.organisation_name(tx, contact)
    if name == "owner_id":
        return contact.owner_id or ""
    value = getattr(contact, name)
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, bool):
        return "1" if value else ""
    return value.isoformat() if isinstance(value, date) else str(value or "")


async def _line(
    request: web.Request, *, editing: bool, error: str = "", status: int = 200, typed: str | None = None
) -> web.Response:
    name = request.match_info["field"]
    async with runtime_of(request).db.reading() as tx:
        contact = await contacts.get(tx, request.match_info["contact"])
        value = await _value(tx, contact, name)
        options: list[tuple[str, str]] = []
        if name == "owner_id":
            staff = await tx.all(
                select(User.id, User.name).where(col(User.disabled_at).is_(None)).order_by(col(User.name)).limit(500)
            )
            options = [("", "–"), *staff]
            if not editing:
                value = (await users_of(tx, [value])).get(value, "")
    line = LinePart(
        contact, name, label_of(reader_of(request), name), value if typed is None else typed, editing, error, options,
        FIELDS[name],
    )  # fmt: skip
    headers = {"HX-Trigger": "known"} if not editing and status == 200 and request.method == "POST" else None
    return part(request, "contacts/line.html", line, status=status, headers=headers)


async def show_field(request: web.Request) -> web.StreamResponse:
    """One field, ready to be edited, or shown again (`?show`)."""
    if request.match_info["field"] not in FIELDS:
        raise NotFound("A contact has no such field.")
    return await _line(request, editing="show" not in request.query)


async def save_field(request: web.Request) -> web.StreamResponse:
    """Store one field. When somebody was first, their value is shown and nothing is overwritten."""
    name = request.match_info["field"]
    if name not in FIELDS:
        raise NotFound("A contact has no such field.")
    form = await request.post()
    typed, version = str(form.get("value", "")).strip(), str(form.get("version", "0"))
    now, contact_id = now_of(request), request.match_info["contact"]

    async def unit(tx: Tx) -> None:
        changes = await _changes(tx, name, typed, now)
        await contacts.edit(tx, contact_id, version=int(version), now=now, **changes)

    try:
        await runtime_of(request).db.write(unit)
    except Conflict as error:
        return await _line(request, editing=True, error=told(request, error), status=409)
    except Invalid as error:
        return await _line(request, editing=True, error=told(request, error), status=422, typed=typed)
    return await _line(request, editing=False)


async def _changes(tx: Tx, name: str, typed: str, now: datetime) -> dict[str, Any]:
    if name == "organisation":
        return {"organisation_id": (await contacts.get_organisation(tx, typed, now=now)).id if typed else None}
    if name == "tags":
        return {"tags": sorted({tag.strip()[:40] for tag in typed.split(",") if tag.strip()})[:30]}
    if name == "vip":
        return {"vip": typed == "1"}
    if name == "owner_id":
        return {"owner_id": typed or None}
    if name == "born_on":
        try:
            return {"born_on": date.fromisoformat(typed) if typed else None}
        except ValueError as error:
            raise Invalid("Write the date as year-month-day.") from error
    if name == "zone" and typed:
        from zoneinfo import available_timezones

        if typed not in available_timezones():
            raise Invalid("There is no such time zone; write it as Europe/Madrid.")
    return {name: typed[:5000]}


async def add_point(request: web.Request) -> web.StreamResponse:
    """One more number or mail address."""
    typed = str((await request.post()).get("value", "")).strip()
    now, contact_id = now_of(request), request.match_info["contact"]

    async def unit(tx: Tx) -> None:
        contact = await contacts.get(tx, contact_id)
        address = find_email(typed) if "@" in typed else find_phone(typed, country=contact.country)
        await contacts.link_point(
            tx, contact.id, address or addresses.phone(typed, country=contact.country), now=now, source="agent"
        )

    try:
        await runtime_of(request).db.write(unit)
    except Invalid as error:
        return await _card(request, error=told(request, error), status=422)
    return await _card(request)


async def end_point(request: web.Request) -> web.StreamResponse:
    """This address is no longer theirs."""
    form = await request.post()
    now, contact_id = now_of(request), request.match_info["contact"]
    address = addresses.address(PointKind(str(form.get("kind"))), str(form.get("value")))
    await runtime_of(request).db.write(lambda tx: contacts.unlink_point(tx, contact_id, address, now=now))
    return await _card(request)


async def add_note(request: web.Request) -> web.StreamResponse:
    """A remark on the person."""
    body = str((await request.post()).get("body", "")).strip()[:10_000]
    user, now, contact_id = user_of(request), now_of(request), request.match_info["contact"]

    async def unit(tx: Tx) -> None:
        from crm_core.ids import new_id

        contact = await contacts.get(tx, contact_id)
        await tx.add(Note(id=new_id(now), contact_id=contact.id, user_id=user.id, body=body, created_at=now))

    if body:
        await runtime_of(request).db.write(unit)
    return await _card(request)


async def do_not_contact(request: web.Request) -> web.StreamResponse:
    """They asked never to be contacted again: holds everywhere at once."""
    user, now, contact_id = user_of(request), now_of(request), request.match_info["contact"]

    async def unit(tx: Tx) -> None:
        contact = await contacts.get(tx, contact_id)
        for point, _ in await contacts.list_points(tx, contact.id):
            phone = point.kind == PointKind.PHONE
            for reason in (SuppressionReason.OPT_OUT, *([SuppressionReason.DO_NOT_CALL] if phone else [])):
                await consent.opt_out(
                    tx, Address(point.kind, point.value, point.value), reason=reason, source=f"agent:{user.login}",
                    evidence={"asked": "an agent"}, actor=user.id, now=now, contact_id=contact.id,
                )  # fmt: skip

    await runtime_of(request).db.write(unit)
    return await _card(request)


async def promise(request: web.Request) -> web.StreamResponse:
    """Promise to call this person back."""
    form = {name: str(value) for name, value in (await request.post()).items()}
    user, now, contact_id = user_of(request), now_of(request), request.match_info["contact"]

    async def unit(tx: Tx) -> None:
        await callbacks.request(
            tx, number=addresses.phone(form.get("number", "")), queue_id=form.get("queue", ""),
            due_at=local_instant(form.get("due", ""), user.zone), origin="agent", now=now, contact_id=contact_id,
            owner_id=user.id if form.get("mine") else None, note=form.get("note", "")[:200], created_by=user.id,
        )  # fmt: skip

    try:
        await runtime_of(request).db.write(unit)
    except Invalid as error:
        return await _card(request, error=told(request, error), status=422)
    return await _card(request)


async def add_lead(request: web.Request) -> web.StreamResponse:
    """An enquiry of this person."""
    now, contact_id = now_of(request), request.match_info["contact"]
    note = str((await request.post()).get("about", "")).strip()[:500]
    fields = {"about": note} if note else {}
    await runtime_of(request).db.write(
        lambda tx: leads.create(tx, contact_id=contact_id, source="agent", fields=fields, now=now)
    )
    return await _card(request)


C = f"/desk/contacts/{{contact:{ID}}}"
routes = [
    Route("GET", "/desk/contacts", show_list, roles=STAFF),
    Route("GET", "/desk/contacts/new", show_new, roles=STAFF),
    Route("POST", "/desk/contacts/new", create, roles=STAFF),
    Route("GET", C, show_card, roles=STAFF),
    Route("GET", f"{C}/field/{{field:[a-z_]+}}", show_field, roles=STAFF),
    Route("POST", f"{C}/field/{{field:[a-z_]+}}", save_field, roles=STAFF),
    Route("POST", f"{C}/points", add_point, roles=STAFF),
    Route("POST", f"{C}/points/end", end_point, roles=STAFF),
    Route("POST", f"{C}/notes", add_note, roles=STAFF),
    Route("POST", f"{C}/do-not-contact", do_not_contact, roles=STAFF),
    Route("POST", f"{C}/callbacks", promise, roles=STAFF),
    Route("POST", f"{C}/leads", add_lead, roles=STAFF),
]
