"""API for administrators: numbers, mailboxes, the provider account.

The same functions as the screens. Secrets go in and never come out: an answer says which are set and how they end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from crm_core import accounts, settings_rows
from crm_core.accounts import ChannelAccount
from crm_core.db import Tx
from crm_core.errors import Invalid
from hub import channel_admin, connection_test, mailbox_settings
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, Version, operation
from hub.channel_admin import MailboxInput, NumberInput, ProviderInput, ServerInput
from hub.channel_set import PROVIDER
from hub.mailbox_settings import MailInput, TokensInput
from hub.outgoing_hosts import refuse_internal
from hub.web import ADMINS

CHANNELS = ("voice", "sms", "email", "webform")
Short = Field("", max_length=200)


class AccountShown(Shown):
    """A number, mailbox or form. `secrets`: those that are set, and how each ends."""

    id: str
    channel: str
    address: str
    name: str
    country: str
    queue_id: str | None
    flow_id: str | None
    settings: dict[str, Any]
    secrets: dict[str, str]
    enabled: bool
    off_reason: str
    deleted_at: datetime | None
    version: int


class AccountList(Shown):
    """By channel, then name."""

    items: list[AccountShown]


class AccountQuery(Strict):
    """Those in use, or those that were deleted."""

    deleted: bool = False


class NumberIn(Strict):
    """A new phone number."""

    number: str = Field(max_length=60)
    name: str = Short
    country: str = Field("", max_length=2)
    queue_id: str = Field("", max_length=40)
    flow_id: str = Field("", max_length=40)
    channels: list[Literal["voice", "sms"]] = Field(default=["voice", "sms"], min_length=1, max_length=2)


class ServerIn(Strict):
    """A mail server. An empty password keeps the stored one while host, port and user stay the same."""

    host: str = Field("", max_length=253)
    port: int | None = Field(None, ge=1, le=65535)
    security: Literal["tls", "starttls", "none"] = "tls"
    user: str = Field("", max_length=320)
    password: str = Field("", max_length=500)


class TokenAccess(Strict):
    """Where access tokens are bought (XOAUTH2), and with what. An empty secret keeps the stored one while the address stays."""

    token_url: str = Field("", max_length=500)
    client_id: str = Field("", max_length=500)
    scope: str = Field("", max_length=1000)
    client_secret: str = Field("", max_length=2000)
    refresh_token: str = Field("", max_length=5000)


class MailboxIn(Strict):
    """A mailbox. `address` cannot be changed later."""

    address: str = Field("", max_length=320)
    name: str = Short
    from_name: str = Short
    queue_id: str = Field("", max_length=40)
    folder: str = Field("INBOX", max_length=200)
    imap: ServerIn = Field(default_factory=lambda: ServerIn.model_validate({}))
    smtp: ServerIn = Field(default_factory=lambda: ServerIn.model_validate({}))
    tokens: TokenAccess | None = Field(
        None,
        description="access by token in place of passwords; null keeps what is stored, an empty `token_url` ends it",
    )


class MailboxChange(MailboxIn):
    """A whole mailbox anew; `version` is the one you saw."""

    version: Version
    enabled: bool = True


class MailSettingsIn(Strict):
    """A mailbox's settings beside its servers, all of them; `version` is the one you saw."""

    version: Version
    aliases: list[Annotated[str, Field(max_length=254)]] = Field(
        default=[], max_length=20, description="answers leave from the address that was written to"
    )
    signed_return_path: bool = False
    copy_to_sent: bool = Field(default=False, description="put what is sent into the mailbox; leave it off for Gmail")
    sent_folder: str = Field("", max_length=200, description="empty: the one that the server names, or Sent")
    language: Literal["en", "es", "de", "zh"] = Field("en", description="of the line above quoted text")


class TokensIn(TokenAccess):
    """Access by token anew; an empty `token_url` switches it off. `version` is the one you saw."""

    version: Version


class AccountChange(Strict):
    """Fields to change; `version` is the one you saw."""

    version: Version
    name: str | None = Field(None, min_length=1, max_length=100)
    queue_id: str | None = Field(None, max_length=40)
    flow_id: str | None = Field(None, max_length=40)
    enabled: bool | None = None


class TestShown(Shown):
    """What a log-in brought: imap, smtp or twilio."""

    what: str
    good: bool
    sentence: str


class TestList(Shown):
    """One line for each server."""

    items: list[TestShown]


class ProviderIn(Strict):
    """The provider account. Empty secrets keep what is stored; a new token keeps the one before on webhooks."""

    account_sid: str = Field(max_length=34)
    auth_token: str = Short
    other_token: str = Short
    api_key_sid: str = Field("", max_length=34)
    api_key_secret: str = Short
    app_sid: str = Field("", max_length=34)
    messaging_service_sid: str = Field("", max_length=34)


class RotateIn(Strict):
    """`swap`: the other token becomes ours; `end`: only ours is accepted."""

    act: Literal["swap", "end"]


def account_shown(call: Call[Any, Any], row: ChannelAccount) -> AccountShown:
    """The row without its secrets."""
    plain = {name: value for name, value in row.settings.items() if not name.endswith("_url")}
    known = row.model_dump(include=set(AccountShown.model_fields) - {"settings", "secrets"})
    return AccountShown(**known, settings=plain, secrets=channel_admin.endings(call.runtime.channels, row))


def admin_operation(
    method: str, path: str, summary: str, **more: Any
) -> Callable[[Callable[[Any], Awaitable[Any]]], Operation]:
    """An operation for administrators alone; its scope follows from whether it changes something."""
    scope = "admin:read" if method == "GET" else "admin:write"
    return operation(method, f"/api/v1/{path}", summary, scope=scope, roles=ADMINS, **more)


@admin_operation("GET", "accounts", "List numbers, mailboxes and forms", query=AccountQuery, answer=AccountList)
async def list_accounts(call: Call[AccountQuery, Nothing]) -> AccountList:
    """Everything the hub is reached under."""
    async with call.runtime.db.reading() as tx:
        rows = [row for one in CHANNELS for row in await accounts.list_channel(tx, one, deleted=call.query.deleted)]
    return AccountList(items=[account_shown(call, row) for row in rows])


@admin_operation("POST", "accounts/numbers", "Add a phone number", body=NumberIn, answer=AccountList, status=201)
async def create_number(call: Call[Nothing, NumberIn]) -> AccountList:
    """One row for calls, one for texts; routed at once."""
    given = NumberInput(**{**call.body.model_dump(), "channels": tuple(call.body.channels)})
    made = await call.runtime.db.write(
        lambda tx: channel_admin.create_number(tx, given, actor=call.user.id, now=call.now)
    )
    return AccountList(items=[account_shown(call, row) for row in made])


def _mailbox(body: MailboxIn, address: str) -> MailboxInput:
    def server(given: ServerIn) -> ServerInput:
        return ServerInput(given.host, str(given.port or ""), given.security, given.user, given.password)

    return MailboxInput(
        address, body.name, body.from_name, body.queue_id, body.folder, server(body.imap), server(body.smtp),
        TokensInput(**body.tokens.model_dump()) if body.tokens is not None else None,
    )  # fmt: skip


@admin_operation("POST", "accounts/mailboxes", "Add a mailbox", body=MailboxIn, answer=AccountShown, status=201)
async def create_mailbox(call: Call[Nothing, MailboxIn]) -> AccountShown:
    """Read and sent from within ten seconds."""
    given = _mailbox(call.body, call.body.address)
    await channel_admin.check_hosts(call.runtime.settings, given)
    channels = call.runtime.channels
    made = await call.runtime.db.write(
        lambda tx: channel_admin.create_mailbox(tx, channels, given, actor=call.user.id, now=call.now)
    )
    return account_shown(call, made)


@admin_operation("PUT", "accounts/mailboxes/{id}", "Change a mailbox", body=MailboxChange, answer=AccountShown)
async def change_mailbox(call: Call[Nothing, MailboxChange]) -> AccountShown:
    """409 when it has another version than the one you saw."""
    body = call.body
    async with call.runtime.db.reading() as tx:
        account = await accounts.get(tx, call.path["id"])
    if account.channel != "email":
        raise Invalid("This is not a mailbox.")
    given = _mailbox(body, account.address)
    await channel_admin.check_hosts(call.runtime.settings, given)
    made = await call.runtime.db.write(
        lambda tx: channel_admin.edit_mailbox(
            tx, call.runtime.channels, account, given, version=body.version, enabled=body.enabled, actor=call.user.id,
            now=call.now,
        )
    )  # fmt: skip
    return account_shown(call, made)


@admin_operation(
    "PUT",
    "accounts/mailboxes/{id}/mail",
    "Change a mailbox's aliases and copies",
    body=MailSettingsIn,
    answer=AccountShown,
)
async def change_mail_settings(call: Call[Nothing, MailSettingsIn]) -> AccountShown:
    """409 when another mailbox has an alias, or when it has another version than the one you saw."""
    given = MailInput(**call.body.model_dump(exclude={"version"}))
    made = await call.runtime.db.write(
        lambda tx: mailbox_settings.change(
            tx, call.path["id"], given, version=call.body.version, actor=call.user.id, now=call.now
        )
    )
    return account_shown(call, made)


@admin_operation(
    "PUT", "accounts/mailboxes/{id}/tokens", "Change a mailbox's access by token", body=TokensIn, answer=AccountShown
)
async def change_tokens(call: Call[Nothing, TokensIn]) -> AccountShown:
    """For Microsoft 365 and Google. What the provider hands out anew is stored in place of what you gave."""
    given = TokensInput(**call.body.model_dump(exclude={"version"}))
    if given.token_url:
        await refuse_internal(call.runtime.settings, _host(given.token_url), field="token_url")
    made = await call.runtime.db.write(
        lambda tx: mailbox_settings.change_tokens(
            tx,
            call.runtime.channels,
            call.path["id"],
            given,
            version=call.body.version,
            actor=call.user.id,
            now=call.now,
        )
    )
    return account_shown(call, made)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError as error:
        raise Invalid("This is not a web address.", fields={"token_url": "This is not a web address."}) from error


@admin_operation("POST", "accounts/{id}/test", "Test a mailbox's log-ins", answer=TestList)
async def test_account(call: Call[Nothing, Nothing]) -> TestList:
    """Really connects and logs in, within fifteen seconds; one sentence for each server."""
    runtime = call.runtime
    async with runtime.db.reading() as tx:
        account = await accounts.get(tx, call.path["id"])
    if account.channel != "email":
        raise Invalid("This is not a mailbox.")
    urls = runtime.channels.secrets(account) or {
        "imap_url": runtime.settings.imap_url or "", "smtp_url": runtime.settings.smtp_url or "",
    }  # fmt: skip
    folder = str(account.settings.get("folder") or "INBOX")
    found = await connection_test.try_mailbox(runtime.settings, urls, folder=folder)
    return TestList(items=[TestShown(what=one.what, good=one.good, sentence=str(one.sentence)) for one in found])


@admin_operation("PATCH", "accounts/{id}", "Change a number, mailbox or form", body=AccountChange, answer=AccountShown)
async def change_account(call: Call[Nothing, AccountChange]) -> AccountShown:
    """Name, queue, flow, on or off. 409 when it has another version than the one you saw."""
    given = call.body.model_dump(exclude_unset=True, exclude={"version"})
    if any(given.get(name, "") is None for name in ("name", "enabled")):
        raise Invalid("A name and whether it is in use cannot be taken away.")
    changes = {name: value or None if name.endswith("_id") else value for name, value in given.items()}

    async def unit(tx: Tx) -> ChannelAccount:
        account = await accounts.get(tx, call.path["id"])
        if account.channel == PROVIDER:
            raise Invalid("The provider account is changed under /provider.")
        await channel_admin.check_targets(tx, str(changes.get("queue_id") or ""), str(changes.get("flow_id") or ""))
        return await settings_rows.edit_account(
            tx, account.id, version=call.body.version, actor=call.user.id, now=call.now, **changes
        )

    return account_shown(call, await call.runtime.db.write(unit))


@admin_operation("DELETE", "accounts/{id}", "Delete a number, mailbox or form", answer=None)
async def delete_account(call: Call[Nothing, Nothing]) -> None:
    """Out of use at once; its history stays, and `restore` undoes it."""
    await call.runtime.db.write(
        lambda tx: settings_rows.delete_account(tx, call.path["id"], actor=call.user.id, now=call.now)
    )


@admin_operation("POST", "accounts/{id}/restore", "Undo a deletion", answer=AccountShown)
async def restore_account(call: Call[Nothing, Nothing]) -> AccountShown:
    """As it was, on or off."""
    made = await call.runtime.db.write(
        lambda tx: settings_rows.restore_account(tx, call.path["id"], actor=call.user.id, now=call.now)
    )
    return account_shown(call, made)


@admin_operation("PUT", "provider", "Enter or change the provider account", body=ProviderIn, answer=AccountShown)
async def save_provider(call: Call[Nothing, ProviderIn]) -> AccountShown:
    """Every process uses it within seconds."""
    given, channels = ProviderInput(**call.body.model_dump()), call.runtime.channels
    made = await call.runtime.db.write(
        lambda tx: channel_admin.save_provider(tx, channels, given, actor=call.user.id, now=call.now)
    )
    await call.runtime.adopt_provider()
    return account_shown(call, made)


@admin_operation("POST", "provider/rotate", "Turn the provider's tokens", body=RotateIn, answer=AccountShown)
async def rotate_provider(call: Call[Nothing, RotateIn]) -> AccountShown:
    """While both are set, webhooks signed with either are genuine."""

    async def unit(tx: Tx) -> ChannelAccount:
        account = await channel_admin.current_provider(tx)
        if account is None:
            raise Invalid("There is no provider account yet.")
        return await channel_admin.rotate_provider(
            tx, call.runtime.channels, account, call.body.act, actor=call.user.id, now=call.now
        )

    made = await call.runtime.db.write(unit)
    await call.runtime.adopt_provider()
    return account_shown(call, made)


OPERATIONS: list[Operation] = [
    list_accounts, create_number, create_mailbox, change_mailbox, change_mail_settings, change_tokens, test_account,
    change_account, delete_account, restore_account, save_provider, rotate_provider,
]  # fmt: skip
