"""Debian's Dovecot: the mail channel on it, and whole mailboxes taken into the database."""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from channels.contract import MailArrived, MailUnreadable, OutboundMail
from channels.email import EmailChannel, EmailSettings
from channels.errors import Misconfigured, Unavailable
from channels.imap import ImapSettings, Mailbox
from channels.mail_pool import MailPool
from crm_core.accounts import ChannelAccount
from crm_core.clock import FixedClock
from crm_core.interactions import Interaction
from hub import mailboxes
from hub.runtime import Runtime, running
from hub.settings import read_settings
from routing.queues import Queue, QueueEntry
from tests.apps import test_environment
from tests.channels.wire import letter
from tests.real.servers import PASSWORD, Dovecot
from webhooks.receipts import WebhookReceipt

pytestmark = pytest.mark.needs_dovecot

NUMBERS = itertools.count(1)
NESTED = b"".join(b"Content-Type: multipart/mixed; boundary=x%d\r\n\r\n--x%d\r\n" % (n, n) for n in range(1000))


@pytest.fixture
def user() -> str:
    """A mailbox that nobody used yet."""
    return f"support{next(NUMBERS)}@example.test"


def channel(server: Dovecot, user: str, *, folder: str = "INBOX", idle_s: float = 60.0) -> EmailChannel:
    imap = ImapSettings("127.0.0.1", server.imap, user, PASSWORD, "none", folder, step_s=10.0, idle_s=idle_s)
    return EmailChannel(EmailSettings(user, imap=imap), pool=MailPool(size=1))


async def drained(mailbox: EmailChannel, cursor: dict[str, Any] | None = None) -> list[Any]:
    found = [one async for one in mailbox.drain(cursor or {})]
    await mailbox.close()
    return found


def unique(subject: str, number: int = 0, body: str = "How are you?") -> bytes:
    """A letter with a Message-ID of its own."""
    return letter(subject, body, Message_ID=f"<{subject}.{number}@example.com>")


async def test_a_backlog_comes_in_order_and_is_marked_only_after_the_commit(dovecot: Dovecot, user: str) -> None:
    dovecot.deliver(user, *(unique(f"n{n}") for n in range(130)))
    mailbox = channel(dovecot, user)
    async with contextlib.aclosing(mailbox.drain({})) as mails:
        first, cursor = await anext(mails)
        assert first.subject == "n0"
        assert first.raw.endswith(unique("n0")), "the raw mail is what was delivered, below the server's trace"
        await anext(mails)
        assert await asyncio.to_thread(dovecot.seen, user) == set(), "nothing is confirmed before its batch"
    await mailbox.close()
    assert await asyncio.to_thread(dovecot.seen, user) == set(), "given up before the commit: not marked"
    found = await drained(channel(dovecot, user), dict(cursor))
    assert [mail.subject for mail, _ in found] == [f"n{n}" for n in range(1, 130)]
    assert len(await asyncio.to_thread(dovecot.seen, user)) == 129


async def test_new_mail_is_pushed_during_idle(dovecot: Dovecot, user: str) -> None:
    mailbox = channel(dovecot, user)
    mails = mailbox.poll({})
    try:
        for number in range(3):
            waiting = asyncio.ensure_future(anext(mails))
            await asyncio.sleep(0.2)  # not a synchronisation: mails before and during IDLE must both be found
            delivered = time.monotonic()
            await asyncio.to_thread(dovecot.deliver, user, unique(f"n{number}"))
            mail, _ = await asyncio.wait_for(waiting, 20)
            assert mail.subject == f"n{number}"
            assert time.monotonic() - delivered < 10, "pushed, not found by the clock"
    finally:
        await mails.aclose()
        await mailbox.close()


async def test_a_mail_that_comes_between_the_look_and_idle_is_told_at_once(dovecot: Dovecot, user: str) -> None:
    """The next look by the clock is an hour away."""
    settings = ImapSettings("127.0.0.1", dovecot.imap, user, PASSWORD, "none", step_s=30.0, idle_s=3600.0)
    box = Mailbox(settings)
    await box.open()
    try:
        assert await box.uids_after(0) == []
        await asyncio.to_thread(dovecot.deliver, user, unique("gap"))
        box._idle_s = 3600.0  # as after long quiet
        async with asyncio.timeout(60):
            await box.wait()
        assert await box.uids_after(0) == [1]
    finally:
        await box.close()


async def test_a_sent_mail_is_copied_once_into_the_folder_for_sent_mail(dovecot: Dovecot, user: str) -> None:
    mailbox = channel(dovecot, user)
    message = OutboundMail(user, "Support", "ana@example.com", "Hello", "How are you?", "", "<o1@example.test>")
    assert [await mailbox.keep_copy(message) for _ in range(2)] == [True, False]
    assert [await mailbox.keep_copy(message, folder="Entwürfe & mehr") for _ in range(2)] == [True, False]
    await mailbox.close()

    def look() -> list[str]:
        with dovecot.look(user) as reader:
            assert reader.select("Sent", readonly=True)[0] == "OK"
            found = reader.search(None, "SEEN")[1][0].split()
            return [str(one, "ascii") for one in found]

    assert await asyncio.to_thread(look) == ["1"]


async def test_a_mailbox_made_anew_starts_from_its_first_mail_under_new_keys(dovecot: Dovecot, user: str) -> None:
    def make(*subjects: str) -> None:
        with dovecot.look(user) as reader:
            reader.delete("Letters")
            assert reader.create("Letters")[0] == "OK"
            for subject in subjects:
                assert reader.append("Letters", "", imaplib.Time2Internaldate(0), unique(subject))[0] == "OK"

    await asyncio.to_thread(make, "a", "b")
    before = await drained(channel(dovecot, user, folder="Letters"))
    await asyncio.to_thread(make, "c")
    after = await drained(channel(dovecot, user, folder="Letters"), dict(before[-1][1]))
    assert [mail.subject for mail, _ in after] == ["c"], "the cursor of the old mailbox must not hide mail of the new"
    assert after[0][1]["uidvalidity"] != before[0][1]["uidvalidity"]
    assert after[0][0].event_key not in {mail.event_key for mail, _ in before}


@pytest.mark.parametrize("way", ["kill", "stop"])
async def test_a_server_that_ends_during_idle_is_noticed_and_met_again(
    own_dovecot: Dovecot, user: str, way: str
) -> None:
    own_dovecot.deliver(user, unique("a"))
    mailbox = channel(own_dovecot, user)
    mails = mailbox.poll({})
    _, cursor = await anext(mails)
    waiting = asyncio.ensure_future(anext(mails))
    ends = time.monotonic() + 20
    while not await asyncio.to_thread(own_dovecot.seen, user) and time.monotonic() < ends:
        await asyncio.sleep(0.05)
    assert await asyncio.to_thread(own_dovecot.seen, user) == {1}, "asking for the next one confirms the last"
    await asyncio.to_thread(own_dovecot.kill if way == "kill" else own_dovecot.stop)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(waiting, 15)
    await mails.aclose()
    await mailbox.close()
    with pytest.raises(Unavailable):
        await drained(channel(own_dovecot, user), dict(cursor))
    await asyncio.to_thread(own_dovecot.start)
    await asyncio.to_thread(own_dovecot.deliver, user, unique("b"))
    assert [mail.subject for mail, _ in await drained(channel(own_dovecot, user), dict(cursor))] == ["b"]


async def test_a_mail_over_25_mib_is_named_not_fetched(dovecot: Dovecot, user: str) -> None:
    line = b"x" * 76 + b"\r\n"
    large = unique("large") + line * (26 * 2**20 // len(line))
    dovecot.deliver(user, unique("a"), large, unique("b"))
    found = [mail for mail, _ in await drained(channel(dovecot, user))]
    assert [type(one) for one in found] == [MailArrived, MailUnreadable, MailArrived]
    assert found[1].size > 26 * 2**20
    assert len(found[1].raw) == 65536
    assert b"Subject: large" in found[1].raw
    assert len(await asyncio.to_thread(dovecot.seen, user)) == 3


async def test_poison_first_and_then_a_hundred_good_ones(dovecot: Dovecot, user: str) -> None:
    dovecot.deliver(user, NESTED, b"\x00\xff\r\n\r\n", *(unique(f"n{n}") for n in range(100)))
    found = [mail for mail, _ in await drained(channel(dovecot, user))]
    assert len(found) == 102
    assert isinstance(found[0], MailUnreadable)
    assert [mail.subject for mail in found[2:]] == [f"n{n}" for n in range(100)]


async def test_words_of_the_server_that_say_no(dovecot: Dovecot, user: str) -> None:
    with pytest.raises(Misconfigured):
        await drained(channel(dovecot, user, folder="Nowhere"))
    wrong = ImapSettings("127.0.0.1", dovecot.imap, user, "not the password", "none", step_s=10.0)
    with pytest.raises(Misconfigured):
        await drained(EmailChannel(EmailSettings(user, imap=wrong), pool=MailPool(size=1)))


# --- into the database --------------------------------------------------------------------------------------------------


@pytest.fixture
async def hub(db_url: str, valkey_url: str, tmp_path: Path, clock: FixedClock) -> AsyncIterator[Runtime]:
    """A runtime on each engine in turn."""
    settings = read_settings(test_environment(tmp_path / "data", db_url, valkey_url))
    async with running(settings, clock=clock) as made:
        yield made


async def add_mailbox(hub: Runtime, server: Dovecot, user: str) -> str:
    url = f"imap://{user.replace('@', '%40')}:{PASSWORD}@127.0.0.1:{server.imap}"

    async def unit(tx: Any) -> None:
        await tx.add(Queue(id="queue", name="Support"))
        await tx.add(
            ChannelAccount(
                id="mailbox", channel="email", name="Support", address=user, queue_id="queue",
                sealed=hub.channels.seal({"imap_url": url}), created_at=hub.clock.now(),
            )
        )  # fmt: skip

    await hub.db.write(unit)
    return "mailbox"


async def subjects(hub: Runtime) -> list[str]:
    async with hub.db.reading() as tx:
        return sorted(await tx.all(select(Interaction.subject)))


async def cursor_of(hub: Runtime) -> dict[str, Any]:
    async with hub.db.reading() as tx:
        return dict(await tx.one(select(ChannelAccount.cursor).where(ChannelAccount.id == "mailbox")) or {})


@contextlib.contextmanager
def dies_at_write(
    hub: Runtime, task: asyncio.Task[Any], number: int, *, after: bool, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The task is cancelled at its write of this number: before the unit has run, or when it is committed."""
    write, numbers = hub.db.write, itertools.count(1)

    async def counted(work: Any) -> Any:
        fatal = next(numbers) == number
        if fatal and not after:
            task.cancel()
        try:
            return await write(work)
        finally:
            if fatal and after:
                task.cancel()

    with monkeypatch.context() as patch:
        patch.setattr(hub.db, "write", counted)
        yield


async def test_each_mail_becomes_one_interaction_however_often_the_poller_dies(
    hub: Runtime, dovecot: Dovecot, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 60
    dovecot.deliver(user, NESTED, *(unique(f"n{n:02d}") for n in range(count)))
    account_id = await add_mailbox(hub, dovecot, user)
    expected = [f"n{n:02d}" for n in range(count)]
    deaths = reached = 0
    while reached < count:
        # Died at its first, second, third commit, before and after it in turn; the last lives as long as there are mails.
        task = asyncio.create_task(mailboxes.poll_account(hub, account_id))
        with dies_at_write(hub, task, deaths // 2 % 4 + 1, after=deaths % 2 == 1, monkeypatch=monkeypatch):
            async with asyncio.timeout(60):
                while not task.done():
                    if len(await subjects(hub)) == count:
                        task.cancel()
                    await asyncio.sleep(0.02)  # Dovecot is another program: its mails come when they come
        await asyncio.gather(task, return_exceptions=True)
        deaths += 1
        found = await subjects(hub)
        reached = len(found)
        assert found == expected[:reached], "in order, none twice, none left out"
        # Mail 1 is the poison: what the cursor says is read is a receipt, nothing else and nothing less.
        async with hub.db.reading() as tx:
            cursor = await tx.one(select(ChannelAccount.cursor).where(ChannelAccount.id == "mailbox")) or {}
            receipts = len(await tx.all(select(WebhookReceipt.id)))
        # One snapshot: a commit that was on its way when the task died may still land meanwhile.
        assert int(cursor.get("last_uid", 0)) == receipts
    assert await subjects(hub) == expected
    assert deaths > 3
    async with hub.db.reading() as tx:
        waiting = await tx.all(select(QueueEntry.id))
        states = await tx.all(select(WebhookReceipt.state))
    assert len(waiting) == count
    assert sorted(set(states)) == ["done", "quarantined"]
    assert states.count("quarantined") == 1


async def test_the_poller_survives_a_restart_of_the_server_and_a_mailbox_made_anew(
    hub: Runtime, own_dovecot: Dovecot, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailboxes, "MOST_WAIT_S", 1.0)
    server = own_dovecot
    server.deliver(user, unique("a"), unique("b"))
    task = asyncio.create_task(mailboxes.poll_account(hub, await add_mailbox(hub, server, user)))
    try:
        await arrived(hub, ["a", "b"])
        first = await cursor_of(hub)
        await asyncio.to_thread(server.kill)
        # The administrator restores the mailbox: the same mails and a new one, all numbered anew.
        home = server.folder / "mail" / user / "Maildir"
        # Dovecot's file of numberings given out stays: without it the new one may equal the old within the same second.
        for name in ("dovecot-uidlist", "dovecot.index", "dovecot.index.log", "dovecot.index.cache"):
            (home / name).unlink(missing_ok=True)
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.deliver, user, unique("c"))
        await arrived(hub, ["a", "b", "c"])
        await asyncio.to_thread(server.deliver, user, unique("d"))
        await arrived(hub, ["a", "b", "c", "d"])
        last = await cursor_of(hub)
        assert last["uidvalidity"] != first["uidvalidity"]
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def arrived(hub: Runtime, expected: list[str]) -> None:
    ends = time.monotonic() + 30
    while (found := await subjects(hub)) != expected:
        assert time.monotonic() < ends, f"{found} instead of {expected}"
        await asyncio.sleep(0.05)


POLLER = """
import asyncio
from hub import mailboxes
from hub.runtime import running
from hub.settings import read_settings
from webhooks import mail

mail.AT_ONCE = 2  # so that eight mails are four commits

async def main():
    async with running(read_settings()) as hub:
        await mailboxes.poll_account(hub, "mailbox")

asyncio.run(main())
"""


@pytest.mark.timeout(400)  # five processes are started, one after another
async def test_each_mail_becomes_one_interaction_through_kill_9_before_and_after_commits(
    sqlite_url: str, valkey_url: str, tmp_path: Path, clock: FixedClock, dovecot: Dovecot, user: str
) -> None:
    environ = test_environment(tmp_path / "data", sqlite_url, valkey_url)
    expected = [f"n{n}" for n in range(8)]
    dovecot.deliver(user, *(unique(subject) for subject in expected))
    async with running(read_settings(environ), clock=clock) as hub:
        await add_mailbox(hub, dovecot, user)
        for point in ("db.before_commit:1", "db.after_commit:1", "db.before_commit:2", "db.after_commit:1", ""):
            process = subprocess.Popen(
                [sys.executable, "-c", POLLER], cwd=Path(__file__).parents[2],
                env={**os.environ, **environ, "HUB_FAILPOINTS": point, "PYTHONPATH": "."},
            )  # fmt: skip
            try:
                if point:
                    assert await asyncio.to_thread(process.wait, 60) == -signal.SIGKILL, point
                else:
                    await arrived(hub, expected)
            finally:
                process.kill()
                process.wait()
            found = await subjects(hub)
            assert found == expected[: len(found)], "in order, none twice, none left out"
            assert int((await cursor_of(hub)).get("last_uid", 0)) == len(found), "the cursor moves with the commit"
