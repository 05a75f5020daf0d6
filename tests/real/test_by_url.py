"""The hub against servers that somebody else runs, each named by a URL: `python3 run.py test real`, see docs/proof.md.

HUB_TEST_POSTGRESQL_URL (its user may create databases), HUB_TEST_REDIS_URL (an empty database number), HUB_TEST_SMTP_URL and
HUB_TEST_IMAP_URL with HUB_TEST_MAIL_ADDRESS, the mailbox's address. What is not named is the private server of these tests.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import asyncpg
import pytest
import redis
from sqlmodel import func, select

from channels.contract import MailArrived, OutboundMail
from channels.email import EmailChannel, EmailSettings, imap_from_url, smtp_from_url
from channels.mail_pool import MailPool
from crm_core.clock import FixedClock
from crm_core.interactions import Interaction
from hub.app import serving
from hub.migrations import migrate
from hub.publisher import STREAM, Publisher
from hub.runtime import Runtime, running
from hub.settings import read_settings
from tests.apps import AUTH_TOKEN, test_environment
from tests.real.servers import PASSWORD
from tests.webhooks.conftest import seed
from tests.webhooks.signing import call_fields, signature


def named(name: str) -> str:
    """The URL from outside; empty when none was given."""
    return os.environ.get(f"HUB_TEST_{name}", "")


@pytest.fixture
async def postgresql_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A new database in the server of the URL, dropped afterwards."""
    given = named("POSTGRESQL_URL")
    name = f"hub_test_{secrets.token_hex(6)}"
    if not given:
        yield request.getfixturevalue("postgres").create(name)
        return
    server = await asyncpg.connect(given, timeout=30)
    await server.execute(f'CREATE DATABASE "{name}"')
    try:
        yield urlsplit(given)._replace(path=f"/{name}").geturl()
    finally:
        await server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await server.close()


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A Redis that holds nothing, and holds nothing again afterwards."""
    url = named("REDIS_URL") or request.getfixturevalue("debian_redis").url
    with redis.Redis.from_url(url, socket_timeout=30) as client:
        assert client.dbsize() == 0, "HUB_TEST_REDIS_URL must name a database without keys: it is emptied afterwards"
        yield url
        client.flushdb()


@pytest.fixture
async def hub(postgresql_url: str, redis_url: str, tmp_path: Path, clock: FixedClock) -> AsyncIterator[Runtime]:
    await asyncio.to_thread(migrate, postgresql_url)
    settings = read_settings(test_environment(tmp_path / "data", postgresql_url, redis_url))
    async with running(settings, clock=clock) as made:
        await made.db.write(lambda tx: seed(tx, clock.now()))
        yield made


@pytest.mark.needs_postgresql
@pytest.mark.needs_redis
async def test_the_hub_on_a_named_postgresql_and_redis(hub: Runtime) -> None:
    """Migrated, ready, thirty calls twice each, the events in the stream."""
    async with (
        asyncio.timeout(60),
        serving(hub, host="127.0.0.1", port=0) as (_, port),
        aiohttp.ClientSession() as http,
    ):
        base, path = f"http://127.0.0.1:{port}", "/webhooks/twilio/voice"
        async with http.get(f"{base}/readyz") as answer:
            assert await answer.json() == {"status": "ready", "database": "ok", "redis": "ok"}

        async def call(number: int) -> int:
            fields = call_fields(number, caller=f"+12025550{100 + number}")
            headers = {"X-Twilio-Signature": signature(hub.settings.public_url + path, fields, AUTH_TOKEN)}
            async with http.post(base + path, data=fields, headers=headers) as answer:
                return answer.status

        assert set(await asyncio.gather(*(call(number) for number in [*range(30), *range(30)]))) == {200}
    async with hub.db.reading() as tx:
        assert await tx.one(select(func.count()).select_from(Interaction)) == 30
    assert await Publisher(hub.db, hub.redis, hub.wakeups).publish()
    assert await hub.redis.xlen(STREAM) >= 30


@pytest.fixture
def mail_urls(request: pytest.FixtureRequest) -> tuple[str, str, str, Any]:
    """SMTP, IMAP, the address that joins them, and whom to trust."""
    if named("SMTP_URL") or named("IMAP_URL"):
        found = named("SMTP_URL"), named("IMAP_URL"), named("MAIL_ADDRESS")
        assert all(found), "HUB_TEST_SMTP_URL, HUB_TEST_IMAP_URL and HUB_TEST_MAIL_ADDRESS belong together"
        return *found, None
    postfix, dovecot = request.getfixturevalue("postfix"), request.getfixturevalue("dovecot")
    address = f"by-url-{secrets.token_hex(4)}@example.com"
    imap = f"imap://{quote(address, safe='')}:{PASSWORD}@127.0.0.1:{dovecot.imap}"
    return f"smtp://127.0.0.1:{postfix.smtp}", imap, address, postfix.trust


@pytest.mark.needs_dovecot
@pytest.mark.needs_postfix
async def test_a_mail_goes_round_by_named_servers(mail_urls: tuple[str, str, str, Any]) -> None:
    """Sent by SMTP and read by IMAP, both as the hub builds them from their URLs."""
    smtp, imap, address, trust = mail_urls
    mark = f"by-url-{secrets.token_hex(8)}"
    sender = EmailChannel(EmailSettings(address, smtp=smtp_from_url(smtp)), tls=trust)
    reader = EmailChannel(EmailSettings(address, imap=imap_from_url(imap)), pool=MailPool(size=1))
    try:
        receipt = await sender.send(
            OutboundMail(
                address, "Support", address, subject=mark, text="Grüße", html="", message_id=f"<{mark}@example.test>"
            )
        )
        assert receipt.status == "sent"
        mails = reader.poll({})
        try:
            async with asyncio.timeout(60):
                async for found, _ in mails:
                    if isinstance(found, MailArrived) and found.subject == mark:
                        assert found.text.strip() == "Grüße"
                        break
        finally:
            await mails.aclose()
    finally:
        await sender.close()
        await reader.close()
