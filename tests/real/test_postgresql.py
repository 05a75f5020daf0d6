"""PostgreSQL as the distribution ships it, reached by URL: the chain of migrations, the core functions, the whole hub."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlmodel import func, select

from crm_core import consent, contacts
from crm_core.accounts import ChannelAccount
from crm_core.addresses import email, phone
from crm_core.calls import CallEvent
from crm_core.clock import FixedClock
from crm_core.consent import Purpose, SuppressionReason
from crm_core.db import Database, open_database
from crm_core.errors import Conflict
from crm_core.events import Event
from crm_core.interactions import Interaction
from hub.app import serving
from hub.database_probe import probe_database
from hub.migrate import schema_state
from hub.migrations import migrate
from hub.publisher import STREAM, Publisher
from hub.runtime import Runtime, running
from hub.settings import read_settings
from routing.queues import Queue, QueueEntry
from tests.apps import AUTH_TOKEN, test_environment
from tests.real.servers import Postgres
from tests.webhooks.signing import call_fields, signature
from webhooks.receipts import WebhookReceipt

pytestmark = pytest.mark.needs_postgresql

NAMES = (f"hub_{n}" for n in itertools.count(1))
NUMBER = "+442079460000"


@pytest.fixture
def url(postgres: Postgres) -> str:
    """A database that the chain of migrations has filled with tables."""
    made = postgres.create(next(NAMES))
    migrate(made)
    return made


@pytest.fixture
async def data(url: str) -> AsyncIterator[Database]:
    """Open."""
    opened = await open_database(url)
    yield opened
    await opened.close()


@pytest.fixture
async def hub(url: str, valkey_url: str, tmp_path: Path, clock: FixedClock) -> AsyncIterator[Runtime]:
    """A runtime on it, with a number that people call."""
    settings = read_settings(test_environment(tmp_path / "data", url, valkey_url))
    async with running(settings, clock=clock) as made:

        async def unit(tx: Any) -> None:
            await tx.add(Queue(id="queue", name="Support"))
            await tx.add(
                ChannelAccount(
                    id="voice", channel="voice", name="Main line", address=NUMBER, country="GB", queue_id="queue",
                    created_at=clock.now(),
                )
            )  # fmt: skip

        await made.db.write(unit)
        yield made


async def test_migrations_twice_change_nothing(postgres: Postgres) -> None:
    made = postgres.create(next(NAMES))
    await probe_database(made)
    assert (await schema_state(made))[0] is None
    for _ in range(2):
        await asyncio.to_thread(migrate, made)
    current, newest = await schema_state(made)
    assert current == newest


async def test_the_core_functions(data: Database, clock: FixedClock) -> None:
    now = clock.now()
    ana, mail = phone("+12025550101"), email("Ana@Example.com")

    async def make(tx: Any) -> contacts.Contact:
        found = await contacts.create(tx, name="Ana Ünal", now=now, source="test", points=[ana, mail])
        tx.wake("events")
        return found

    made = await data.write(make)
    async with data.reading() as tx:
        assert [one.id for one, _ in await contacts.list_owners(tx, ana)] == [made.id]
        assert [one.id for one in await contacts.search(tx, "ünal", limit=5)] == [made.id]
    await data.write(
        lambda tx: consent.opt_out(
            tx, ana, channel="sms", purpose="*", reason=SuppressionReason.OPT_OUT, source="test",
            evidence={"said": "STOP"}, actor="test", now=now, contact_id=made.id,
        )
    )  # fmt: skip
    async with data.reading() as tx:
        suppressed, ledger = await consent.list_for(tx, ana)
        assert len(suppressed) == 1
        assert len(ledger) == 1
        assert not await consent.has_consent(tx, ana, channel="sms", purpose=Purpose.MARKETING)
    edited = await data.write(lambda tx: contacts.edit(tx, made.id, version=made.version, now=now, name="Ana"))
    assert edited.version == made.version + 1
    with pytest.raises(Conflict):
        await data.write(lambda tx: contacts.edit(tx, made.id, version=made.version, now=now, name="Late"))


async def test_twenty_edits_at_once_one_wins(data: Database, clock: FixedClock) -> None:
    now = clock.now()
    made = await data.write(lambda tx: contacts.create(tx, name="Ana", now=now, source="test"))

    async def edit(number: int) -> bool:
        try:
            await data.write(lambda tx: contacts.edit(tx, made.id, version=1, now=now, name=f"n{number}"))
        except Conflict:
            return False
        return True

    assert sum(await asyncio.gather(*(edit(number) for number in range(20)))) == 1


async def test_the_hub_is_ready_and_takes_a_signed_call_in(hub: Runtime, clock: FixedClock) -> None:
    async with serving(hub, host="127.0.0.1", port=0) as (_, port), aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{port}"
        async with http.get(f"{base}/readyz") as answer:
            assert answer.status == 200
            assert await answer.json() == {"status": "ready", "database": "ok", "redis": "ok"}
        path = "/webhooks/twilio/voice"
        fields = call_fields(1, to=NUMBER)
        signed = {"X-Twilio-Signature": signature(hub.settings.public_url + path, fields, AUTH_TOKEN)}
        texts = []
        for _ in range(2):
            async with http.post(base + path, data=fields, headers=signed) as answer:
                assert answer.status == 200, await answer.text()
                assert answer.content_type.endswith("xml")
                texts.append(await answer.text())
        assert texts[0] == texts[1], "a copy of the webhook gets the same words"
        assert "<Response>" in texts[0]
        async with http.post(base + path, data=fields, headers={"X-Twilio-Signature": "forged"}) as answer:
            assert answer.status == 403
        # Thirty callers at the same instant, each delivered twice.
        began = time.monotonic()

        async def call(number: int) -> int:
            fields = call_fields(number, to=NUMBER, caller=f"+12025550{100 + number % 90}")
            headers = {"X-Twilio-Signature": signature(hub.settings.public_url + path, fields, AUTH_TOKEN)}
            async with http.post(base + path, data=fields, headers=headers) as answer:
                return answer.status

        statuses = await asyncio.gather(*(call(number) for number in [*range(2, 32), *range(2, 32)]))
        assert set(statuses) == {200}
        assert time.monotonic() - began < 20
    async with hub.db.reading() as tx:
        interactions = await tx.all(select(Interaction.external_id))
        assert len(interactions) == len(set(interactions)) == 31
        assert await tx.one(select(func.count()).select_from(QueueEntry)) in (0, 31)
        assert await tx.one(select(func.count()).select_from(WebhookReceipt)) == 31
        assert await tx.one(select(func.count()).select_from(CallEvent)) >= 31
    assert await Publisher(hub.db, hub.redis, hub.wakeups).publish() >= 31
    async with hub.db.reading() as tx:
        newest = max(await tx.all(select(Event.seq)))
    assert (await hub.redis.xrevrange(STREAM, count=1))[0][0] == f"{newest}-0".encode()


async def test_the_server_restarts_and_the_hub_goes_on(
    postgres: Postgres, valkey_url: str, tmp_path: Path, clock: FixedClock
) -> None:
    url = postgres.create(next(NAMES))
    await asyncio.to_thread(migrate, url)
    settings = read_settings(test_environment(tmp_path / "data", url, valkey_url))
    async with (
        running(settings, clock=clock) as hub,
        serving(hub, host="127.0.0.1", port=0) as (_, port),
        aiohttp.ClientSession() as http,
    ):
        ready = f"http://127.0.0.1:{port}/readyz"

        async def status() -> int:
            async with http.get(ready) as answer:
                return answer.status

        assert await status() == 200
        await asyncio.to_thread(postgres.stop)
        began = time.monotonic()
        assert await status() == 503, "it says so instead of waiting"
        assert time.monotonic() - began < 10
        await asyncio.to_thread(postgres.start)
        ends = time.monotonic() + 30
        while await status() != 200:
            assert time.monotonic() < ends, "the hub did not find its database again"
            await asyncio.sleep(0.1)
        await hub.db.write(lambda tx: contacts.create(tx, name="Ana", now=clock.now(), source="test"))
