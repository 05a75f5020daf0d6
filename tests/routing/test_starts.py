"""Writing to somebody first: purposes, the thread it joins, whose it is, who sent last, and what the gate says."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import select

from channels.contract import MailArrived
from crm_core import accounts, consent
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address, email, phone
from crm_core.consent import Purpose, SuppressionReason
from crm_core.conversations import Conversation
from crm_core.errors import Conflict, Invalid, Refused
from crm_core.touches import Touch
from routing import router, starts
from routing.mails import thread_address
from routing.starts import Started
from tests.routing.floor import ANA, BEN, MAILBOX, Floor


async def start(floor: Floor, address: Address, body: str = "Hello", *, user_id: str = "kim", **more: Any) -> Started:
    """Late morning where they are, from our only sender of that kind, as a service message."""
    sender = more.pop("sender", None) or (await sender_of(floor, starts.CHANNEL_OF[address.kind])).id
    values = {"purpose": Purpose.SERVICE, **more}
    return await floor.do(
        lambda tx: starts.start(
            tx, account_id=sender, address=address, body=body, user_id=user_id, now=floor.now, **values
        )
    )


async def sender_of(floor: Floor, channel: str) -> ChannelAccount:
    async with floor.db.reading() as tx:
        return (await accounts.list_channel(tx, channel))[0]


async def noon(floor: Floor) -> None:
    """Noon in London and late morning in New York: a legal hour for both people."""
    while floor.now.hour != 16:
        floor.clock.tick(3600)


async def test_a_text_begins_a_conversation_that_is_the_writers(floor: Floor) -> None:
    await floor.open("kim")
    await noon(floor)
    contact = await floor.person("Ana", ANA)
    begun = await start(floor, phone(ANA), "Your parcel is here.")
    thread = begun.conversation
    assert (begun.joined, thread.contact_id, thread.assigned_user_id, thread.peer) == (False, contact, "kim", ANA)
    assert (begun.interaction.delivery, begun.interaction.agent_id) == ("queued", "kim")
    assert begun.interaction.data["purpose"] == "service", "the binding gate asks for the same purpose"
    (task,) = [task for task in await floor.outbox() if task.kind == "text.send"]
    assert task.subject_id == begun.interaction.id
    async with floor.db.reading() as tx:
        (touch,) = await tx.all(select(Touch))
    assert (touch.purpose, touch.allowed, touch.interaction_id) == ("service", True, begun.interaction.id)
    await floor.beat("kim")
    await floor.text("Thank you!")  # comes straight to whoever wrote
    entry = await floor.entry()
    assert (entry.conversation_id, entry.agent_id, entry.state) == (thread.id, "kim", "connected")
    await floor.check()


async def test_a_second_text_joins_the_open_thread(floor: Floor) -> None:
    await floor.open("kim", "lee")
    await noon(floor)
    await floor.text("Hello?")
    async with floor.db.reading() as tx:
        (known,) = await tx.all(select(Conversation))
        account = await accounts.get(tx, known.account_id)
        assert await starts.list_purposes(tx, account, phone(ANA)) == list(starts.PURPOSES)
        assert Purpose.REPLY not in await starts.list_purposes(tx, account, phone(BEN))
    joined = await start(floor, phone(ANA), "Hi Ana", purpose=Purpose.REPLY)
    assert (joined.joined, joined.conversation.id) == (True, known.id)
    assert ((await floor.entry()).agent_id, (await floor.entry()).state) == ("kim", "connected")
    again = await start(floor, phone(ANA), "And more", user_id="lee")
    assert again.conversation.assigned_user_id == "kim", "of a colleague's work nothing is taken away"
    await floor.check()


async def test_what_is_being_offered_to_a_colleague_is_left_alone(small_floor: Floor) -> None:
    await small_floor.open("kim", "lee")
    await noon(small_floor)
    for who in ("kim", "lee"):
        await small_floor.beat(who)
    await small_floor.text("Hello?")
    await small_floor.tick()
    (offer,) = await small_floor.live_offers()
    with pytest.raises(Conflict):
        await start(small_floor, phone(ANA), user_id="lee" if offer.agent_id == "kim" else "kim")


async def test_a_mail_begins_a_thread_of_its_own_and_its_answer_joins(floor: Floor) -> None:
    await floor.open("kim")
    contact = await floor.person("Ana", ANA, email("ana@example.com").value)
    first = await start(floor, email("ana@example.com"), "Your invoice.", subject=" Invoice\n 7 ")
    other = await start(floor, email("ana@example.com"), "Something else.", subject="Another matter")
    assert first.conversation.id != other.conversation.id
    assert (first.conversation.subject, first.conversation.contact_id) == ("Invoice 7", contact)
    async with floor.db.reading() as tx:
        thread = await tx.one(select(Conversation).where(Conversation.id == first.conversation.id))
    assert thread is not None
    assert first.interaction.data["reply_to"] == thread_address(MAILBOX, thread.thread_token)
    answer = MailArrived(
        event_key="k", message_id="<a@example.com>", from_address="ana@example.com", from_name="Ana", to=(MAILBOX,), cc=(),
        reply_to="", subject="Re: Invoice 7", sent_at=None, in_reply_to=first.interaction.external_id, references=(),
        text="Thanks", html="", files=(), automatic="", headers={}, raw=b"",
    )  # fmt: skip
    mailbox = await sender_of(floor, "email")
    await floor.do(lambda tx: router.mail_arrived(tx, answer, account=mailbox, html_key="", files=(), now=floor.now))
    assert (await floor.entry()).conversation_id == first.conversation.id


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"body": "  "}, "body"),
        ({"body": "x" * 1601}, "body"),
        ({"purpose": Purpose.REPLY}, "purpose"),
        ({"purpose": Purpose.SYSTEM}, "purpose"),
    ],
)
async def test_what_cannot_be_sent_says_which_field(small_floor: Floor, change: dict[str, Any], field: str) -> None:
    await small_floor.open("kim")
    await noon(small_floor)
    with pytest.raises(Invalid) as wrong:
        await start(small_floor, phone(ANA), **change)
    assert field in wrong.value.fields
    assert await small_floor.outbox() == []


async def test_an_address_must_be_theirs_and_the_sender_must_fit(small_floor: Floor) -> None:
    await small_floor.open("kim")
    contact = await small_floor.person("Ana", ANA)
    with pytest.raises(Invalid) as wrong:
        await start(small_floor, phone(BEN), contact_id=contact)
    assert "to" in wrong.value.fields
    mailbox = (await sender_of(small_floor, "email")).id
    with pytest.raises(Invalid) as wrong:
        await start(small_floor, phone(ANA), sender=mailbox)
    assert "sender" in wrong.value.fields
    with pytest.raises(Invalid) as wrong:
        await start(small_floor, email("ana@example.com"), subject="  ")
    assert "subject" in wrong.value.fields


async def test_the_gate_is_asked_with_the_purpose(small_floor: Floor) -> None:
    await small_floor.open("kim")
    await noon(small_floor)
    with pytest.raises(Refused) as refused:
        await start(small_floor, phone(ANA), "Buy one, get one", purpose=Purpose.MARKETING)
    assert refused.value.rule == "consent"
    account = await sender_of(small_floor, "sms")
    await small_floor.do(
        lambda tx: consent.opt_out(
            tx, phone(ANA), channel="sms", sender=account.id, reason=SuppressionReason.SENDER_STOP, source="sms_keyword",
            evidence={"text": "STOP"}, actor="customer", now=small_floor.now,
        )
    )  # fmt: skip
    with pytest.raises(Refused) as refused:
        await start(small_floor, phone(ANA))
    assert refused.value.rule == "sender_stop"
    assert await small_floor.outbox() == []
    async with small_floor.db.reading() as tx:
        assert await tx.all(select(Conversation)) == [], "a refusal leaves no empty conversation"


async def test_the_same_person_keeps_the_same_sender(floor: Floor) -> None:
    await floor.open("kim")
    await noon(floor)
    second = ChannelAccount(
        id="acc-second", channel="sms", name="Second", address="+442079460077", country="GB", created_at=floor.now
    )
    await floor.do(lambda tx: tx.add(second))

    async def last() -> str:
        async with floor.db.reading() as tx:
            return await starts.last_sender(tx, phone(ANA))

    assert await last() == ""
    await start(floor, phone(ANA), sender="acc-second")
    assert await last() == "acc-second"
    floor.clock.tick(60)
    await floor.text("Hello")  # to the first number: that is where they are now
    assert await last() == "acc-sms"
