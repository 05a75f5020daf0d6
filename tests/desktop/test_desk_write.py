"""The form behind “Write”: from a card or to a stranger, sent once, refused with the rule and what to do."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

import pytest
from sqlmodel import select

from crm_core import consent, contacts, conversations
from crm_core.accounts import ChannelAccount
from crm_core.addresses import email, phone
from crm_core.clock import FixedClock
from crm_core.consent import SuppressionReason
from crm_core.conversations import Conversation
from crm_core.db import Database, Tx
from crm_core.interactions import Interaction
from crm_core.touches import Touch
from crm_core.users import Role, User
from hub.api import replays
from hub.api.replays import ApiReplay
from hub.runtime import Runtime
from routing.queues import Queue, QueueMember
from tests.apps import Visitor, add_user

ANA, BEN, OURS = "+12025550101", "+12025550102", "+442079460000"
KEY = "k" * 22


@dataclass
class Desk:
    """Amy, who serves one queue with a number and a mailbox; and a number of a queue that she does not serve."""

    amy: User
    contact: str


@pytest.fixture
async def desk(runtime: Runtime, visitor: Visitor) -> Desk:
    """Late morning where Ana is."""
    assert isinstance(runtime.clock, FixedClock)
    while runtime.clock.now().hour != 16:
        runtime.clock.tick(3600)
    amy = await add_user(runtime, "amy", [Role.AGENT])
    now = runtime.clock.now()

    async def unit(tx: Tx) -> str:
        for queue in ("mine", "theirs"):
            await tx.add(Queue(id=queue, name=queue.title()))
        await tx.add(QueueMember(queue_id="mine", user_id=amy.id))
        for ident, channel, address, queue in (
            ("texts", "sms", OURS, "mine"), ("other", "sms", "+442079460001", "theirs"),
            ("box", "email", "support@example.test", "mine"),
        ):  # fmt: skip
            await tx.add(
                ChannelAccount(id=ident, channel=channel, name=ident, address=address, queue_id=queue, created_at=now)
            )
        points = [phone(ANA), email("ana@example.com")]
        return (await contacts.create(tx, name="Ana <b>Example", now=now, source="test", points=points)).id

    contact = await runtime.db.write(unit)
    await visitor.log_in("amy")
    return Desk(amy, contact)


async def post(visitor: Visitor, path: str = "/desk/messages/new", **form: str) -> tuple[int, str]:
    """One form, as htmx sends it; where it leads is not followed."""
    status, text = await visitor.ask("POST", path, data=form, headers={"Accept": "text/html", "HX-Request": "true"})
    return status, str(text)


async def sent(runtime: Runtime) -> list[Interaction]:
    async with runtime.db.reading() as tx:
        return await tx.all(select(Interaction))


async def test_the_card_leads_to_a_form_that_knows_whom_and_from_where(desk: Desk, visitor: Visitor) -> None:
    _, card = await visitor.ask("GET", f"/desk/contacts/{desk.contact}", headers={"Accept": "text/html"})
    assert f"/desk/messages/new?contact={desk.contact}" in card
    status, page = await visitor.ask(
        "GET", f"/desk/messages/new?contact={desk.contact}", headers={"Accept": "text/html"}
    )
    assert status == 200
    assert "Ana &lt;b&gt;Example" in page
    assert 'value="texts" selected' in page
    assert 'value="other"' not in page, "a number of a queue that she does not serve"
    assert 'value="service"' in page
    assert 'value="reply"' not in page, "nobody wrote to us"
    assert "data-segments" in page


async def test_another_address_changes_the_form_and_keeps_what_was_typed(desk: Desk, visitor: Visitor) -> None:
    status, text = await post(
        visitor,
        "/desk/messages/form",
        contact=desk.contact,
        to="ana@example.com",
        sender="texts",
        body="Dear Ana",
        once=KEY,
    )
    assert status == 200
    assert 'value="box" selected' in text
    assert 'name="subject"' in text
    assert "Dear Ana" in text
    assert KEY in text
    assert "data-segments" not in text


async def test_write_has_a_key_of_its_own(desk: Desk, visitor: Visitor) -> None:
    """`w` finishes work; the card's letter is another one, and the list of keys names it."""
    status, card = await visitor.ask("GET", f"/desk/contacts/{desk.contact}", headers={"Accept": "text/html"})
    assert status == 200
    assert f'<a class="btn" href="/desk/messages/new?contact={desk.contact}" data-key="c">' in card
    assert 'data-key="w"' not in card
    assert "<kbd>c</kbd></td><td>On a card: write to them</td>" in card
    assert "<kbd>w</kbd></td><td>Finish: disposition</td>" in card


async def test_a_double_click_sends_once(desk: Desk, runtime: Runtime, visitor: Visitor) -> None:
    form = {
        "contact": desk.contact, "to": ANA, "sender": "texts", "purpose": "service", "body": "Your parcel is here.", "once": KEY,
    }  # fmt: skip
    assert (await post(visitor, **form))[0] == 303
    assert (await post(visitor, **form))[0] == 303
    (message,) = await sent(runtime)
    assert (message.body, message.agent_id, message.contact_id) == ("Your parcel is here.", desk.amy.id, desk.contact)
    assert (await post(visitor, **{**form, "once": "j" * 22}))[0] == 303, "meant twice is sent twice"
    assert len(await sent(runtime)) == 2
    async with runtime.db.reading() as tx:
        (thread,) = await tx.all(select(Conversation))
    status, page = await visitor.ask("GET", f"/desk/work/{thread.id}", headers={"Accept": "text/html"})
    assert status == 200
    assert "Your parcel is here." in page


async def test_a_number_that_nobody_has_is_called_from_the_search_and_the_police_is_not(
    desk: Desk, visitor: Visitor
) -> None:
    for path in ("/desk/search/found", "/desk/search"):
        _, found = await visitor.ask("GET", f"{path}?q=%2B1%20202%20555%200177", headers={"Accept": "text/html"})
        assert 'data-phone-do="dial" data-to="+12025550177"' in found
        _, found = await visitor.ask("GET", f"{path}?q=999", headers={"Accept": "text/html"})
        assert "Use another telephone, now." in found
        assert 'data-phone-do="dial"' not in found


async def test_a_mail_goes_to_a_stranger(desk: Desk, runtime: Runtime, visitor: Visitor) -> None:
    status, found = await visitor.ask("GET", "/desk/search/found?q=new%40example.com", headers={"Accept": "text/html"})
    assert "/desk/messages/new?to=new%40example.com" in found
    status, page = await visitor.ask("GET", "/desk/messages/new?to=new%40example.com", headers={"Accept": "text/html"})
    assert (status, 'value="box" selected' in page) == (200, True)
    form = {"to": "new@example.com", "sender": "box", "purpose": "transactional", "body": "Your receipt"}
    status, text = await post(visitor, **form)
    assert status == 422
    assert "subject" in text.lower()
    assert "Your receipt" in text
    assert (await post(visitor, subject="Receipt", **form))[0] == 303
    (message,) = await sent(runtime)
    assert (message.channel, message.subject, message.data["purpose"]) == ("email", "Receipt", "transactional")


async def test_a_refusal_names_the_rule_and_the_way_out(desk: Desk, runtime: Runtime, visitor: Visitor) -> None:
    form = {"contact": desk.contact, "to": ANA, "sender": "texts", "body": "50 % off!", "once": KEY}
    status, text = await post(visitor, purpose="marketing", **form)
    assert status == 422
    assert "no proof of consent" in text
    assert "choose the purpose that fits" in text
    assert "50 % off!" in text
    now = runtime.clock.now()
    await runtime.db.write(
        lambda tx: consent.opt_out(
            tx, phone(ANA), channel="sms", sender="texts", reason=SuppressionReason.SENDER_STOP, source="sms_keyword",
            evidence={"text": "STOP"}, actor="customer", now=now,
        )
    )  # fmt: skip
    status, text = await post(visitor, purpose="service", **form)
    assert (status, "Phone them or write a mail" in text) == (422, True)
    assert await sent(runtime) == []
    async with runtime.db.reading() as tx:
        refused = await tx.all(select(Touch))
        assert await tx.all(select(Conversation)) == []
    assert [(touch.rule, touch.allowed) for touch in refused] == [("consent", False), ("sender_stop", False)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"to": "call me"}, "mail address"),
        ({"sender": "other"}, "may not write from this sender"),
        ({"sender": "acc-nowhere"}, "may not write from this sender"),
        ({"purpose": "fun"}, "Choose why you write"),
        ({"purpose": "reply"}, "no reply"),
        ({"body": " "}, "Write something first"),
        ({"body": "x" * 1601}, "1,600"),
        ({"to": BEN}, "not theirs"),
    ],
)
async def test_what_does_not_fit_is_told_and_nothing_is_lost(
    desk: Desk, runtime: Runtime, visitor: Visitor, change: dict[str, str], told: str
) -> None:
    form = {"contact": desk.contact, "to": ANA, "sender": "texts", "purpose": "service", "body": "Hello Ana", **change}
    status, text = await post(visitor, **form)
    assert status == 422
    assert told in text
    assert form["body"].strip()[:9] in text
    assert await sent(runtime) == []


async def test_a_colleagues_conversation_is_not_entered(desk: Desk, runtime: Runtime, visitor: Visitor) -> None:
    now = runtime.clock.now()
    await runtime.db.write(
        lambda tx: conversations.open_thread(
            tx, channel="sms", account_id="texts", thread_key=ANA, peer=ANA, now=now, queue_id="theirs"
        )
    )
    status, text = await post(visitor, to=ANA, sender="texts", purpose="service", body="Hello")
    assert (status, "A colleague writes with them" in text) == (422, True)


async def test_marketers_write_to_nobody_by_hand(runtime: Runtime, visitor: Visitor) -> None:
    await add_user(runtime, "mara", [Role.MARKETER])
    await visitor.log_in("mara")
    status, _ = await visitor.ask("GET", "/desk/messages/new", headers={"Accept": "text/html"})
    assert status == 403
    _, found = await visitor.ask("GET", "/desk/search/found?q=new%40example.com", headers={"Accept": "text/html"})
    assert not re.search(r"messages/new", found)


async def test_the_same_form_at_once_is_worked_once(db: Database, clock: FixedClock) -> None:
    """Two hands of the same click: one works, the other gets its answer, on each engine."""
    now, worked = clock.now(), []

    async def work(number: int) -> str:
        worked.append(number)
        return f"answer {number}"

    async def click(number: int) -> str:
        return await db.write(lambda tx: replays.once(tx, "a" * 64, lambda: work(number), now=now))

    answers = await asyncio.gather(*(click(number) for number in range(5)))
    assert len(set(answers)) == 1
    async with db.reading() as tx:
        (row,) = await tx.all(select(ApiReplay))
    assert row.answer == answers[0]
