"""A mailbox that no mail can leave is told where its administrator looks, until one goes; what is said of one mail is not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from channels.errors import ChannelError, ContentRejected, Misconfigured, OutcomeUnknown, Throttled, Unavailable
from channels.smtp import meaning
from crm_core.accounts import ChannelAccount
from crm_core.clock import FixedClock
from hub import mailbox_troubles, mailboxes
from hub.mailbox_troubles import Half, of_the_server
from hub.pollers import Background
from hub.runtime import Runtime
from hub.tasks import end_tasks
from tests.hub.one_mailbox import add_box, send, twin
from tests.twin.stage import until

NOBODY = "smtp://127.0.0.1:9"  # where no server listens

__all__ = ["twin"]


async def test_it_is_told_until_a_mail_goes(runtime: Runtime, clock: FixedClock, twin: Any) -> None:
    await send(runtime, await add_box(runtime, {"smtp_url": NOBODY}))
    relay = Background(runtime).relay
    began = clock.now()
    for _ in range(2):
        assert await relay.run_once("reply") == 1
        clock.tick(timedelta(hours=1).total_seconds())
    [told] = (await mailbox_troubles.read(runtime.redis, ["box", "other"]))["box"]
    assert "The mail server cannot be reached." in told
    assert told.params["since_at"] == began, "since the first try"

    mended = {"sealed": runtime.channels.seal({"smtp_url": twin.smtp_url}), "version": ChannelAccount.version + 1}
    await runtime.db.write(
        lambda tx: tx.run(update(ChannelAccount).where(col(ChannelAccount.id) == "box").values(mended))
    )
    assert await relay.run_once("reply") == 1
    assert len((await twin.request("GET", "/outside/mails?address=ana@example.com"))["mails"]) == 1
    assert await mailbox_troubles.read(runtime.redis, ["box"]) == {}


async def test_a_mailbox_that_only_sends_has_no_fault_of_reading(runtime: Runtime, clock: FixedClock) -> None:
    await add_box(runtime, {"smtp_url": NOBODY})
    await mailbox_troubles.note(runtime.redis, "box", "from when it was read", now=clock.now())
    polling = asyncio.create_task(mailboxes.poll_account(runtime, "box"))
    try:
        await until(lambda: _untroubled(runtime))
    finally:
        await end_tasks([polling])


async def _untroubled(runtime: Runtime) -> bool:
    return await mailbox_troubles.read(runtime.redis, ["box"]) == {}


async def test_both_halves_are_told(runtime: Runtime, clock: FixedClock) -> None:
    await mailbox_troubles.note(runtime.redis, "box", "one", now=clock.now())
    await mailbox_troubles.note(runtime.redis, "box", "two", now=clock.now(), half=Half.SENDING)
    told = (await mailbox_troubles.read(runtime.redis, ["box"]))["box"]
    assert [text.params["reason_text"] for text in told] == ["one", "two"]
    await mailbox_troubles.clear(runtime.redis, "box")
    assert [text.params["reason_text"] for text in (await mailbox_troubles.read(runtime.redis, ["box"]))["box"]] == [
        "two"
    ]
    assert await mailbox_troubles.read(runtime.redis, []) == {}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Misconfigured("The certificate is not trusted.", code="certificate"), True),
        (Unavailable("The mail server cannot be reached.", code="unreachable"), True),
        (meaning(535, "5.7.8 wrong password", phase="login"), True),
        (meaning(450, "4.2.0 greylisted", phase="rcpt"), False),
        (meaning(552, "5.2.2 mailbox full", phase="rcpt"), False),
        (meaning(550, "5.1.1 no such user", phase="rcpt"), False),
        (Throttled("Too fast.", code="421"), False),
        (OutcomeUnknown("It fell silent.", code="lost"), False),
        (ContentRejected("A file is missing.", code="file_missing"), False),
        (Unavailable("The file store is away.", code="files"), False),
    ],
)
def test_what_is_said_of_one_mail_is_no_fault_of_the_mailbox(error: ChannelError, expected: bool) -> None:
    assert of_the_server(error) == expected
