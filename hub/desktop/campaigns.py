"""Campaigns: the list, the wizard (who, what, when, check, launch) that can be left and resumed, and the running page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from campaigns import audience, campaigns, content, deliveries, explain, imports, reconcile
from campaigns.audience import Preview
from campaigns.campaigns import Campaign, CampaignState
from campaigns.deliveries import Delivery, DeliveryState
from campaigns.explain import Why
from campaigns.imports import RecipientFault, RecipientImport
from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address, find_email, find_phone
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.errors import HubError, Invalid
from crm_core.texts import Text
from crm_core.users import Role
from hub.desktop import uploads
from hub.desktop.render import render
from hub.desktop.templating import part, reader_of, told
from hub.desktop.work_actions import local_instant
from hub.web import Route, now_of, runtime_of, user_of

MARKETERS = frozenset({Role.MARKETER, Role.SUPERVISOR, Role.ADMIN})
PAGE = 50
ID = "[0-9a-z]{26}"
STEPS = ("who", "what", "when", "check", "launch")
DRAFTING = (
    CampaignState.DRAFT,
    CampaignState.SCHEDULED,
    CampaignState.MISSED,
    CampaignState.MATERIALISING,
    CampaignState.READY,
)
# State of a delivery → the part of the bar it belongs to. Every state has one, so that the bar adds up.
PARTS: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("delivered", "st-delivered", frozenset({"delivered"})),
    ("sent", "st-sent", frozenset({"accepted", "sent"})),
    ("flight", "st-flight", frozenset({"claimed", "submitting"})),
    ("waiting", "st-planned", frozenset({"planned"})),
    ("held", "st-held", frozenset({"held", "deferred"})),
    ("unknown", "st-unknown", frozenset({"unknown"})),
    ("bad", "st-bad", frozenset({"bounced", "undelivered", "failed", "complained"})),
    ("refused", "st-refused", frozenset({"suppressed", "skipped", "expired", "cancelled"})),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """The states as one bar. `parts`: word, class, number, the states it stands for."""

    total: int
    parts: list[tuple[str, str, int, list[str]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One campaign in the list."""

    campaign: Campaign
    bar: Bar


@dataclass(frozen=True, slots=True)
class CampaignsPage:
    """The list."""

    rows: list[Row]
    next_url: str


@dataclass(frozen=True, slots=True)
class NewPage:
    """The first form: name, sender, purpose."""

    accounts: list[ChannelAccount]
    values: dict[str, str]
    errors: dict[str, str]
    error: str


@dataclass(frozen=True, slots=True)
class WizardPage:
    """One step of the wizard."""

    campaign: Campaign
    step: str
    steps: tuple[str, ...]
    file: RecipientImport | None
    faults: list[RecipientFault]
    fields: list[str]
    values: dict[str, str]
    errors: dict[str, str]
    error: str
    warnings: list[str]
    previews: list[Preview]
    forecast: list[tuple[str, int]]
    total: int
    blockers: list[str]


@dataclass(frozen=True, slots=True)
class RunPage:
    """A campaign that runs or has run."""

    campaign: Campaign
    bar: Bar
    events: dict[str, int]
    unknown: list[Delivery]
    rows: list[Delivery]
    state: str
    next_url: str
    error: str


@dataclass(frozen=True, slots=True)
class WhyPage:
    """Why somebody did, or did not, get it."""

    typed: str
    why: Why | None
    error: str


def bar_of(states: dict[str, int]) -> Bar:
    """The counts grouped; the parts sum to the total because every state is in exactly one."""
    parts = [
        (word, colour, sum(states.get(state, 0) for state in group), sorted(group)) for word, colour, group in PARTS
    ]
    return Bar(sum(states.values()), parts)


async def show_list(request: web.Request) -> web.StreamResponse:
    """All campaigns, newest first."""
    async with runtime_of(request).db.reading() as tx:
        found = await campaigns.list_page(tx, after=request.query.get("after", ""), limit=PAGE)
        rows = [Row(each, bar_of((await campaigns.progress(tx, each.id))["state"])) for each in found]
    next_url = f"/desk/campaigns?{urlencode({'after': found[-1].id})}" if len(found) == PAGE else ""
    return await render(request, "campaigns/list.html", CampaignsPage(rows, next_url))


async def _senders(tx: Tx) -> list[ChannelAccount]:
    return [a for channel in ("email", "sms") for a in await accounts.list_channel(tx, channel) if a.enabled]


async def show_new(request: web.Request) -> web.StreamResponse:
    """The first form."""
    async with runtime_of(request).db.reading() as tx:
        senders = await _senders(tx)
    return await render(request, "campaigns/new.html", NewPage(senders, {}, {}, ""))


async def create(request: web.Request) -> web.StreamResponse:
    """A draft."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now = user_of(request), now_of(request)
    try:
        made = await runtime_of(request).db.write(
            lambda tx: campaigns.create(
                tx, name=form.get("name", ""), account_id=form.get("account_id", ""),
                purpose=Purpose(form.get("purpose") or Purpose.MARKETING), user_id=user.id, now=now,
            )
        )  # fmt: skip
    except Invalid as error:
        async with runtime_of(request).db.reading() as tx:
            senders = await _senders(tx)
        page = NewPage(senders, form, error.fields, told(request, error))
        return await render(request, "campaigns/new.html", page, status=422)
    raise web.HTTPSeeOther(f"/desk/campaigns/{made.id}/who")


async def show(request: web.Request) -> web.StreamResponse:
    """A draft goes to its wizard, everything else to the running page."""
    async with runtime_of(request).db.reading() as tx:
        campaign = await campaigns.get(tx, request.match_info["campaign"])
    if campaign.state in DRAFTING:
        raise web.HTTPSeeOther(f"/desk/campaigns/{campaign.id}/{_next_step(campaign)}")
    return await _run_page(request)


def _next_step(campaign: Campaign) -> str:
    if campaign.state in (CampaignState.MATERIALISING, CampaignState.READY):
        return "check"
    if not campaign.audience:
        return "who"
    return "what" if not campaign.content_version else "check"


async def show_step(request: web.Request) -> web.StreamResponse:
    """One step."""
    return await _step(request)


async def _step(
    request: web.Request, *, error: HubError | None = None, values: dict[str, str] | None = None, status: int = 200
) -> web.Response:
    step = request.match_info["step"]
    async with runtime_of(request).db.reading() as tx:
        campaign = await campaigns.get(tx, request.match_info["campaign"])
        file = await imports.get(tx, campaign.audience["import"]) if "import" in campaign.audience else None
        faults = await imports.list_faults(tx, file.id, limit=20) if file else []
        known = sorted(await audience.list_fields(tx, campaign)) if campaign.audience else []
        typed = values or {}
        text = None
        if campaign.content_version:
            text = await campaigns.get_content(tx, campaign.id, campaign.content_version)
            if not typed and step == "what":
                typed = {"subject": text.subject, "body": text.body, "html": text.html}
        previews: list[Preview] = []
        if step == "check" and text is not None:
            source = content.Source(text.subject, text.body, text.html)
            previews = await audience.preview(tx, campaign, source, limit=5)
        progress = await campaigns.progress(tx, campaign.id)
    reader = reader_of(request)
    blockers = []
    if not campaign.audience:
        blockers.append(reader.gettext("Nobody is chosen yet."))
    if file is not None and str(file.state) != "read":
        blockers.append(reader.gettext("The file is still being read."))
    if not campaign.content_version:
        blockers.append(reader.gettext("There is no text yet."))
    page = WizardPage(
        campaign=campaign, step=step, steps=STEPS, file=file, faults=faults, fields=known, values=typed,
        errors=error.fields if isinstance(error, Invalid) else {}, error=told(request, error) if error else "",
        warnings=[], previews=previews, forecast=sorted(progress["forecast"].items()),
        total=sum(progress["state"].values()), blockers=blockers,
    )  # fmt: skip
    return await render(request, f"campaigns/{step}.html", page, status=status)


async def save_step(request: web.Request) -> web.StreamResponse:
    """Store one step and go to the next; a draft can be left at any time."""
    form = await request.post()
    values = {name: str(value) for name, value in form.items() if isinstance(value, str)}
    step, campaign_id = request.match_info["step"], request.match_info["campaign"]
    try:
        await _SAVERS[step](request, campaign_id, values, form)
    except HubError as error:
        return await _step(request, error=error, values=values, status=422)
    following = STEPS[STEPS.index(step) + 1] if step != "launch" else ""
    raise web.HTTPSeeOther(f"/desk/campaigns/{campaign_id}{'/' + following if following else ''}")


async def _save_who(request: web.Request, campaign_id: str, values: dict[str, str], form: Any) -> None:
    user, now, db = user_of(request), now_of(request), runtime_of(request).db
    async with db.reading() as tx:
        campaign = await campaigns.get(tx, campaign_id)
    kind = str(campaign.point_kind)
    upload = await uploads.take(request, form.get("file"), kind=kind, country=values.get("country", "").strip())
    tag = values.get("tag", "").strip()
    if upload is None and not tag:
        if campaign.audience:
            return
        raise Invalid("Say who gets it: a tag or a file.", fields={"tag": "Give a tag, or choose a file."})

    async def unit(tx: Tx) -> None:
        chosen = {"tag": tag} if upload is None else {"import": await uploads.begin(tx, upload, user.id, now)}
        await campaigns.edit(tx, campaign_id, version=campaign.version, now=now, audience=chosen)

    await db.write(unit)


async def _save_what(request: web.Request, campaign_id: str, values: dict[str, str], form: Any) -> None:
    user, now = user_of(request), now_of(request)

    async def unit(tx: Tx) -> None:
        campaign = await campaigns.get(tx, campaign_id)
        await campaigns.set_content(
            tx, campaign_id, subject=values.get("subject", "").strip(), body=values.get("body", "").strip(),
            html=values.get("html", "").strip(), user_id=user.id, now=now, fields=await audience.list_fields(tx, campaign),
        )  # fmt: skip

    await runtime_of(request).db.write(unit)


async def _save_when(request: web.Request, campaign_id: str, values: dict[str, str], form: Any) -> None:
    now = now_of(request)
    rate = values.get("rate", "").strip() or "0"
    if not rate.isdigit():
        raise Invalid("A rate is a whole number.", fields={"rate": "Give a whole number."})

    async def unit(tx: Tx) -> None:
        campaign = await campaigns.get(tx, campaign_id)
        await campaigns.edit(tx, campaign_id, version=campaign.version, now=now, rate_per_minute=int(rate))
        if campaign.state == CampaignState.DRAFT and campaign.audience and campaign.content_version:
            await campaigns.prepare(tx, campaign_id, now=now)

    await runtime_of(request).db.write(unit)


async def _save_check(request: web.Request, campaign_id: str, values: dict[str, str], form: Any) -> None:
    """Freeze the audience and ask the gate about everybody: the forecast."""
    now = now_of(request)

    async def unit(tx: Tx) -> None:
        campaign = await campaigns.get(tx, campaign_id)
        if campaign.state in (CampaignState.DRAFT, CampaignState.MISSED):
            await campaigns.prepare(tx, campaign_id, now=now)

    await runtime_of(request).db.write(unit)


async def _save_launch(request: web.Request, campaign_id: str, values: dict[str, str], form: Any) -> None:
    user, now = user_of(request), now_of(request)
    start: datetime | None = local_instant(values["start_at"], user.zone) if values.get("start_at") else None
    await runtime_of(request).db.write(lambda tx: campaigns.start(tx, campaign_id, now=now, start_at=start))


_SAVERS: dict[str, Callable[[web.Request, str, dict[str, str], Any], Awaitable[None]]] = {
    "who": _save_who, "what": _save_what, "when": _save_when, "check": _save_check, "launch": _save_launch,
}  # fmt: skip


async def _run_page(request: web.Request, *, error: str = "", status: int = 200) -> web.Response:
    state, after = request.query.get("state", ""), request.query.get("after", "")
    wanted = DeliveryState(state) if state in set(DeliveryState) else None
    async with runtime_of(request).db.reading() as tx:
        campaign = await campaigns.get(tx, request.match_info["campaign"])
        progress = await campaigns.progress(tx, campaign.id)
        unknown = await deliveries.list_unknown(tx, campaign.id)
        rows = await deliveries.list_page(tx, campaign.id, state=wanted, after=after, limit=PAGE)
    again = urlencode({"state": state, "after": rows[-1].id}) if len(rows) == PAGE else ""
    next_url = f"/desk/campaigns/{campaign.id}?{again}" if again else ""
    page = RunPage(campaign, bar_of(progress["state"]), progress["event"], unknown, rows, state, next_url, error)
    return await render(request, "campaigns/run.html", page, status=status)


async def act(request: web.Request) -> web.StreamResponse:
    """Pause, go on, cancel; or say what became of a doubtful one."""
    form = {name: str(value) for name, value in (await request.post()).items()}
    user, now, campaign_id = user_of(request), now_of(request), request.match_info["campaign"]
    action = form.get("action", "")

    async def unit(tx: Tx) -> None:
        if action == "pause":
            await campaigns.pause(tx, campaign_id, now=now, reason=Text("Paused by %(name)s.", name=user.name))
        elif action == "resume":
            await campaigns.resume(tx, campaign_id, now=now)
        elif action == "cancel":
            await campaigns.cancel(tx, campaign_id, now=now, reason=Text("Cancelled by %(name)s.", name=user.name))
        elif action == "unschedule":
            await campaigns.unschedule(tx, campaign_id, now=now)
        elif action in ("went", "not"):
            await reconcile.decide(tx, form.get("delivery", ""), went=action == "went", user_id=user.id, now=now)
        else:
            raise Invalid("There is no such action.")

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _run_page(request, error=told(request, error), status=409)
    if action == "unschedule":
        raise web.HTTPSeeOther(f"/desk/campaigns/{campaign_id}/launch")
    return await _run_page(request)


async def show_why(request: web.Request) -> web.StreamResponse:
    """Why did … get, or not get, this?"""
    typed = request.query.get("address", "").strip()[:200]
    address: Address | None = find_email(typed) if "@" in typed else find_phone(typed)
    if address is None:
        error = reader_of(request).gettext("Give a mail address, or a number with its country code.")
        return part(request, "campaigns/why.html", WhyPage(typed, None, error if typed else ""))
    async with runtime_of(request).db.reading() as tx:
        found = await explain.why(tx, request.match_info["campaign"], address)
    return part(request, "campaigns/why.html", WhyPage(typed, found, ""))


C = f"/desk/campaigns/{{campaign:{ID}}}"
ONE_STEP = f"{C}/{{step:{'|'.join(STEPS)}}}"
routes = [
    Route("GET", "/desk/campaigns", show_list, roles=MARKETERS),
    Route("GET", "/desk/campaigns/new", show_new, roles=MARKETERS),
    Route("POST", "/desk/campaigns/new", create, roles=MARKETERS),
    Route("GET", C, show, roles=MARKETERS),
    Route("POST", C, act, roles=MARKETERS),
    Route("GET", f"{C}/why", show_why, roles=MARKETERS),
    Route("GET", ONE_STEP, show_step, roles=MARKETERS),
    Route("POST", ONE_STEP, save_step, roles=MARKETERS, body_limit=uploads.LARGEST),
]
