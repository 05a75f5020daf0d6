"""Texts, mails and forms: threads, follow-ups, the words with a meaning, automatic mail, replies through the gate, leads."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from channels.contract import DeliveryReport, FormArrived, MailArrived, MessageArrived
from crm_core import accounts, consent, contacts, conversations, mail_tokens
from crm_core.accounts import Form
from crm_core.addresses import email, phone
from crm_core.consent import Purpose, may_contact
from crm_core.conversations import Conversation
from crm_core.errors import Conflict, Invalid, NotFound, Refused
from crm_core.interactions import Attachment, Interaction
from crm_core.leads import Lead
from crm_core.touches import Touch
from routing import desk, replies, router
from routing.mails import StoredFile, thread_address
from tests.routing.floor import ANA, BEN, MAILBOX, Floor


async def conversation_of(floor: Floor, interaction: Interaction | None = None) -> Conversation:
    interaction = interaction or await floor.interaction()
    async with floor.db.reading() as tx:
        return await conversations.get(tx, interaction.conversation_id)


async def reply(floor: Floor, conversation_id: str, body: str, *, agent_id: str = "kim", **more: Any) -> Interaction:
    return await floor.do(
        lambda tx: replies.reply(tx, conversation_id, agent_id=agent_id, body=body, now=floor.now, **more)
    )


async def test_a_text_is_offered_answered_and_finished(floor: Floor) -> None:
    await floor.open("kim")
    contact = await floor.person("Ana", ANA)
    await floor.text("Where is my parcel?", external_id="SM1")
    await floor.text("Where is my parcel?", external_id="SM1")
    assert len(await floor.interactions()) == 1
    await floor.tick()
    assert (await floor.accept("kim")).state == "won"
    entry = await floor.entry()
    assert (entry.lane, entry.weight, entry.contact_id) == ("text", 25, contact)
    conversation = await conversation_of(floor)
    assert conversation.assigned_user_id == "kim"
    sent = await reply(floor, conversation.id, "On its way.")
    (task,) = [task for task in await floor.outbox() if task.kind == "text.send"]
    assert (task.lane, task.subject_id, sent.delivery, sent.to_address) == ("reply", sent.id, "queued", ANA)

    await floor.text("Thanks!")  # joins the same work
    assert len(await floor.entries()) == 1
    assert (await floor.interaction()).state == "connected"
    await floor.check()
    await floor.finish("kim", entry.id)
    assert {each.state for each in await floor.interactions()} == {"ended"}
    assert (await floor.agent("kim")).text_load == 0

    floor.clock.tick(60)
    await floor.beat("kim")
    await floor.text("One more thing")  # the assigned agent gets it directly
    assert await floor.live_offers() == []
    entry = await floor.entry()
    assert (entry.state, entry.agent_id, entry.offers) == ("connected", "kim", 0)
    await floor.check()


async def test_delivery_reports_only_rise(floor: Floor) -> None:
    await floor.open("kim")
    await floor.text("Hi")
    sent = await reply(floor, (await conversation_of(floor)).id, "Hello")

    async def report(status: str, **more: str) -> bool:
        told = {"error_code": "", "error_class": "", "our_key": sent.id, **more}
        event = DeliveryReport(external_id="SMx", status=status, event_key=status, raw={}, **told)  # type: ignore[arg-type]
        return await floor.do(lambda tx: router.delivery_reported(tx, event, now=floor.now))

    assert await report("delivered")
    assert await report("sent")
    found = await floor.interaction(sent.id)
    assert (found.delivery, found.external_id) == ("delivered", "SMx")
    assert await report("read", our_key="")  # by the provider's id alone
    assert (await floor.interaction(sent.id)).delivery == "read"
    assert not await report("sent", our_key="somebody-elses")


async def test_stop_is_obeyed_at_once_and_start_undoes_exactly_that(floor: Floor) -> None:
    await floor.open("kim")
    await floor.text("Hello")
    await floor.text("Stop.")
    stopped = (await floor.interactions())[1]
    assert (stopped.state, stopped.outcome, stopped.data["keyword"]) == ("ended", "automated", "STOP")
    (confirmation,) = [task for task in await floor.outbox() if task.kind == "text.send"]
    told = await floor.interaction(confirmation.subject_id)
    assert "no more messages" in told.body
    assert told.data["purpose"] == "confirmation", "the executor asks the gate again, for the same purpose"
    conversation = await conversation_of(floor)
    with pytest.raises(Refused) as refused:
        await reply(floor, conversation.id, "But wait")
    assert refused.value.rule == "sender_stop"
    assert (await floor.entry()).state == "waiting", "a refused reply takes nothing"
    async with floor.db.reading() as tx:
        for channel, purpose in (
            ("sms", Purpose.MARKETING),
            ("voice", Purpose.TELEMARKETING),
            ("email", Purpose.MARKETING),
        ):
            verdict = await may_contact(tx, purpose=purpose, channel=channel, address=phone(ANA), now=floor.now)
            assert not verdict.allowed
            assert verdict.rule in ("opt_out", "sender_stop")
    await floor.text("START")
    assert (await reply(floor, conversation.id, "Welcome back")).delivery == "queued"
    async with floor.db.reading() as tx:
        verdict = await may_contact(tx, purpose=Purpose.MARKETING, channel="sms", address=phone(ANA), now=floor.now)
    assert verdict.rule == "opt_out", "START is no consent to marketing"
    await floor.check()


async def test_words_are_words_only_when_they_stand_alone(small_floor: Floor) -> None:
    await small_floor.open("kim")
    for body in ("Please stop by tomorrow", "yes", "I need help with my bill"):
        await small_floor.text(body)
        assert (await small_floor.interaction()).state == "waiting", body
    await small_floor.text("help")
    assert [task.kind for task in await small_floor.outbox()] == ["text.send"]
    await small_floor.text("anything", opt_out="STOP")
    assert len(await small_floor.outbox()) == 1, "the provider has answered this one itself"
    event = MessageArrived("x", ANA, "+442079460999", "hi", [], "", "x", {})
    with pytest.raises(NotFound):
        await small_floor.do(lambda tx: router.message_arrived(tx, event, now=small_floor.now))


async def test_nobody_answers_what_is_being_offered_to_a_colleague(small_floor: Floor) -> None:
    await small_floor.open("kim", "lee")
    await small_floor.text("Hi")
    conversation = await conversation_of(small_floor)
    await small_floor.tick()
    (offer,) = await small_floor.live_offers()
    other = "lee" if offer.agent_id == "kim" else "kim"
    with pytest.raises(Conflict):
        await reply(small_floor, conversation.id, "Me first", agent_id=other)
    for body in ("", "  \n"):
        with pytest.raises(Invalid):
            await reply(small_floor, conversation.id, body, agent_id=offer.agent_id)
    with pytest.raises(Invalid):
        await reply(small_floor, conversation.id, "x" * 1601, agent_id=offer.agent_id)


async def test_whoever_answers_waiting_work_has_it(floor: Floor) -> None:
    await floor.open("kim")
    await floor.text("Hi")
    conversation = await conversation_of(floor)
    await reply(floor, conversation.id, "Hello")
    entry = await floor.entry()
    assert (entry.state, entry.agent_id) == ("connected", "kim")
    await floor.do(lambda tx: replies.close(tx, conversation.id, agent_id="kim", now=floor.now, disposition="done"))
    assert (await conversation_of(floor)).state == "closed"
    assert (await floor.interactions())[0].outcome == "handled"
    await floor.text("Again")
    assert (await conversation_of(floor)).id != conversation.id
    await floor.check()


async def test_snoozed_until_then_or_until_they_write(floor: Floor) -> None:
    await floor.open("kim")
    await floor.text("Hi")
    conversation = await conversation_of(floor)
    await reply(floor, conversation.id, "Tomorrow")
    until = floor.now + timedelta(hours=1)
    await floor.do(lambda tx: replies.snooze(tx, conversation.id, agent_id="kim", until=until, now=floor.now))
    assert (await conversation_of(floor)).state == "snoozed"
    assert await floor.tick() == floor.now + timedelta(seconds=30)  # the agent's heartbeat is due before
    await floor.later(3601, beats=("kim",))
    assert (await conversation_of(floor)).state == "open"


def mail(message_id: str, **more: Any) -> MailArrived:
    fields: dict[str, Any] = {
        "event_key": message_id, "message_id": message_id, "from_address": "ana@example.com", "from_name": "Ana Example",
        "to": [MAILBOX], "cc": [], "reply_to": "", "subject": "Invoice", "sent_at": None, "in_reply_to": "",
        "references": [], "text": "Please help.", "html": "", "files": [], "automatic": "", "headers": {}, "raw": b"",
    }  # fmt: skip
    return MailArrived(**{**fields, **more})


async def post(floor: Floor, event: MailArrived, *files: StoredFile, html_key: str = "") -> Interaction:
    async def unit(tx: Any) -> None:
        account = await accounts.get(tx, "acc-email")
        await router.mail_arrived(tx, event, account=account, html_key=html_key, files=files, now=floor.now)

    await floor.do(unit)
    return await floor.interaction()


async def test_a_mail_thread(floor: Floor) -> None:
    await floor.open("kim")
    ana = await floor.person("Ana", "ana@example.com")
    file = StoredFile("bill.pdf", "application/pdf", 4711, "mail/1/bill.pdf")
    first = await post(floor, mail("<1@example.com>"), file, html_key="mail/1.html")
    await post(floor, mail("<1@example.com>"), file)
    assert len(await floor.interactions()) == 1
    assert (first.contact_id, first.html_key, first.state) == (ana, "mail/1.html", "waiting")
    async with floor.db.reading() as tx:
        (kept,) = await tx.all(select(Attachment))
    assert (kept.interaction_id, kept.size) == (first.id, 4711)
    await floor.tick()
    await floor.accept("kim")
    floor.clock.tick(1)
    sent = await reply(floor, first.conversation_id, "Here it is.")
    assert (sent.subject, sent.to_address, sent.data["in_reply_to"]) == (
        "Re: Invoice",
        "ana@example.com",
        "<1@example.com>",
    )
    mark = mail_tokens.read(sent.external_id)
    assert mark is not None
    assert sent.external_id == f"<{sent.id}.{mark.proof}.m@example.test>"
    conversation = await conversation_of(floor, first)
    assert sent.data["reply_to"] == thread_address(MAILBOX, conversation.thread_token)
    floor.clock.tick(1)
    answer = await post(floor, mail("<2@example.com>", in_reply_to=sent.external_id, references=["<1@example.com>"]))
    assert (answer.conversation_id, answer.state) == (first.conversation_id, "connected")
    assert len(await floor.entries()) == 1
    floor.clock.tick(1)
    again = await reply(floor, first.conversation_id, "And this.")
    assert again.data["references"] == ["<1@example.com>", sent.external_id, "<2@example.com>"]
    await floor.check()


async def test_who_may_join_a_thread(floor: Floor) -> None:
    await floor.open("kim")
    first = await post(floor, mail("<1@example.com>"))
    conversation = await conversation_of(floor, first)
    floor.clock.tick(1)
    stranger = await post(
        floor,
        mail("<2@evil.example>", from_address="eve@example.com", in_reply_to="<1@example.com>", subject="Re: Invoice"),
    )
    assert stranger.conversation_id != first.conversation_id, "headers alone are guessed easily"
    floor.clock.tick(1)
    subject = await post(floor, mail("<3@example.com>", subject="Re: Invoice"))
    assert subject.conversation_id != first.conversation_id, "a subject joins nothing"
    floor.clock.tick(1)
    address = thread_address(MAILBOX, conversation.thread_token).lower()
    forwarded = await post(floor, mail("<4@example.com>", from_address="bob@example.com", to=[address]))
    assert forwarded.conversation_id == first.conversation_id
    floor.clock.tick(1)
    bob = await post(floor, mail("<5@example.com>", from_address="bob@example.com", in_reply_to="<4@example.com>"))
    assert bob.conversation_id == first.conversation_id, "he takes part now"


async def test_automatic_mail_is_kept_and_answered_by_nobody(floor: Floor) -> None:
    await floor.open("kim")
    found = await post(floor, mail("<1@example.com>", automatic="auto-submitted", subject="Out\x00of office"))
    assert found.subject == "Outof office"
    assert (found.state, found.outcome, found.data["automatic"]) == ("ended", "automated", "auto-submitted")
    assert await floor.entries() == []
    assert (await floor.conservation())["automated"] == 1
    async with floor.db.reading() as tx:
        assert await tx.all(select(contacts.Contact)) == []
    await floor.check()


async def test_a_reply_goes_where_the_mail_wants_it(small_floor: Floor) -> None:
    await small_floor.open("kim")
    first = await post(small_floor, mail("<1@example.com>", reply_to="desk@example.com"))
    sent = await reply(small_floor, first.conversation_id, "Hello", subject="One\r\nBcc: all@example.com")
    assert (sent.to_address, sent.subject) == ("desk@example.com", "One Bcc: all@example.com")


async def submit(floor: Floor, key: str, **fields: str) -> Lead:
    event = FormArrived("contact", fields, key, "203.0.113.9")

    async def unit(tx: Any) -> Lead:
        form = await tx.one(select(Form).where(Form.id == "form"))
        return await router.form_arrived(tx, event, form=form, now=floor.now)

    return await floor.do(unit)


FIELDS = {"name": "Ana Example", "phone": ANA, "email": "ana@example.com", "message": "Call me"}


async def test_the_same_form_twice_is_one_lead_and_one_offer(floor: Floor) -> None:
    await floor.open("kim")
    first = await submit(floor, "k1", **FIELDS)
    again = await submit(floor, "k1", **FIELDS)
    retyped = await submit(floor, "k2", **{**FIELDS, "message": "  call   ME "})
    assert first.id == again.id == retyped.id
    assert len(await floor.entries()) == 1
    floor.clock.tick(601)
    later = await submit(floor, "k3", **FIELDS)
    assert later.id != first.id
    assert later.contact_id == first.contact_id, "matched, not made again"
    await floor.check()


async def test_a_lead_is_called_back_by_click(floor: Floor) -> None:
    await floor.open("kim")
    lead = await submit(floor, "k1", **FIELDS)
    await floor.tick()
    assert (await floor.accept("kim")).state == "won"
    entry = await floor.entry()
    assert (entry.kind, entry.lane, entry.state) == ("webform", "live", "connected")
    call = await floor.dial("kim", ANA)
    assert call.entry_id == entry.id
    _, theirs = await floor.ring_out("kim", call)
    await floor.room(call.id, "join", theirs, "customer")
    async with floor.db.reading() as tx:
        found = await tx.one(select(Lead).where(Lead.id == lead.id))
    assert found is not None
    assert (found.stage, found.first_touch_at) == ("contacted", floor.now)
    await floor.check()
    await floor.status(theirs, "completed")
    assert {each.state for each in await floor.interactions()} == {"wrapup"}
    await floor.finish("kim", entry.id)
    assert {(each.state, each.outcome) for each in await floor.interactions()} == {("ended", "handled")}
    await floor.check()


async def test_consent_is_kept_with_its_proof_and_only_when_ticked(floor: Floor) -> None:
    await floor.open()
    await submit(floor, "k1", **FIELDS)
    async with floor.db.reading() as tx:
        assert not await consent.has_consent(tx, email("ana@example.com"), channel="email", purpose=Purpose.MARKETING)
    floor.clock.tick(1)
    await submit(floor, "k2", **FIELDS, consent="on")
    async with floor.db.reading() as tx:
        assert await consent.has_consent(tx, email("ana@example.com"), channel="email", purpose=Purpose.MARKETING)
        _, ledger = await consent.list_for(tx, email("ana@example.com"))
        touched = await tx.all(select(Touch))
    assert ledger[0].evidence["text"] == "You may write to me."
    assert ledger[0].evidence["form_version"] == 1
    assert len(touched) == 4


async def test_a_form_names_an_existing_person_but_changes_nothing_about_them(floor: Floor) -> None:
    await floor.open()
    known = await floor.person("Ana Example", ANA)
    lead = await submit(floor, "k1", **{**FIELDS, "name": "Mallory", "email": "mallory@example.com"})
    assert lead.contact_id == known
    async with floor.db.reading() as tx:
        person = await contacts.get(tx, known)
        points = await contacts.list_points(tx, known)
    assert (person.name, [point.value for point, _ in points]) == ("Ana Example", [ANA])
    with pytest.raises(Invalid):
        await submit(floor, "k2", name="Nobody", message="hi", phone="12")
    new = await submit(floor, "k3", name="Ben", phone=BEN, message="hi")
    assert new.contact_id != known
    await floor.check()


async def test_going_off_with_mails_and_texts_leaves_room_for_calls(floor: Floor) -> None:
    await floor.open("kim")
    for number in range(6):
        await floor.text("Hi", f"+1202555010{number}")
    await floor.tick()
    agent = await floor.agent("kim")
    assert agent.text_load == 100
    for offer in await floor.live_offers("kim"):
        await floor.accept("kim", offer.id)
    await floor.call("+12025550199")
    await floor.tick()
    (ringing,) = await floor.live_offers("kim")
    await floor.do(lambda tx: desk.refuse(tx, ringing.id, agent_id="kim", now=floor.now))
    await floor.check()
