"""`render`: answer with a page, in the frame for a whole request, or as the contents of #page when htmx asks for that."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiohttp import web

from crm_core.users import Role, User
from hub.desktop import figures
from hub.desktop.figures import AgentNow, QueueFigure
from hub.desktop.templating import html, respond, wants_part
from hub.desktop.words import N_
from hub.keys import USER
from hub.web import now_of, roles_of, runtime_of

R = Role
_STAFF = {R.AGENT, R.TELEMARKETER, R.MARKETER, R.SUPERVISOR, R.ADMIN}


@dataclass(frozen=True, slots=True)
class NavItem:
    """One entry of the left rail. `key` is what follows `g` on the keyboard."""

    name: str
    path: str
    icon: str
    key: str
    roles: frozenset[Role]


NAV = (
    NavItem(N_("Work"), "/desk/work", "headset", "w", frozenset({R.AGENT, R.TELEMARKETER, R.SUPERVISOR})),
    NavItem(N_("People"), "/desk/contacts", "users", "p", frozenset(_STAFF)),
    NavItem(N_("Callbacks"), "/desk/callbacks", "phone-calling", "b",
            frozenset({R.AGENT, R.TELEMARKETER, R.SUPERVISOR, R.ADMIN})),
    NavItem(N_("Leads"), "/desk/leads", "target-arrow", "l", frozenset(_STAFF)),
    NavItem(N_("Lists"), "/desk/lists", "list-check", "s", frozenset({R.TELEMARKETER, R.MARKETER, R.SUPERVISOR, R.ADMIN})),
    NavItem(N_("Campaigns"), "/desk/campaigns", "send", "c", frozenset({R.MARKETER, R.SUPERVISOR, R.ADMIN})),
    NavItem(N_("Wallboard"), "/desk/wallboard", "layout-dashboard", "o", frozenset({R.SUPERVISOR, R.ADMIN})),
    NavItem(N_("Admin"), "/desk/admin", "settings", "a", frozenset({R.ADMIN})),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around every page."""

    user: User
    nav: list[NavItem]
    agent: AgentNow | None
    queues: list[QueueFigure]
    works: bool  # takes work: has the activity control and the phone
    phone_config: str
    now_iso: str


def nav_of(user: User) -> list[NavItem]:
    """The entries that this user's roles may use."""
    mine = roles_of(user)
    return [item for item in NAV if item.roles & mine]


def takes_work(user: User) -> bool:
    """True when the user answers or makes calls."""
    return bool(roles_of(user) & {R.AGENT, R.TELEMARKETER, R.SUPERVISOR})


async def frame_of(request: web.Request) -> Frame | None:
    """The frame for whoever is logged in."""
    user = request.get(USER)
    if user is None:
        return None
    async with runtime_of(request).db.reading() as tx:
        agent = await figures.agent_now(tx, user.id)
        queues = await figures.queue_figures(tx, user)
    return Frame(
        user=user,
        nav=nav_of(user),
        agent=agent,
        queues=queues,
        works=takes_work(user),
        phone_config=json.dumps({"scope": user.id}),
        now_iso=now_of(request).isoformat(timespec="milliseconds"),
    )


async def render(
    request: web.Request, template: str, context: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """The page. `context` is the template's own dataclass; its fields are the template's variables."""
    if wants_part(request):
        return respond(html(request, template, context, layout="swap.html", frame=None), status=status, headers=headers)
    frame = await frame_of(request)
    layout = "bare.html" if frame is None else "frame.html"
    return respond(html(request, template, context, layout=layout, frame=frame), status=status, headers=headers)
