"""Administration of mail beside its servers: aliases, signatures, return addresses, and senders whose mail nobody wants."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from crm_core import accounts, blocked, signatures
from crm_core.accounts import ChannelAccount
from crm_core.blocked import BlockedSender
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from hub import mailbox_settings
from hub.desktop.render import render
from hub.desktop.templating import reader_of, told
from hub.mailbox_settings import TOKEN_FIELDS, MailInput, TokensInput
from hub.outgoing_hosts import refuse_internal
from hub.sealing import Unsealable
from hub.web import ADMINS, Route, now_of, runtime_of, user_of

PAGE = "/desk/admin/mail"
TYPED = ("aliases", "signature", "sent_folder", "language", "token_url", "client_id", "scope")


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
    copy_to_sent: bool
    sent_folder: str
    language: str
    token_url: str
    client_id: str
    scope: str
    by_token: bool  # XOAUTH2 is set up


@dataclass(frozen=True, slots=True)
class MailAdminPage:
    """Mailboxes and blocked senders."""

    mailboxes: Sequence[MailboxShown]
    senders: Sequence[BlockedSender]
    blocking: str  # what was typed and could not be blocked
    opened: str  # the mailbox whose access by token could not be saved
    error: str
    saved: bool


async def show(request: web.Request) -> web.StreamResponse:
    """The page."""
    return await _page(request, saved="saved" in request.query)


async def _page(request: web.Request, *, error: str = "", saved: bool = False) -> web.Response:
    """The page; after an error with everything that was typed, secrets excepted."""
    form = {name: str(value) for name, value in (await request.post()).items()}
    opened = request.match_info.get("account", "") if "token_url" in form else ""
    async with runtime_of(request).db.reading() as tx:
        rows = await accounts.list_channel(tx, "email")
        kept = {row.id: _kept(request, row) for row in rows}
        shown = [
            MailboxShown(
                row.id, row.version, row.address, row.name, ", ".join(accounts.mail_addresses(row)[1:]),
                await signatures.find(tx, row.id), bool(row.settings.get("signed_return_path")),
                bool(row.settings.get("copy_to_sent")), str(row.settings.get("sent_folder") or ""),
                str(row.settings.get("language") or "en"),
                kept[row.id].get("oauth_token_url", ""), kept[row.id].get("oauth_client_id", ""),
                kept[row.id].get("oauth_scope", ""), bool(kept[row.id].get("oauth_refresh_token")),
            )
            for row in rows
        ]  # fmt: skip
        senders = await blocked.list_blocked(tx, limit=200)
    shown = [_typed(box, form) if box.id == request.match_info.get("account") else box for box in shown]
    page = MailAdminPage(shown, senders, form.get("value", ""), opened, error, saved)
    return await render(request, "admin/mail.html", page, status=422 if error else 200)


def _typed(box: MailboxShown, form: dict[str, str]) -> MailboxShown:
    given: dict[str, Any] = {name: form[name] for name in TYPED if name in form}
    if "aliases" in form:  # an empty box is not posted
        given |= {name: name in form for name in ("signed_return_path", "copy_to_sent")}
    return replace(box, **given)


async def save_mailbox(request: web.Request) -> web.StreamResponse:
    """Aliases, signature and return address of one mailbox."""
    form = {name: str(value) for name, value in (await request.post()).items()}
    user, now, account_id = user_of(request), now_of(request), request.match_info["account"]

    given = MailInput(
        aliases=[one for one in re.split(r"[,;\s]+", form.get("aliases", "")) if one],
        signed_return_path="signed_return_path" in form, copy_to_sent="copy_to_sent" in form,
        sent_folder=form.get("sent_folder", ""), language=form.get("language", ""),
    )  # fmt: skip

    async def unit(tx: Tx) -> None:
        version = int(form["version"]) if form.get("version", "").isdigit() else 0
        account = await mailbox_settings.change(tx, account_id, given, version=version, actor=user.id, now=now)
        await signatures.keep(tx, account.id, form.get("signature", ""), now=now)

    return await _done(request, unit)


def _kept(request: web.Request, account: ChannelAccount) -> dict[str, str]:
    try:
        return runtime_of(request).channels.secrets(account)
    except Unsealable:
        return {}


async def save_tokens(request: web.Request) -> web.StreamResponse:
    """XOAUTH2 of one mailbox: where tokens are bought and with what; without an address it is switched off."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now, account_id = user_of(request), now_of(request), request.match_info["account"]
    runtime = runtime_of(request)
    given = TokensInput(**{name: form.get(name, "") for name in TOKEN_FIELDS})
    if given.token_url:
        try:
            await refuse_internal(runtime.settings, urlsplit(given.token_url).hostname or "", field="token_url")
        except (Invalid, ValueError):
            return await _page(
                request, error=reader_of(request).gettext("This address cannot be used for access tokens.")
            )

    async def unit(tx: Tx) -> None:
        version = int(form["version"]) if form.get("version", "").isdigit() else 0
        await mailbox_settings.change_tokens(
            tx, runtime.channels, account_id, given, version=version, actor=user.id, now=now
        )

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
    raise web.HTTPSeeOther(f"{PAGE}?saved=1")


routes = [
    Route("GET", PAGE, show, roles=ADMINS),
    Route("POST", f"{PAGE}/{{account:[0-9A-Za-z-]{{1,40}}}}/tokens", save_tokens, roles=ADMINS),
    Route("POST", f"{PAGE}/block", block, roles=ADMINS),
    Route("POST", f"{PAGE}/unblock", unblock, roles=ADMINS),
    Route("POST", f"{PAGE}/{{account:[0-9A-Za-z-]{{1,40}}}}", save_mailbox, roles=ADMINS),
]
