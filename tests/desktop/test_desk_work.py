"""The work screen's acts over HTTP: answer, refusal, draft, note, identify, new contact, edit on the line, wrap-up."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from sqlmodel import select

from channels.contract import CallArrived, MessageArrived
from crm_core import consent, contacts, drafts, interactions
from crm_core.accounts import ChannelAccount
from crm_core.addresses import phone
from crm_core.consent import SuppressionReason
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.interactions import Disposition
from crm_core.users import Role, User
from hub.desktop.work import coded
from hub.runtime import Runtime
from routing import desk, entries, offering, router
from routing.queues import Queue, QueueEntry, QueueMember
from tests.apps import Visitor, add_user

ANA, OURS = "+12025550101", "+442079460000"


@dataclass
class Talk:
    """A text from Ana in Amy's hands."""

    amy: User
    conversation: str
    entry: str
    contact: str


@pytest.fixture
async def talk(runtime: Runtime, visitor: Visitor) -> Talk:
    """Amy is logged in and has accepted a text from somebody known."""
    amy = await add_user(runtime, "amy", [Role.AGENT])
    now = runtime.clock.now()

    async def house(tx: Tx) -> str:
        queue = await tx.add(Queue(id=new_id(now), name="Support"))
        await tx.add(QueueMember(queue_id=queue.id, user_id=amy.id))
        await tx.add(
            ChannelAccount(id=new_id(now), channel="sms", name="Texts", address=OURS, queue_id=queue.id, created_at=now)
        )
        await tx.add(Disposition(key="resolved", label="Resolved"))
        await desk.set_activity(tx, amy.id, "available", now=now)
        return (await contacts.create(tx, name="Ana Example", now=now, source="test", points=[phone(ANA)])).id

    contact = await runtime.db.write(house)
    await arrive(runtime, "Where is my <b>order</b>?")

    async def take(tx: Tx) -> tuple[str, str]:
        conversation = await tx.one(select(Conversation))
        assert conversation is not None
        entry = await entries.find_open(tx, conversation.id)
        assert entry is not None
        await entries.take(tx, entry, await entries.agents.lock(tx, amy.id), now=now)
        return conversation.id, entry.id

    conversation, entry = await runtime.db.write(take)
    await visitor.log_in("amy")
    return Talk(amy, conversation, entry, contact)


async def arrive(runtime: Runtime, body: str, sender: str = ANA) -> None:
    """A text to our number."""
    event = MessageArrived(
        external_id=f"SM{new_id(runtime.clock.now())}", from_raw=sender, to_raw=OURS, body=body, media=[], opt_out="",
        event_key=new_id(runtime.clock.now()), raw={},
    )  # fmt: skip
    await runtime.db.write(lambda tx: router.message_arrived(tx, event, now=runtime.clock.now()))


async def post(visitor: Visitor, path: str, **form: str) -> tuple[int, str]:
    status, text = await visitor.ask("POST", path, data=form, headers={"Accept": "text/html", "HX-Request": "true"})
    return status, str(text)


async def test_the_screen_shows_who_what_and_before(talk: Talk, visitor: Visitor) -> None:
    status, text = await visitor.ask("GET", f"/desk/work/{talk.conversation}", headers={"Accept": "text/html"})
    assert status == 200
    assert "Ana Example" in text
    assert "Where is my &lt;b&gt;order&lt;/b&gt;?" in text
    assert "<b>order" not in text
    assert "90 % certain" in text


async def test_an_answer_goes_out_and_the_box_is_empty(talk: Talk, runtime: Runtime, visitor: Visitor) -> None:
    status, text = await post(visitor, f"/desk/work/{talk.conversation}/reply", body="On its way.")
    assert status == 200
    assert "On its way." not in text
    async with runtime.db.reading() as tx:
        latest = (await interactions.list_timeline(tx, conversation_id=talk.conversation))[0]
    assert (latest.body, latest.direction, latest.agent_id) == ("On its way.", "outbound", talk.amy.id)


async def test_a_refused_answer_says_why_and_loses_nothing(talk: Talk, runtime: Runtime, visitor: Visitor) -> None:
    now = runtime.clock.now()
    async with runtime.db.reading() as tx:
        account = await tx.one(select(ChannelAccount))
    assert account is not None
    await runtime.db.write(
        lambda tx: consent.opt_out(
            tx, phone(ANA), channel="sms", sender=account.id, reason=SuppressionReason.SENDER_STOP, source="sms_keyword",
            evidence={"text": "STOP"}, actor="customer", now=now,
        )
    )  # fmt: skip
    status, text = await post(visitor, f"/desk/work/{talk.conversation}/reply", body="Are you sure?")
    assert status == 422
    assert "STOP" in text
    assert "Are you sure?" in text
    async with runtime.db.reading() as tx:
        kept = await drafts.find(tx, user_id=talk.amy.id, conversation_id=talk.conversation)
        timeline = await interactions.list_timeline(tx, conversation_id=talk.conversation)
    assert kept is not None
    assert kept.body == "Are you sure?"
    assert len(timeline) == 1


async def test_a_consent_that_was_taken_back_is_not_shown_as_one(
    talk: Talk, runtime: Runtime, visitor: Visitor
) -> None:
    now, card = runtime.clock.now(), f"/desk/work/{talk.conversation}/person"
    await runtime.db.write(
        lambda tx: consent.grant(
            tx, phone(ANA), channel="sms", purpose="marketing", source="form:x", evidence={"text": "Yes"}, actor="c", now=now
        )
    )  # fmt: skip
    assert "marketing · SMS" in str((await visitor.ask("GET", card))[1])
    await runtime.db.write(
        lambda tx: consent.opt_out(
            tx, phone(ANA), purpose="marketing", source="sms_keyword", evidence={"text": "STOP"}, actor="c", now=now
        )
    )
    text = str((await visitor.ask("GET", card))[1])
    assert ("marketing · SMS" in text, "opted out" in text) == (False, True)


async def test_what_is_typed_is_kept_and_counted(talk: Talk, runtime: Runtime, visitor: Visitor) -> None:
    status, text = await post(visitor, f"/desk/work/{talk.conversation}/draft", body="x" * 161)
    assert (status, text) == (200, "161/306 · 2 parts")
    status, text = await post(visitor, f"/desk/work/{talk.conversation}/draft", body="你好")
    assert text == "2/70 · 1 part · special characters"
    _, page = await visitor.ask("GET", f"/desk/work/{talk.conversation}", headers={"Accept": "text/html"})
    assert "你好" in page
    await post(visitor, f"/desk/work/{talk.conversation}/draft", body="")
    async with runtime.db.reading() as tx:
        assert await drafts.find(tx, user_id=talk.amy.id, conversation_id=talk.conversation) is None


async def test_a_stranger_becomes_a_contact_while_talking(talk: Talk, runtime: Runtime, visitor: Visitor) -> None:
    await arrive(runtime, "Hello", sender="+12025550188")
    async with runtime.db.reading() as tx:
        stranger = await tx.one(select(Conversation).where(Conversation.peer == "+12025550188"))
    assert stranger is not None
    status, text = await post(visitor, f"/desk/work/{stranger.id}/new-contact", name="", more="")
    assert status == 422
    status, text = await post(
        visitor, f"/desk/work/{stranger.id}/new-contact", name="Bo <i>Sample</i>", more="bo@example.com"
    )
    assert status == 200
    assert "Bo &lt;i&gt;Sample&lt;/i&gt;" in text
    async with runtime.db.reading() as tx:
        owners = await contacts.list_owners(tx, phone("+12025550188"))
        touches = await interactions.list_timeline(tx, conversation_id=stranger.id)
    assert [contact.name for contact, _ in owners] == ["Bo <i>Sample</i>"]
    assert {touch.contact_id for touch in touches} == {owners[0][0].id}


async def test_a_field_is_edited_on_its_line_and_nobody_is_overwritten(
    talk: Talk, runtime: Runtime, visitor: Visitor
) -> None:
    path = f"/desk/contacts/{talk.contact}/field/job_title"
    _, form = await visitor.ask("GET", path, headers={"Accept": "text/html"})
    version = re.search(r'name="version" value="(\d+)"', str(form))
    assert version is not None
    status, text = await post(visitor, path, value="Buyer", version=version[1])
    assert status == 200
    assert "Buyer" in text
    # A colleague who opened the line before that is told, and their value is not stored.
    status, text = await post(visitor, path, value="Driver", version=version[1])
    assert status == 409
    assert "changed this contact meanwhile" in text
    assert "Buyer" in text
    status, text = await post(visitor, f"/desk/contacts/{talk.contact}/field/zone", value="Mars/Olympus", version="2")
    assert status == 422
    assert "Mars/Olympus" in text


async def test_wrap_up_needs_an_outcome_and_ends_the_work(talk: Talk, runtime: Runtime, visitor: Visitor) -> None:
    path = f"/desk/work/{talk.conversation}/finish"
    status, text = await post(visitor, path, entry=talk.entry, notes="so far")
    assert status == 422
    assert "Choose how it ended." in text
    assert "so far" in text
    status, _ = await post(visitor, path, entry=talk.entry, disposition="resolved", notes="All good")
    assert status == 200
    async with runtime.db.reading() as tx:
        entry = await entries.get(tx, talk.entry)
        first = await interactions.get(tx, entry.interaction_id)
    assert (entry.state, first.disposition, first.notes) == ("done", "resolved", "All good")
    # A second click changes nothing.
    status, _ = await post(visitor, path, entry=talk.entry, disposition="other", notes="Twice")
    assert status == 200
    async with runtime.db.reading() as tx:
        assert (await interactions.get(tx, entry.interaction_id)).notes == "All good"


async def test_a_panel_that_was_opened_for_other_work_stays_closed(talk: Talk, visitor: Visitor) -> None:
    """Who wrote an outcome for the call before, and is in the next one with the same person, needs the keys for the call."""
    panel = f"/desk/work/{talk.conversation}/wrapup"
    for query, opened in (
        ("", False),
        ("?entry=of-the-call-before", False),
        (f"?entry={talk.entry}", True),
        ("?open=1", True),
    ):
        status, text = await visitor.ask("GET", panel + query, headers={"Accept": "text/html"})
        assert (status, f'value="{talk.entry}"' in text) == (200, opened), query


async def test_colleagues_conversations_are_not_there(talk: Talk, runtime: Runtime, visitor: Visitor) -> None:
    await add_user(runtime, "zoe", [Role.AGENT])
    await visitor.log_in("zoe")
    for path in ("", "/timeline", "/person", "/wrapup", "/who?q=ana"):
        status, _ = await visitor.ask("GET", f"/desk/work/{talk.conversation}{path}")
        assert status == 404, path
    for path in ("reply", "note", "draft", "snooze", "close", "finish", "identify", "new-contact"):
        status, _ = await post(visitor, f"/desk/work/{talk.conversation}/{path}", body="x", name="x")
        assert status == 404, path


def test_codes_are_two_letters_and_unique() -> None:
    labels = ["No answer", "Not interested", "Not a number", "Nobody", "Sale", "Salesman", "Wrong number", "?"]
    choices = coded([Disposition(key=f"k{n}", label=label) for n, label in enumerate(labels)])
    codes = [choice.code for choice in choices]
    assert len(set(codes)) == len(codes)
    assert all(len(code) == 2 for code in codes)
    assert codes[0] == "na"


async def test_an_accepted_offer_is_no_offer_any_more(runtime: Runtime, visitor: Visitor, talk: Talk) -> None:
    """Between accepting and being together the activity says that it is being connected, never "Offer"."""
    now = runtime.clock.now()

    async def offered(tx: Tx) -> str:
        queue = await tx.one(select(Queue))
        assert queue is not None
        await tx.add(
            ChannelAccount(
                id=new_id(now), channel="voice", name="Line", address="+442079460009", queue_id=queue.id, created_at=now
            )
        )
        event = CallArrived("CA1", ANA, "+442079460009", "CA1:arrived", {}, {})
        await router.call_arrived(tx, event, now=now)
        call = await tx.one(select(QueueEntry).where(QueueEntry.kind == "voice"))
        assert call is not None
        agent = await entries.agents.lock(tx, talk.amy.id)
        return (await offering.offer(tx, call, agent, trace={}, queue=queue, now=now)).id

    offer_id = await runtime.db.write(offered)
    assert "Offer" in (await visitor.ask("GET", "/desk/frame/activity"))[1]
    await runtime.db.write(lambda tx: desk.accept(tx, offer_id, agent_id=talk.amy.id, now=now))
    text = (await visitor.ask("GET", "/desk/frame/activity"))[1]
    assert "Connecting" in text
    assert ">Offer<" not in text
