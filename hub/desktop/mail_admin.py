"""Administration of mail beside its servers: aliases, signatures, return addresses, and senders whose mail nobody wants."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from crm_core import accounts, addresses, blocked, settings_rows, signatures
from crm_core.accounts import ChannelAccount
from crm_core.blocked import BlockedSender
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from hub.desktop.render import render
from hub.desktop.templating import reader_of, told
from hub.outgoing_hosts import refuse_internal
from hub.sealing import Unsealable
from hub.web import ADMINS, Route, now_of, runtime_of, user_of

MOST_ALIASES = 20
PAGE = "/desk/admin/mail"


@dataclass(frozen=True, slots=True)
class MailboxShown:
    """One mailbox's part of the page."""

    id: str
    version: int
    address: str
    name: str
    aliases: str
    signature: str
    signed_return_path: bool
    token_url: str
    client_id: str
    scope: str
    by_token: bool  # XOAUTH2 is set up


@dataclass(frozen=True, slots=True)
class MailAdminPage:
    """Mailboxes and blocked senders."""

    mailboxes: Sequence[MailboxShown]
    senders: Sequence[BlockedSender]
    error: str
    saved: bool


async def show(request: web.Request) -> web.StreamResponse:
    """The page."""
    return await _page(request)


async def _page(request: web.Request, *, error: str = "", saved: bool = False) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        rows = await accounts.list_channel(tx, "email")
        kept = {row.id: _kept(request, row) for row in rows}
        shown = [
            MailboxShown(
                row.id, row.version, row.address, row.name, ", ".join(accounts.mail_addresses(row)[1:]),
                await signatures.find(tx, row.id), bool(row.settings.get("signed_return_path")),
                kept[row.id].get("oauth_token_url", ""), kept[row.id].get("oauth_client_id", ""),
                kept[row.id].get("oauth_scope", ""), bool(kept[row.id].get("oauth_refresh_token")),
            )
            for row in rows
        ]  # fmt: skip
        senders = await blocked.list_blocked(tx, limit=200)
    page = MailAdminPage(shown, senders, error, saved)
    return await render(request, "admin/mail.html", page, status=422 if error else 200)


async def save_mailbox(request: web.Request) -> web.StreamResponse:
    """Aliases, signature and return address of one mailbox."""
    form = {name: str(value) for name, value in (await request.post()).items()}
    user, now, account_id = user_of(request), now_of(request), request.match_info["account"]

    async def unit(tx: Tx) -> None:
        account = await accounts.get(tx, account_id)
        if account.channel != "email":
            raise Invalid("This is no mailbox.")
        aliases = [addresses.email(one).value for one in re.split(r"[,;\s]+", form.get("aliases", "")) if one]
        if len(aliases) > MOST_ALIASES:
            raise Invalid("A mailbox has at most %(count)s aliases.", count=MOST_ALIASES)
        for other in await accounts.list_channel(tx, "email"):
            taken = set(aliases) & set(accounts.mail_addresses(other))
            if other.id != account.id and taken:
                raise Conflict("%(address)s belongs to another mailbox.", address=sorted(taken)[0])
        settings = {**account.settings, "aliases": aliases, "signed_return_path": "signed_return_path" in form}
        version = int(form["version"]) if form.get("version", "").isdigit() else 0
        await settings_rows.edit_account(tx, account.id, version=version, actor=user.id, now=now, settings=settings)
        await signatures.keep(tx, account.id, form.get("signature", ""), now=now)

    return await _done(request, unit)


def _kept(request: web.Request, account: ChannelAccount) -> dict[str, str]:
    try:
        return runtime_of(request).channels.secrets(account)
    except Unsealable:
        return {}


async def save_tokens(request: web.Request) -> web.StreamResponse:
    """XOAUTH2 of one mailbox: where tokens are bought and with what; without an address it is switched off.

    A stored secret goes to the address it was typed for and to no other: whoever changes that types the secrets again.
    """
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now, account_id = user_of(request), now_of(request), request.match_info["account"]
    runtime, url = runtime_of(request), form.get("token_url", "")
    if url:
        try:
            await refuse_internal(runtime.settings, urlsplit(url).hostname or "", field="token_url")
        except (Invalid, ValueError):
            return await _page(
                request, error=reader_of(request).gettext("This address cannot be used for access tokens.")
            )

    async def unit(tx: Tx) -> None:
        account = await accounts.get(tx, account_id)
        if account.channel != "email":
            raise Invalid("This is no mailbox.")
        known = runtime.channels.secrets(account)
        same = known.get("oauth_token_url") == url
        fresh = {f"oauth_{name}": form.get(name, "") for name in ("token_url", "client_id", "scope")}
        for name in ("oauth_client_secret", "oauth_refresh_token"):
            fresh[name] = form.get(name.removeprefix("oauth_"), "") or (known.get(name, "") if same else "")
        if url and not (url.startswith("https://") and fresh["oauth_client_id"] and fresh["oauth_refresh_token"]):
            raise Invalid("Access by token needs an https address, the client and the refresh token.")
        rest = {name: value for name, value in known.items() if not name.startswith("oauth_")}
        if not rest:
            raise Invalid("Give the mailbox its own servers first.")
        sealed = runtime.channels.seal({**rest, **(fresh if url else {})})
        version = int(form["version"]) if form.get("version", "").isdigit() else 0
        await settings_rows.edit_account(tx, account.id, version=version, actor=user.id, now=now, sealed=sealed)

    return await _done(request, unit)


async def block(request: web.Request) -> web.StreamResponse:
    """Take no more mail from an address or domain."""
    value = str((await request.post()).get("value", ""))
    user, now = user_of(request), now_of(request)

    async def unit(tx: Tx) -> None:
        await blocked.block(tx, value, user_id=user.id, now=now)

    return await _done(request, unit)


async def unblock(request: web.Request) -> web.StreamResponse:
    """Their mail is work again."""
    value = str((await request.post()).get("value", ""))
    user, now = user_of(request), now_of(request)

    async def unit(tx: Tx) -> None:
        await blocked.unblock(tx, value, user_id=user.id, now=now)

    return await _done(request, unit)


async def _done(request: web.Request, unit: Callable[[Tx], Awaitable[None]]) -> web.Response:
    try:
        await runtime_of(request).db.write(unit)
    except (Invalid, Conflict) as error:
        return await _page(request, error=told(request, error))
    return await _page(request, saved=True)


routes = [
    Route("GET", PAGE, show, roles=ADMINS),
    Route("POST", f"{PAGE}/{{account:[0-9A-Za-z-]{{1,40}}}}/tokens", save_tokens, roles=ADMINS),
    Route("POST", f"{PAGE}/block", block, roles=ADMINS),
    Route("POST", f"{PAGE}/unblock", unblock, roles=ADMINS),
    Route("POST", f"{PAGE}/{{account:[0-9A-Za-z-]{{1,40}}}}", save_mailbox, roles=ADMINS),
]
