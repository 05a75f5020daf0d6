"""Saved views of the lists: tabs above a list, and the form that keeps what is shown now under a name."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from aiohttp import web

from crm_core import saved_views
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.saved_views import PAGES, SavedView
from hub.web import STAFF, Route, now_of, runtime_of, user_of

PATHS = {"contacts": "/desk/contacts", "leads": "/desk/leads", "lists": "/desk/lists"}
ID = "[0-9a-z]{26}"


@dataclass(frozen=True, slots=True)
class Tab:
    """One view above a list."""

    id: str
    name: str
    url: str
    mine: bool
    shared: bool
    chosen: bool
    default: bool


@dataclass(frozen=True, slots=True)
class ViewBar:
    """The views of a page, and what it shows now."""

    page: str
    path: str
    tabs: list[Tab]
    query: dict[str, str]


def url_of(view: SavedView) -> str:
    """The list as this view shows it."""
    return f"{PATHS[view.page]}?{urlencode({**view.query, 'view': view.id})}"


async def bar_of(tx: Tx, request: web.Request, page: str) -> ViewBar:
    """What the page shows: the address's own parameters; without any, the user's default view."""
    user = user_of(request)
    default = await saved_views.find_default(tx, user_id=user.id, page=page)
    bare = not request.query.keys() & {*PAGES[page], "view", "all", "after"}
    query = default.query if bare and default is not None else saved_views.query_of(page, request.query)
    chosen = default.id if bare and default is not None else request.query.get("view", "")
    tabs = [
        Tab(
            id=view.id, name=view.name, url=url_of(view), mine=view.user_id == user.id, shared=view.shared,
            chosen=view.id == chosen and view.query == query, default=default is not None and default.id == view.id,
        )
        for view in await saved_views.list_for(tx, user_id=user.id, page=page)
    ]  # fmt: skip
    return ViewBar(page, PATHS[page], tabs, dict(query))


def next_url(bar: ViewBar, after: str, request: web.Request) -> str:
    """The page after this one, filtered alike."""
    view = request.query.get("view", "")
    return f"{bar.path}?{urlencode({**bar.query, **({'view': view} if view else {}), 'after': after})}"


async def save(request: web.Request) -> web.StreamResponse:
    """Keep what is shown under a name."""
    form = {name: str(value) for name, value in (await request.post()).items()}
    user, now, page = user_of(request), now_of(request), request.match_info["page"]
    view = await runtime_of(request).db.write(
        lambda tx: saved_views.save(
            tx, user_id=user.id, page=page, name=form.get("name", ""), query=form, shared=bool(form.get("shared")),
            default=bool(form.get("default")), now=now,
        )
    )  # fmt: skip
    raise web.HTTPSeeOther(url_of(view))


async def change(request: web.Request) -> web.StreamResponse:
    """Make a view the default, no default, or delete it."""
    action = str((await request.post()).get("action", ""))
    user, now, wanted = user_of(request), now_of(request), request.match_info["view"]

    async def unit(tx: Tx) -> str:
        view = await saved_views.get(tx, wanted, user_id=user.id)
        match action:
            case "default":
                await saved_views.set_default(tx, wanted, user_id=user.id)
            case "plain":
                await saved_views.clear_default(tx, user_id=user.id, page=view.page)
            case "delete":
                await saved_views.remove(tx, wanted, user_id=user.id, now=now)
                return f"{PATHS[view.page]}?all=1"
            case _:
                raise Invalid("Choose what shall be done.")
        return url_of(view)

    raise web.HTTPSeeOther(await runtime_of(request).db.write(unit))


routes = [
    Route("POST", "/desk/views/{page:contacts|leads|lists}", save, roles=STAFF),
    Route("POST", f"/desk/views/{{view:{ID}}}", change, roles=STAFF),
]
