"""XOAUTH2 with refresh: tokens bought from a local server, spoken to mailbox and mail server; refusals told from trouble."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from channels.contract import AccountConfig, OutboundMail
from channels.email import EmailChannel, build
from channels.errors import AnswerUnreadable, ChannelError, Misconfigured, Unavailable
from channels.mail_oauth import OauthSettings, TokenSource
from crm_core.clock import FixedClock
from tests.channels import wire
from tests.channels.wire import letter

BOX = "support@example.test"


@dataclass
class Shop:
    """A server that sells access tokens."""

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    answer: Any = None

    async def sell(self, request: web.Request) -> web.Response:
        self.asked.append({name: str(value) for name, value in (await request.post()).items()})
        if self.answer is not None:
            return web.json_response(self.answer, status=self.status)
        number = len(self.asked)
        return web.json_response(
            {"access_token": f"access-{number}", "expires_in": 3600, "refresh_token": f"refresh-{number}"}
        )


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    made = Shop()
    app = web.Application()
    app.router.add_post("/token", made.sell)
    async with TestServer(app, host="127.0.0.1") as server:
        made.url = str(server.make_url("/token"))
        yield made


def source(shop: Shop, clock: FixedClock, **more: Any) -> TokenSource:
    settings = OauthSettings(shop.url, "client", "canary-client-secret", "canary-refresh", "mail", **more)
    return TokenSource(settings, clock=clock)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 11, 18, 10, 0, tzinfo=UTC))


async def test_a_token_is_kept_until_shortly_before_it_ends(shop: Shop, clock: FixedClock) -> None:
    tokens = source(shop, clock)
    assert [await tokens.token() for _ in range(3)] == ["access-1"] * 3
    assert shop.asked == [
        {
            "grant_type": "refresh_token", "refresh_token": "canary-refresh", "client_id": "client",
            "client_secret": "canary-client-secret", "scope": "mail",
        }
    ]  # fmt: skip
    clock.tick(3600 - 121)
    assert await tokens.token() == "access-1"
    clock.tick(2)
    assert await tokens.token() == "access-2"
    assert shop.asked[1]["refresh_token"] == "refresh-1", "the next refresh token that was handed out"
    tokens.forget()
    assert await tokens.token() == "access-3"
    assert {"canary-client-secret", "refresh-3", "access-3"} <= set(tokens.secrets)
    assert "canary" not in repr(tokens.settings)


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (400, {"error": "invalid_grant", "error_description": "canary"}, Misconfigured),
        (401, {"error": "invalid_client"}, Misconfigured),
        (400, {"error": "temporarily_unavailable"}, Unavailable),
        (503, {}, Unavailable),
        (200, {"token": "x"}, AnswerUnreadable),
        (200, {"access_token": "a\r\nb"}, AnswerUnreadable),
        (200, ["x"], AnswerUnreadable),
    ],
)
async def test_what_the_shop_answers(
    shop: Shop, clock: FixedClock, status: int, answer: Any, kind: type[ChannelError]
) -> None:
    shop.status, shop.answer = status, answer
    with pytest.raises(kind) as failed:
        await source(shop, clock).token()
    assert "canary" not in str(failed.value)


async def test_nothing_is_sent_where_the_hub_may_not_go(shop: Shop, clock: FixedClock) -> None:
    named = shop.url.replace("127.0.0.1", "localhost")
    settings = OauthSettings(named, "client", "s", "r", peer_allowed=lambda address: False)
    with pytest.raises(Unavailable):
        await TokenSource(settings, clock=clock).token()
    assert shop.asked == []
    for wrong in ("http://login.example.com/token", "ftp://x", ""):
        with pytest.raises(Misconfigured):
            TokenSource(OauthSettings(wrong, "client"))


def channel(shop: Shop, *, imap: int = 0, smtp: int = 0) -> EmailChannel:
    secrets = {
        "oauth_token_url": shop.url, "oauth_client_id": "client", "oauth_refresh_token": "canary-refresh",
        "imap_url": f"imap://support%40example.test@127.0.0.1:{imap}" if imap else "",
        "smtp_url": f"smtp://support%40example.test@127.0.0.1:{smtp}" if smtp else "",
    }  # fmt: skip
    return build(AccountConfig("email", BOX, {"backlog_days": "all"}, secrets))


def said(line: str) -> str:
    return base64.b64decode(line.split()[-1]).decode()


async def test_a_mailbox_is_read_with_a_token(shop: Shop) -> None:
    async with wire.imap_wire(letter("a")) as server:
        box = channel(shop, imap=server.port)
        assert [mail.subject for mail, _ in [one async for one in box.drain({})]] == ["a"]  # type: ignore[union-attr]
        (line,) = [line for line in server.lines if line.startswith("AUTHENTICATE")]
        assert line.startswith("AUTHENTICATE XOAUTH2 ")
        assert said(line) == f"user={BOX}\x01auth=Bearer access-1\x01\x01"
        assert not any(line.startswith("LOGIN") for line in server.lines)
        # A token that was withdrawn early is bought anew the next time.
        server.faults.add("token")
        with pytest.raises(Unavailable) as refused:
            [one async for one in box.drain({})]
        assert refused.value.code == "token"
        server.faults.clear()
        assert [one async for one in box.drain({})]
        assert said([line for line in server.lines if line.startswith("AUTHENTICATE")][-1]).count("access-2") == 1
        assert "canary-refresh" not in box.secrets, "the latest refresh token has taken its place"
        await box.close()


async def test_a_mail_is_sent_with_a_token(shop: Shop) -> None:
    message = OutboundMail(BOX, "Support", "ana@example.com", "Hi", "Hello", "", "<1@example.test>")
    async with wire.smtp_wire() as server:
        server.auth = True
        box = channel(shop, smtp=server.port)
        await box.send(message)
        (line,) = [line for line in server.lines if line.startswith("AUTH")]
        assert line.startswith("AUTH XOAUTH2 ")
        assert said(line) == f"user={BOX}\x01auth=Bearer access-1\x01\x01"
        assert len(server.mails) == 1
        server.rules["AUTH"] = "535 5.7.8 no"
        with pytest.raises(Unavailable) as refused:
            await box.send(message)
        assert refused.value.code == "token"
        assert len(server.mails) == 1
        server.rules.clear()
        await box.send(message)
        assert "access-2" in said([line for line in server.lines if line.startswith("AUTH")][-1])


async def test_a_withdrawn_grant_is_told_and_nothing_goes(shop: Shop) -> None:
    shop.status, shop.answer = 400, {"error": "invalid_grant"}
    message = OutboundMail(BOX, "Support", "ana@example.com", "Hi", "Hello", "", "<1@example.test>")
    async with wire.smtp_wire() as server:
        with pytest.raises(Misconfigured) as refused:
            await channel(shop, smtp=server.port).send(message)
        assert refused.value.code == "invalid_grant"
        assert server.mails == []
