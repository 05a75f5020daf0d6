"""What leaves a trace in the mailbox itself: the copy of a sent mail, put there once; and a replaced refresh token in its row."""

from __future__ import annotations

import imaplib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlmodel import select

from channels.contract import OutboundMail
from channels.errors import Misconfigured
from channels.mail_oauth import OauthSettings, TokenSource
from crm_core import accounts, outbox
from crm_core.accounts import ChannelAccount
from crm_core.clock import FixedClock
from crm_core.db import Database, Tx
from crm_core.errors import Conflict, Invalid
from crm_core.outbox import OutboxState, OutboxTask
from hub import mailbox_settings
from hub.executors import COPY, executors
from hub.mailbox_settings import MailInput, TokensInput
from hub.media import media_of
from hub.relay import Relay
from hub.runtime import Runtime
from hub.vault import AccountVault
from routing import quoting
from tests.hub.one_mailbox import BOX, add_box, send, twin

__all__ = ["twin"]


def in_folder(url: str, folder: str) -> list[bytes]:
    """The raw mails of a folder, by the standard library's client."""
    parts = urlsplit(url)
    with imaplib.IMAP4(parts.hostname or "", parts.port or 0) as reader:
        reader.login(BOX, "secret")
        if reader.select(folder, readonly=True)[0] != "OK":
            return []
        found = reader.search(None, "ALL")[1][0].split()
        return [reader.fetch(one, "(BODY.PEEK[])")[1][0][1] for one in found]  # type: ignore[index,misc]


async def test_a_sent_mail_is_copied_once_and_never_sent_again(runtime: Runtime, twin: Any) -> None:
    import asyncio

    account = await add_box(runtime, {"imap_url": twin.imap_url, "smtp_url": twin.smtp_url}, copy_to_sent=True)
    sent = await send(runtime, account)
    table = executors(runtime.channels, runtime.clock, media_of(runtime), runtime.files)
    relay = Relay(runtime.db, runtime.clock, runtime.wakeups, runtime.metrics, table)
    assert await relay.run_once("reply") == 1
    assert await relay.run_once("notice") == 1
    (copy,) = await asyncio.to_thread(in_folder, twin.imap_url, "Sent")
    assert sent.external_id.encode() in copy
    # Its process ended before the result was written: the step is made again, and finds what it did.
    await runtime.db.write(lambda tx: outbox.ask(tx, COPY, sent.id, lane="notice", now=runtime.clock.now()))
    assert await relay.run_once("notice") == 1
    assert len(await asyncio.to_thread(in_folder, twin.imap_url, "Sent")) == 1
    box = await twin.request("GET", "/outside/mails?address=ana@example.com")
    assert len(box["mails"]) == 1, "sent once, whatever the copy needs"
    async with runtime.db.reading() as tx:
        states = {task.kind: task.state for task in await tx.all(select(OutboxTask))}
    assert states == {"mail.send": OutboxState.DONE, COPY: OutboxState.DONE}


async def test_a_mailbox_that_wants_no_copies_gets_none(runtime: Runtime, twin: Any) -> None:
    account = await add_box(runtime, {"imap_url": twin.imap_url, "smtp_url": twin.smtp_url})
    await send(runtime, account)
    table = executors(runtime.channels, runtime.clock, media_of(runtime), runtime.files)
    relay = Relay(runtime.db, runtime.clock, runtime.wakeups, runtime.metrics, table)
    await relay.run_once("reply")
    assert await relay.run_once("notice") == 0


async def test_a_copy_needs_a_mailbox_to_read(runtime: Runtime) -> None:
    account = await add_box(runtime, {"smtp_url": "smtp://127.0.0.1:9"})
    message = OutboundMail(BOX, "", "ana@example.com", "x", "x", "", "<o1@example.test>")
    with pytest.raises(Misconfigured):
        await runtime.channels.mail(account).keep_copy(message)


# --- refresh tokens -----------------------------------------------------------------------------------------------------


class Shop:
    """Sells access tokens, and takes each refresh token once, as the strictest providers do."""

    def __init__(self) -> None:
        self.good = "refresh-0"
        self.sold = 0

    async def sell(self, request: web.Request) -> web.Response:
        if (await request.post())["refresh_token"] != self.good:
            return web.json_response({"error": "invalid_grant"}, status=400)
        self.sold += 1
        self.good = f"refresh-{self.sold}"
        return web.json_response(
            {"access_token": f"access-{self.sold}", "expires_in": 3600, "refresh_token": self.good}
        )


@pytest.fixture
async def shop() -> AsyncIterator[tuple[Shop, str]]:
    made = Shop()
    app = web.Application()
    app.router.add_post("/token", made.sell)
    async with TestServer(app, host="127.0.0.1") as server:
        yield made, str(server.make_url("/token"))


async def test_a_replaced_refresh_token_outlives_the_process(
    runtime: Runtime, shop: tuple[Shop, str], clock: FixedClock
) -> None:
    _, url = shop
    secrets = {"imap_url": "imap://a:b@127.0.0.1:9", "oauth_token_url": url, "oauth_refresh_token": "refresh-0"}
    account = await add_box(runtime, {**secrets, "oauth_client_id": "client"})
    vault = AccountVault(runtime.db, runtime.channels, "box")

    def source(refresh: str) -> TokenSource:
        return TokenSource(OauthSettings(url, "client", "", refresh), clock=clock, vault=vault)

    first = source("refresh-0")
    assert await first.token() == "access-1"
    assert await vault.latest("oauth_refresh_token") == "refresh-1"
    async with runtime.db.reading() as tx:
        row = await accounts.get(tx, "box")
    assert "refresh-1" not in (row.sealed or ""), "sealed"
    assert row.version == account.version, "nothing is read anew because of it"
    assert runtime.channels.secrets(row)["imap_url"] == secrets["imap_url"], "beside what was there"
    # Another process still holds the used one: it is refused, finds the stored one, and goes on with that.
    other = source("refresh-0")
    assert await other.token() == "access-2"
    first.forget()
    assert await first.token() == "access-3"
    assert runtime.channels.mail(row).settings.imap.tokens._vault is not None, "as the hub builds it"


async def test_a_grant_that_was_withdrawn_stays_refused(
    runtime: Runtime, shop: tuple[Shop, str], clock: FixedClock
) -> None:
    made, url = shop
    await add_box(runtime, {"imap_url": "imap://a:b@127.0.0.1:9", "oauth_refresh_token": "refresh-0"})
    made.good = "none"
    vault = AccountVault(runtime.db, runtime.channels, "box")
    with pytest.raises(Misconfigured):
        await TokenSource(OauthSettings(url, "client", "", "refresh-0"), clock=clock, vault=vault).token()


# --- settings -----------------------------------------------------------------------------------------------------------


async def test_what_is_set_of_a_mailbox(db: Database, clock: FixedClock) -> None:
    async def unit(tx: Tx) -> None:
        for name, settings in (("box", {"folder": "INBOX"}), ("other", {"aliases": ["taken@example.test"]})):
            await tx.add(
                ChannelAccount(
                    id=name,
                    channel="email",
                    name=name,
                    address=f"{name}@example.test",
                    settings=settings,
                    created_at=clock.now(),
                )
            )

    await db.write(unit)

    async def change(given: MailInput, version: int = 1) -> ChannelAccount:
        return await db.write(
            lambda tx: mailbox_settings.change(tx, "box", given, version=version, actor="amy", now=clock.now())
        )

    wrong: list[tuple[MailInput, type[Exception]]] = [
        (MailInput(aliases=["taken@example.test"]), Conflict), (MailInput(aliases=["nobody"]), Invalid),
        (MailInput(sent_folder="a\r\nb"), Invalid), (MailInput(language="xx"), Invalid),
    ]  # fmt: skip
    for given, refused in wrong:
        with pytest.raises(refused):
            await change(given)
    await change(MailInput(["Help@example.test"], copy_to_sent=True, sent_folder="Gesendet", language="de"))
    async with db.reading() as tx:
        row = await accounts.get(tx, "box")
    assert row.settings == {
        "folder": "INBOX", "aliases": ["help@example.test"], "signed_return_path": False, "copy_to_sent": True,
        "sent_folder": "Gesendet", "language": "de",
    }  # fmt: skip
    with pytest.raises(Conflict):
        await change(MailInput(), version=1)


async def test_a_stored_secret_goes_to_its_own_address_alone(runtime: Runtime) -> None:
    await add_box(runtime, {"imap_url": "imap://a:b@127.0.0.1:9"})
    first = TokensInput("https://login.example.com/token", "client", "mail", "secret", "refresh")

    async def change(given: TokensInput, version: int) -> dict[str, str]:
        row = await runtime.db.write(
            lambda tx: mailbox_settings.change_tokens(
                tx, runtime.channels, "box", given, version=version, actor="amy", now=runtime.clock.now()
            )
        )
        del row
        async with runtime.db.reading() as tx:
            return runtime.channels.secrets(await accounts.get(tx, "box"))

    assert (await change(first, 1))["oauth_refresh_token"] == "refresh"
    kept = await change(TokensInput(first.token_url, "client2", "mail"), 2)
    assert (kept["oauth_client_id"], kept["oauth_refresh_token"]) == ("client2", "refresh")
    with pytest.raises(Invalid):
        await change(TokensInput("https://elsewhere.example.com/token", "client", "mail"), 3)
    assert await change(TokensInput(), 3) == {"imap_url": "imap://a:b@127.0.0.1:9"}


@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("", "On Wed, 18 Nov 2026 at 10:00 UTC, Ana <ana@example.com> wrote:"),
        ("es", "El mié, 18 nov 2026 a las 10:00 UTC, Ana <ana@example.com> escribió:"),
        ("de", "Am Mi., 18. Nov. 2026 um 10:00 UTC schrieb Ana <ana@example.com>:"),
        ("zh", "2026年11月18日 10:00 UTC，Ana <ana@example.com> 写道："),
    ],
)
def test_the_line_above_quoted_text(language: str, line: str, clock: FixedClock) -> None:
    from channels.mail_split import split_reply

    assert quoting.wrote(clock.now(), "Ana <ana@example.com>", language=language) == line
    new, quoted = split_reply(f"Thank you.\n\n{line}\n> Where is it?\n")
    assert (new, quoted.startswith(line[:10])) == ("Thank you.", True), "and it is folded when they answer it"
