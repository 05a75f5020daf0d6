"""Administration of mail beside its servers: aliases, signatures, return addresses, and senders whose mail nobody wants."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from crm_core import accounts, addresses, blocked, settings_rows, signatures
from crm_core.blocked import BlockedSender
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from hub.desktop.render import render
from hub.desktop.templating import told
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
        shown = [
            MailboxShown(
                row.id, row.version, row.address, row.name, ", ".join(accounts.mail_addresses(row)[1:]),
                await signatures.find(tx, row.id), bool(row.settings.get("signed_return_path")),
            )
            for row in await accounts.list_channel(tx, "email")
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
    Route("POST", f"{PAGE}/block", block, roles=ADMINS),
    Route("POST", f"{PAGE}/unblock", unblock, roles=ADMINS),
    Route("POST", f"{PAGE}/{{account:[0-9A-Za-z-]{{1,40}}}}", save_mailbox, roles=ADMINS),
]
