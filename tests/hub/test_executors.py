"""The executors, on real rows and a channel in memory: what is called with what, when, and what is written of it.

The order is claim, commit, call, record, commit; the lanes and leases themselves are tests/hub/test_relay.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from channels.contract import MailArrived, OutboundCall, OutboundMail, OutboundText, SendReceipt
from channels.errors import (
    ChannelError,
    Misconfigured,
    OutcomeUnknown,
    RecipientInvalid,
    RecipientOptedOut,
    Throttled,
    Unavailable,
)
from channels.fake import FakeChannel
from crm_core import accounts, consent, outbox
from crm_core.accounts import ChannelAccount
from crm_core.addresses import phone
from crm_core.clock import FixedClock
from crm_core.consent import Purpose, SuppressionReason
from crm_core.db import Database, Tx
from crm_core.interactions import Attachment, Interaction
from crm_core.outbox import OutboxState, OutboxTask
from hub.executors import EXAMINE, EXAMINE_EVERY_S, EXAMINE_FOR, doubts, executors
from hub.files import Files
from hub.media import Media
from hub.metrics import Metrics
from hub.redis_ports import RedisWakeups
from hub.relay import Relay
from hub.sealing import Sealer
from routing import replies, rooms, router
from routing.mails import StoredFile
from tests.routing.floor import ANA, MAILBOX, NUMBER, Floor

ANA_MAIL = "ana@example.com"


class Channel(FakeChannel):
    """The channel in memory, which lets a test look around in the middle of a call and knows what it was sent."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self.after: list[ChannelError] = []  # raised once the provider has taken it: the answer got lost
        self.shows: list[tuple[str, str]] = []  # what `find_sent` finds

    async def send(self, message: Any) -> SendReceipt:
        if self.meanwhile is not None:
            await self.meanwhile()
        receipt = await super().send(message)
        if self.after:
            raise self.after.pop(0)
        return receipt

    async def place_call(self, call: OutboundCall) -> SendReceipt:
        if self.meanwhile is not None:
            await self.meanwhile()
        receipt = await super().place_call(call)
        if self.after:
            raise self.after.pop(0)
        return receipt

    async def find_sent(self, message: OutboundText) -> list[tuple[str, str]]:
        return self.shows


class Channels:
    """A ChannelSet of those."""

    def __init__(self) -> None:
        self.by_kind = {kind: Channel(kind) for kind in ("voice", "sms", "email")}
        self.off: dict[str, str] = {}

    def _one(self, kind: str) -> Channel:
        if kind in self.off:
            raise Misconfigured(self.off[kind])
        return self.by_kind[kind]

    def voice(self) -> Channel:
        return self._one("voice")

    def sms(self) -> Channel:
        return self._one("sms")

    def mail(self, account: ChannelAccount) -> Channel:
        assert account.channel == "email"
        return self._one("email")


class NoRedis:
    """Wake-ups within this process only."""

    async def publish(self, *_: Any) -> int:
        raise OSError

    def pubsub(self, **_: Any) -> Any:
        raise OSError


class Desk:
    """A floor whose outbox is executed."""

    def __init__(self, db: Database, clock: FixedClock, folder: Path) -> None:
        self.floor = Floor(db, clock)
        self.db, self.clock = db, clock
        self.channels = Channels()
        self.files = Files(f"file://{folder}")
        channels: Any = self.channels
        media = Media(channels, self.files, Sealer("k" * 40), clock, public_url="https://hub.example.test")
        self.table = executors(channels, clock, media, self.files)
        self.relay = self.another_relay()

    def another_relay(self) -> Relay:
        """As of another process: it shares the rows, nothing else."""
        wakeups: Any = NoRedis()
        return Relay(self.db, self.clock, RedisWakeups(wakeups), Metrics(), self.table)

    @property
    def sms(self) -> Channel:
        return self.channels.by_kind["sms"]

    @property
    def voice(self) -> Channel:
        return self.channels.by_kind["voice"]

    @property
    def email(self) -> Channel:
        return self.channels.by_kind["email"]

    async def run(self, lane: str = "reply") -> int:
        return await self.relay.run_once(lane)

    async def conversation(self) -> str:
        return (await self.floor.interaction()).conversation_id or ""

    async def texted(self, *, agents: tuple[str, ...] = ("kim",)) -> str:
        """Ana has texted; her conversation."""
        await self.floor.open(*agents)
        await self.floor.text("Where is my parcel?")
        return await self.conversation()

    async def mailed(self) -> str:
        """Ana has mailed; her conversation."""
        await self.floor.open("kim")
        mail = MailArrived(
            event_key="1:1", message_id="<one@example.com>", from_address=ANA_MAIL, from_name="Ana", to=[MAILBOX], cc=[],
            reply_to="", subject="My parcel", sent_at=self.clock.now(), in_reply_to="", references=[], text="Where is it?",
            html="", files=[], automatic="", headers={}, raw=b"",
        )  # fmt: skip

        async def unit(tx: Tx) -> None:
            account = await accounts.get(tx, "acc-email")
            await router.mail_arrived(tx, mail, account=account, html_key="", files=[], now=self.clock.now())

        await self.floor.do(unit)
        return await self.conversation()

    async def reply(self, conversation_id: str, body: str = "On its way.", **more: Any) -> Interaction:
        return await self.floor.do(
            lambda tx: replies.reply(tx, conversation_id, agent_id="kim", body=body, now=self.clock.now(), **more)
        )

    async def task(self, subject_id: str, kind: str = "") -> OutboxTask:
        """The newest task of this subject."""
        return [task for task in await self.floor.outbox(subject_id) if kind in ("", task.kind)][-1]

    async def ask(self, kind: str, subject_id: str, *, lane: str = "control", **payload: Any) -> None:
        await self.floor.do(
            lambda tx: outbox.ask(tx, kind, subject_id, lane=lane, now=self.clock.now(), **payload)
        )  # fmt: skip


@pytest.fixture
def desk(db: Database, clock: FixedClock, tmp_path: Path) -> Desk:
    """On each engine in turn."""
    return Desk(db, clock, tmp_path / "files")


@pytest.fixture
def small_desk(sqlite_db: Database, clock: FixedClock, tmp_path: Path) -> Desk:
    """On SQLite, for tests whose subject is not the data."""
    return Desk(sqlite_db, clock, tmp_path / "files")


# --- texts --------------------------------------------------------------------------------------------------------


async def test_a_text_is_claimed_committed_called_recorded(desk: Desk) -> None:
    conversation = await desk.texted()
    sent = await desk.reply(conversation)
    seen: list[tuple[Any, ...]] = []

    async def meanwhile() -> None:
        task = await desk.task(sent.id)  # what anybody else sees: the claim is committed before the first byte
        await desk.ask("room.end", "elsewhere", lane="notice")  # and nobody holds the database
        seen.append((task.state, task.attempts, (await desk.floor.interaction(sent.id)).delivery))

    desk.sms.meanwhile = meanwhile
    assert await desk.run() == 1
    assert seen == [(OutboxState.CLAIMED, 1, "queued")]
    assert desk.sms.sent == [
        OutboundText(NUMBER, ANA, "On its way.", our_key=sent.id, status_url="/webhooks/twilio/sms/status")
    ]
    task, found = await desk.task(sent.id), await desk.floor.interaction(sent.id)
    assert (task.state, task.error, task.lease_until, task.done_at) == (OutboxState.DONE, "", None, desk.clock.now())
    assert (found.external_id, found.delivery, found.delivery_error) == ("fake-message-1", "queued", "")
    assert await desk.run() == 0


async def test_texts_of_one_conversation_go_in_their_order(desk: Desk) -> None:
    conversation = await desk.texted()
    for body in ("one", "two", "three"):
        await desk.reply(conversation, body)
        desk.clock.tick(0.01)
    desk.sms.fail(Throttled("slow down", retry_after_s=30))
    assert await desk.run() == 1
    assert await desk.run() == 0, "the second does not overtake the first, which rests"
    desk.clock.tick(31)
    while await desk.run():
        pass
    assert [message.body for message in desk.sms.sent] == ["one", "two", "three"]


async def test_a_text_whose_answer_is_lost_is_unknown_named_and_not_sent_again(desk: Desk) -> None:
    conversation = await desk.texted()
    sent = await desk.reply(conversation)
    desk.sms.after.append(OutcomeUnknown("no answer"))
    await desk.run()
    found = await desk.floor.interaction(sent.id)
    assert ((await desk.task(sent.id, "text.send")).state, found.delivery) == (OutboxState.UNKNOWN, "unknown")
    assert "no answer" in found.delivery_error
    async with desk.db.reading() as tx:
        assert [one.id for one in await tx.all(doubts())] == [sent.id]
    examination = await desk.task(sent.id)
    assert (examination.kind, examination.lane) == (EXAMINE, "notice")
    assert examination.due_at == desk.clock.now() + timedelta(seconds=EXAMINE_EVERY_S)
    desk.clock.tick(3600)
    assert await desk.run() == 0
    assert len(desk.sms.sent) == 1


@pytest.mark.parametrize(
    ("shown", "delivery"), [("queued", "sent"), ("sent", "sent"), ("delivered", "delivered"), ("failed", "failed")]
)
async def test_a_doubtful_text_that_the_provider_shows_is_settled(small_desk: Desk, shown: str, delivery: str) -> None:
    desk = small_desk
    conversation = await desk.texted()
    first = await desk.reply(conversation, "Same words")
    await desk.run()  # fake-message-1, and nobody else's
    sent = await desk.reply(conversation, "Same words")
    desk.sms.after.append(OutcomeUnknown("no answer"))
    await desk.run()
    desk.clock.tick(EXAMINE_EVERY_S)
    desk.sms.shows = [("fake-message-1", "delivered")]
    assert await desk.run("notice") == 1
    assert (await desk.floor.interaction(sent.id)).delivery == "unknown", "that one belongs to the first text"
    desk.clock.tick(EXAMINE_EVERY_S)
    desk.sms.shows = [("fake-message-1", "delivered"), ("fake-message-2", shown)]
    assert await desk.run("notice") == 1
    found = await desk.floor.interaction(sent.id)
    assert (found.delivery, found.external_id) == (delivery, "fake-message-2")
    assert (await desk.floor.interaction(first.id)).external_id == "fake-message-1"
    desk.clock.tick(3600)
    assert await desk.run("notice") == 0, "settled: nobody asks again"


async def test_a_doubtful_text_that_never_shows_is_told_as_not_sent(small_desk: Desk) -> None:
    desk = small_desk
    conversation = await desk.texted()
    sent = await desk.reply(conversation)
    desk.sms.fail(OutcomeUnknown("no answer"))
    await desk.run()
    looks, began = 0, desk.clock.now()
    while (await desk.floor.interaction(sent.id)).delivery == "unknown":
        assert desk.clock.now() - began < EXAMINE_FOR * 2
        desk.clock.tick(EXAMINE_EVERY_S)
        looks += await desk.run("notice")
    found = await desk.floor.interaction(sent.id)
    assert (found.delivery, desk.sms.sent) == ("failed", [])
    assert "ten minutes" in found.delivery_error
    assert looks == EXAMINE_FOR / timedelta(seconds=EXAMINE_EVERY_S)


async def test_a_report_that_comes_first_ends_the_examination(small_desk: Desk) -> None:
    desk = small_desk
    conversation = await desk.texted()
    sent = await desk.reply(conversation)
    desk.sms.after.append(OutcomeUnknown("no answer"))
    await desk.run()
    values = update(Interaction).where(col(Interaction.id) == sent.id).values(delivery="delivered", delivery_rank=6)
    await desk.floor.do(lambda tx: tx.run(values))
    desk.clock.tick(EXAMINE_EVERY_S)
    desk.sms.shows = [("fake-message-9", "failed")]
    await desk.run("notice")
    assert (await desk.task(sent.id)).error == "settled meanwhile"
    assert (await desk.floor.interaction(sent.id)).delivery == "delivered"


async def test_stop_committed_before_the_claim_wins(desk: Desk) -> None:
    conversation = await desk.texted()
    sent = await desk.reply(conversation)
    await desk.floor.do(
        lambda tx: consent.opt_out(
            tx, phone(ANA), channel="sms", sender="acc-sms", reason=SuppressionReason.SENDER_STOP, source="test",
            evidence={}, actor="system", now=desk.clock.now(),
        )
    )  # fmt: skip
    await desk.run()
    task, found = await desk.task(sent.id), await desk.floor.interaction(sent.id)
    assert (task.state, found.delivery, desk.sms.sent) == (OutboxState.FAILED, "failed", [])
    assert task.error.startswith("sender_stop: ")
    assert found.delivery_error == task.error


async def test_what_the_provider_knows_of_a_stop_the_hub_knows_too(desk: Desk) -> None:
    conversation = await desk.texted()
    sent = await desk.reply(conversation)
    desk.sms.fail(RecipientOptedOut("they replied STOP to another hub", code="21610"))
    await desk.run()
    found = await desk.floor.interaction(sent.id)
    assert (found.delivery, (await desk.task(sent.id)).state) == ("failed", OutboxState.FAILED)
    assert "21610" in found.delivery_error
    async with desk.db.reading() as tx:
        verdict = await consent.may_contact(
            tx, purpose=Purpose.REPLY, channel="sms", address=phone(ANA), sender="acc-sms", now=desk.clock.now()
        )
    assert (verdict.allowed, verdict.rule) == (False, "sender_stop")


@pytest.mark.parametrize("error", [RecipientInvalid("no such number"), Misconfigured("the key is wrong")])
async def test_what_cannot_be_is_failed_at_once(small_desk: Desk, error: ChannelError) -> None:
    desk = small_desk
    sent = await desk.reply(await desk.texted())
    desk.sms.fail(error)
    await desk.run()
    found = await desk.floor.interaction(sent.id)
    assert (found.delivery, (await desk.task(sent.id)).attempts) == ("failed", 1)
    assert error.message in found.delivery_error
    desk.clock.tick(3600)
    assert await desk.run() == 0


async def test_a_channel_that_is_off_says_why(small_desk: Desk) -> None:
    desk = small_desk
    conversation = await desk.texted()
    first = await desk.reply(conversation)
    desk.channels.off["sms"] = "Twilio is not configured."
    await desk.run()
    assert "Twilio is not configured." in (await desk.floor.interaction(first.id)).delivery_error
    desk.channels.off.clear()
    second = await desk.reply(conversation)
    values = update(ChannelAccount).where(col(ChannelAccount.id) == "acc-sms").values(enabled=False, off_reason="Sold.")
    await desk.floor.do(lambda tx: tx.run(values))
    await desk.run()
    assert "Sold." in (await desk.floor.interaction(second.id)).delivery_error
    assert desk.sms.sent == []


async def test_a_lost_lease_writes_nothing(desk: Desk) -> None:
    sent = await desk.reply(await desk.texted())
    in_the_call, go_on = asyncio.Event(), asyncio.Event()

    async def meanwhile() -> None:
        in_the_call.set()
        await go_on.wait()

    desk.sms.meanwhile = meanwhile
    slow = asyncio.create_task(desk.run())
    await in_the_call.wait()
    desk.clock.tick(outbox.LEASE_S + 1)
    assert await desk.another_relay().run_once("reply") == 1  # finds it in doubt, and does not send it
    doubtful = await desk.task(sent.id, "text.send")
    assert (doubtful.state, doubtful.token) == (OutboxState.UNKNOWN, 2)
    go_on.set()
    await slow
    found = await desk.floor.interaction(sent.id)
    assert (found.delivery, found.external_id) == ("unknown", ""), "the late answer is not ours to write any more"
    assert (await desk.task(sent.id, "text.send")).state is OutboxState.UNKNOWN
    assert len(desk.sms.sent) == 1
    desk.clock.tick(EXAMINE_EVERY_S)
    desk.sms.shows = [("fake-message-1", "sent")]
    await desk.run("notice")
    found = await desk.floor.interaction(sent.id)
    assert (found.delivery, found.external_id) == ("sent", "fake-message-1"), "the examination finds it"


async def test_pictures_go_under_signed_addresses(small_desk: Desk) -> None:
    desk = small_desk
    conversation = await desk.texted()
    key = await desk.files.put(b"a picture", folder="texts", now=desk.clock.now())
    picture = StoredFile("parcel.png", "image/png", 9, key)
    await desk.reply(conversation, "Like this?", files=[picture])
    await desk.run()
    (message,) = desk.sms.sent
    (link,) = message.media
    assert link.startswith("https://hub.example.test/media/")


# --- mails --------------------------------------------------------------------------------------------------------


async def test_a_mail_goes_with_its_thread_and_its_files(desk: Desk) -> None:
    conversation = await desk.mailed()
    key = await desk.files.put(b"the invoice", folder="mails", now=desk.clock.now())
    invoice = StoredFile("invoice.pdf", "application/pdf", 11, key)
    sent = await desk.reply(conversation, "Here it is.", files=[invoice])
    await desk.run()
    (mail,) = desk.email.sent
    assert isinstance(mail, OutboundMail)
    assert (mail.to_address, mail.message_id, mail.in_reply_to) == (ANA_MAIL, sent.external_id, "<one@example.com>")
    assert mail.subject.endswith("My parcel")
    assert mail.text.startswith("Here it is.")
    assert [(file.name, file.content) for file in mail.files] == [("invoice.pdf", b"the invoice")]
    found = await desk.floor.interaction(sent.id)
    assert (found.delivery, found.external_id) == ("sent", sent.external_id), "its id is ours, not the server's"


async def test_a_mail_without_its_file_does_not_go(small_desk: Desk) -> None:
    desk = small_desk
    conversation = await desk.mailed()
    key = await desk.files.put(b"the invoice", folder="mails", now=desk.clock.now())
    sent = await desk.reply(conversation, "Here it is.", files=[StoredFile("invoice.pdf", "application/pdf", 11, key)])
    async with desk.db.reading() as tx:
        (row,) = await tx.all(select(Attachment).where(Attachment.interaction_id == sent.id))
    await desk.files.delete(row.file_key)
    await desk.run()
    found = await desk.floor.interaction(sent.id)
    assert (found.delivery, desk.email.sent) == ("failed", [])
    assert "file_missing" in found.delivery_error


async def test_a_mail_whose_answer_is_lost_is_unknown_and_nobody_can_look_it_up(small_desk: Desk) -> None:
    desk = small_desk
    sent = await desk.reply(await desk.mailed())
    desk.email.after.append(OutcomeUnknown("the connection broke after the data"))
    await desk.run()
    assert (await desk.floor.interaction(sent.id)).delivery == "unknown"
    assert [task.kind for task in await desk.floor.outbox(sent.id)] == ["mail.send"]
    desk.clock.tick(3600)
    assert await desk.run() == 0
    assert len(desk.email.sent) == 1


async def test_a_mail_server_that_is_down_is_tried_again(small_desk: Desk) -> None:
    desk = small_desk
    sent = await desk.reply(await desk.mailed())
    desk.email.fail(Unavailable("421"), Unavailable("421"))
    for _ in range(4):
        await desk.run()
        desk.clock.tick(60)
    assert (await desk.floor.interaction(sent.id)).delivery == "sent"
    assert (await desk.task(sent.id)).attempts == 3


# --- calls --------------------------------------------------------------------------------------------------------


async def calling(desk: Desk) -> Interaction:
    """Kim has clicked on Ana's number and her own leg is in the room; the hub has asked for Ana's phone."""
    await desk.floor.open("kim")
    await desk.floor.person("Ana", ANA)
    call = await desk.floor.dial("kim", ANA)
    leg, steps = await desk.floor.connect("kim", call=call.id, nonce=call.data["nonce"])
    await desk.floor.room(call.id, "join", leg, getattr(steps[0], "label", ""))
    return call


async def test_a_call_is_placed_and_its_leg_known(desk: Desk) -> None:
    call = await calling(desk)
    assert await desk.run("control") >= 1
    (placed,) = desk.voice.calls
    assert (placed.from_address, placed.to_address) == (NUMBER, ANA)
    assert placed.room_status_url == rooms.event_path(call.id)
    assert (await desk.task(call.id, "call.place")).state is OutboxState.DONE
    await desk.floor.room(call.id, "join", "fake-call-1", "customer")
    assert (await desk.floor.interaction(call.id)).state == "connected"
    await desk.floor.check()


@pytest.mark.parametrize(
    ("error", "state"),
    [(RecipientInvalid("no such number"), OutboxState.FAILED), (OutcomeUnknown("no answer"), OutboxState.UNKNOWN)],
)
async def test_a_call_that_was_not_or_perhaps_placed_ends_as_failed_and_rings_once(
    desk: Desk, error: ChannelError, state: OutboxState
) -> None:
    call = await calling(desk)
    desk.voice.after.append(error)
    while await desk.run("control"):
        pass
    assert (await desk.task(call.id, "call.place")).state is state
    assert (await desk.floor.interaction(call.id)).outcome == "failed"
    desk.clock.tick(3600)
    await desk.run("control")
    assert len(desk.voice.calls) == 1
    await desk.floor.check()


async def test_call_control_is_repeated_and_what_is_over_is_done(small_desk: Desk) -> None:
    desk = small_desk
    voice = desk.voice
    voice.live_calls |= {"CA1"}
    voice.live_rooms |= {"CF1"}
    asked = (
        ("call.move", {"call_id": "CA1", "path": "/webhooks/twilio/voice/join"}),
        ("call.hold", {"room_id": "CF1", "call_id": "CA1", "on": True}),
        ("call.hold", {"room_id": "CF1", "call_id": "CA1", "on": False, "music": "/music"}),
        ("call.end", {"call_id": "CA1"}),
        ("room.end", {"room_id": "CF1"}),
        ("call.move", {"call_id": "CA1", "path": "/too-late"}),
    )
    for kind, payload in asked:
        await desk.floor.do(
            lambda tx, kind=kind, payload=payload: outbox.ask(  # type: ignore[misc]
                tx, kind, "talk", lane="control", now=desk.clock.now(), ordering="talk", **payload
            )
        )
        desk.clock.tick(0.01)
    voice.fail(OutcomeUnknown("no answer"))
    await desk.run("control")
    assert (await desk.floor.outbox("talk"))[0].state is OutboxState.PENDING, "moving a call twice does no harm"
    desk.clock.tick(60)
    while await desk.run("control"):
        pass
    assert voice.commands == [
        ("move", "CA1", "/webhooks/twilio/voice/join"),
        ("hold", "CA1", rooms.HOLD_MUSIC),
        ("unhold", "CA1", "/music"),
        ("end", "CA1", ""),
        ("end_room", "CF1", ""),
    ]
    tasks = await desk.floor.outbox("talk")
    assert {task.state for task in tasks} == {OutboxState.DONE}
    assert tasks[-1].error.startswith("gone")


# --- the table ----------------------------------------------------------------------------------------------------


def test_only_what_does_no_harm_twice_may_be_repeated(small_desk: Desk) -> None:
    once = {kind for kind, executor in small_desk.table.items() if not executor.repeatable}
    assert once == {"call.place", "text.send", "mail.send", "user.mail"}
    for kind in once:
        assert small_desk.table[kind].record is not None, f"{kind}: nobody would learn what came of it"


async def test_a_broken_row_fails_alone_and_is_told(small_desk: Desk) -> None:
    desk = small_desk
    sent = await desk.reply(await desk.texted())
    await desk.ask("text.send", "nobody", lane="reply")
    await desk.run()
    assert (await desk.task("nobody")).state is OutboxState.FAILED
    assert (await desk.floor.interaction(sent.id)).external_id == "fake-message-1"
    async with desk.db.reading() as tx:
        assert (await accounts.get(tx, "acc-sms")).enabled
