"""A long mailbox: read oldest first in bounded portions, gone on with after a death, not doubled when it is numbered anew.

The full length, 100,000 mails, is `python -m bench.mail_intake --backlog 100000`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlmodel import func, select

from bench.mail_server import Box
from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.interactions import Interaction
from hub import mailboxes
from hub.runtime import Runtime
from hub.tasks import end_tasks
from tests.channels import wire
from webhooks import mail
from webhooks.receipts import WebhookReceipt

MAILS = 330


@contextlib.asynccontextmanager
async def served(box: Box) -> AsyncIterator[int]:
    """The mailbox on a port of this machine."""
    server = await asyncio.start_server(box.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def add_box(runtime: Runtime, port: int, backlog_days: int | str = "all") -> None:
    row = ChannelAccount(
        id="box", channel="email", name="Support", address="support@example.test", settings={"backlog_days": backlog_days},
        sealed=runtime.channels.seal({"imap_url": f"imap://a:b@127.0.0.1:{port}"}), created_at=runtime.clock.now(),
    )  # fmt: skip
    await runtime.db.write(lambda tx: tx.add(row))


async def count(runtime: Runtime, table: Any) -> int:
    async with runtime.db.reading() as tx:
        return int(await tx.one(select(func.count()).select_from(table)) or 0)


async def cursor(runtime: Runtime) -> dict[str, Any]:
    async with runtime.db.reading() as tx:
        return dict((await accounts.get(tx, "box")).cursor)


async def read_until(runtime: Runtime, wanted: dict[str, Any]) -> None:
    """Poll until the reading stands there, then die without a word."""
    polling = asyncio.create_task(mailboxes.poll_account(runtime, "box"))
    try:
        async with asyncio.timeout(120):
            while (at := await cursor(runtime)).get("uidvalidity") != wanted["uidvalidity"] or (
                at["last_uid"] < wanted["last_uid"]
            ):
                assert not polling.done()
                await asyncio.sleep(0.02)
    finally:
        await end_tasks([polling])


async def test_a_long_backlog_is_read_in_portions_through_a_death_and_a_new_numbering(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    portions: list[list[int]] = []
    real = mail.take_all

    async def watched(db: Any, clock: Any, account: Any, found: Any, **more: Any) -> Any:
        portions.append([one.cursor["last_uid"] for one in found])
        return await real(db, clock, account, found, **more)

    monkeypatch.setattr(mail, "take_all", watched)
    box = Box(MAILS)
    async with served(box) as port:
        await add_box(runtime, port)
        await read_until(runtime, {"uidvalidity": 1, "last_uid": 100})
        reached = (await cursor(runtime))["last_uid"]
        assert await count(runtime, WebhookReceipt) == reached, (
            "the cursor never stands behind or before what is stored"
        )
        assert box.fetched <= reached + 150, "two portions are in memory at most"
        await read_until(runtime, {"uidvalidity": 1, "last_uid": MAILS})
    assert max(map(len, portions)) <= 50
    taken = [uid for portion in portions for uid in portion]
    assert sorted(set(taken)) == list(range(1, MAILS + 1))
    assert all(portion == sorted(portion) for portion in portions), "oldest first"
    assert await count(runtime, Interaction) == MAILS
    # Restored from a backup: the same mails under new numbers, and some that came meanwhile.
    async with served(Box(MAILS + 5, uidvalidity=2)) as port:
        sealed = runtime.channels.seal({"imap_url": f"imap://a:b@127.0.0.1:{port}"})

        async def moved(tx: Any) -> None:
            row = await accounts.get(tx, "box")
            await tx.change(
                ChannelAccount, {"sealed": sealed, "version": row.version + 1}, id="box", version=row.version
            )

        await runtime.db.write(moved)
        await read_until(runtime, {"uidvalidity": 2, "last_uid": MAILS + 5})
    assert await count(runtime, Interaction) == MAILS + 5
    assert await count(runtime, WebhookReceipt) == MAILS + 5


async def test_what_comes_to_a_quiet_new_mailbox_while_the_hub_is_down_is_no_old_mail(runtime: Runtime) -> None:
    """The place is kept at the first look: how the server dates what comes later does not matter."""
    async with wire.imap_wire(wire.letter("years ago")) as server:
        server.old = {1, 2}
        await add_box(runtime, server.port, backlog_days=0)
        await read_until(runtime, {"uidvalidity": 7, "last_uid": 1})
        assert await count(runtime, WebhookReceipt) == 0
        server.deliver(wire.letter("meanwhile"))
        await read_until(runtime, {"uidvalidity": 7, "last_uid": 2})
    async with runtime.db.reading() as tx:
        assert [one.subject for one in await tx.all(select(Interaction))] == ["meanwhile"]
