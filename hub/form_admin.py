"""What administrators do with web forms: build, change, key and secret, the snippet for other sites. For screen and API alike.

Every change is a new version, and versions stay: consent names the one that the person saw.
"""

from __future__ import annotations

import re
import secrets as chance
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from channels.contract import RawRequest
from crm_core import accounts, audit, settings_rows
from crm_core.accounts import ChannelAccount, Form, FormVersion
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.ids import new_id
from crm_core.texts import Text
from hub.channel_admin import check_targets
from hub.channel_set import ChannelSet
from hub.settings import parsed_url
from routing import form_fields
from routing.form_preview import Sample, read_sample
from webhooks.form_deps import Rejected
from webhooks.forms import read_sent

WEB = "webform"
UTC_START = datetime(2026, 1, 1, tzinfo=UTC)  # when a sample came is of no interest
KEY_LETTERS = "abcdefghjkmnpqrstvwxyz23456789"
MOST_SECONDS = 600
ORIGIN = re.compile(r"https://[a-z0-9.-]{1,253}(:\d{1,5})?|http://(localhost|127\.0\.0\.1)(:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class FormInput:
    """A form as built."""

    title: str
    fields: Sequence[Mapping[str, Any]]
    queue_id: str = ""
    consent_text: str = ""
    thanks: str = ""
    hosted: bool = True
    min_seconds: int = 3
    embed: Sequence[str] = field(default_factory=tuple)  # origins whose pages may show it in a frame
    enabled: bool = True
    strict: bool = False  # visitors prove that they looked at the page: work in the background, or a longer time
    signed_time: bool = True  # signatures of machines must carry their time
    calls: bool = False  # click-to-be-called: the answer is a promise to phone


FIRST_FIELDS: list[dict[str, Any]] = [
    {"name": "name", "label": Text("Name"), "kind": "text", "required": True, "maps": "contact.name"},
    {"name": "email", "label": Text("E-mail"), "kind": "email", "required": True},
    {"name": "phone", "label": Text("Phone"), "kind": "phone"},
    {"name": "message", "label": Text("Message"), "kind": "textarea"},
]
CALL_FIELDS: list[dict[str, Any]] = [
    {"name": "name", "label": Text("Name"), "kind": "text", "maps": "contact.name"},
    {"name": "phone", "label": Text("Your phone number"), "kind": "phone", "required": True},
    {"name": "call_at", "label": Text("When shall we call?"), "kind": "slot"},
    {"name": "topic", "label": Text("What is it about?"), "kind": "text", "maps": "subject"},
]


def _checked(given: FormInput) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Fields and settings that can be stored; Invalid with a sentence at each wrong place."""
    wrong: dict[str, str] = {}
    if not given.title.strip():
        wrong["title"] = Text("Give a title.")
    if not 0 <= given.min_seconds <= MOST_SECONDS:
        wrong["min_seconds"] = Text("Between %(low)s and %(high)s.", low=0, high=MOST_SECONDS)
    origins = [origin.strip().rstrip("/").lower() for origin in given.embed if origin.strip()]
    if len(origins) > 20 or not all(ORIGIN.fullmatch(origin) and parsed_url(origin) for origin in origins):
        wrong["embed"] = Text("Write each site as https://www.example.com, at most twenty.")
    fields: list[dict[str, Any]] = []
    try:
        fields = form_fields.check_definition(given.fields)
    except Invalid as error:
        wrong |= error.fields
    kinds = [one["kind"] for one in fields]
    if given.calls and not any(one["kind"] == "phone" and one.get("required") for one in fields):
        wrong.setdefault(
            "fields", Text("Whoever is called back must give a phone number: add such a field that must be filled in.")
        )
    if given.calls and not given.queue_id:
        wrong["queue_id"] = Text("Choose the queue whose agents call back.")
    if kinds.count("slot") > int(given.calls):
        wrong.setdefault(
            "fields", Text("An hour to be called at needs a form that asks to be called, and stands in it once.")
        )
    if wrong:
        raise Invalid("This form cannot be used so.", fields=wrong)
    settings = {
        "hosted": given.hosted, "min_seconds": given.min_seconds, "embed": origins, "strict": given.strict,
        "signed_time": given.signed_time, "calls": given.calls,
    }  # fmt: skip
    return fields, settings


def fresh_key(title: str) -> str:
    """A public key: words of the title, and chance, so that nobody finds forms by guessing."""
    words = re.sub(r"[^a-z0-9]+", "-", title.casefold()).strip("-")[:30].strip("-")
    return "-".join(filter(None, (words, "".join(chance.choice(KEY_LETTERS) for _ in range(10)))))


async def get_form(tx: Tx, form_id: str) -> tuple[Form, ChannelAccount]:
    """The form and its account, deleted ones too; NotFound."""
    form = await tx.one(select(Form).where(Form.id == form_id))
    if form is None:
        raise NotFound("There is no such form.")
    return form, await accounts.get(tx, form.account_id)


async def list_forms(tx: Tx) -> list[tuple[Form, ChannelAccount]]:
    """Forms that are not deleted, by title."""
    kept = {account.id: account for account in await accounts.list_channel(tx, WEB)}
    rows = await tx.all(select(Form).order_by(col(Form.title), col(Form.id)).limit(500))
    return [(form, kept[form.account_id]) for form in rows if form.account_id in kept]


async def list_versions(tx: Tx, form_id: str) -> list[FormVersion]:
    """What the form was, newest first."""
    statement = select(FormVersion).where(FormVersion.form_id == form_id)
    return await tx.all(statement.order_by(col(FormVersion.number).desc()).limit(200))


async def create_form(tx: Tx, given: FormInput, *, actor: str, now: datetime) -> Form:
    """A form that can be filled in and posted to at once, under a key of its own."""
    fields, settings = _checked(given)
    await check_targets(tx, given.queue_id)
    slug = fresh_key(given.title)
    account = await settings_rows.create_account(
        tx, channel=WEB, address=slug, name=given.title.strip()[:100], queue_id=given.queue_id or None,
        settings=settings, actor=actor, now=now, country=await accounts.home_country(tx, given.queue_id),
    )  # fmt: skip
    form = Form(
        id=new_id(now), slug=slug, account_id=account.id, title=given.title.strip()[:200], fields=fields,
        consent_text=given.consent_text.strip()[:5000], consent_version="1" if given.consent_text.strip() else "",
        thanks=given.thanks.strip()[:5000], created_at=now,
    )  # fmt: skip
    await tx.add(form)
    await _keep_version(tx, form, actor=actor, now=now)
    if not given.enabled:
        await settings_rows.edit_account(tx, account.id, version=1, actor=actor, now=now, enabled=False)
    return form


async def save_form(tx: Tx, form_id: str, given: FormInput, *, version: int, actor: str, now: datetime) -> Form:
    """Change a form that still has this version; what it was before is kept for those who saw it."""
    fields, settings = _checked(given)
    await check_targets(tx, given.queue_id)
    form, account = await get_form(tx, form_id)
    consent = given.consent_text.strip()[:5000]
    number = version + 1
    changes = {
        "title": given.title.strip()[:200], "fields": fields, "consent_text": consent,
        "consent_version": form.consent_version if consent == form.consent_text else str(number),
        "thanks": given.thanks.strip()[:5000],
    }  # fmt: skip
    if form.version == version:
        await _keep_version(tx, form, actor="", now=now)  # forms from before versions were kept
    guard = update(Form).where(col(Form.id) == form_id, col(Form.version) == version)
    if await tx.run(guard.values(**changes, version=number)) != 1:
        raise Conflict("Somebody changed this form meanwhile.")
    form, _ = await get_form(tx, form_id)
    await _keep_version(tx, form, actor=actor, now=now)
    await settings_rows.edit_account(
        tx, account.id, version=account.version, actor=actor, now=now, name=form.title[:100],
        queue_id=given.queue_id or None, settings={**account.settings, **settings}, enabled=given.enabled,
    )  # fmt: skip
    await audit.record(tx, actor=actor, action="form.changed", subject=f"form:{form_id}", now=now, version=number)
    return form


async def _keep_version(tx: Tx, form: Form, *, actor: str, now: datetime) -> None:
    await tx.add_new(
        FormVersion(
            id=new_id(now), form_id=form.id, number=form.version, title=form.title, fields=form.fields,
            consent_text=form.consent_text, consent_version=form.consent_version, thanks=form.thanks, created_by=actor,
            created_at=now,
        ),
        unique=["form_id", "number"],
    )  # fmt: skip


async def rotate_key(tx: Tx, form_id: str, *, actor: str, now: datetime) -> Form:
    """A new public key; the old one is refused from this commit on, what came under it stays and can be replayed."""
    form, account = await get_form(tx, form_id)
    slug = fresh_key(form.title)
    former = [*account.settings.get("former_keys", ()), form.slug]
    await settings_rows.edit_account(
        tx, account.id, version=account.version, actor=actor, now=now,
        settings={**account.settings, "former_keys": former[-50:]},
    )  # fmt: skip
    guard = update(ChannelAccount).where(col(ChannelAccount.id) == account.id)
    await tx.run(guard.values(address=slug))
    await tx.run(update(Form).where(col(Form.id) == form_id).values(slug=slug))
    await audit.record(tx, actor=actor, action="form.key_rotated", subject=f"form:{form_id}", now=now)
    return (await get_form(tx, form_id))[0]


async def set_secret(tx: Tx, channels: ChannelSet, form_id: str, act: str, *, actor: str, now: datetime) -> str:
    """`new`: a secret that machines must sign with, shown this once, while the one before stays good; `end`: the one before
    is refused; `none`: posts need no signature. The new secret, or empty."""
    _, account = await get_form(tx, form_id)
    known, made = dict(channels.secrets(account)), ""
    if act == "new":
        made = "whs_" + chance.token_hex(24)
        if known.get("signing_secret"):
            known["previous_signing_secret"] = known["signing_secret"]
        known["signing_secret"] = made
    elif act == "end":
        known.pop("previous_signing_secret", None)
    elif act == "none":
        known.pop("signing_secret", None)
        known.pop("previous_signing_secret", None)
    else:
        raise Invalid("There is nothing of this name to do with a secret.")
    await settings_rows.edit_account(
        tx, account.id, version=account.version, actor=actor, now=now, sealed=channels.seal(known) if known else None
    )
    await audit.record(tx, actor=actor, action=f"form.secret_{act}", subject=f"form:{form_id}", now=now)
    return made


def read_payload(payload: str) -> dict[str, str]:
    """Names and values of a sample that somebody pasted: JSON, or a body as forms send it. Invalid with the reason."""
    body = payload.strip()
    content_type = "application/json" if body.startswith(("{", "[")) else "application/x-www-form-urlencoded"
    request = RawRequest("/forms/sample", "POST", {"content-type": content_type}, body.encode(), UTC_START)
    try:
        return dict(read_sent(request).fields)
    except Rejected as error:
        raise Invalid(error.sentence, fields={"payload": error.sentence}) from error


def sample(given: FormInput, payload: str) -> Sample:
    """What a post of this payload would fill, by the fields as they stand in the builder."""
    fields = form_fields.check_definition(given.fields)
    return read_sample(fields, read_payload(payload), consent_text=given.consent_text.strip())


def keys_of(form: Form, account: ChannelAccount) -> list[str]:
    """Its key, and those it had."""
    return [form.slug, *reversed(account.settings.get("former_keys", ()))]
