"""Administration, second half: welcome texts, dispositions, tokens, the audit log; mounts what has files of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web
from sqlmodel import col, select

from crm_core import accounts, settings_rows, users
from crm_core.audit import AuditEntry
from crm_core.db import Tx
from crm_core.errors import HubError, Invalid, NotFound
from crm_core.interactions import Disposition
from crm_core.users import ApiToken, User
from hub.desktop import admin_channels, admin_forms, admin_hours
from hub.desktop.flow_editor import LANGUAGES
from hub.desktop.render import render
from hub.desktop.templating import told
from hub.web import ADMINS, Route, now_of, runtime_of, user_of
from routing import flows, queues
from routing.flows import Flow
from routing.queues import Queue

PAGE = 100
SCOPES = (
    "contacts:read", "contacts:write", "conversations:read", "conversations:write", "calls:read", "calls:write",
    "callbacks:read", "callbacks:write", "leads:read", "leads:write", "campaigns:read", "campaigns:write",
    "campaigns:send", "lists:read", "lists:write", "lists:work", "consent:read", "consent:write", "events:read",
    "work:read", "work:write", "admin:read", "admin:write",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FlowsPage:
    """The welcome texts, by flow."""

    rows: list[tuple[Flow, str, list[str]]]  # flow, what it says first, the numbers that use it
    queues: list[Queue]
    languages: tuple[tuple[str, str], ...]
    error: str
    saved: bool


@dataclass(frozen=True, slots=True)
class DispositionsPage:
    """All dispositions."""

    rows: list[Disposition]
    values: dict[str, str]
    errors: dict[str, str]
    error: str


@dataclass(frozen=True, slots=True)
class TokensPage:
    """API tokens; `secret` is shown once."""

    rows: list[tuple[ApiToken, str]]
    users: list[User]
    scopes: tuple[str, ...]
    secret: str
    error: str


@dataclass(frozen=True, slots=True)
class AuditPage:
    """The log, newest first."""

    rows: list[tuple[AuditEntry, str]]
    next_url: str


async def show_flows(request: web.Request) -> web.StreamResponse:
    """What callers hear first."""
    return await _flows(request)


async def _flows(request: web.Request, *, error: str = "", saved: bool = False) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        rows = []
        numbers = await accounts.list_channel(tx, "voice")
        for flow in await flows.list_all(tx):
            steps, _, _ = await flows.load(tx, flow.id)
            users = [number.address for number in numbers if number.flow_id == flow.id]
            rows.append((flow, _said_first(steps, flow.language), users))
        served = await queues.list_all(tx)
    return await render(
        request, "admin/flows.html", FlowsPage(rows, served, LANGUAGES, error, saved), status=422 if error else 200
    )


def _said_first(steps: list[dict[str, Any]], language: str) -> str:
    """The first words of a flow, in its own language where it has them; empty for the usual welcome."""
    for step in steps:
        if step["do"] == "welcome":
            return ""
        texts = step.get("texts") or {}
        said = step.get("text") or texts.get(language) or next(filter(None, texts.values()), "")
        if said:
            return str(said)
    return ""


async def save_flow(request: web.Request) -> web.StreamResponse:
    """A new version of a flow (or a new flow): a welcome, then a queue. Calls that run keep the version they began with."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now, flow_id = user_of(request), now_of(request), form.get("flow", "")
    said, queue = form.get("text", ""), form.get("queue", "")

    async def unit(tx: Tx) -> None:
        if flow_id:
            steps, _, _ = await flows.load(tx, flow_id)
            fresh = _with_welcome(steps, said, queue)
            await flows.save_version(tx, flow_id, steps=fresh, actor=user.id, now=now)
            return
        await flows.create(
            tx, name=form.get("name", ""), steps=_with_welcome([{"do": "enqueue", "queue": queue}], said, queue),
            language=form.get("language") or "en-GB", actor=user.id, now=now,
        )  # fmt: skip

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _flows(request, error=told(request, error))
    return await _flows(request, saved=True)


def _with_welcome(steps: list[dict[str, Any]], said: str, queue: str) -> list[dict[str, Any]]:
    """The steps with this welcome first; menus and what follows stay as they are."""
    rest = [dict(step) for step in steps if step.get("do") not in ("say", "welcome")]
    for step in rest:
        if step.get("do") == "enqueue" and queue:
            step["queue"] = queue
    first: list[dict[str, Any]] = [{"do": "say", "text": said[:2000]}] if said else [{"do": "welcome"}]
    return first + rest


async def show_dispositions(request: web.Request) -> web.StreamResponse:
    """How work may end."""
    return await _dispositions(request)


async def _dispositions(
    request: web.Request, *, values: dict[str, str] | None = None, error: HubError | None = None
) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        rows = await settings_rows.list_dispositions(tx)
    page = DispositionsPage(
        rows, values or {}, error.fields if isinstance(error, Invalid) else {}, told(request, error) if error else ""
    )
    return await render(request, "admin/dispositions.html", page, status=422 if error else 200)


async def save_disposition(request: web.Request) -> web.StreamResponse:
    """Add or change one, take it out, or bring it back."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now = user_of(request), now_of(request)
    names = ("reached", "sale", "callback", "do_not_call", "wrong_number", "refused", "machine")
    flags: dict[str, Any] = {name: True for name in names if name in form}
    retry = form.get("retry_minutes", "")

    async def unit(tx: Tx) -> None:
        if "retire" in form:
            await settings_rows.retire_disposition(
                tx, form.get("key", ""), retired=form["retire"] == "1", actor=user.id, now=now
            )
            return
        if retry:
            if not retry.isdigit():
                raise Invalid("A whole number is wanted.", fields={"retry_minutes": "Give a whole number."})
            flags["retry_after_s"] = int(retry) * 60
        await settings_rows.put_disposition(
            tx, key=form.get("key", ""), label=form.get("label", ""), scope=form.get("scope", ""), flags=flags,
            position=int(form["position"]) if form.get("position", "").isdigit() else 0, actor=user.id, now=now,
        )  # fmt: skip

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _dispositions(request, values=form, error=error)
    return await _dispositions(request)


async def show_tokens(request: web.Request) -> web.StreamResponse:
    """API tokens."""
    return await _tokens(request)


async def _tokens(request: web.Request, *, secret: str = "", error: str = "") -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        everybody = await users.list_all(tx)
        names = {user.id: user.name for user in everybody}
        rows = [(token, names.get(token.user_id, "")) for token in await users.list_tokens(tx)]
    page = TokensPage(rows, [u for u in everybody if u.disabled_at is None], SCOPES, secret, error)
    return await render(request, "admin/tokens.html", page, status=422 if error else 200)


async def save_token(request: web.Request) -> web.StreamResponse:
    """Make one (its secret is shown this once) or end one."""
    form = await request.post()
    actor, now = user_of(request), now_of(request)
    db = runtime_of(request).db
    if form.get("revoke"):
        token_id = str(form["revoke"])
        await db.write(lambda tx: users.revoke_token(tx, token_id, actor=actor.id, now=now))
        return await _tokens(request)
    name, user_id = str(form.get("name", "")).strip(), str(form.get("user_id", ""))
    scopes = [str(value) for value in form.getall("scopes", []) if value in SCOPES]

    async def unit(tx: Tx) -> str:
        if not name or not scopes:
            raise Invalid("A token needs a name and at least one scope.")
        await users.get(tx, user_id)
        _, made = await users.create_token(tx, user_id=user_id, name=name, scopes=scopes, actor=actor.id, now=now)
        return made

    try:
        secret = await db.write(unit)
    except (Invalid, NotFound) as error:
        return await _tokens(request, error=told(request, error))
    return await _tokens(request, secret=secret)


async def show_audit(request: web.Request) -> web.StreamResponse:
    """Who did what."""
    before: str = request.query.get("before", "")
    async with runtime_of(request).db.reading() as tx:
        statement = select(AuditEntry)
        if before:
            statement = statement.where(col(AuditEntry.id) < before)
        found = await tx.all(statement.order_by(col(AuditEntry.id).desc()).limit(PAGE + 1))
        names = {user.id: user.name for user in await users.list_all(tx)}
    more, found = len(found) > PAGE, found[:PAGE]
    rows = [(entry, names.get(entry.actor_id, entry.actor_id)) for entry in found]
    next_url = f"/desk/admin/audit?before={found[-1].id}" if more else ""
    return await render(request, "admin/audit.html", AuditPage(rows, next_url))


A = "/desk/admin"
routes = [
    *admin_channels.routes,
    *admin_forms.routes,
    *admin_hours.routes,
    Route("GET", f"{A}/flows", show_flows, roles=ADMINS),
    Route("POST", f"{A}/flows", save_flow, roles=ADMINS),
    Route("GET", f"{A}/dispositions", show_dispositions, roles=ADMINS),
    Route("POST", f"{A}/dispositions", save_disposition, roles=ADMINS),
    Route("GET", f"{A}/tokens", show_tokens, roles=ADMINS),
    Route("POST", f"{A}/tokens", save_token, roles=ADMINS),
    Route("GET", f"{A}/audit", show_audit, roles=ADMINS),
]
