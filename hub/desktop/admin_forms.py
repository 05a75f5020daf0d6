"""Administration of web forms: the builder, key and secret, the snippet, and what was posted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from aiohttp import web

from channels.contract import RawRequest
from crm_core.accounts import ChannelAccount, Form, FormVersion
from crm_core.db import Tx
from crm_core.errors import HubError
from hub import channel_admin, form_admin, form_snippets
from hub.desktop.admin_channels import ID, fields_of, told_of
from hub.desktop.render import render
from hub.desktop.templating import reader_of
from hub.desktop.timeline import users_of
from hub.desktop.words import N_
from hub.form_admin import CALL_FIELDS, FIRST_FIELDS, FormInput
from hub.form_snippets import Snippets
from hub.intake_deps import intake_deps
from hub.web import ADMINS, Route, now_of, runtime_of, user_of
from routing import form_fields, queues
from routing.form_preview import Sample
from routing.forms import labels_of
from routing.queues import Queue
from webhooks import form_posts
from webhooks.forms import HONEYPOT, read_stored
from webhooks.intake import Unreadable
from webhooks.receipts import ReceiptState, WebhookReceipt
from webhooks.routes import KINDS

PARTS = ("name", "label", "kind", "hint", "value", "maps", "least", "most")
REASONS = {
    "honeypot": N_("It filled in the field that people do not see."),
    "too_quick": N_("It was sent more quickly than people can type."),
    "no_key": N_("It came without having looked at the page."),
    "rate": N_("Too many posts named the same number or address."),
    "key_used": N_("Its Idempotency-Key was used for another post before."),
    "own_number": N_("The number is one of ours."),
    "blocked": N_("The number is blocked."),
    "never_call": N_("They asked never to be called."),
}


@dataclass(frozen=True, slots=True)
class FormPage:
    """The builder; `form` None while it is new. `given` is what the fields of the page show."""

    form: Form | None
    account: ChannelAccount | None
    given: FormInput
    version: int
    queues: list[Queue]
    kinds: tuple[str, ...]
    targets: tuple[str, ...]
    preview: list[tuple[str, str, str]]
    versions: list[FormVersion]
    endings: dict[str, str]
    secret: str
    snippets: Snippets | None
    origin: str
    payload: str
    sample: Sample | None
    errors: dict[str, str]
    error: str
    saved: bool


@dataclass(frozen=True, slots=True)
class PostsPage:
    """What was posted to a form, newest first: receipt and what can be read of it."""

    form: Form
    rows: list[PostRow]
    replayed: str
    only: str  # held, refused, taken, or empty: all


@dataclass(frozen=True, slots=True)
class PostRow:
    """One stored post: what can be read of it by label, why it was refused, who had it read again."""

    receipt: WebhookReceipt
    fields: dict[str, str]
    reason: str
    held: bool
    lead: str  # that it led to
    replays: list[tuple[str, datetime]]


def read_form(sent: Any) -> FormInput:
    """The builder's fields as posted: `f<place>_<part>`, in the order of `order`."""
    given = {name: str(value) for name, value in sent.items()}
    fields = []
    for place in [word for word in given.get("places", "").split() if word.isdigit()][: form_fields.MAX_FIELDS + 1]:
        part: dict[str, Any] = {name: given.get(f"f{place}_{name}", "") for name in PARTS}
        part["required"] = f"f{place}_required" in given
        part["options"] = given.get(f"f{place}_options", "").splitlines()
        part["show_if"] = {"field": given.get(f"f{place}_if", ""), "is": given.get(f"f{place}_is", "")}
        part["require_if"] = {"field": given.get(f"f{place}_mif", ""), "is": given.get(f"f{place}_mis", "")}
        part["also"] = given.get(f"f{place}_also", "").splitlines()
        fields.append(part)
    seconds = given.get("min_seconds", "").strip()
    return FormInput(
        title=given.get("title", ""), fields=fields, queue_id=given.get("queue_id", ""),
        consent_text=given.get("consent_text", ""), thanks=given.get("thanks", ""), hosted="hosted" in given,
        min_seconds=int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 6 else -1,
        embed=given.get("embed", "").split(), enabled="enabled" in given, strict="strict" in given,
        signed_time="signed_time" in given, calls="calls" in given,
    )  # fmt: skip


def input_of(form: Form, account: ChannelAccount) -> FormInput:
    """A stored form as the builder shows it."""
    settings = account.settings
    return FormInput(
        title=form.title, fields=form.fields, queue_id=account.queue_id or "", consent_text=form.consent_text,
        thanks=form.thanks, hosted=bool(settings.get("hosted", True)), min_seconds=int(settings.get("min_seconds") or 0),
        embed=tuple(settings.get("embed", ())), enabled=account.enabled, strict=bool(settings.get("strict")),
        signed_time=bool(settings.get("signed_time")), calls=bool(settings.get("calls")),
    )  # fmt: skip


def rearranged(given: FormInput, act: str) -> FormInput:
    """The form after a button of the builder: add, up-2, down-2, remove-2. Nothing is stored."""
    fields = list(given.fields)
    verb, _, place = act.partition("-")
    at = int(place) if place.isdigit() else -1
    if verb == "add":
        fields.append({"kind": place if place in form_fields.KINDS else "text"})
    elif verb == "remove" and 0 <= at < len(fields):
        del fields[at]
    elif verb in ("up", "down") and 0 <= at < len(fields):
        other = at + (-1 if verb == "up" else 1)
        if 0 <= other < len(fields):
            fields[at], fields[other] = fields[other], fields[at]
    return replace(given, fields=fields)


async def _page(
    request: web.Request, *, given: FormInput | None = None, version: int | None = None, error: HubError | None = None,
    secret: str = "", saved: bool = False, payload: str = "", sample: Sample | None = None,
) -> web.Response:  # fmt: skip
    runtime, form_id = runtime_of(request), request.match_info.get("form", "")
    form, account, versions = None, None, []
    async with runtime.db.reading() as tx:
        served = await queues.list_all(tx)
        if form_id:
            form, account = await form_admin.get_form(tx, form_id)
            versions = await form_admin.list_versions(tx, form_id)
    if given is None:
        given = input_of(form, account) if form is not None and account is not None else _first(request)
    origin = runtime.settings.public_url
    page = FormPage(
        form, account, given, version if version is not None else form.version if form is not None else 0, served,
        form_fields.KINDS, form_fields.TARGETS,
        form_fields.preview([{**one, "name": one.get("name") or "?"} for one in given.fields]), versions,
        channel_admin.endings(runtime.channels, account) if account is not None else {}, secret,
        form_snippets.snippets(form, account, origin=origin) if form is not None and account is not None else None,
        origin, payload, sample, fields_of(error), told_of(error), saved,
    )  # fmt: skip
    return await render(request, "admin/form.html", page, status=422 if error else 200)


def _first(request: web.Request) -> FormInput:
    """What a new form begins with, labelled in the administrator's language."""
    tell, calls = reader_of(request).gettext, request.query.get("kind") == "calls"
    fields = [{**one, "label": tell(one["label"])} for one in (CALL_FIELDS if calls else FIRST_FIELDS)]
    if not calls:
        return FormInput("", fields)
    consent = tell(N_("I agree to be called at this number about my request."))
    return FormInput(tell(N_("Call me back")), fields, consent_text=consent, strict=True, calls=True)


async def show(request: web.Request) -> web.StreamResponse:
    """The builder."""
    return await _page(request, saved="saved" in request.query)


async def save(request: web.Request) -> web.StreamResponse:
    """Save, or rearrange what is typed without saving; key and secret have buttons of their own."""
    sent = await request.post()
    given, act = read_form(sent), str(sent.get("act", "save"))
    word = str(sent.get("version", ""))
    version = int(word) if word.isascii() and word.isdigit() and len(word) < 10 else 0
    user, now, runtime, form_id = (
        user_of(request),
        now_of(request),
        runtime_of(request),
        request.match_info.get("form", ""),
    )
    if act == "try":
        payload = str(sent.get("payload", ""))[: 64 * 1024]
        try:
            sample = form_admin.sample(given, payload)
        except HubError as error:
            return await _page(request, given=given, version=version, error=error, payload=payload)
        return await _page(request, given=given, version=version, payload=payload, sample=sample)
    if act != "save":
        return await _page(request, given=rearranged(given, act), version=version)
    try:
        if form_id:
            await runtime.db.write(
                lambda tx: form_admin.save_form(tx, form_id, given, version=version, actor=user.id, now=now)
            )
        else:
            made = await runtime.db.write(lambda tx: form_admin.create_form(tx, given, actor=user.id, now=now))
            form_id = made.id
    except HubError as error:
        return await _page(request, given=given, version=version, error=error)
    raise web.HTTPSeeOther(f"/desk/admin/forms/{form_id}?saved=1")


async def turn(request: web.Request) -> web.StreamResponse:
    """A new key, a new secret, the end of the old one, or no secret."""
    act, user, now, form_id = (
        str((await request.post()).get("act", "")),
        user_of(request),
        now_of(request),
        request.match_info["form"],
    )
    runtime = runtime_of(request)

    async def unit(tx: Tx) -> str:
        if act == "key":
            await form_admin.rotate_key(tx, form_id, actor=user.id, now=now)
            return ""
        return await form_admin.set_secret(tx, runtime.channels, form_id, act, actor=user.id, now=now)

    try:
        secret = await runtime.db.write(unit)
    except HubError as error:
        return await _page(request, error=error)
    return await _page(request, secret=secret, saved=not secret)


async def show_posts(request: web.Request) -> web.StreamResponse:
    """What was posted."""
    return await _posts(request)


async def _posts(request: web.Request, *, replayed: str = "") -> web.Response:
    only = request.query.get("only", "")
    only = only if only in ("held", "refused", "taken") else ""
    async with runtime_of(request).db.reading() as tx:
        form, account = await form_admin.get_form(tx, request.match_info["form"])
        found = await form_posts.list_posts(tx, form_admin.keys_of(form, account), only=only)
        replays = {receipt.id: receipt.headers.get(form_posts.REPLAYS, []) for receipt in found}
        people = await users_of(tx, [one["by"] for listed in replays.values() for one in listed])
    labels = labels_of(form.fields)
    rows = [
        PostRow(
            receipt, {labels.get(name, name): value for name, value in _readable(receipt).items()},
            REASONS.get(receipt.error, "") or reason_of(receipt.error, labels), receipt.error in REASONS, _lead(receipt),
            [(people.get(one["by"], one["by"]), datetime.fromisoformat(one["at"])) for one in replays[receipt.id]],
        )
        for receipt in found
    ]  # fmt: skip
    return await render(request, "admin/form_posts.html", PostsPage(form, rows, replayed, only))


def _lead(receipt: WebhookReceipt) -> str:
    try:
        told = json.loads(receipt.answer or "{}")
    except ValueError:
        return ""
    return str(told.get("lead", "")) if isinstance(told, dict) and receipt.state == ReceiptState.DONE else ""


def _readable(receipt: WebhookReceipt) -> dict[str, str]:
    request = RawRequest(receipt.url, "POST", receipt.headers, receipt.body, receipt.received_at)
    try:
        fields: Mapping[str, str] = read_stored(request).fields
    except (Unreadable, ValueError, KeyError):
        return {}
    shown = {name: value for name, value in fields.items() if not name.startswith("_") and name != HONEYPOT and value}
    return dict(list(shown.items())[:60])


async def replay(request: web.Request) -> web.StreamResponse:
    """Make one post count again."""
    sent, user = await request.post(), user_of(request)
    runtime = runtime_of(request)
    receipt = await form_posts.replay(intake_deps(runtime), KINDS, str(sent.get("receipt", "")), actor=user.id)
    return await _posts(request, replayed=receipt.id)


def reason_of(error: str, labels: Mapping[str, str]) -> str:
    """Why a post was refused, from the receipt's note."""
    try:
        told = json.loads(error)
    except ValueError:
        return error
    return (
        " ".join(f"{labels.get(name, name)}: {sentence}" for name, sentence in told.items())
        if isinstance(told, dict)
        else error
    )


A = "/desk/admin/forms"
routes = [
    Route("GET", f"{A}/new", show, roles=ADMINS),
    Route("POST", f"{A}/new", save, roles=ADMINS),
    Route("GET", f"{A}/{{form:{ID}}}", show, roles=ADMINS),
    Route("POST", f"{A}/{{form:{ID}}}", save, roles=ADMINS),
    Route("POST", f"{A}/{{form:{ID}}}/turn", turn, roles=ADMINS),
    Route("GET", f"{A}/{{form:{ID}}}/posts", show_posts, roles=ADMINS),
    Route("POST", f"{A}/{{form:{ID}}}/posts", replay, roles=ADMINS),
]
