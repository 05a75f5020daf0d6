"""A long conversation: its end first, earlier parts on demand, and what was fetched stays when something new arrives."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest
from sqlmodel import col, select, update

from crm_core.accounts import ChannelAccount
from crm_core.clock import FixedClock
from crm_core.conversations import Conversation
from crm_core.db import Database, Tx
from crm_core.ids import new_id
from crm_core.interactions import Interaction, Note
from crm_core.users import Role, User
from hub.desktop import timeline
from hub.runtime import Runtime
from tests.apps import Visitor, add_user


async def long_talk(db: Database, now: datetime, number: int) -> str:
    """A conversation with `number` texts, a minute between them, and a note beside every tenth."""

    async def unit(tx: Tx) -> str:
        account = await tx.add(
            ChannelAccount(id=new_id(now), channel="sms", name="Texts", address="+442079460000", created_at=now)
        )
        talk = await tx.add(
            Conversation(
                id=new_id(now), channel="sms", account_id=account.id, peer="+12025550101", thread_key="t",
                thread_token="t", created_at=now, last_at=now,
            )
        )  # fmt: skip
        for place in range(number):
            at = now - timedelta(minutes=number - place)
            await tx.add(
                Interaction(
                    id=new_id(at), channel="sms", direction="inbound", state="ended", outcome="handled",
                    account_id=account.id, conversation_id=talk.id, from_address="+12025550101",
                    to_address="+442079460000", body=f"text {place}", created_at=at, first_arrival_at=at, ended_at=at,
                )
            )  # fmt: skip
            if place % 10 == 0:
                await tx.add(
                    Note(id=new_id(at), conversation_id=talk.id, user_id="", body=f"note {place}", created_at=at)
                )
        return talk.id

    return await db.write(unit)


async def bodies(db: Database, talk: str, **wanted: object) -> tuple[list[str], str]:
    """What is shown, and where it begins."""
    async with db.reading() as tx:
        conversation = await tx.one(select(Conversation).where(Conversation.id == talk))
        assert conversation is not None
        shown = await timeline.read(tx, conversation, **wanted)  # type: ignore[arg-type]
    return [item.body for item in shown.items], shown.start


async def begins_after(db: Database, talk: str, start: str) -> bool:
    """Whether there is something before this part."""
    async with db.reading() as tx:
        conversation = await tx.one(select(Conversation).where(Conversation.id == talk))
        assert conversation is not None
        return (await timeline.read(tx, conversation, start=start)).earlier


async def test_parts_are_read_backwards_without_a_gap(db: Database, clock: FixedClock) -> None:
    talk = await long_talk(db, clock.now(), 150)
    seen, start = await bodies(db, talk)
    texts = [one for one in seen if one.startswith("text")]
    assert texts == [f"text {place}" for place in range(90, 150)]
    assert [one for one in seen if one.startswith("note")] == [f"note {place}" for place in range(90, 150, 10)]
    assert start
    more, further = await bodies(db, talk, start=start, more=True)
    assert [one for one in more if one.startswith("text")] == [f"text {place}" for place in range(30, 150)]
    assert further not in ("", start)
    # Refreshed, the reader keeps what they went back to.
    assert (await bodies(db, talk, start=further))[0] == more
    everything, beginning = await bodies(db, talk, start=further, more=True)
    assert [one for one in everything if one.startswith("text")] == [f"text {place}" for place in range(150)]
    assert "note 0" in everything
    # At its beginning too: the whole talk stays before their eyes.
    assert await bodies(db, talk, start=beginning) == (everything, beginning)
    assert not await begins_after(db, talk, beginning)
    assert await begins_after(db, talk, further)


async def test_a_short_talk_has_no_button(db: Database, clock: FixedClock) -> None:
    talk = await long_talk(db, clock.now(), 5)
    seen, start = await bodies(db, talk)
    assert len(seen) == 6
    assert start == ""


async def test_the_most_at_once_is_bounded(db: Database, clock: FixedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST", 70)
    talk = await long_talk(db, clock.now(), 150)
    _, start = await bodies(db, talk)
    more, further = await bodies(db, talk, start=start, more=True)
    assert [one for one in more if one.startswith("text")] == [f"text {place}" for place in range(80, 150)]
    assert further


async def test_the_button_and_the_days_of_the_readers_zone(runtime: Runtime, visitor: Visitor) -> None:
    amy = await add_user(runtime, "amy", [Role.SUPERVISOR])
    talk = await long_talk(runtime.db, runtime.clock.now(), 70)

    async def far(tx: Tx) -> None:
        await tx.run(update(User).where(col(User.id) == amy.id).values(zone="Pacific/Auckland"))

    await runtime.db.write(far)
    await visitor.log_in("amy")
    async with visitor.http.get(f"{visitor.url}/desk/work/{talk}/timeline") as answer:
        text = await answer.text()
    button = re.search(r'hx-get="(/desk/work/\w+/timeline\?more=1&amp;start=\w+)"', text)
    assert button is not None
    days = re.findall(r'class="day" id="day-([\d-]+)"', text)
    assert days == sorted(set(days))
    async with visitor.http.get(visitor.url + button[1].replace("&amp;", "&")) as answer:
        earlier = await answer.text()
    assert earlier.count("text ") > text.count("text ")
    assert "data-earlier" not in earlier
