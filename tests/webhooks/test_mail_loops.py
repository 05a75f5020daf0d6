"""Robots and hubs that answer one another: the hub writes to nobody by itself, and what a robot says is nobody's work. And mail
that is kept as spam finds its way back.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from channels.contract import MailUnreadable, OutboundMail
from channels.mail_child import parse
from channels.mail_compose import compose
from channels.mail_pool import arrived as read_values
from crm_core import blocked, conversations, interactions, tallies
from crm_core.accounts import ChannelAccount
from crm_core.addresses import email
from crm_core.clock import FixedClock
from crm_core.consent import Purpose
from crm_core.conversations import Conversation, ConversationState
from crm_core.db import Database, Tx, open_database
from crm_core.errors import Invalid
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.outbox import OutboxTask
from routing import checks, mails, replies, spam
from routing.entries import EntryState
from routing.queues import Queue, QueueEntry
from tests.databases import ddl
from tests.webhooks.conftest import Store
from webhooks import mail
from webhooks.receipts import ReceiptState, WebhookReceipt

ANA = "ana@example.com"


class House:
    """One hub's mailbox; `db` may be shared with nobody."""

    def __init__(self, db: Database, clock: FixedClock, address: str) -> None:
        self.db, self.clock, self.address = db, clock, address
        self.uid = 0
        self.account: ChannelAccount

    async def open(self) -> House:
        async def unit(tx: Tx) -> ChannelAccount:
            await tx.add(Queue(id="queue", name="Support"))
            return await tx.add(
                ChannelAccount(
                    id="box",
                    channel="email",
                    name="Box",
                    address=self.address,
                    queue_id="queue",
                    created_at=self.clock.now(),
                )
            )

        self.account = await self.db.write(unit)
        return self

    async def takes(self, *raws: bytes) -> list[str]:
        """Mails as they came over the wire, fetched together; the outcomes."""
        found: list[mail.Fetched] = []
        for raw in raws:
            self.uid += 1
            self.clock.tick(1)
            key, place = f"mail:box:INBOX:1:{self.uid}", {"uidvalidity": 1, "last_uid": self.uid}
            one: Any
            if raw.startswith(b"POISON"):
                one = MailUnreadable(key, "It took more than 2 s to look into it.", len(raw), raw)
            else:
                values, contents = parse(raw)
                one = read_values(values, contents, raw=raw, event_key=key)
            found.append(mail.Fetched(one, await mail.keep(Store(), one, now=self.clock.now()), place))
        return [answer.outcome for answer in await mail.take_all(self.db, self.clock, self.account, found)]

    async def answers(self, body: str) -> bytes:
        """An agent answers the latest conversation; the mail as it goes out."""

        async def unit(tx: Tx) -> Interaction:
            conversation = await tx.one(select(Conversation).order_by(Conversation.id.desc()).limit(1))  # type: ignore[attr-defined]
            assert conversation is not None
            to = email(await replies.answer_to(tx, conversation))
            return await mails.send(
                tx, conversation, self.account, to, subject="Re: Invoice", body=body, html="", files=(),
                purpose=Purpose.REPLY, user_id="", contact_id=None, now=self.clock.now(),
            )  # fmt: skip

        self.clock.tick(1)
        sent = await self.db.write(unit)
        await self.db.write(lambda tx: interactions.note_delivery(tx, sent.id, "sent", now=self.clock.now()))
        return self.wire(sent)

    def wire(self, sent: Interaction) -> bytes:
        message = OutboundMail(
            sent.from_address, "Support", sent.to_address, sent.subject, sent.body, "", sent.external_id,
            in_reply_to=sent.data.get("in_reply_to", ""), references=tuple(sent.data.get("references", ())),
            reply_to=sent.data["reply_to"],
        )  # fmt: skip
        return compose(message, now=self.clock.now())

    async def all(self, table: Any) -> list[Any]:
        async with self.db.reading() as tx:
            return list(await tx.all(select(table).order_by(table.id)))

    async def sound(self) -> None:
        """The hub's own checks find nothing."""
        async with self.db.reading() as tx:
            assert await checks.check_invariants(tx) == []


def letter(body: str, number: int, *, sender: str = ANA, to: str = "support@example.test", **headers: str) -> bytes:
    head = {"From": sender, "To": to, "Subject": "Invoice", "Message-ID": f"<{number}@example.com>"}
    head.update((name.replace("_", "-"), value) for name, value in headers.items())
    return ("".join(f"{name}: {value}\r\n" for name, value in head.items()) + f"\r\n{body} {number}\r\n").encode()


@pytest.fixture
async def house(db: Database, clock: FixedClock) -> House:
    return await House(db, clock, "support@example.test").open()


@pytest.fixture
async def second_db(tmp_path: Path) -> AsyncIterator[Database]:
    """Another hub's database."""
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        for statement in ddl("sqlite://"):
            connection.execute(statement)
    made = await open_database(f"sqlite:///{tmp_path}/other.db")
    yield made
    await made.close()


async def test_two_hubs_wired_together_say_nothing_by_themselves(
    house: House, clock: FixedClock, second_db: Database
) -> None:
    """Each hub's mailbox is the other's customer. What passes between them is what people wrote, mail by mail."""
    one, other = house, await House(second_db, clock, "office@example.com").open()
    await one.takes(letter("Where is it?", 1, sender=other.address))
    for turn in range(3):
        assert await other.takes(await one.answers(f"Here {turn}")) == ["stored"]
        assert await one.takes(await other.answers(f"Where {turn}")) == ["stored"]
    for hub in (one, other):
        assert len(await hub.all(OutboxTask)) == 3, "an answer each for what a person sent off, and nothing else"
        assert len(await hub.all(Conversation)) == 1
        assert len(await hub.all(QueueEntry)) == 1, "one piece of work, however long it goes on"


async def test_an_out_of_office_robot_gets_no_answer_and_makes_no_work(house: House) -> None:
    await house.takes(letter("Where is it?", 1))
    answer = await house.answers("Here.")
    sent = (await house.all(Interaction))[-1]
    for number in range(2, 32):  # it answers everything, and itself is answered by nobody
        robot = letter(
            "I am away", number, Auto_Submitted="auto-replied", In_Reply_To=sent.external_id, Return_Path="<>"
        )
        assert await house.takes(robot) == ["stored"]
    assert sent.external_id.encode() in answer
    assert len(await house.all(OutboxTask)) == 1
    assert len(await house.all(QueueEntry)) == 1
    said = [one for one in await house.all(Interaction) if one.outcome == Outcome.AUTOMATED]
    assert len(said) == 30
    assert {one.conversation_id for one in said} == {sent.conversation_id}, "kept where they belong"


async def test_our_own_mail_that_comes_back_is_nobodys_work(house: House) -> None:
    await house.takes(letter("Where is it?", 1))
    answer = await house.answers("Here.")
    for _ in range(5):
        await house.takes(answer)
    assert len(await house.all(QueueEntry)) == 1
    assert len(await house.all(OutboxTask)) == 1


async def test_one_poison_mail_before_a_hundred_good_ones(house: House) -> None:
    outcomes = await house.takes(b"POISON", *(letter("Hello", number) for number in range(1, 101)))
    assert outcomes == ["quarantined", *["stored"] * 100]
    assert len(await house.all(Interaction)) == 100
    (kept,) = [one for one in await house.all(WebhookReceipt) if one.state == ReceiptState.QUARANTINED]
    assert kept.error == "It took more than 2 s to look into it."
    assert kept.headers[mail.RAW]
    async with house.db.reading() as tx:
        account = await tx.one(select(ChannelAccount))
        assert account is not None
    assert account.cursor == {"uidvalidity": 1, "last_uid": 101}


async def test_mails_that_are_known_do_not_keep_the_new_ones_beside_them_out(house: House) -> None:
    """After the mailbox was numbered anew, known and new mails come in one portion."""
    known = [letter("Hello", number) for number in range(1, 13)]
    assert await house.takes(*known) == ["stored"] * 12
    mixed = [*known[:5], letter("New", 50), *known[5:], letter("New", 51), letter("New", 51)]
    outcomes = await house.takes(*mixed)
    assert outcomes.count("stored") == 2
    assert outcomes.count("repeated") == len(mixed) - 2
    assert len(await house.all(Interaction)) == 14


async def test_a_mail_that_breaks_its_whole_unit_is_kept_and_the_rest_arrive(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an effect that fails in its savepoint, but a unit that cannot be committed: such a mail stops nothing either."""
    real = mail._keep

    def breaks(tx: Tx, account: Any, one: mail.Fetched, state: ReceiptState, error: str, **more: Any) -> None:
        if b"breaks" in one.mail.raw and state is not ReceiptState.FAILED:
            raise RuntimeError("no unit with this one can be committed")
        real(tx, account, one, state, error, **more)

    monkeypatch.setattr(mail, "_keep", breaks)
    letters = [letter("breaks" if number == 4 else "fine", number) for number in range(1, 9)]
    assert (await house.takes(*letters)).count("stored") == 7
    (kept,) = [one for one in await house.all(WebhookReceipt) if one.state != ReceiptState.DONE]
    assert (kept.state, kept.attempts) == (ReceiptState.FAILED, 1)
    assert "RuntimeError" in kept.error
    assert len(await house.all(Interaction)) == 7


# --- spam -------------------------------------------------------------------------------------------------------------


async def test_marked_mail_is_listed_and_rescued_into_the_normal_way(house: House) -> None:
    await house.takes(
        letter("Buy", 1, X_Spam_Flag="YES"), letter("Wanted", 2, X_Spam_Flag="YES", sender="bob@example.com")
    )
    async with house.db.reading() as tx:
        listed = await spam.list_spam(tx)
        assert [one.body.split()[0] for one in listed] == ["Wanted", "Buy"]
        assert [one.id for one in await spam.list_spam(tx, before=listed[0].id)] == [listed[1].id]
    assert await house.all(QueueEntry) == []
    wanted = listed[0]
    house.clock.tick(60)
    await house.db.write(lambda tx: spam.rescue(tx, wanted.id, user_id="sam", now=house.clock.now()))
    (entry,) = await house.all(QueueEntry)
    assert (entry.state, entry.interaction_id, entry.first_arrival_at) == (
        EntryState.WAITING, wanted.id, wanted.first_arrival_at,
    )  # fmt: skip
    async with house.db.reading() as tx:
        found = await interactions.get(tx, wanted.id)
        assert (found.state, found.outcome, found.ended_at, found.entry_id) == (
            InteractionState.WAITING,
            "",
            None,
            entry.id,
        )
        assert "automatic" not in found.data
        assert len(await spam.list_spam(tx)) == 1
        counted = {row.state: row.number for row in await tallies.list_counts(tx, day=house.clock.now()) if row.number}
    assert counted == {"waiting": 1, "ended:spam": 1}, "conservation: two came, one waits, one is spam"
    await house.sound()
    with pytest.raises(Invalid):
        await house.db.write(lambda tx: spam.rescue(tx, wanted.id, user_id="sam", now=house.clock.now()))


async def test_a_blocked_conversation_comes_back_whole_and_its_sender_is_free(house: House) -> None:
    await house.takes(letter("First", 1), letter("Second", 2, In_Reply_To="<1@example.com>"))
    (conversation,) = await house.all(Conversation)
    await house.db.write(
        lambda tx: replies.spam(tx, conversation.id, agent_id="amy", block=True, now=house.clock.now())
    )
    async with house.db.reading() as tx:
        assert await blocked.is_blocked(tx, ANA)
        assert (await conversations.get(tx, conversation.id)).state == ConversationState.CLOSED
        listed = await spam.list_spam(tx)
    assert len(listed) == 2
    rescued = await house.db.write(lambda tx: spam.rescue(tx, listed[0].id, user_id="sam", now=house.clock.now()))
    assert len(rescued) == 2
    async with house.db.reading() as tx:
        assert not await blocked.is_blocked(tx, ANA)
        assert (await conversations.get(tx, conversation.id)).state == ConversationState.OPEN
    open_work = [entry for entry in await house.all(QueueEntry) if entry.state == EntryState.WAITING]
    assert len(open_work) == 1
    assert {one.entry_id for one in await house.all(Interaction)} == {open_work[0].id}
    await house.sound()
    # What they write now joins it.
    await house.takes(letter("Third", 3, In_Reply_To="<2@example.com>"))
    assert len(await house.all(Conversation)) == 1
