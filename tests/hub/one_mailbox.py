"""A mailbox of the hub's and the world outside that it writes to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from crm_core import conversations
from crm_core.accounts import ChannelAccount
from crm_core.addresses import email
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.interactions import Interaction
from hub.runtime import Runtime
from hub.sandbox.config import MailboxConfig, Person, SandboxConfig
from hub.sandbox.twin import running_sandbox
from routing import mails

BOX = "support@example.test"


@pytest.fixture
async def twin(tmp_path: Any) -> AsyncIterator[Any]:
    config = SandboxConfig(
        data_dir=str(tmp_path / "twin"), auth_token="5b" * 16, mailbox=MailboxConfig(password="secret"),
        people=(Person("Ana", "+12025550101", "ana@example.com"),), speech_scale=0.0, time_scale=0.01,
    )  # fmt: skip
    async with running_sandbox(config) as made:
        yield made


async def add_box(runtime: Runtime, secrets: dict[str, str], **settings: Any) -> ChannelAccount:
    row = ChannelAccount(
        id="box", channel="email", name="Support", address=BOX, settings=settings, created_at=runtime.clock.now(),
        sealed=runtime.channels.seal(secrets),
    )  # fmt: skip
    return await runtime.db.write(lambda tx: tx.add(row))


async def send(runtime: Runtime, account: ChannelAccount) -> Interaction:
    async def unit(tx: Tx) -> Interaction:
        now = runtime.clock.now()
        thread = await conversations.start(
            tx, channel="email", account_id="box", thread_key="<1@example.com>", peer="ana@example.com", now=now
        )
        return await mails.send(
            tx, thread, account, email("ana@example.com"), subject="Hello ☎", body="How are you?", html="", files=(),
            purpose=Purpose.REPLY, user_id="", contact_id=None, now=now,
        )  # fmt: skip

    return await runtime.db.write(unit)
