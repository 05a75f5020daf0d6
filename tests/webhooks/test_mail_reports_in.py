"""Bounces and complaints at the mail they speak of, believed on proof alone; robots and our own mail are nobody's work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from sqlmodel import func, select

from campaigns import sender
from channels.mail_child import parse
from channels.mail_pool import arrived as read_values
from crm_core import consent, conversations, interactions
from crm_core.accounts import ChannelAccount
from crm_core.addresses import email
from crm_core.clock import FixedClock
from crm_core.consent import Purpose
from crm_core.conversations import Conversation
from crm_core.db import Database, Tx
from crm_core.interactions import Interaction, Outcome
from crm_core.outbox import OutboxTask
from routing import mails, replies
from routing.queues import Queue, QueueEntry
from tests.campaigns import cast
from tests.channels.report_corpus import SAMPLES, Sample
from tests.webhooks.conftest import Store
from webhooks import mail

SECRET = cast.SECRET
BY_NAME: Mapping[str, Sample] = {sample.name: sample for sample in SAMPLES}
BOX = "support@example.test"
ANA = "ana@example.com"


class Post:
    """Our mailbox, and what the outside puts into it."""

    def __init__(self, db: Database, clock: FixedClock, account: ChannelAccount) -> None:
        self.db, self.clock, self.account = db, clock, account
        self.uid = 0

    async def takes(self, raw: bytes, *, secret: str = SECRET) -> str:
        """A mail as it came over the wire; the outcome."""
        self.uid += 1
        self.clock.tick(1)
        values, contents = parse(raw)
        one = read_values(values, contents, raw=raw, event_key=f"mail:box:INBOX:1:{self.uid}")
        kept = await mail.keep(Store(), one, now=self.clock.now())
        cursor = {"uidvalidity": 1, "last_uid": self.uid}
        return (await mail.take(self.db, self.clock, self.account, one, kept, cursor, secret=secret)).outcome

    async def conversation(self) -> Conversation:
        """A thread that Ana opened."""
        assert await self.takes(letter("Where is it?", message_id="<1@example.com>")) == "stored"
        async with self.db.reading() as tx:
            found = await tx.one(select(Conversation).where(Conversation.peer == ANA))
        assert found is not None
        return found

    async def sends(self, conversation: Conversation, *, to: str = ANA, **more: Any) -> Interaction:
        """Our answer in that thread, handed over."""

        async def unit(tx: Tx) -> Interaction:
            now = self.clock.now()
            fresh = await conversations.get(tx, conversation.id)
            sent = await mails.send(
                tx, fresh, self.account, email(to), subject="Re: Invoice", body="Here.", html="", files=(),
                purpose=Purpose.REPLY, user_id="", contact_id=None, now=now, **more,
            )  # fmt: skip
            await interactions.note_delivery(tx, sent.id, "sent", now=now)
            return sent

        return await self.db.write(unit)

    async def all(self, table: Any) -> list[Any]:
        async with self.db.reading() as tx:
            return list(await tx.all(select(table).order_by(table.id)))

    async def get(self, interaction_id: str) -> Interaction:
        async with self.db.reading() as tx:
            return await interactions.get(tx, interaction_id)

    async def rule(self, address: str = ANA, purpose: Purpose = Purpose.REPLY) -> str:
        async with self.db.reading() as tx:
            verdict = await consent.may_contact(
                tx, purpose=purpose, channel="email", address=email(address), now=self.clock.now()
            )
        return verdict.rule


def letter(body: str, *, message_id: str, sender: str = ANA, **headers: str) -> bytes:
    """A plain mail to our box."""
    head = {"From": sender, "To": BOX, "Subject": "Invoice", "Message-ID": message_id}
    head.update((name.replace("_", "-"), value) for name, value in headers.items())
    return ("".join(f"{name}: {value}\r\n" for name, value in head.items()) + f"\r\n{body}\r\n").encode()


@pytest.fixture
async def post(db: Database, clock: FixedClock) -> Post:
    async def unit(tx: Tx) -> ChannelAccount:
        await tx.add(Queue(id="queue", name="Support"))
        return await tx.add(
            ChannelAccount(id="box", channel="email", name="Box", address=BOX, queue_id="queue", created_at=clock.now())
        )

    return Post(db, clock, await db.write(unit))


async def test_a_bounce_stands_at_the_answer_and_is_nobodys_work(post: Post) -> None:
    thread = await post.conversation()
    sent = await post.sends(thread)
    entries = await post.all(QueueEntry)
    tasks = await post.all(OutboxTask)
    assert await post.takes(BY_NAME["postfix"].bytes(message_id=sent.external_id)) == "reported"
    ours = await post.get(sent.id)
    assert ours.delivery == "bounced"
    assert "5.1.1" in ours.delivery_error
    assert "User unknown" in ours.delivery_error
    note = (await post.all(Interaction))[-1]
    assert (note.conversation_id, note.outcome, note.data["about"]) == (thread.id, Outcome.AUTOMATED, sent.id)
    assert [entry.id for entry in await post.all(QueueEntry)] == [entry.id for entry in entries]
    assert len(await post.all(OutboxTask)) == len(tasks), "a bounce is answered by nobody"
    assert await post.rule() == "dead"
    async with post.db.reading() as tx:
        latest = await replies.latest_written(tx, thread.id)
    assert latest is not None
    assert latest.from_address == ANA, "the next answer goes to the person, not to the mail system"


async def test_the_same_bounce_twice_changes_nothing_more(post: Post) -> None:
    sent = await post.sends(await post.conversation())
    raw = BY_NAME["postfix"].bytes(message_id=sent.external_id)
    assert [await post.takes(raw), await post.takes(raw)] == ["reported", "repeated"]
    before = (await post.get(sent.id)).version
    # Another server's report about the same mail: the rank does not rise again.
    assert await post.takes(BY_NAME["qmail"].bytes(message_id=sent.external_id)) == "reported"
    assert (await post.get(sent.id)).version == before


@pytest.mark.parametrize(
    ("name", "delivery", "rule"),
    [
        ("postfix_delayed", "sent", ""),
        ("delivered", "sent", ""),
        ("postfix_gave_up", "bounced", ""),
        ("mailbox_full", "bounced", ""),
        ("policy", "bounced", ""),
        ("exchange", "bounced", "dead"),
        ("qmail", "bounced", "dead"),
        ("old_exim", "bounced", ""),
        ("behind_an_alias", "bounced", "dead"),
    ],
)
async def test_hard_and_soft(post: Post, name: str, delivery: str, rule: str) -> None:
    sent = await post.sends(await post.conversation())
    assert await post.takes(BY_NAME[name].bytes(message_id=sent.external_id)) == "reported"
    assert ((await post.get(sent.id)).delivery, await post.rule()) == (delivery, rule)


async def test_a_dead_address_behind_a_list_is_not_the_one_we_wrote_to(post: Post) -> None:
    sent = await post.sends(await post.conversation())
    raw = BY_NAME["postfix"].bytes(message_id=sent.external_id, to="member@list.example.com")
    assert await post.takes(raw) == "reported"
    assert (await post.get(sent.id)).delivery == "bounced"
    assert await post.rule() == ""


async def test_whoever_got_a_copy_cannot_declare_the_others_dead(post: Post) -> None:
    sent = await post.sends(await post.conversation(), cc=[email("bob@example.com")])
    assert await post.takes(BY_NAME["postfix"].bytes(message_id=sent.external_id)) == "reported"
    ours = await post.get(sent.id)
    assert ours.delivery == "bounced"
    assert ours.delivery_error.startswith(f"{ANA}: 5.1.1") or ANA in ours.delivery_error
    assert await post.rule() == ""


@pytest.mark.parametrize("forgery", ["no mark", "wrong proof", "other kind", "plain id"])
async def test_a_forged_bounce_kills_nothing(post: Post, forgery: str) -> None:
    sent = await post.sends(await post.conversation())
    local, domain = sent.external_id.strip("<>").split("@")
    forged = {
        "no mark": "<anything@example.test>",
        "wrong proof": f"<{sent.id}.{'a' * 16}.m@{domain}>",
        "other kind": f"<{local.removesuffix('.m')}.c@{domain}>",
        "plain id": f"<{sent.id}@{domain}>",
    }[forgery]
    assert await post.takes(BY_NAME["postfix"].bytes(message_id=forged)) == "stored"
    assert (await post.get(sent.id)).delivery == "sent"
    assert await post.rule() == ""
    stored = (await post.all(Interaction))[-1]
    assert stored.outcome == Outcome.AUTOMATED, "kept and shown, as any automatic mail"


async def test_an_arriving_mail_of_theirs_is_no_proof(post: Post) -> None:
    """The Message-ID of what they wrote is an interaction's too, but not one that we sent."""
    await post.conversation()
    (theirs,) = await post.all(Interaction)
    assert await post.takes(BY_NAME["postfix"].bytes(message_id=theirs.external_id)) == "stored"
    assert await post.rule() == ""


async def test_a_report_that_only_came_back_to_the_signed_address(post: Post) -> None:
    from crm_core import mail_tokens

    sent = await post.sends(await post.conversation())
    mark = mail_tokens.read(sent.external_id)
    assert mark is not None
    box = mail_tokens.return_address(mark, address=BOX)
    assert box != BOX
    raw = BY_NAME["postfix"].bytes(message_id="<lost@elsewhere.example>", box=box)
    assert await post.takes(raw) == "reported"
    assert (await post.get(sent.id)).delivery == "bounced"


async def test_a_complaint_about_an_answer(post: Post) -> None:
    sent = await post.sends(await post.conversation())
    assert await post.takes(BY_NAME["complaint"].bytes(message_id=sent.external_id)) == "reported"
    ours = await post.get(sent.id)
    assert (ours.delivery, ours.delivery_error) == ("complained", "abuse SomeGenerator/1.0")
    assert await post.rule(purpose=Purpose.SERVICE) == "complaint"
    assert await post.rule(purpose=Purpose.REPLY) == "", "who writes to us is answered all the same"


# --- campaigns -------------------------------------------------------------------------------------------------------


async def campaign(post: Post, line: cast.Line) -> tuple[str, str, str]:
    """A marketing mail to one person, handed over: campaign, address, Message-ID."""
    person = cast.mailbox(1)
    now = post.clock.now()
    row, ours = await cast.campaign(post.db, [person], now=now, channel="email", purpose=Purpose.MARKETING)
    await post.db.write(lambda tx: cast.agree(tx, person, now=now))
    await cast.start(post.db, row.id, post.clock)
    await cast.run(post.db, row.id, cast.sending(line, ours, post.clock), post.clock)
    kept = (await cast.rows(post.db, row.id))[person.value]
    assert line.sent[0].message_id == sender.message_id(kept, ours, SECRET)
    return row.id, person.value, line.sent[0].message_id


async def test_a_campaigns_bounce_goes_to_its_ledger_and_opens_no_conversation(post: Post) -> None:
    row, to, message_id = await campaign(post, cast.Line())
    assert await post.takes(BY_NAME["postfix"].bytes(message_id=message_id, to=to)) == "reported"
    assert await cast.states(post.db, row) == {"bounced": 1}
    assert await post.rule(to) == "dead"
    assert await post.all(Conversation) == []
    assert await post.all(QueueEntry) == []


async def test_a_campaigns_complaint(post: Post) -> None:
    row, to, message_id = await campaign(post, cast.Line())
    assert await post.takes(BY_NAME["complaint"].bytes(message_id=message_id, to=to)) == "reported"
    assert await cast.states(post.db, row) == {"complained": 1}


async def test_a_campaigns_mark_signed_by_another_hub_proves_nothing(post: Post) -> None:
    row, to, message_id = await campaign(post, cast.Line())
    raw = BY_NAME["postfix"].bytes(message_id=message_id, to=to)
    assert await post.takes(raw, secret="another hub's secret") == "stored"
    assert await cast.states(post.db, row) == {"accepted": 1}
    assert await post.rule(to) == ""


@pytest.mark.parametrize("said", ["unsubscribe", "STOP!", "Abmelden\r\n\r\n> our newsletter\r\n> goes on"])
async def test_a_word_in_answer_to_a_campaign_unsubscribes_and_counts(post: Post, said: str) -> None:
    from campaigns import campaigns

    row, to, message_id = await campaign(post, cast.Line())
    answer = letter(said, message_id="<9@example.com>", sender=to, In_Reply_To=message_id)
    assert await post.takes(answer) == "stored"
    assert await post.rule(to, Purpose.MARKETING) == "opt_out"
    async with post.db.reading() as tx:
        assert (await campaigns.progress(tx, row))["event"] == {"unsubscribed": 1}
    assert await post.all(QueueEntry) == [], "done already: nobody's work"


async def test_a_sentence_in_answer_to_a_campaign_is_work(post: Post) -> None:
    _, to, message_id = await campaign(post, cast.Line())
    answer = letter("Please stop the delivery.", message_id="<9@example.com>", sender=to, In_Reply_To=message_id)
    assert await post.takes(answer) == "stored"
    assert len(await post.all(QueueEntry)) == 1


# --- robots and ourselves --------------------------------------------------------------------------------------------

ROBOTS = {
    "out of office": {"Auto-Submitted": "auto-replied"},
    "generated": {"Auto-Submitted": "auto-generated"},
    "bulk": {"Precedence": "bulk"},
    "suppressed": {"X-Auto-Response-Suppress": "All"},
    "null sender": {"Return-Path": "<>"},
    "list": {"List-Id": "<x.example.com>"},
    "loop": {"X-Loop": BOX},
    "ourselves": {"From": BOX},
    "ourselves, in capitals": {"From": "Support@Example.Test"},
    "our thread's address": {"From": "support+abcdef@example.test"},
    "our other mailbox": {"From": "sales@example.test"},
    "our alias": {"From": "help@example.test"},
}


@pytest.mark.parametrize("robot", ROBOTS)
async def test_no_storm_with_a_robot_or_with_ourselves(post: Post, robot: str) -> None:
    """Whatever a machine writes ten times: kept, shown, no work, and not one mail goes out (I23)."""
    await post.db.write(
        lambda tx: tx.add(
            ChannelAccount(
                id="sales", channel="email", name="Sales", address="sales@example.test", created_at=post.clock.now(),
                settings={"aliases": ["Help@example.test"]},
            )
        )
    )  # fmt: skip
    for number in range(10):
        headers = {name.replace("-", "_"): value for name, value in ROBOTS[robot].items()}
        raw = letter("Thank you for your mail.", message_id=f"<{number}@example.com>", **headers)
        assert await post.takes(raw) == "stored"
    assert {one.outcome for one in await post.all(Interaction)} == {Outcome.AUTOMATED}
    assert len(await post.all(Interaction)) == 10
    assert await post.all(QueueEntry) == []
    async with post.db.reading() as tx:
        assert await tx.one(select(func.count()).select_from(OutboxTask)) == 0


async def test_an_address_that_a_person_writes_from_works_again(post: Post) -> None:
    thread = await post.conversation()
    sent = await post.sends(thread)
    await post.takes(BY_NAME["postfix"].bytes(message_id=sent.external_id))
    assert await post.rule() == "dead"
    robot = letter("I am away.", message_id="<2@example.com>", Auto_Submitted="auto-replied")
    assert await post.takes(robot) == "stored"
    assert await post.rule() == "dead"
    assert await post.takes(letter("I am back.", message_id="<3@example.com>")) == "stored"
    assert await post.rule() == ""


async def test_what_they_quoted_is_known(post: Post) -> None:
    body = "Fine, thanks.\r\n\r\nOn Wed, 18 Nov 2026, Support wrote:\r\n> Here."
    await post.takes(letter(body, message_id="<1@example.com>"))
    (found,) = await post.all(Interaction)
    assert found.body[: found.data["new_chars"]].strip() == "Fine, thanks."
    assert "> Here." in found.body


async def test_blocked_and_marked_mail_is_kept_as_spam_and_offered_to_nobody(post: Post) -> None:
    from crm_core import blocked

    now = post.clock.now()
    await post.db.write(lambda tx: blocked.block(tx, "Pest@Example.com", user_id="amy", now=now))
    await post.db.write(lambda tx: blocked.block(tx, "@spam.example", user_id="amy", now=now))
    await post.takes(letter("Buy!", message_id="<1@example.com>", sender="pest@example.com"))
    await post.takes(letter("Buy!", message_id="<2@example.com>", sender="anybody@spam.example"))
    await post.takes(letter("Buy!", message_id="<3@example.com>", sender="x@example.com", X_Spam_Flag="YES"))
    assert [one.outcome for one in await post.all(Interaction)] == [Outcome.SPAM] * 3
    assert await post.all(QueueEntry) == []
    await post.takes(letter("Hello", message_id="<4@example.com>", sender="x@not-spam.example", X_Spam_Flag="NO"))
    assert await post.db.write(lambda tx: blocked.unblock(tx, "pest@example.com", user_id="amy", now=now))
    assert not await post.db.write(lambda tx: blocked.unblock(tx, "pest@example.com", user_id="amy", now=now))
    await post.takes(letter("Sorry", message_id="<5@example.com>", sender="pest@example.com"))
    assert len(await post.all(QueueEntry)) == 2


@pytest.mark.parametrize("value", ["", "@", "nobody", "@nobody", "a b@example.com", "x@"])
def test_what_is_no_sender_cannot_be_blocked(value: str) -> None:
    from crm_core import blocked
    from crm_core.errors import Invalid

    with pytest.raises(Invalid):
        blocked.normal(value)
