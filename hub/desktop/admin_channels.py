"""Administration of what we are reached under: numbers, mailboxes, the provider account. Forms have a file of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from sqlmodel import select

from crm_core import accounts, settings_rows
from crm_core.accounts import ChannelAccount, Form
from crm_core.db import Tx
from crm_core.errors import HubError, Invalid
from crm_core.texts import Text
from hub import channel_admin, connection_test, mailbox_troubles
from hub.channel_admin import MailboxInput, NumberInput, ProviderInput, ServerInput
from hub.channel_set import PROVIDER
from hub.connection_test import Tested
from hub.desktop.render import render
from hub.mailbox_settings import TOKEN_FIELDS, TokensInput
from hub.sealing import Unsealable
from hub.vault import AccountVault
from hub.web import ADMINS, Route, now_of, runtime_of, user_of
from routing import flows as call_flows
from routing import queues
from routing.flows import Flow
from routing.queues import Queue

ID = "[0-9a-z]{26}"
CHANNELS = ("voice", "sms", "email", "webform")
SECRET = ("imap_password", "smtp_password", "client_secret", "refresh_token")  # never sent back
NEW_MAILBOX = {"imap_security": "tls", "smtp_security": "starttls", "log_in": "password"}
TYPED, TYPED_S = "typed-password", 900  # the purpose of a sealed text, and how long it is good for


@dataclass(frozen=True, slots=True)
class AccountsPage:
    """Everything we are reached under; `gone` was deleted and can come back."""

    rows: dict[str, list[ChannelAccount]]
    forms: dict[str, Form]  # by account
    queues: dict[str, str]
    gone: list[ChannelAccount]
    off: dict[str, str]
    troubles: dict[str, list[Text]]  # mailboxes that cannot be read or written from now
    provider: str  # the SID in use
    from_row: bool
    deleted: ChannelAccount | None
    restored: bool


@dataclass(frozen=True, slots=True)
class AccountPage:
    """A number, or the form of a new one (`account` None)."""

    account: ChannelAccount | None
    queues: list[Queue]
    flows: list[Flow]
    values: dict[str, str]
    errors: dict[str, str]
    error: str
    saved: bool


@dataclass(frozen=True, slots=True)
class MailboxPage:
    """A mailbox, or the form of a new one."""

    account: ChannelAccount | None
    queues: list[Queue]
    values: dict[str, str]
    endings: dict[str, str]
    from_environment: bool
    tested: list[Tested]
    typed: str  # passwords typed for a test, sealed, so that saving afterwards needs no second typing
    errors: dict[str, str]
    error: str
    saved: bool


@dataclass(frozen=True, slots=True)
class ProviderPage:
    """The provider account in use."""

    account: ChannelAccount | None
    values: dict[str, str]
    endings: dict[str, str]
    environment_sid: str
    tested: list[Tested]
    errors: dict[str, str] = field(default_factory=dict)
    error: str = ""
    saved: bool = False


async def posted(request: web.Request) -> dict[str, str]:
    """The form's fields; passwords are not stripped."""
    return {
        name: str(value) if "password" in name else str(value).strip() for name, value in (await request.post()).items()
    }


def fields_of(error: HubError | None) -> dict[str, str]:
    """Field → sentence."""
    return dict(error.fields) if isinstance(error, Invalid) else {}


def told_of(error: HubError | None) -> str:
    """The sentence over the form; templates tell it in the reader's language."""
    return error.message if error is not None else ""


# --- the list --------------------------------------------------------------------------------------------------------


async def show_accounts(request: web.Request) -> web.StreamResponse:
    """Numbers, mailboxes, forms, the provider account."""
    runtime = runtime_of(request)
    deleted = request.query.get("deleted", "")
    async with runtime.db.reading() as tx:
        rows = {channel: await accounts.list_channel(tx, channel) for channel in CHANNELS}
        gone = [row for channel in CHANNELS for row in await accounts.list_channel(tx, channel, deleted=True)]
        forms = await tx.all(select(Form).limit(500))
        names = {queue.id: queue.name for queue in await queues.list_all(tx)}
    twilio, off = runtime.channels.twilio, runtime.channels.off()
    if any(row.sealed for row in rows["email"]):
        off.pop("email", None)  # a mailbox with servers of its own
    page = AccountsPage(
        rows, {form.account_id: form for form in forms}, names, gone, off,
        await mailbox_troubles.read(runtime.redis, [row.id for row in rows["email"] if row.enabled]),
        twilio.account_sid if twilio is not None else "", runtime.channels.provider_from_row,
        next((row for row in gone if row.id == deleted), None), "restored" in request.query,
    )  # fmt: skip
    return await render(request, "admin/accounts.html", page)


async def delete(request: web.Request) -> web.StreamResponse:
    """Out of use; the list offers the way back."""
    user, now, account_id = user_of(request), now_of(request), request.match_info["account"]
    await runtime_of(request).db.write(lambda tx: settings_rows.delete_account(tx, account_id, actor=user.id, now=now))
    raise web.HTTPSeeOther(f"/desk/admin/accounts?deleted={account_id}")


async def restore(request: web.Request) -> web.StreamResponse:
    """As it was before."""
    user, now, account_id = user_of(request), now_of(request), request.match_info["account"]
    await runtime_of(request).db.write(lambda tx: settings_rows.restore_account(tx, account_id, actor=user.id, now=now))
    raise web.HTTPSeeOther("/desk/admin/accounts?restored=1")


async def switch(request: web.Request) -> web.StreamResponse:
    """On or off, from the list."""
    user, now, account_id = user_of(request), now_of(request), request.match_info["account"]

    async def unit(tx: Tx) -> None:
        account = await accounts.get(tx, account_id)
        await settings_rows.edit_account(
            tx, account_id, version=account.version, actor=user.id, now=now, enabled=not account.enabled
        )

    await runtime_of(request).db.write(unit)
    await runtime_of(request).adopt_provider()
    raise web.HTTPSeeOther("/desk/admin/accounts")


# --- one number or mailbox -------------------------------------------------------------------------------------------


async def show_account(request: web.Request) -> web.StreamResponse:
    """One account, by what it is."""
    async with runtime_of(request).db.reading() as tx:
        account = await accounts.get(tx, request.match_info["account"])
        form = await tx.one(select(Form).where(Form.account_id == account.id))
    if account.channel == "email":
        return await _mailbox(request, account, saved="saved" in request.query)
    if account.channel == PROVIDER:
        raise web.HTTPSeeOther("/desk/admin/provider")
    if form is not None:
        raise web.HTTPSeeOther(f"/desk/admin/forms/{form.id}")
    return await _number(request, account, saved="saved" in request.query)


async def save_account(request: web.Request) -> web.StreamResponse:
    """Change a number or mailbox, or test a mailbox's connection."""
    async with runtime_of(request).db.reading() as tx:
        account = await accounts.get(tx, request.match_info["account"])
    if account.channel == "email":
        return await _save_mailbox(request, account)
    return await _save_number(request, account)


async def _number(
    request: web.Request, account: ChannelAccount | None, *, values: dict[str, str] | None = None,
    error: HubError | None = None, saved: bool = False,
) -> web.Response:  # fmt: skip
    async with runtime_of(request).db.reading() as tx:
        served = await queues.list_all(tx)
        flows = await call_flows.list_all(tx)
    page = AccountPage(account, served, flows, values or {}, fields_of(error), told_of(error), saved)
    return await render(request, "admin/number.html", page, status=422 if error else 200)


async def _save_number(request: web.Request, account: ChannelAccount) -> web.StreamResponse:
    form, user, now = await posted(request), user_of(request), now_of(request)

    async def unit(tx: Tx) -> None:
        await channel_admin.check_targets(tx, form.get("queue_id", ""), form.get("flow_id", ""))
        await settings_rows.edit_account(
            tx, account.id, version=version_of(form), actor=user.id, now=now, name=form.get("name") or account.name,
            queue_id=form.get("queue_id") or None, flow_id=form.get("flow_id") or None, enabled="enabled" in form,
        )  # fmt: skip

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return await _number(request, account, values=form, error=error)
    raise web.HTTPSeeOther(f"/desk/admin/accounts/{account.id}?saved=1")


def version_of(form: dict[str, str]) -> int:
    """The version that the form was shown with; 0, which no row has, when it is none."""
    word = form.get("version", "")
    return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else 0


async def new_number(request: web.Request) -> web.StreamResponse:
    """The form of a new number."""
    return await _number(request, None)


async def create_number(request: web.Request) -> web.StreamResponse:
    """A new number; calls and texts to it are routed from now on."""
    sent = await request.post()
    form, user, now = await posted(request), user_of(request), now_of(request)
    given = NumberInput(
        form.get("number", ""), form.get("name", ""), form.get("country", ""), form.get("queue_id", ""),
        form.get("flow_id", ""), tuple(str(value) for value in sent.getall("channels", [])),
    )  # fmt: skip
    try:
        await runtime_of(request).db.write(lambda tx: channel_admin.create_number(tx, given, actor=user.id, now=now))
    except HubError as error:
        return await _number(request, None, values={**form, "channels": " ".join(given.channels)}, error=error)
    raise web.HTTPSeeOther("/desk/admin/accounts")


def with_typed(request: web.Request, form: dict[str, str]) -> dict[str, str]:
    """The form with the passwords typed for a test a moment ago, where the same person names the same server and user."""
    try:
        kept = json.loads(runtime_of(request).sealer.unseal(form.get("typed", ""), purpose=TYPED))
    except (Unsealable, ValueError):
        return form
    if kept.get("who") != user_of(request).id or kept.get("until", 0) < now_of(request).timestamp():
        return form
    found = dict(form)
    for half in ("imap", "smtp"):
        same = kept.get(half, {}).get("at") == [form.get(f"{half}_{name}", "") for name in ("host", "port", "user")]
        if same and not form.get(f"{half}_password"):
            found[f"{half}_password"] = kept[half]["password"]
    if kept.get("tokens", {}).get("at") == form.get("token_url", ""):
        found |= {name: value for name, value in kept["tokens"]["typed"].items() if not form.get(name)}
    return found


def _typed(request: web.Request, form: dict[str, str]) -> str:
    kept: dict[str, Any] = {"who": user_of(request).id, "until": now_of(request).timestamp() + TYPED_S}
    for half in ("imap", "smtp"):
        if form.get(f"{half}_password"):
            at = [form.get(f"{half}_{name}", "") for name in ("host", "port", "user")]
            kept[half] = {"at": at, "password": form[f"{half}_password"]}
    tokens = {name: form[name] for name in ("client_secret", "refresh_token") if form.get(name)}
    if tokens:
        kept["tokens"] = {"at": form.get("token_url", ""), "typed": tokens}
    return runtime_of(request).sealer.seal(json.dumps(kept), purpose=TYPED) if len(kept) > 2 else ""


def mailbox_input(form: dict[str, str], address: str) -> MailboxInput:
    """A mailbox as the page's fields say."""

    def server(half: str) -> ServerInput:
        return ServerInput(**{name: form.get(f"{half}_{name}", "") for name in ("host", "port", "user", "password")},
                           security=form.get(f"{half}_security", "tls"))  # fmt: skip

    return MailboxInput(
        address, form.get("name", ""), form.get("from_name", ""), form.get("queue_id", ""), form.get("folder", ""),
        server("imap"), server("smtp"),
        TokensInput(**{name: form.get(name, "") for name in TOKEN_FIELDS}) if form.get("log_in") == "token" else TokensInput(),
    )  # fmt: skip


async def _mailbox(
    request: web.Request, account: ChannelAccount | None, *, values: dict[str, str] | None = None,
    error: HubError | None = None, saved: bool = False, tested: list[Tested] | None = None,
) -> web.Response:  # fmt: skip
    channels = runtime_of(request).channels
    async with runtime_of(request).db.reading() as tx:
        served = await queues.list_all(tx)
    if values is None:
        values = _stored(request, account) if account is not None else dict(NEW_MAILBOX)
    # What was typed as a password is never sent back.
    shown = {name: value for name, value in values.items() if name not in SECRET}
    page = MailboxPage(
        account, served, shown, channel_admin.endings(channels, account) if account is not None else {},
        account is not None and not account.sealed and not account.settings.get("imap_url"), tested or [],
        _typed(request, values),
        fields_of(error), told_of(error), saved,
    )  # fmt: skip
    return await render(request, "admin/mailbox.html", page, status=422 if error else 200)


def _stored(request: web.Request, account: ChannelAccount) -> dict[str, str]:
    known: dict[str, Any] = {"folder": "INBOX", **account.settings}
    values = {
        "name": account.name, "queue_id": account.queue_id or "", "from_name": str(known.get("from_name", "")),
        "folder": str(known["folder"]), "enabled": "1" if account.enabled else "",
    }  # fmt: skip
    for half in ("imap", "smtp"):
        server = known.get(half) or {}
        values |= {f"{half}_{name}": str(value) for name, value in server.items()}
    try:
        secrets = runtime_of(request).channels.secrets(account)
    except Unsealable:
        return values
    tokens = {name: secrets.get(f"oauth_{name}", "") for name in TOKEN_FIELDS if name not in SECRET}
    return {**values, **tokens, "log_in": "token" if secrets.get("oauth_refresh_token") else "password"}


class _Kept:
    """Takes the next refresh token when a test used up the one that was typed."""

    def __init__(self) -> None:
        self.following = ""

    async def latest(self, name: str) -> str:
        return ""

    async def store(self, name: str, value: str) -> None:
        self.following = value


async def _try(
    request: web.Request, account: ChannelAccount | None, given: MailboxInput, form: dict[str, str]
) -> list[Tested]:
    """What the servers said. In `form` then stands the refresh token that is good now."""
    runtime = runtime_of(request)
    known = runtime.channels.secrets(account) if account is not None else {}
    if account is not None and not known and not (given.imap.host or given.smtp.host):
        urls = {"imap_url": runtime.settings.imap_url or "", "smtp_url": runtime.settings.smtp_url or ""}
        return await connection_test.try_mailbox(runtime.settings, urls)
    before = account.settings if account is not None else {}
    row = channel_admin.mailbox_row(given, known=known, before=before)
    typed = _Kept()
    stored = account is not None and not (given.tokens is not None and given.tokens.refresh_token)
    vault = AccountVault(runtime.db, runtime.channels, account.id) if account is not None and stored else typed
    tested = await connection_test.try_mailbox(
        runtime.settings, row.secrets, folder=row.settings["folder"], vault=vault
    )
    if typed.following:
        form["refresh_token"] = typed.following
    return tested


async def _save_mailbox(request: web.Request, account: ChannelAccount) -> web.StreamResponse:
    form, user, now = with_typed(request, await posted(request)), user_of(request), now_of(request)
    runtime, given = runtime_of(request), mailbox_input(form, account.address)
    try:
        if form.get("act") == "test":
            return await _mailbox(request, account, values=form, tested=await _try(request, account, given, form))
        await channel_admin.check_hosts(runtime.settings, given)
        await runtime.db.write(
            lambda tx: channel_admin.edit_mailbox(
                tx, runtime.channels, account, given, version=version_of(form), enabled="enabled" in form, actor=user.id,
                now=now,
            )
        )  # fmt: skip
    except HubError as error:
        return await _mailbox(request, account, values=form, error=error)
    raise web.HTTPSeeOther(f"/desk/admin/accounts/{account.id}?saved=1")


async def new_mailbox(request: web.Request) -> web.StreamResponse:
    """The form of a new mailbox."""
    return await _mailbox(request, None)


async def create_mailbox(request: web.Request) -> web.StreamResponse:
    """A new mailbox, or a test of what is typed so far."""
    form, user, now = with_typed(request, await posted(request)), user_of(request), now_of(request)
    runtime, given = runtime_of(request), mailbox_input(form, form.get("address", ""))
    try:
        if form.get("act") == "test":
            return await _mailbox(request, None, values=form, tested=await _try(request, None, given, form))
        await channel_admin.check_hosts(runtime.settings, given)
        made = await runtime.db.write(
            lambda tx: channel_admin.create_mailbox(tx, runtime.channels, given, actor=user.id, now=now)
        )
    except HubError as error:
        return await _mailbox(request, None, values=form, error=error)
    raise web.HTTPSeeOther(f"/desk/admin/accounts/{made.id}?saved=1")


# --- the provider account --------------------------------------------------------------------------------------------


async def show_provider(request: web.Request) -> web.StreamResponse:
    """The provider account."""
    return await _provider(request, saved="saved" in request.query)


async def _provider(
    request: web.Request, *, values: dict[str, str] | None = None, error: HubError | None = None, saved: bool = False,
    tested: list[Tested] | None = None,
) -> web.Response:  # fmt: skip
    runtime = runtime_of(request)
    async with runtime.db.reading() as tx:
        account = await channel_admin.current_provider(tx)
    if values is None:
        values = {"account_sid": account.address, **account.settings} if account is not None else {}
    secret = ("auth_token", "other_token", "api_key_secret")
    shown = {name: str(value) for name, value in values.items() if name not in secret}
    page = ProviderPage(
        account, shown, channel_admin.endings(runtime.channels, account) if account is not None else {},
        runtime.settings.twilio.account_sid if runtime.settings.twilio is not None else "", tested or [],
        fields_of(error), told_of(error), saved,
    )  # fmt: skip
    return await render(request, "admin/provider.html", page, status=422 if error else 200)


async def save_provider(request: web.Request) -> web.StreamResponse:
    """Save, test, or turn the tokens."""
    form, user, now, runtime = await posted(request), user_of(request), now_of(request), runtime_of(request)
    act = form.get("act", "save")
    try:
        if act == "test":
            twilio = runtime.channels.twilio
            if twilio is None:
                raise Invalid("There is no provider account yet.")
            return await _provider(request, tested=[await connection_test.try_provider(twilio)])

        async def unit(tx: Tx) -> None:
            account = await channel_admin.current_provider(tx)
            if act in ("swap", "end") and account is not None:
                await channel_admin.rotate_provider(tx, runtime.channels, account, act, actor=user.id, now=now)
                return
            names = ProviderInput.__dataclass_fields__
            given = ProviderInput(**{name: form.get(name, "") for name in names})
            await channel_admin.save_provider(tx, runtime.channels, given, actor=user.id, now=now)

        await runtime.db.write(unit)
    except HubError as error:
        return await _provider(request, values=form, error=error)
    await runtime.adopt_provider()
    raise web.HTTPSeeOther("/desk/admin/provider?saved=1")


A = "/desk/admin"
routes = [
    Route("GET", f"{A}/accounts", show_accounts, roles=ADMINS),
    Route("GET", f"{A}/accounts/number", new_number, roles=ADMINS),
    Route("POST", f"{A}/accounts/number", create_number, roles=ADMINS),
    Route("GET", f"{A}/accounts/mailbox", new_mailbox, roles=ADMINS),
    Route("POST", f"{A}/accounts/mailbox", create_mailbox, roles=ADMINS),
    Route("GET", f"{A}/accounts/{{account:{ID}}}", show_account, roles=ADMINS),
    Route("POST", f"{A}/accounts/{{account:{ID}}}", save_account, roles=ADMINS),
    Route("POST", f"{A}/accounts/{{account:{ID}}}/delete", delete, roles=ADMINS),
    Route("POST", f"{A}/accounts/{{account:{ID}}}/restore", restore, roles=ADMINS),
    Route("POST", f"{A}/accounts/{{account:{ID}}}/switch", switch, roles=ADMINS),
    Route("GET", f"{A}/provider", show_provider, roles=ADMINS),
    Route("POST", f"{A}/provider", save_provider, roles=ADMINS),
]
