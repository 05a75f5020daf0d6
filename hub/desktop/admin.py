"""Administration, first half: overview with health, queues and who serves them, users with roles and skills."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from aiohttp import web
from sqlmodel import col, select

from crm_core import accounts, outgoing, user_access, users
from crm_core.addresses import find_email
from crm_core.db import Tx
from crm_core.errors import Conflict, HubError, Invalid, NotFound
from crm_core.texts import Text
from crm_core.user_access import INVITE, RESET
from crm_core.users import Role, User
from hub import doctor, mailbox_troubles, user_mail
from hub.desktop.admin_channels import version_of
from hub.desktop.render import render
from hub.desktop.templating import told
from hub.doctor import Finding
from hub.i18n import LOCALES
from hub.passwords import hash_password
from hub.web import ADMINS, Route, now_of, runtime_of, user_of
from routing import agents, hour_settings, overflow, pauses, queue_settings, queues
from routing.agents import AgentSkill
from routing.hours import Hours
from routing.queues import Queue, QueueMember

ID = "[0-9a-z]{26}"
LEAST_PASSWORD = 10


@dataclass(frozen=True, slots=True)
class HealthPage:
    """What `hub check` finds."""

    findings: list[Finding]
    now: datetime


@dataclass(frozen=True, slots=True)
class QueuesPage:
    """All queues."""

    rows: list[tuple[Queue, int]]
    error: str
    reasons: list[str]  # why agents may pause, in the company's words; none: the usual ones


@dataclass(frozen=True, slots=True)
class QueuePage:
    """One queue's settings."""

    queue: Queue
    bounds: dict[str, tuple[int, int]]
    staff: list[tuple[User, bool]]
    hours: list[Hours]
    skills: str  # as they are written
    relax: str
    queues: list[Queue]
    overflow: dict[str, Any]
    values: dict[str, str]
    errors: dict[str, str]
    error: str
    saved: bool


@dataclass(frozen=True, slots=True)
class UsersPage:
    """All users."""

    rows: list[User]


@dataclass(frozen=True, slots=True)
class UserPage:
    """One user, or the form of a new one (`user` None)."""

    user: User | None
    roles: list[str]
    skills: dict[str, int]
    locales: dict[str, str]
    values: dict[str, str]
    chosen: list[str]
    errors: dict[str, str]
    error: str
    saved: bool
    sent: bool
    can_send: bool
    link: str  # the invitation or reset that still works, to be handed over where no mailbox can send it


async def health(request: web.Request) -> web.StreamResponse:
    """The overview: what `hub check` says now."""
    runtime = runtime_of(request)
    findings = await doctor.check(runtime.settings, clock=runtime.clock)
    async with runtime.db.reading() as tx:
        guard = await outgoing.load(tx, now=now_of(request))
        boxes = {row.id: row.address for row in await accounts.list_channel(tx, "email") if row.enabled}
    for account_id, troubles in (await mailbox_troubles.read(runtime.redis, list(boxes))).items():
        findings = [*(Finding(boxes[account_id], doctor.Verdict.FAULT, trouble) for trouble in troubles), *findings]
    for channel, words in outgoing.WORDS.items():
        stop = guard.stopped(channel)
        if stop is not None:
            text = Text(
                "%(what_text)s are stopped: %(reason_text)s See Spending.", what_text=words, reason_text=stop["reason"]
            )
            findings = [Finding(words, doctor.Verdict.FAULT, text), *findings]
    return await render(request, "admin/health.html", HealthPage(findings, now_of(request)))


async def show_queues(request: web.Request) -> web.StreamResponse:
    """All queues, with how many serve each."""
    return await _queues(request)


async def _queues(request: web.Request, *, error: str = "", status: int = 200) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        rows = []
        for queue in await queues.list_all(tx):
            served = await tx.all(select(QueueMember.user_id).where(QueueMember.queue_id == queue.id))
            rows.append((queue, len(served)))
        reasons = await pauses.list_all(tx)
    if reasons == list(pauses.USUAL):
        reasons = []  # none of their own
    return await render(request, "admin/queues.html", QueuesPage(rows, error, reasons), status=status)


async def create_queue(request: web.Request) -> web.StreamResponse:
    """A new queue."""
    name, user, now = str((await request.post()).get("name", "")), user_of(request), now_of(request)
    try:
        made = await runtime_of(request).db.write(
            lambda tx: queue_settings.create(tx, name=name, actor=user.id, now=now)
        )
    except (Invalid, Conflict) as error:
        return await _queues(request, error=told(request, error), status=422)
    raise web.HTTPSeeOther(f"/desk/admin/queues/{made.id}")


async def show_queue(request: web.Request) -> web.StreamResponse:
    """One queue."""
    return await _queue(request)


async def _queue(
    request: web.Request,
    *,
    values: dict[str, str] | None = None,
    error: HubError | None = None,
    saved: bool = False,
) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        queue = await queues.get(tx, request.match_info["queue"])
        plans = await hour_settings.list_all(tx)
        members = set(await tx.all(select(QueueMember.user_id).where(QueueMember.queue_id == queue.id)))
        staff = [
            (user, user.id in members)
            for user in await users.list_all(tx)
            if user.disabled_at is None and set(user.roles) & {"agent", "telemarketer", "supervisor"}
        ]
    page = QueuePage(
        queue=queue, bounds=queue_settings.BOUNDS, staff=staff, hours=plans, values=values or {},
        skills=queue_settings.write_skills(queue.skills), relax=queue_settings.write_relax(queue.relax),
        queues=await _in_use(request), overflow=asdict(overflow.of(queue.overflow)),
        errors=error.fields if isinstance(error, Invalid) else {}, error=told(request, error) if error else "", saved=saved,
    )  # fmt: skip
    return await render(request, "admin/queue.html", page, status=422 if error else 200)


async def _in_use(request: web.Request) -> list[Queue]:
    async with runtime_of(request).db.reading() as tx:
        return await queues.list_all(tx)


def whole(given: dict[str, str], name: str) -> int:
    """A whole number from a form; nothing is 0."""
    try:
        return int(given.get(name, "") or "0")
    except ValueError as error:
        raise Invalid("A whole number is wanted.", fields={name: "Give a whole number."}) from error


async def save_queue(request: web.Request) -> web.StreamResponse:
    """Store settings and members."""
    form = await request.post()
    given = {name: str(value).strip() for name, value in form.items()}
    user, now, queue_id = user_of(request), now_of(request), request.match_info["queue"]
    members = [str(value) for value in form.getall("members", [])]

    async def unit(tx: Tx) -> None:
        values = {}
        for name in queue_settings.BOUNDS:
            try:
                values[name] = int(given.get(name, ""))
            except ValueError as error:
                raise Invalid("A whole number is wanted.", fields={name: "Give a whole number."}) from error
        await queue_settings.edit(
            tx, queue_id, version=version_of(given), actor=user.id, now=now, name=given.get("name", ""),
            values=values,
        )  # fmt: skip
        if "language" in given:
            skills = queue_settings.read_skills(given.get("skills", ""))
            await queue_settings.set_rules(
                tx, queue_id, language=given["language"], hours_id=given.get("hours_id", ""), skills=skills,
                relax=queue_settings.read_relax(given.get("relax", ""), skills), actor=user.id, now=now,
            )  # fmt: skip
            rule = overflow.Overflow(
                given.get("overflow_queue_id", ""), whole(given, "overflow_after_s"), whole(given, "overflow_waiting"),
                nobody="overflow_nobody" in given, written="overflow_written" in given,
            )  # fmt: skip
            await queue_settings.set_overflow(
                tx, queue_id, rule, preferred=given.get("preferred", ""), actor=user.id, now=now
            )
        await queue_settings.set_members(tx, queue_id, members, actor=user.id, now=now)

    try:
        await runtime_of(request).db.write(unit)
    except (Invalid, Conflict) as error:
        return await _queue(request, values=given, error=error)
    return await _queue(request, saved=True)


async def save_pauses(request: web.Request) -> web.StreamResponse:
    """The reasons to pause, one per line."""
    reasons = str((await request.post()).get("reasons", "")).splitlines()
    user, now = user_of(request), now_of(request)
    try:
        await runtime_of(request).db.write(lambda tx: pauses.set_all(tx, reasons, actor=user.id, now=now))
    except Invalid as error:
        return await _queues(request, error=told(request, error), status=422)
    raise web.HTTPSeeOther("/desk/admin/queues")


async def show_users(request: web.Request) -> web.StreamResponse:
    """Everybody who logs in."""
    async with runtime_of(request).db.reading() as tx:
        rows = await users.list_all(tx)
    return await render(request, "admin/users.html", UsersPage(rows))


async def show_user(request: web.Request) -> web.StreamResponse:
    """One user, or the form of a new one."""
    return await _user(request)


async def _user(
    request: web.Request,
    *,
    values: dict[str, str] | None = None,
    chosen: list[str] | None = None,
    error: HubError | None = None,
    saved: bool = False,
) -> web.Response:
    user_id = request.match_info.get("user", "")
    found, skills, link = None, {}, ""
    runtime = runtime_of(request)
    async with runtime.db.reading() as tx:
        can_send = await user_mail.sender(tx, runtime.channels) is not None
        if user_id:
            open_link = await user_access.newest_link(tx, user_id, now=now_of(request))
            link = user_mail.url_of(runtime.channels, open_link.id) if open_link is not None and not can_send else ""
            found = await users.get(tx, user_id)
            rows = await tx.all(select(AgentSkill).where(AgentSkill.user_id == user_id).order_by(col(AgentSkill.skill)))
            skills = {row.skill: row.level for row in rows if row.level > 0}
    page = UserPage(
        user=found, roles=[str(role) for role in Role], skills=skills, locales=LOCALES, values=values or {},
        chosen=chosen if chosen is not None else list(found.roles) if found else [],
        errors=error.fields if isinstance(error, Invalid) else {}, error=told(request, error) if error else "", saved=saved,
        sent="sent" in request.query, can_send=can_send, link=link,
    )  # fmt: skip
    return await render(request, "admin/user.html", page, status=422 if error else 200)


async def save_user(request: web.Request) -> web.StreamResponse:
    """Make or change a user. Roles taken away, a new password or an end of access close their sessions."""
    form = await request.post()
    given = {name: str(value).strip() for name, value in form.items() if name != "password"}
    password, roles = str(form.get("password", "")), [str(value) for value in form.getall("roles", [])]
    actor, now, user_id = user_of(request), now_of(request), request.match_info.get("user", "")
    db = runtime_of(request).db
    try:
        if not set(roles) <= {str(role) for role in Role} or not roles:
            raise Invalid("A user needs at least one role.", fields={"roles": "Choose a role."})
        invited = not user_id and not password and bool(given.get("email"))
        if (password or not (user_id or invited)) and len(password) < LEAST_PASSWORD:
            raise Invalid("A password has at least ten characters.", fields={"password": "At least ten characters."})
        secret = await hash_password(password) if password else ""
        if not user_id:
            address = user_address(given.get("email", ""))

            async def fresh(tx: Tx) -> User:
                made = await users.create(
                    tx, login=given.get("login", ""), name=given.get("name", ""), roles=[Role(word) for word in roles],
                    password_hash=secret, now=now, actor=actor.id, email=address, locale=given.get("locale", "en"),
                )  # fmt: skip
                if invited:
                    await user_access.send_link(tx, made, INVITE, actor=actor.id, now=now)
                return made

            made = await db.write(fresh)
            raise web.HTTPSeeOther(f"/desk/admin/users/{made.id}" + ("?sent=1" if invited else ""))

        async def unit(tx: Tx) -> None:
            user = await users.get(tx, user_id)
            ended = user.disabled_at or now if "disabled" in form else None
            if user.id == actor.id and (ended is not None or "admin" not in roles):
                raise Conflict("You cannot take your own access away.")
            changes = {
                "name": given.get("name") or user.name, "email": user_address(given.get("email", "")), "roles": sorted(roles),
                "locale": given.get("locale", user.locale), "disabled_at": ended,
            }  # fmt: skip
            changed = {name: value for name, value in changes.items() if getattr(user, name) != value}
            if secret:
                changed["password_hash"] = secret
            if changed:
                await users.change(tx, user, actor=actor.id, now=now, **changed)
            await _skills(tx, user.id, given)

        await db.write(unit)
    except (Invalid, Conflict) as error:
        return await _user(request, values=given, chosen=roles, error=error)
    return await _user(request, saved=True)


def user_address(text: str) -> str:
    """A user's mail address, normalised; empty is none. Invalid at `email`."""
    found = find_email(text) if text else None
    if text and found is None:
        raise Invalid("This is not a mail address.", fields={"email": Text("Write it as name@example.com.")})
    return found.value if found is not None else ""


async def let_in(request: web.Request) -> web.StreamResponse:
    """Send an invitation or a reset link, or take a lost second factor away."""
    act, actor, now, user_id = (
        str((await request.post()).get("act", "")),
        user_of(request),
        now_of(request),
        request.match_info["user"],
    )

    async def unit(tx: Tx) -> None:
        user = await users.get(tx, user_id)
        if act in (INVITE, RESET):
            await user_access.send_link(tx, user, act, actor=actor.id, now=now)
        elif act == "factor":
            await user_access.drop_factor(tx, user, actor=actor.id, now=now)
        else:
            raise Invalid("There is nothing of this name to do.")

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _user(request, error=error)
    raise web.HTTPSeeOther(f"/desk/admin/users/{user_id}" + ("?sent=1" if act != "factor" else ""))


async def _skills(tx: Tx, user_id: str, given: dict[str, str]) -> None:
    """Skills as `spanish 4, chinese 2`; a level of 0 takes one away."""
    wanted: dict[str, int] = {}
    for part in given.get("skills", "").split(","):
        words = part.split()
        if not words:
            continue
        level = words[-1] if words[-1].isdigit() else "3"
        name = " ".join(words[:-1] if words[-1].isdigit() else words).lower()[:40]
        if not 0 <= int(level) <= 5 or not name:
            raise Invalid("A skill has a level from 1 to 5.", fields={"skills": "Write it as spanish 4, chinese 2."})
        wanted[name] = int(level)
    known = set(await tx.all(select(AgentSkill.skill).where(AgentSkill.user_id == user_id)))
    for skill in sorted(known - wanted.keys()):
        await agents.set_skill(tx, user_id, skill, 0)
    for skill, number in wanted.items():
        await agents.set_skill(tx, user_id, skill, number)


async def admin_home(request: web.Request) -> web.StreamResponse:
    """GET /desk/admin."""
    if request.match_info.get("page"):
        raise NotFound("There is no such page.")
    return await health(request)


A = "/desk/admin"
routes = [
    Route("GET", A, admin_home, roles=ADMINS),
    Route("GET", f"{A}/queues", show_queues, roles=ADMINS),
    Route("POST", f"{A}/queues", create_queue, roles=ADMINS),
    Route("POST", f"{A}/pauses", save_pauses, roles=ADMINS),
    Route("GET", f"{A}/queues/{{queue:{ID}}}", show_queue, roles=ADMINS),
    Route("POST", f"{A}/queues/{{queue:{ID}}}", save_queue, roles=ADMINS),
    Route("GET", f"{A}/users", show_users, roles=ADMINS),
    Route("GET", f"{A}/users/new", show_user, roles=ADMINS),
    Route("POST", f"{A}/users/new", save_user, roles=ADMINS),
    Route("GET", f"{A}/users/{{user:{ID}}}", show_user, roles=ADMINS),
    Route("POST", f"{A}/users/{{user:{ID}}}", save_user, roles=ADMINS),
    Route("POST", f"{A}/users/{{user:{ID}}}/access", let_in, roles=ADMINS),
]
