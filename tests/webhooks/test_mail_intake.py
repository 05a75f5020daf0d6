"""Mail as fetched: receipt, effects and cursor in one unit; a bad mail is kept and the next one follows. Both engines."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import select

from channels.contract import MailArrived, MailUnreadable
from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.clock import FixedClock
from crm_core.db import Database
from crm_core.interactions import Interaction
from routing import router
from tests.webhooks.conftest import Store
from webhooks import mail
from webhooks.receipts import ReceiptState, WebhookReceipt


def arrived(number: int, **more: Any) -> MailArrived:
    given: dict[str, Any] = {
        "event_key": f"mail:box:INBOX:1:{number}", "message_id": f"<m{number}@example.com>", "from_address": "ana@example.com",
        "from_name": "Ana", "to": ("box@example.test",), "cc": (), "reply_to": "", "subject": "Hello", "sent_at": None,
        "in_reply_to": "", "references": (), "text": "Hi", "html": "<p>Hi</p>", "files": (), "automatic": "", "headers": {},
        "raw": b"raw %d" % number,
    }  # fmt: skip
    return MailArrived(**{**given, **more})


@pytest.fixture
async def account(db: Database, clock: FixedClock) -> ChannelAccount:
    return await db.write(
        lambda tx: tx.add(
            ChannelAccount(id="box", channel="email", name="Box", address="box@example.test", created_at=clock.now())
        )
    )


async def fetch(
    db: Database, clock: FixedClock, account: ChannelAccount, one: MailArrived | MailUnreadable, uid: int
) -> str:
    kept = await mail.keep(Store(), one, now=clock.now())
    answer = await mail.take(db, clock, account, one, kept, {"uidvalidity": 1, "last_uid": uid})
    async with db.reading() as tx:
        assert (await accounts.get(tx, account.id)).cursor == {"uidvalidity": 1, "last_uid": uid}
    return answer.outcome


async def rows(db: Database, table: Any) -> list[Any]:
    async with db.reading() as tx:
        return list(await tx.all(select(table)))


async def test_a_mail_is_taken_in_once_whatever_its_uid(
    db: Database, clock: FixedClock, account: ChannelAccount
) -> None:
    assert await fetch(db, clock, account, arrived(1), 1) == "stored"
    # After a change of UIDVALIDITY the same bytes come again under another key.
    assert await fetch(db, clock, account, arrived(1, event_key="mail:box:INBOX:2:77"), 77) == "repeated"
    (found,) = await rows(db, Interaction)
    assert (found.channel, found.external_id) == ("email", "<m1@example.com>")
    (receipt,) = await rows(db, WebhookReceipt)
    assert (receipt.state, receipt.headers[mail.RAW]) == (ReceiptState.DONE, "mail/0")


async def test_an_unreadable_mail_is_quarantined_and_the_next_follows(
    db: Database, clock: FixedClock, account: ChannelAccount
) -> None:
    bad = MailUnreadable("mail:box:INBOX:1:1", "Its headers cannot be read.", 10, b"\x00bad")
    assert await fetch(db, clock, account, bad, 1) == "quarantined"
    assert await fetch(db, clock, account, arrived(2), 2) == "stored"
    states = {receipt.state: receipt.error for receipt in await rows(db, WebhookReceipt)}
    assert states == {ReceiptState.QUARANTINED: "Its headers cannot be read.", ReceiptState.DONE: ""}


async def test_a_mail_whose_effects_fail_is_kept_and_made_good(
    db: Database, clock: FixedClock, account: ChannelAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = router.mail_arrived

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(router, "mail_arrived", broken)
    assert await fetch(db, clock, account, arrived(1), 1) == "failed"
    assert await rows(db, Interaction) == []
    monkeypatch.setattr(router, "mail_arrived", real)
    (receipt,) = await rows(db, WebhookReceipt)
    kept = await mail.keep(Store(), arrived(1), now=clock.now(), raw_key=receipt.headers[mail.RAW])
    assert (await mail.retry(db, clock, account, arrived(1), kept, receipt.id)).outcome == "stored"
    assert (await mail.retry(db, clock, account, arrived(1), kept, receipt.id)).outcome == "repeated"
    assert len(await rows(db, Interaction)) == 1


async def test_a_known_message_id_hides_nobody_elses_mail(
    db: Database, clock: FixedClock, account: ChannelAccount
) -> None:
    """A stranger who saw an id may use it first; the genuine mail arrives all the same, and only its copy is the same mail."""
    await fetch(db, clock, account, arrived(1, from_address="eve@example.com", raw=b"eve"), 1)
    await fetch(db, clock, account, arrived(1, event_key="mail:box:INBOX:1:2", raw=b"genuine"), 2)
    await fetch(db, clock, account, arrived(1, event_key="mail:box:INBOX:1:3", raw=b"by a list"), 3)
    await fetch(db, clock, account, arrived(1, event_key="mail:box:INBOX:1:4", raw=b"other", text="Other words"), 4)
    senders = [(one.from_address, one.body) for one in sorted(await rows(db, Interaction), key=lambda one: one.id)]
    assert senders == [("eve@example.com", "Hi"), ("ana@example.com", "Hi"), ("ana@example.com", "Other words")]


async def test_mails_of_one_unit_know_each_other(db: Database, clock: FixedClock, account: ChannelAccount) -> None:
    """What is known is looked up before the first of them; an answer to one that came with it joins it all the same."""
    letters = [
        arrived(1),
        arrived(2, in_reply_to="<m1@example.com>", text="One thing more"),
        arrived(3, in_reply_to="<m1@example.com>", from_address="eve@example.com"),
        arrived(1, event_key="mail:box:INBOX:1:4", raw=b"by a list"),
        arrived(1, event_key="mail:box:INBOX:1:5", raw=b"other", text="Other words"),
        arrived(6, references=("<m0@example.com>", "<m2@example.com>"), text="And again"),
    ]
    kept = await mail.keep_all(Store(), letters, now=clock.now())
    found = [
        mail.Fetched(one, stored, {"last_uid": n}) for n, (one, stored) in enumerate(zip(letters, kept, strict=True), 1)
    ]
    assert [one.outcome for one in await mail.take_all(db, clock, account, found)] == ["stored"] * 6
    threads: dict[str, list[str]] = {}
    for one in sorted(await rows(db, Interaction), key=lambda one: one.id):
        threads.setdefault(one.conversation_id, []).append(f"{one.from_address}: {one.body}")
    assert sorted(threads.values()) == [
        ["ana@example.com: Hi", "ana@example.com: One thing more", "ana@example.com: And again"],
        ["ana@example.com: Other words"],
        ["eve@example.com: Hi"],
    ]


async def test_one_of_ten_that_fails_is_named_and_nine_arrive_once(
    db: Database, clock: FixedClock, account: ChannelAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = router.mail_arrived

    async def broken(tx: Any, event: MailArrived, **more: Any) -> None:
        await real(tx, event, **more)
        if event.subject == "breaks":
            raise RuntimeError("a bug")

    monkeypatch.setattr(router, "mail_arrived", broken)
    letters = [
        arrived(n, subject="breaks" if n == 4 else "Hello", in_reply_to="<m4@example.com>") for n in range(1, 11)
    ]
    kept = await mail.keep_all(Store(), letters, now=clock.now())
    found = [
        mail.Fetched(one, stored, {"last_uid": n}) for n, (one, stored) in enumerate(zip(letters, kept, strict=True), 1)
    ]
    answers = [one.outcome for one in await mail.take_all(db, clock, account, found)]
    assert answers == ["failed" if n == 4 else "stored" for n in range(1, 11)]
    assert sorted(one.external_id for one in await rows(db, Interaction)) == sorted(
        f"<m{n}@example.com>" for n in range(1, 11) if n != 4
    )
    async with db.reading() as tx:
        assert (await accounts.get(tx, account.id)).cursor == {"last_uid": 10}
