"""Call lists: the overview, a telemarketer's one contact at a time, and what a manager does with a list."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from aiohttp import web
from sqlmodel import col, select

from campaigns import call_lists, lists
from campaigns.call_lists import CallList, EntryState, ListEntry, ListState
from campaigns.lists import Figures
from crm_core import accounts, contacts, interactions
from crm_core.accounts import ChannelAccount
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.errors import Conflict, HubError, Invalid
from crm_core.users import Role
from hub.desktop import people, uploads, views, work
from hub.desktop.people import HistoryLine
from hub.desktop.render import render
from hub.desktop.templating import told
from hub.desktop.views import ViewBar
from hub.desktop.work import Choice
from hub.desktop.work_actions import local_instant
from hub.web import Route, now_of, runtime_of, user_of
from routing import answered_by, desk
from routing.queues import EntryState as WorkState
from routing.queues import QueueEntry

CALLERS = frozenset({Role.TELEMARKETER, Role.SUPERVISOR})
MANAGERS = frozenset({Role.MARKETER, Role.SUPERVISOR, Role.ADMIN})
EVERYONE = CALLERS | MANAGERS
PAGE = 100
CLAIM_TRIES = 4
ID = "[0-9a-z]{26}"


@dataclass(frozen=True, slots=True)
class Row:
    """One list with its progress."""

    row: CallList
    counts: dict[str, int]
    total: int


@dataclass(frozen=True, slots=True)
class ListsPage:
    """All lists, and the user's own day."""

    rows: list[Row]
    figures: Figures
    state: str
    sort: str
    views: ViewBar
    next_url: str


@dataclass(frozen=True, slots=True)
class CallPage:
    """One contact at a time. `entry` None = nothing may be called now."""

    row: CallList
    entry: ListEntry | None
    script: str
    choices: list[Choice]
    figures: Figures
    history: list[HistoryLine]
    contact_name: str
    firm: str
    talking: bool
    dialled: bool
    error: str
    typed: dict[str, str]
    machine: bool = False  # an answering machine took the call
    likely: str = ""  # the disposition that says so


@dataclass(frozen=True, slots=True)
class ListPage:
    """A list for those who look after it."""

    row: CallList
    counts: dict[str, int]
    total: int
    entries: list[ListEntry]
    state: str
    next_url: str
    error: str


@dataclass(frozen=True, slots=True)
class NewListPage:
    """The form of a new list."""

    accounts: list[ChannelAccount]
    values: dict[str, str]
    errors: dict[str, str]
    error: str


async def show_lists(request: web.Request) -> web.StreamResponse:
    """The overview."""
    user, now = user_of(request), now_of(request)
    async with runtime_of(request).db.reading() as tx:
        bar = await views.bar_of(tx, request, "lists")
        state = bar.query.get("state", "")
        state = state if state in set(ListState) else ""
        oldest = bar.query.get("sort") == "oldest"
        found = await call_lists.list_page(
            tx, after=request.query.get("after", ""), limit=PAGE, state=state, oldest=oldest
        )
        rows = []
        for row in found:
            counts = await call_lists.progress(tx, row.id)
            rows.append(Row(row, counts, sum(counts.values())))
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        own = await lists.figures(tx, user_id=user.id, since=day)
    next_url = views.next_url(bar, found[-1].id, request) if len(found) == PAGE else ""
    return await render(
        request, "lists/list.html", ListsPage(rows, own, state, "oldest" if oldest else "", bar, next_url)
    )


async def show_call(request: web.Request) -> web.StreamResponse:
    """The contact in hand, or the next one: it is locked for this telemarketer."""
    return await _call(request)


async def _call(
    request: web.Request, *, error: str = "", status: int = 200, typed: dict[str, str] | None = None
) -> web.Response:
    user, now, list_id = user_of(request), now_of(request), request.match_info["list"]

    async def unit(tx: Tx) -> tuple[CallList, ListEntry | None, str]:
        row = await call_lists.get(tx, list_id)
        if row.state != ListState.ACTIVE:
            return row, None, ""
        try:
            return row, await lists.claim_next(tx, list_id, user_id=user.id, now=now), ""
        except Conflict as refused:
            return row, None, refused.message

    row, entry, refused = await runtime_of(request).db.write(unit)
    for _ in range(CLAIM_TRIES):
        if entry is not None or refused or row.state != ListState.ACTIVE:
            break
        # One transaction looks at fifty; those that may not be called now are put off by it, so that the next are seen.
        row, entry, refused = await runtime_of(request).db.write(unit)
    error = error or (told(request, Conflict(refused)) if refused else "")
    async with runtime_of(request).db.reading() as tx:
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        own = await lists.figures(tx, user_id=user.id, since=day, list_id=list_id)
        choices = await work.dispositions(tx, "list")
        script, history, name, firm, held, machine = "", [], "", "", None, False
        if entry is not None:
            script = await lists.script_of(tx, entry.id)
            held = await _held(tx, entry, user.id)
            if held is not None and entry.interaction_id is not None:
                machine = answered_by.by_machine(await interactions.get(tx, entry.interaction_id))
            contact = await contacts.find(tx, entry.contact_id) if entry.contact_id else None
            if contact is not None:
                history = await people.history_of(tx, contact.id)
                name, firm = contact.name, await people.organisation_name(tx, contact)
    page = CallPage(
        row=row, entry=entry, script=script, choices=choices, figures=own, history=history, contact_name=name, firm=firm,
        talking=held is not None and held.state == WorkState.CONNECTED, dialled=bool(entry and entry.interaction_id and held),
        error=error, typed=typed or {}, machine=machine,
        likely=next((choice.key for choice in choices if machine and answered_by.likely(choice.flags)), ""),
    )  # fmt: skip
    return await render(request, "lists/call.html", page, status=status)


async def _held(tx: Tx, entry: ListEntry, user_id: str) -> QueueEntry | None:
    """The live work that this entry's call is."""
    if entry.interaction_id is None:
        return None
    found: QueueEntry | None = await tx.one(
        select(QueueEntry).where(
            QueueEntry.agent_id == user_id,
            QueueEntry.interaction_id == entry.interaction_id,
            col(QueueEntry.state).in_([WorkState.CONNECTED, WorkState.WRAPUP]),
        )
    )
    return found


async def dispose(request: web.Request) -> web.StreamResponse:
    """What became of it; the next one follows."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now = user_of(request), now_of(request)
    entry_id, disposition, notes = form.get("entry", ""), form.get("disposition", ""), form.get("notes", "")

    async def unit(tx: Tx) -> None:
        entry = await call_lists.get_entry(tx, entry_id)
        held = await _held(tx, entry, user.id)
        due = local_instant(form["due"], user.zone) if form.get("due") else None
        await lists.dispose(
            tx, entry_id, user_id=user.id, disposition=disposition, now=now, callback_at=due, notes=notes
        )
        if held is not None:
            await desk.finish(tx, held.id, agent_id=user.id, disposition=disposition, notes=notes, now=now)

    try:
        await runtime_of(request).db.write(unit)
    except (Invalid, Conflict) as error:
        return await _call(request, error=told(request, error), status=422, typed=form)
    return await _call(request)


async def release(request: web.Request) -> web.StreamResponse:
    """Give the contact back uncalled, and leave the list."""
    user, now = user_of(request), now_of(request)
    entry_id = str((await request.post()).get("entry", ""))
    await runtime_of(request).db.write(lambda tx: lists.release(tx, entry_id, user_id=user.id, now=now))
    raise web.HTTPSeeOther("/desk/lists")


async def show_list(request: web.Request) -> web.StreamResponse:
    """A list's rows by state, and its switches."""
    return await _list(request)


async def _list(request: web.Request, *, error: str = "", status: int = 200) -> web.Response:
    state, after = request.query.get("state", ""), request.query.get("after", "")
    wanted = EntryState(state) if state in set(EntryState) else None
    async with runtime_of(request).db.reading() as tx:
        row = await call_lists.get(tx, request.match_info["list"])
        counts = await call_lists.progress(tx, row.id)
        entries = await call_lists.list_entries(tx, row.id, state=wanted, after=after, limit=PAGE)
    again = urlencode({"state": state, "after": entries[-1].id}) if len(entries) == PAGE else ""
    next_url = f"/desk/lists/{row.id}?{again}" if again else ""
    page = ListPage(row, counts, sum(counts.values()), entries, state, next_url, error)
    return await render(request, "lists/card.html", page, status=status)


async def switch(request: web.Request) -> web.StreamResponse:
    """Pause, go on, or close."""
    action, now, list_id = str((await request.post()).get("action", "")), now_of(request), request.match_info["list"]

    async def unit(tx: Tx) -> None:
        if action == "close":
            await call_lists.close(tx, list_id, now=now)
        else:
            await call_lists.set_active(tx, list_id, active=action == "resume", now=now)

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _list(request, error=told(request, error), status=409)
    return await _list(request)


async def _numbers(tx: Tx) -> list[ChannelAccount]:
    return [account for account in await accounts.list_channel(tx, "voice") if account.enabled]


async def show_new(request: web.Request) -> web.StreamResponse:
    """The form of a new list."""
    async with runtime_of(request).db.reading() as tx:
        numbers = await _numbers(tx)
    return await render(request, "lists/new.html", NewListPage(numbers, {}, {}, ""))


async def create(request: web.Request) -> web.StreamResponse:
    """A new list from everybody with a tag, or from a CSV file."""
    form = await request.post()
    values = {name: str(value).strip() for name, value in form.items() if isinstance(value, str)}
    user, now = user_of(request), now_of(request)
    try:
        upload = await uploads.take(request, form.get("file"), kind="phone", country=values.get("country", ""))
        if upload is None and not values.get("tag"):
            raise Invalid("Say who is called: a tag or a file.", fields={"tag": "Give a tag, or choose a file."})

        async def unit(tx: Tx) -> str:
            row = await call_lists.create(
                tx, name=values.get("name", ""), account_id=values.get("account_id", ""), user_id=user.id, now=now,
                purpose=Purpose(values.get("purpose") or Purpose.TELEMARKETING), script=values.get("script", ""),
            )  # fmt: skip
            source = (
                {"tag": values["tag"]} if upload is None else {"import": await uploads.begin(tx, upload, user.id, now)}
            )
            await call_lists.build(tx, row.id, source=source, now=now)
            return row.id

        list_id = await runtime_of(request).db.write(unit)
    except Invalid as error:
        async with runtime_of(request).db.reading() as tx:
            numbers = await _numbers(tx)
        page = NewListPage(numbers, values, error.fields, told(request, error))
        return await render(request, "lists/new.html", page, status=422)
    raise web.HTTPSeeOther(f"/desk/lists/{list_id}")


routes = [
    Route("GET", "/desk/lists", show_lists, roles=EVERYONE),
    Route("GET", "/desk/lists/new", show_new, roles=MANAGERS),
    Route("POST", "/desk/lists/new", create, roles=MANAGERS, body_limit=uploads.LARGEST),
    Route("GET", f"/desk/lists/{{list:{ID}}}", show_list, roles=EVERYONE),
    Route("POST", f"/desk/lists/{{list:{ID}}}", switch, roles=MANAGERS),
    Route("GET", f"/desk/lists/{{list:{ID}}}/call", show_call, roles=CALLERS),
    Route("POST", f"/desk/lists/{{list:{ID}}}/dispose", dispose, roles=CALLERS),
    Route("POST", f"/desk/lists/{{list:{ID}}}/release", release, roles=CALLERS),
]
