"""What administrators do with numbers, mailboxes and the provider account: the same functions for the screen and the API.

Secrets come in, are sealed, and never go out again: a screen is told that there is one and how it ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from crm_core import accounts, audit, settings_rows
from crm_core.accounts import ChannelAccount
from crm_core.addresses import country_of, find_email, find_phone
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.texts import Text
from hub.channel_set import PROVIDER, ChannelSet
from hub.mailbox_settings import TokensInput, token_secrets
from hub.outgoing_hosts import refuse_internal
from hub.settings import Settings
from routing import flows, queues

IMAP_PORTS = {"tls": 993, "none": 143}
SMTP_PORTS = {"tls": 465, "starttls": 587}
NUMBER_CHANNELS = ("voice", "sms")
SID = re.compile(r"[0-9a-fA-F]{32}")
# Set on the page about mail, and kept here.
ELSEWHERE = ("aliases", "signed_return_path", "own_addresses", "copy_to_sent", "sent_folder", "language")
PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]*")


def ending(secret: str) -> str:
    """How a secret ends, for recognising it: its last four characters when it is long, two, or nothing."""
    return secret[-4:] if len(secret) >= 20 else secret[-2:] if len(secret) >= 8 else ""


async def check_targets(tx: Tx, queue_id: str, flow_id: str = "") -> None:
    """NotFound unless queue and flow are there; empty is none."""
    if queue_id:
        await queues.get(tx, queue_id)
    if flow_id:
        await flows.get(tx, flow_id)


# --- numbers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NumberInput:
    """A phone number of ours. National writing is read with `country`."""

    number: str
    name: str = ""
    country: str = ""
    queue_id: str = ""
    flow_id: str = ""
    channels: tuple[str, ...] = NUMBER_CHANNELS


async def create_number(tx: Tx, given: NumberInput, *, actor: str, now: datetime) -> list[ChannelAccount]:
    """The number's rows, one for each of calls and texts; routed from this commit on."""
    country = given.country.strip().upper()
    number = find_phone(given.number.strip(), country=country)
    if number is None:
        told = Text("Write the number with + and the country code, such as +44 20 7946 0000.")
        raise Invalid("This is not a phone number.", fields={"number": told})
    channels = [channel for channel in NUMBER_CHANNELS if channel in given.channels]
    if not channels:
        raise Invalid(
            "A number is for calls, for texts, or for both.", fields={"channels": Text("Choose at least one.")}
        )
    await check_targets(tx, given.queue_id, given.flow_id)
    try:
        return [
            await settings_rows.create_account(
                tx, channel=channel, address=number.value, name=given.name.strip()[:100] or number.value,
                country=country or country_of(number.value), queue_id=given.queue_id or None,
                flow_id=(given.flow_id or None) if channel == "voice" else None, actor=actor, now=now,
            )
            for channel in channels
        ]  # fmt: skip
    except Conflict as error:
        raise Invalid(error.message, fields={"number": Text("This number is there already.")}) from error


# --- mailboxes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerInput:
    """One mail server and its log-in. An empty password keeps the one that is stored."""

    host: str = ""
    port: str = ""  # empty: the usual one
    security: str = "tls"  # tls, starttls (sending), none (this machine only)
    user: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class MailboxInput:
    """A mailbox as entered. Either server may be missing: a mailbox only read, or an address only sent from."""

    address: str
    name: str = ""
    from_name: str = ""
    queue_id: str = ""
    folder: str = "INBOX"
    imap: ServerInput = field(default_factory=ServerInput)
    smtp: ServerInput = field(default_factory=ServerInput)
    tokens: TokensInput | None = None  # None keeps what is stored; without an address, passwords alone


@dataclass(frozen=True, slots=True)
class MailboxRow:
    """What is stored of a mailbox: `secrets` are to be sealed."""

    settings: dict[str, Any]
    secrets: dict[str, str] = field(repr=False)


async def check_hosts(settings: Settings, given: MailboxInput) -> None:
    """Invalid, at the field, when a server or the place of the tokens lies inside the hub's own network."""
    for half in ("imap", "smtp"):
        host = getattr(given, half).host.strip()
        if host:
            await refuse_internal(settings, host, field=f"{half}_host")
    if given.tokens is not None and given.tokens.token_url:
        await refuse_internal(settings, urlsplit(given.tokens.token_url).hostname or "", field="token_url")


def mailbox_row(given: MailboxInput, *, known: Mapping[str, str], before: Mapping[str, Any]) -> MailboxRow:
    """Checked, and turned into settings and secrets; Invalid with a sentence at each wrong field.

    `known` are the stored secrets and `before` the stored settings. A stored password goes to the server it was typed for
    and to no other: whoever changes the server types the password again.
    """
    wrong: dict[str, str] = {}
    shown: dict[str, Any] = {
        "from_name": given.from_name.strip()[:100],
        "folder": given.folder.strip()[:200] or "INBOX",
        **{name: before[name] for name in ELSEWHERE if name in before},
    }
    secrets: dict[str, str] = {}
    try:
        if given.tokens is None:
            secrets = {name: value for name, value in known.items() if name.startswith("oauth_")}
        else:
            secrets = token_secrets(given.tokens, known=known)
    except Invalid as error:
        wrong |= error.fields
    by_token = bool(secrets) or (given.tokens is not None and bool(given.tokens.token_url))
    new_token = given.tokens is not None and bool(given.tokens.refresh_token)
    if not PRINTABLE.fullmatch(given.from_name + given.folder):
        wrong["folder"] = Text("Leave out control characters.")
    for half, ports in (("imap", IMAP_PORTS), ("smtp", SMTP_PORTS)):
        server: ServerInput = getattr(given, half)
        if not server.host.strip():
            if server.user.strip() or server.password:
                wrong[f"{half}_host"] = Text("Name the server too.")
            continue
        read = _server(
            half, server, ports, known.get(f"{half}_url", ""), before.get(half) or {}, wrong, by_token=by_token,
            new_token=new_token,
        )  # fmt: skip
        if read is not None:
            shown[half], secrets[f"{half}_url"] = read
    if not wrong and not {"imap_url", "smtp_url"} & secrets.keys():
        wrong["imap_host"] = Text("Name a server to read from, one to send by, or both.")
    if wrong:
        raise Invalid("This mailbox cannot be used so.", fields=wrong)
    return MailboxRow(shown, secrets)


def _server(
    half: str,
    server: ServerInput,
    ports: Mapping[str, int],
    url: str,
    before: Mapping[str, Any],
    wrong: dict[str, str],
    *,
    by_token: bool,
    new_token: bool,
) -> tuple[dict[str, Any], str] | None:
    host, user, security = server.host.strip().lower(), server.user.strip(), server.security
    port = server.port.strip() or str(ports.get(security, 0))
    if security not in ("tls", "starttls", "none") or (half == "imap" and security == "starttls"):
        wrong[f"{half}_security"] = Text("Choose one of the list.")
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        wrong[f"{half}_port"] = Text("A port is a number from 1 to 65535.")
    if not PRINTABLE.fullmatch(user + server.password):
        wrong[f"{half}_user"] = Text("Leave out control characters.")
    if any(name.startswith(half) for name in wrong):
        return None
    shown = {"host": host, "port": int(port), "security": security, "user": user}
    password = server.password
    elsewhere = any(before.get(name) != shown[name] for name in ("host", "port", "user"))
    if not password and user and elsewhere and (url or by_token) and not new_token:
        # What is stored, a token too, goes to the servers it was given for and to no other.
        wrong[f"{half}_password"] = (
            Text("Type the refresh token again, or a password: this server is new.")
            if by_token
            else Text("The server or the user has changed: type the password again.")
        )
        return None
    if not password and user and url and not elsewhere:
        password = unquote(urlsplit(url).password or "")
    if (half == "imap" or user) and not (user and (password or by_token)):
        wrong[f"{half}_password" if user else f"{half}_user"] = Text("User name and password are both needed.")
        return None
    scheme = f"{half}s" if security == "tls" else half
    login = ":".join(quote(one, safe="") for one in (user, password) if one) + "@" if user else ""
    named = f"[{host}]" if ":" in host else host
    return shown, f"{scheme}://{login}{named}:{port}"


def mailbox_address(text: str) -> str:
    """The mailbox's own address, normalised; Invalid at `address`."""
    found = find_email(text.strip())
    if found is None:
        raise Invalid("This is not a mail address.", fields={"address": Text("Write it as name@example.com.")})
    return found.value


async def create_mailbox(
    tx: Tx, channels: ChannelSet, given: MailboxInput, *, actor: str, now: datetime
) -> ChannelAccount:
    """A mailbox that is read and sent from within seconds."""
    address = mailbox_address(given.address)
    row = mailbox_row(given, known={}, before={})
    await check_targets(tx, given.queue_id)
    try:
        return await settings_rows.create_account(
            tx, channel="email", address=address, name=given.name.strip()[:100] or address,
            queue_id=given.queue_id or None, settings=row.settings, sealed=channels.seal(row.secrets), actor=actor, now=now,
        )  # fmt: skip
    except Conflict as error:
        raise Invalid(error.message, fields={"address": Text("This mailbox is there already.")}) from error


async def edit_mailbox(
    tx: Tx, channels: ChannelSet, account: ChannelAccount, given: MailboxInput, *, version: int, enabled: bool, actor: str,
    now: datetime,
) -> ChannelAccount:  # fmt: skip
    """Change a mailbox; one without servers of its own goes on using those of the environment until it is given some."""
    await check_targets(tx, given.queue_id)
    changes: dict[str, Any] = {}
    own = bool(account.sealed) or bool(given.imap.host.strip() or given.smtp.host.strip())
    if own:
        row = mailbox_row(given, known=channels.secrets(account), before=account.settings)
        kept = {name: value for name, value in account.settings.items() if name not in ("imap", "smtp")}
        changes = {"settings": {**kept, **row.settings}, "sealed": channels.seal(row.secrets)}
    return await settings_rows.edit_account(
        tx, account.id, version=version, actor=actor, now=now, name=given.name.strip()[:100] or account.name,
        queue_id=given.queue_id or None, enabled=enabled, **changes,
    )  # fmt: skip


def endings(channels: ChannelSet, account: ChannelAccount) -> dict[str, str]:
    """Secret → how it ends, for those that are set; of a server's address only its password counts."""
    found: dict[str, str] = {}
    for name, value in channels.secrets(account).items():
        secret = unquote(urlsplit(value).password or "") if name.endswith("_url") else value
        if secret:
            found[name.replace("_url", "_password")] = ending(secret)
    return found


# --- provider account ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProviderInput:
    """The provider account as entered. Empty secrets keep what is stored; a new token keeps the old one on webhooks."""

    account_sid: str
    auth_token: str = field(default="", repr=False)
    other_token: str = field(default="", repr=False)  # accepted on webhooks as well: the one before, or the secondary
    api_key_sid: str = ""
    api_key_secret: str = field(default="", repr=False)
    app_sid: str = ""
    messaging_service_sid: str = ""


SIDS = {"account_sid": "AC", "api_key_sid": "SK", "app_sid": "AP", "messaging_service_sid": "MG"}


async def current_provider(tx: Tx) -> ChannelAccount | None:
    """The provider account in use, or the latest one that is switched off."""
    rows = await accounts.list_channel(tx, PROVIDER)
    return next((row for row in rows if row.enabled), rows[-1] if rows else None)


async def save_provider(
    tx: Tx, channels: ChannelSet, given: ProviderInput, *, actor: str, now: datetime
) -> ChannelAccount:
    """Enter or change the provider account; every process uses it within seconds."""
    wrong: dict[str, str] = {}
    for name, prefix in SIDS.items():
        value = getattr(given, name).strip()
        if (value or name == "account_sid") and not (value.startswith(prefix) and SID.fullmatch(value[2:])):
            wrong[name] = Text("It begins with %(prefix)s and has 32 characters 0-9 a-f after that.", prefix=prefix)
    sid = given.account_sid.strip()
    known = await accounts.find(tx, PROVIDER, sid)
    secrets = dict(channels.secrets(known)) if known is not None and known.deleted_at is None else {}
    for name in ("auth_token", "api_key_secret", "other_token"):
        value = getattr(given, name).strip()
        if value and not re.fullmatch(r"[\x21-\x7e]{16,200}", value):
            wrong[name] = Text("This does not look like one: copy it again, without blanks.")
    if not given.auth_token.strip() and not secrets.get("auth_token"):
        wrong["auth_token"] = Text("The auth token is needed.")
    if given.api_key_sid.strip() and not given.api_key_secret.strip() and not secrets.get("api_key_secret"):
        wrong["api_key_secret"] = Text("The key's secret is needed too.")
    if wrong:
        raise Invalid("This provider account cannot be used so.", fields=wrong)
    token = given.auth_token.strip()
    if token and secrets.get("auth_token") and token != secrets["auth_token"]:
        secrets["previous_auth_token"] = secrets["auth_token"]
    if given.other_token.strip():
        secrets["previous_auth_token"] = given.other_token.strip()
    secrets |= {
        name: getattr(given, name).strip() for name in ("auth_token", "api_key_secret") if getattr(given, name).strip()
    }
    shown = {name: getattr(given, name).strip() for name in ("api_key_sid", "app_sid", "messaging_service_sid")}
    sealed = channels.seal(secrets)
    for other in await accounts.list_channel(tx, PROVIDER):
        if other.enabled and other.address != sid:
            await settings_rows.edit_account(tx, other.id, version=other.version, actor=actor, now=now, enabled=False)
    if known is None or known.deleted_at is not None:
        made = await settings_rows.create_account(
            tx, channel=PROVIDER, address=sid, name="Twilio", settings=shown, sealed=sealed, actor=actor, now=now
        )
    else:
        made = await settings_rows.edit_account(
            tx, known.id, version=known.version, actor=actor, now=now, settings=shown, sealed=sealed, enabled=True
        )
    return made


async def rotate_provider(
    tx: Tx, channels: ChannelSet, account: ChannelAccount, act: str, *, actor: str, now: datetime
) -> ChannelAccount:
    """`swap`: the other token becomes the one we use, and the one before stays accepted; `end`: only ours is accepted."""
    secrets = dict(channels.secrets(account))
    other = secrets.get("previous_auth_token", "")
    if act not in ("swap", "end") or not other:
        raise Invalid("There is no other token.")
    if act == "swap":
        secrets |= {"auth_token": other, "previous_auth_token": secrets["auth_token"]}
    else:
        del secrets["previous_auth_token"]
    made = await settings_rows.edit_account(
        tx, account.id, version=account.version, actor=actor, now=now, sealed=channels.seal(secrets)
    )
    await audit.record(tx, actor=actor, action=f"provider.token_{act}", subject=f"account:{account.id}", now=now)
    return made
