"""The demo company with a row of every noun that a page of the desktop names in its address."""

from __future__ import annotations

from datetime import timedelta

from sqlmodel import col, select

from campaigns import call_lists, campaigns
from crm_core import saved_views
from crm_core.accounts import ChannelAccount, Form
from crm_core.consent import Purpose
from crm_core.contacts import Contact
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.interactions import Attachment, Interaction
from crm_core.leads import Lead
from crm_core.recordings import Recording, RecordingState
from crm_core.sounds import Sound
from crm_core.users import User
from hub import contact_transfer
from hub.demo import seed_demo
from hub.runtime import Runtime
from routing import flows
from routing.hours import Hours
from routing.offers import Offer, OfferState
from routing.queues import EntryState, Lane, Queue, QueueEntry

PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
SOUND = b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 24
MAIL = b"<p>Dear all, <b>the bicycle</b> has come.</p>"
Keys = dict[str, str]


async def fill(runtime: Runtime) -> dict[str, str]:
    """Seed the company; the id of one row per noun, by the name that routes give it."""
    now = runtime.clock.now()
    assert await seed_demo(runtime.db, runtime.settings, now=now)
    stored = {
        name: await runtime.files.put(content, folder=name, now=now)
        for name, content in (("recordings", SOUND), ("sounds", SOUND), ("pictures", PICTURE), ("mails", MAIL))
    }
    table = await contact_transfer.upload(
        runtime.db, runtime.files, b"name,phone\nZoe,+442079460009\nAna,7\n", name="people.csv", country="", overwrite=False,
        user_id="ada", now=now,
    )  # fmt: skip

    async def more(tx: Tx) -> dict[str, str]:
        found = await _of_the_company(tx)
        found |= await _of_settings(tx, runtime, found)
        found |= await _of_files(tx, runtime, stored)
        found["import"] = table.id
        return found | await _of_work(tx, runtime, found)

    return await runtime.db.write(more)


async def _of_the_company(tx: Tx) -> Keys:
    """What the demo has: the first of each."""
    found = {}
    for name, table in (("contact", Contact), ("lead", Lead), ("queue", Queue), ("form", Form)):
        found[name] = str(await tx.one(select(table.id).limit(1)))
    for channel in ("voice", "email", "sms", "webform"):
        account = await tx.one(select(ChannelAccount).where(ChannelAccount.channel == channel).limit(1))
        talk = await tx.one(select(Conversation).where(Conversation.channel == channel).limit(1))
        assert account is not None
        assert talk is not None
        found |= {f"account.{channel}": account.id, f"conversation.{channel}": talk.id}
    ada = await tx.one(select(User).where(User.login == "ada"))
    assert ada is not None
    return {**found, "user": ada.id, "account": found["account.email"], "conversation": found["conversation.voice"]}


async def _of_settings(tx: Tx, runtime: Runtime, ids: Keys) -> Keys:
    """A campaign, a call list, hours, a flow and a saved view."""
    now, user_id = runtime.clock.now(), ids["user"]
    campaign = await campaigns.create(
        tx, name="Autumn", account_id=ids["account.email"], purpose=Purpose.MARKETING, user_id=user_id, now=now,
        audience={"tag": "newsletter"},
    )  # fmt: skip
    row = await call_lists.create(tx, name="Autumn calls", account_id=ids["account.voice"], user_id=user_id, now=now)
    hours = Hours(id=new_id(now), name="Office", zone="Europe/London", week={"0": [["09:00", "17:00"]]})
    await tx.add(hours)
    flow = await flows.create(tx, name="Office", steps=flows.DEFAULT, language="en-GB", actor=user_id, now=now)
    for page in saved_views.PAGES:
        await saved_views.save(
            tx, user_id=user_id, page=page, name="Mine", query={}, shared=True, default=False, now=now
        )
    return {"campaign": campaign.id, "list": row.id, "hours": hours.id, "flow": flow.id}


async def _of_files(tx: Tx, runtime: Runtime, stored: Keys) -> Keys:
    """A recording, a sound, a mail as designed, a picture of a text, a file."""
    now = runtime.clock.now()

    async def touch(channel: str) -> Interaction:
        found = await tx.one(
            select(Interaction).where(Interaction.channel == channel).order_by(col(Interaction.id)).limit(1)
        )
        assert found is not None
        return found

    call, text, mail = await touch("voice"), await touch("sms"), await touch("email")
    recording = Recording(
        id=new_id(now), interaction_id=call.id, kind="call", state=RecordingState.KEPT, consent="announced",
        duration_s=1, file_key=stored["recordings"], content_type="audio/wav", size=len(SOUND), started_at=now,
    )  # fmt: skip
    sound = Sound(
        id=new_id(now), name="Greeting", content_type="audio/wav", ending="wav", size=len(SOUND),
        file_key=stored["sounds"], created_at=now,
    )  # fmt: skip
    picture = Attachment(
        id=new_id(now), interaction_id=text.id, name="bicycle.png", content_type="image/png", size=len(PICTURE),
        file_key=stored["pictures"],
    )  # fmt: skip
    await tx.change(Interaction, {"html_key": stored["mails"]}, id=mail.id)
    for row in (recording, sound, picture):
        await tx.add(row)
    return {
        "recording": recording.id, "sound": sound.id, "file": picture.id, "interaction": mail.id, "mail": mail.id,
        "call": call.id,
    }  # fmt: skip


async def _of_work(tx: Tx, runtime: Runtime, ids: Keys) -> Keys:
    """A call that the user is in, with the offer that gave it to them."""
    now = runtime.clock.now()
    call = await tx.one(select(Interaction).where(Interaction.id == ids["call"]))
    assert call is not None
    entry = QueueEntry(
        id=new_id(now), queue_id=ids["queue"], kind="sms", lane=Lane.TEXT, interaction_id=call.id,
        conversation_id=call.conversation_id, contact_id=call.contact_id, state=EntryState.CONNECTED,
        order_at=now, first_arrival_at=now, entered_at=now, agent_id=ids["user"], connected_at=now,
    )  # fmt: skip
    offer = Offer(
        id=new_id(now), entry_id=entry.id, agent_id=ids["user"], state=OfferState.WON, nonce="n",
        deadline_at=now + timedelta(seconds=20), opened_at=now, trace={"why": "longest idle", "agent": ids["user"]},
    )  # fmt: skip
    await tx.add(entry)
    await tx.add(offer)
    return {"offer": offer.id}
