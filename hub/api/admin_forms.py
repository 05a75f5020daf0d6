"""API for administrators: web forms and what was posted to them, opening hours, links that let users in."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from crm_core import user_access, users
from crm_core.accounts import ChannelAccount, Form
from crm_core.db import Tx
from hub import channel_admin, form_admin, form_snippets
from hub.api.admin_channels import admin_operation
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, Version
from hub.form_admin import FormInput
from hub.intake_deps import intake_deps
from routing import hour_settings, hours
from routing.hours import Hours
from webhooks import form_posts
from webhooks.receipts import WebhookReceipt
from webhooks.routes import KINDS


class FormShown(Shown):
    """A form as it is now."""

    id: str
    key: str
    title: str
    fields: list[dict[str, Any]]
    consent_text: str
    consent_version: str
    thanks: str
    queue_id: str | None
    settings: dict[str, Any]
    secrets: dict[str, str]
    enabled: bool
    account_id: str
    version: int
    snippet: str
    snippets: dict[str, str]


class FormList(Shown):
    """By title."""

    items: list[FormShown]


class FormIn(Strict):
    """A form: its fields are objects with name, label, kind, required, options, hint, value, maps, least, most, also (other
    names in posts), show_if and require_if ({field, is}). `strict`: visitors prove that they looked at the page; `signed_time`:
    signatures must carry their time; `calls`: whoever sends it is called back."""

    title: str = Field(min_length=1, max_length=200)
    fields: list[dict[str, Any]] = Field(min_length=1, max_length=60)
    queue_id: str = Field("", max_length=40)
    consent_text: str = Field("", max_length=5000)
    thanks: str = Field("", max_length=5000)
    hosted: bool = True
    min_seconds: int = Field(3, ge=0, le=600)
    embed: list[str] = Field(default=[], max_length=20)
    enabled: bool = True
    strict: bool = False
    signed_time: bool = True
    calls: bool = False


class FormChange(FormIn):
    """A whole form anew; `version` is the one you saw."""

    version: Version


class TurnIn(Strict):
    """`key`: a new key; `new`, `end`, `none`: the signing secret."""

    act: Literal["key", "new", "end", "none"]


class TurnShown(Shown):
    """The form's key now; a new secret is shown this once."""

    key: str
    secret: str


class PostQuery(Strict):
    """`held`: kept back as spam; `refused`: something typed was wrong; `taken`: led to a lead. Empty: all."""

    only: Literal["", "held", "refused", "taken"] = ""


class PostShown(Shown):
    """A stored post; `replays`: who had it read again and when."""

    id: str
    received_at: datetime
    state: str
    error: str
    replays: list[dict[str, str]]


class SampleIn(Strict):
    """A payload as a machine would post it, JSON or urlencoded, and the form's fields as they would be (empty: as they are)."""

    payload: str = Field(min_length=1, max_length=64 * 1024)
    fields: list[dict[str, Any]] = Field(default=[], max_length=60)


class SampleLine(Shown):
    """One value: the name it came under, the field that takes it, and where that goes."""

    sent: str
    value: str
    field: str
    goes: str


class SampleShown(Shown):
    """What the sample would fill. `errors` would refuse the post, `warnings` would not."""

    lines: list[SampleLine]
    contact: dict[str, str]
    lead: dict[str, str]
    errors: dict[str, str]
    warnings: list[str]


class PostList(Shown):
    """Newest first."""

    items: list[PostShown]


class HoursIn(Strict):
    """Week: "0" (Monday) to "6" → "09:00-12:30, 13:30-18:00". Days: one line for each that differs; a date alone is a holiday."""

    name: str = Field(min_length=1, max_length=100)
    zone: str = Field(max_length=60)
    week: dict[str, str] = Field(default_factory=dict, max_length=7)
    days: str = Field("", max_length=20_000)


class HoursChange(HoursIn):
    """`version` is the one you saw."""

    version: Version


class HoursShown(Shown):
    """Opening hours, and whether they are open now."""

    id: str
    name: str
    zone: str
    week: dict[str, str]
    days: str
    is_open: bool
    version: int


class HoursList(Shown):
    """By name."""

    items: list[HoursShown]


class LinkIn(Strict):
    """`invite`: a first password; `reset`: a new one."""

    purpose: Literal["invite", "reset"]


def form_shown(call: Call[Any, Any], form: Form, account: ChannelAccount) -> FormShown:
    """The form with what belongs to its account."""
    html = form_snippets.snippets(form, account, origin=call.runtime.settings.public_url)
    return FormShown(
        id=form.id, key=form.slug, title=form.title, fields=form.fields, consent_text=form.consent_text,
        consent_version=form.consent_version, thanks=form.thanks, queue_id=account.queue_id, settings=account.settings,
        secrets=channel_admin.endings(call.runtime.channels, account), enabled=account.enabled, account_id=account.id,
        version=form.version, snippet=html.plain,
        snippets={"script": html.script, "inline": html.inline, "button": html.button, "frame": html.frame},
    )  # fmt: skip


@admin_operation("GET", "forms", "List web forms", answer=FormList)
async def list_forms(call: Call[Nothing, Nothing]) -> FormList:
    """With the snippet for other sites."""
    async with call.runtime.db.reading() as tx:
        rows = await form_admin.list_forms(tx)
    return FormList(items=[form_shown(call, form, account) for form, account in rows])


@admin_operation("POST", "forms", "Create a web form", body=FormIn, answer=FormShown, status=201)
async def create_form(call: Call[Nothing, FormIn]) -> FormShown:
    """Under a key of its own; can be filled in at once."""
    given = FormInput(**call.body.model_dump())

    async def unit(tx: Tx) -> tuple[Form, ChannelAccount]:
        made = await form_admin.create_form(tx, given, actor=call.user.id, now=call.now)
        return await form_admin.get_form(tx, made.id)

    return form_shown(call, *await call.runtime.db.write(unit))


@admin_operation("PUT", "forms/{id}", "Change a web form", body=FormChange, answer=FormShown)
async def save_form(call: Call[Nothing, FormChange]) -> FormShown:
    """A new version; consent names the one that the person saw. 409 when it has another version than the one you saw."""
    given = FormInput(**call.body.model_dump(exclude={"version"}))

    async def unit(tx: Tx) -> tuple[Form, ChannelAccount]:
        await form_admin.save_form(
            tx, call.path["id"], given, version=call.body.version, actor=call.user.id, now=call.now
        )
        return await form_admin.get_form(tx, call.path["id"])

    return form_shown(call, *await call.runtime.db.write(unit))


@admin_operation("POST", "forms/{id}/turn", "New key or signing secret of a form", body=TurnIn, answer=TurnShown)
async def turn_form(call: Call[Nothing, TurnIn]) -> TurnShown:
    """A new secret is in this answer and nowhere else; the one before stays good until `end`."""

    async def unit(tx: Tx) -> TurnShown:
        secret = ""
        if call.body.act == "key":
            await form_admin.rotate_key(tx, call.path["id"], actor=call.user.id, now=call.now)
        else:
            secret = await form_admin.set_secret(
                tx, call.runtime.channels, call.path["id"], call.body.act, actor=call.user.id, now=call.now
            )
        form, _ = await form_admin.get_form(tx, call.path["id"])
        return TurnShown(key=form.slug, secret=secret)

    return await call.runtime.db.write(unit)


@admin_operation("GET", "forms/{id}/posts", "What was posted to a form", query=PostQuery, answer=PostList)
async def list_posts(call: Call[PostQuery, Nothing]) -> PostList:
    """The newest fifty, held and refused ones too."""
    async with call.runtime.db.reading() as tx:
        form, account = await form_admin.get_form(tx, call.path["id"])
        found = await form_posts.list_posts(tx, form_admin.keys_of(form, account), only=call.query.only)
    return PostList(items=[post_shown(receipt) for receipt in found])


def post_shown(receipt: WebhookReceipt) -> PostShown:
    """A stored post, without what was typed."""
    return PostShown(
        id=receipt.id, received_at=receipt.received_at, state=str(receipt.state), error=receipt.error,
        replays=receipt.headers.get(form_posts.REPLAYS, []),
    )  # fmt: skip


@admin_operation("POST", "forms/{id}/sample", "Try a payload on a form", body=SampleIn, answer=SampleShown)
async def try_sample(call: Call[Nothing, SampleIn]) -> SampleShown:
    """Which fields of contact and lead a post would fill. Nothing is stored."""
    async with call.runtime.db.reading() as tx:
        form, _ = await form_admin.get_form(tx, call.path["id"])
    given = FormInput(form.title, call.body.fields or form.fields, consent_text=form.consent_text)
    read = form_admin.sample(given, call.body.payload)
    return SampleShown(
        lines=[SampleLine(sent=one.sent, value=one.value, field=one.field, goes=one.goes) for one in read.lines],
        contact=read.contact, lead=read.lead, errors=read.errors, warnings=read.warnings,
    )  # fmt: skip


@admin_operation("POST", "posts/{id}/replay", "Read a stored post again", answer=PostShown)
async def replay_post(call: Call[Nothing, Nothing]) -> PostShown:
    """With the form as it is now. One that led to a lead fills the same lead in anew; one that was held back or refused counts
    as if it had passed."""
    return post_shown(await form_posts.replay(intake_deps(call.runtime), KINDS, call.path["id"], actor=call.user.id))


def hours_shown(row: Hours, now: datetime) -> HoursShown:
    """As people write them."""
    week = {day: hour_settings.write_blocks(blocks) for day, blocks in row.week.items()}
    return HoursShown(
        id=row.id, name=row.name, zone=row.zone, week=week, days=hour_settings.write_days(row.days),
        is_open=hours.is_open(row, now), version=row.version,
    )  # fmt: skip


@admin_operation("GET", "hours", "List opening hours", answer=HoursList)
async def list_hours(call: Call[Nothing, Nothing]) -> HoursList:
    """By name."""
    async with call.runtime.db.reading() as tx:
        return HoursList(items=[hours_shown(row, call.now) for row in await hour_settings.list_all(tx)])


@admin_operation("POST", "hours", "Create opening hours", body=HoursIn, answer=HoursShown, status=201)
async def create_hours(call: Call[Nothing, HoursIn]) -> HoursShown:
    """They hold for queues that are given them."""
    values = hour_settings.checked(**call.body.model_dump())
    row = await call.runtime.db.write(lambda tx: hour_settings.create(tx, values, actor=call.user.id, now=call.now))
    return hours_shown(row, call.now)


@admin_operation("PUT", "hours/{id}", "Change opening hours", body=HoursChange, answer=HoursShown)
async def change_hours(call: Call[Nothing, HoursChange]) -> HoursShown:
    """From this moment on. 409 when they have another version than the one you saw."""
    values = hour_settings.checked(**call.body.model_dump(exclude={"version"}))
    row = await call.runtime.db.write(
        lambda tx: hour_settings.edit(
            tx, call.path["id"], values, version=call.body.version, actor=call.user.id, now=call.now
        )
    )
    return hours_shown(row, call.now)


@admin_operation("DELETE", "hours/{id}", "Delete opening hours", answer=None)
async def delete_hours(call: Call[Nothing, Nothing]) -> None:
    """409 while a queue uses them."""
    await call.runtime.db.write(lambda tx: hour_settings.remove(tx, call.path["id"], actor=call.user.id, now=call.now))


@admin_operation("POST", "users/{id}/link", "Mail an invitation or a reset link", body=LinkIn, answer=None)
async def send_link(call: Call[Nothing, LinkIn]) -> None:
    """Links of the same purpose from before stop working."""

    async def unit(tx: Tx) -> None:
        user = await users.get(tx, call.path["id"])
        await user_access.send_link(tx, user, call.body.purpose, actor=call.user.id, now=call.now)

    await call.runtime.db.write(unit)


OPERATIONS: list[Operation] = [
    list_forms, create_form, save_form, turn_form, list_posts, try_sample, replay_post, list_hours, create_hours, change_hours,
    delete_hours, send_link,
]  # fmt: skip
