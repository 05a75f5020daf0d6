"""A mailbox entered, changed or switched off while the poller runs: mail goes where the row says now."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiosmtplib
import pytest
from sqlmodel import select

from crm_core import settings_rows
from crm_core.interactions import Interaction
from hub import channel_admin, mailbox_troubles, mailbox_watch, pollers
from hub.channel_admin import MailboxInput, ServerInput
from hub.pollers import Background
from hub.runtime import Runtime
from hub.sandbox.config import MailboxConfig, SandboxConfig
from hub.sandbox.twin import running_sandbox
from routing.queues import Queue

ADDRESS, PASSWORD = "support@example.test", "a long password"


@pytest.fixture
async def background(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Background]:
    """The poller's singletons, looking often."""
    monkeypatch.setattr(mailbox_watch, "LOOK_S", 0.05)
    monkeypatch.setattr(pollers.mailboxes, "LOOK_S", 0.1)
    monkeypatch.setattr(pollers, "RENEW_S", 0.1)
    made = Background(runtime)
    task = asyncio.create_task(made.singletons.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def send(smtp_url: str, subject: str) -> None:
    parts = urlsplit(smtp_url)
    raw = f"From: ana@example.com\r\nTo: {ADDRESS}\r\nSubject: {subject}\r\nMessage-ID: <{subject}@example.com>\r\n\r\nHello"
    await aiosmtplib.send(
        raw, sender="ana@example.com", recipients=[ADDRESS], hostname=parts.hostname, port=parts.port, start_tls=False
    )


async def arrived(runtime: Runtime, subject: str) -> None:
    async with asyncio.timeout(60):
        while True:
            async with runtime.db.reading() as tx:
                if await tx.one(select(Interaction.id).where(Interaction.subject == subject)) is not None:
                    return
            await asyncio.sleep(0.05)


def given(imap_url: str, password: str) -> MailboxInput:
    parts = urlsplit(imap_url)
    server = ServerInput(parts.hostname or "", str(parts.port), "none", ADDRESS, password)
    return MailboxInput(ADDRESS, "Support", queue_id="q", imap=server)


async def test_a_mailbox_is_polled_without_a_restart(runtime: Runtime, background: Background, tmp_path: Path) -> None:
    await runtime.db.write(lambda tx: tx.add(Queue(id="q", name="Support")))
    now, channels = runtime.clock.now(), runtime.channels
    config = SandboxConfig(data_dir=str(tmp_path / "twin"), mailbox=MailboxConfig(password=PASSWORD))
    async with running_sandbox(config) as twin:
        wrong = given(twin.imap_url, "not the password")
        mailbox = await runtime.db.write(
            lambda tx: channel_admin.create_mailbox(tx, channels, wrong, actor="test", now=now)
        )
        await send(twin.smtp_url, "first")
        async with asyncio.timeout(60):
            while f"mailbox:{mailbox.id}" not in background.singletons.held:
                await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            while not (told := await mailbox_troubles.read(runtime.redis, [mailbox.id])):
                await asyncio.sleep(0.05)
        assert "refuses the mailbox's user name or password" in told[mailbox.id][0]
        # The password is mended: polled at once, not after the five minutes that a wrong one costs.
        right = given(twin.imap_url, PASSWORD)
        version = mailbox.version
        mailbox = await runtime.db.write(
            lambda tx: channel_admin.edit_mailbox(
                tx, channels, mailbox, right, version=version, enabled=True, actor="test", now=now
            )
        )
        await arrived(runtime, "first")
        assert await mailbox_troubles.read(runtime.redis, [mailbox.id]) == {}
        await runtime.db.write(
            lambda tx: settings_rows.edit_account(
                tx, mailbox.id, version=mailbox.version, actor="test", now=now, enabled=False
            )
        )
        async with asyncio.timeout(60):
            while any(task.get_name() == f"poll-{mailbox.id}" for task in asyncio.all_tasks()):
                await asyncio.sleep(0.05)
        await send(twin.smtp_url, "second")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await arrived(runtime, "second")
                pytest.fail("switched off, it was read all the same")
        await runtime.db.write(
            lambda tx: settings_rows.edit_account(
                tx, mailbox.id, version=mailbox.version + 1, actor="test", now=now, enabled=True
            )
        )
        await arrived(runtime, "second")
