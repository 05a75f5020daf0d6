"""Texts between the whole hub and the twin: pictures both ways, STOP in a foreign word, provider-side stops, doubtful sends."""

from __future__ import annotations

import base64
from typing import Any

import aiohttp
import pytest
from sqlmodel import col, select

from crm_core import consent
from crm_core.accounts import ChannelAccount
from crm_core.addresses import phone
from crm_core.consent import Purpose, SuppressionReason
from crm_core.errors import Refused
from crm_core.interactions import Attachment, Interaction
from hub.media import FOLDER
from routing import replies, starts
from routing.mails import StoredFile
from tests.twin.stage import ANA, SUPPORT, Stage

PNG = b"\x89PNG\r\n\x1a\n" + b"a picture"


@pytest.fixture
async def texts(stage: Stage) -> Stage:
    """Kim answers texts to SUPPORT; a day's hour at which anybody may be written to."""
    await stage.open("kim")
    while stage.now.hour != 16 or stage.now.weekday() > 4:
        stage.clock.tick(3600)
    account = ChannelAccount(
        id="texts", channel="sms", name="Support", address=SUPPORT, country="GB", queue_id="q", created_at=stage.now
    )
    await stage.do(lambda tx: tx.add(account))
    number = next(one for one in stage.sandbox.world.numbers.values() if one.number == SUPPORT)
    number.sms_url = f"{stage.runtime.settings.public_url}/webhooks/twilio/sms"
    return stage


async def write(stage: Stage, body: str, *pictures: bytes) -> str:
    """Ana writes to us; the id of her message."""
    media = [{"content_type": "image/png", "data": base64.b64encode(one).decode()} for one in pictures]
    told = await stage.outside(
        "POST", "/outside/messages", **{"from": ANA, "to": SUPPORT, "body": body, "media": media}
    )
    return str(told["sid"])


async def arrived(stage: Stage, sid: str) -> Interaction:
    found: Interaction = await stage.until(lambda: stage.interaction(sid), told="the text never came")
    return found


async def answer(stage: Stage, conversation_id: str, body: str, *files: StoredFile) -> Interaction:
    return await stage.do(
        lambda tx: replies.reply(tx, conversation_id, agent_id="kim", body=body, now=stage.now, files=files)
    )


async def delivered(stage: Stage, interaction_id: str, *words: str) -> Interaction:
    async def look() -> Interaction | None:
        found = await stage.fresh(interaction_id)
        return found if found.delivery in words else None

    found: Interaction = await stage.until(look, told=f"never {words}")
    return found


async def files_of(stage: Stage, interaction_id: str) -> list[Attachment]:
    rows = select(Attachment).where(Attachment.interaction_id == interaction_id).order_by(col(Attachment.id))
    return await stage.all_of(rows)


async def seen(stage: Stage, body: str) -> list[dict[str, Any]]:
    """What Ana's phone got with this text."""
    told = await stage.outside("GET", "/outside/messages")
    return [one for one in told["messages"] if one["body"] == body and one["to"] == ANA]


async def test_pictures_come_in_and_are_kept(texts: Stage) -> None:
    message = await arrived(texts, await write(texts, "Look at this", PNG, b"no picture at all"))

    async def both() -> list[Attachment] | None:
        found = await files_of(texts, message.id)
        return found if len(found) == 2 else None

    picture, other = await texts.until(both, told="the files never came")
    assert (picture.content_type, picture.size, picture.name.endswith(".png")) == ("image/png", len(PNG), True)
    assert other.content_type == "application/octet-stream", "its bytes do not prove a picture"
    assert await texts.runtime.files.get(picture.file_key) == PNG
    kept = await texts.fresh(message.id)
    assert [one["state"] for one in kept.data["media"]] == ["kept", "kept"]
    assert kept.state == "waiting", "the text was offered meanwhile as any other"
    await texts.check()


async def test_a_picture_that_cannot_be_had_is_tried_again(texts: Stage) -> None:
    await texts.fault("media_500", next=9)
    message = await arrived(texts, await write(texts, "Again", PNG))

    async def awaited() -> bool:
        texts.clock.tick(70)
        await texts.turn()
        return (await texts.fresh(message.id)).data["media"][0].get("state") == "awaited"

    await texts.until(awaited, told="it was never put off")
    assert await files_of(texts, message.id) == []
    texts.clock.tick(16 * 60)

    async def kept() -> bool:
        texts.clock.tick(70)
        return bool(await files_of(texts, message.id))

    await texts.until(kept, told="it was never fetched")
    assert (await texts.fresh(message.id)).data["media"][0]["state"] == "kept"


async def test_pictures_go_out_under_an_address_that_ends(texts: Stage) -> None:
    message = await arrived(texts, await write(texts, "Send me the plan"))
    key = await texts.runtime.files.put(PNG, folder=FOLDER, now=texts.now)
    sent = await answer(
        texts, message.conversation_id, "Here it is", StoredFile("plan.png", "image/png", len(PNG), key)
    )
    await delivered(texts, sent.id, "delivered")
    (got,) = await seen(texts, "Here it is")
    assert [(one["content_type"], one["size"]) for one in got["media"]] == [("image/png", len(PNG))]
    record = texts.sandbox.world.messages[got["sid"]]
    (url,) = record.media_urls
    async with aiohttp.ClientSession() as http:
        async with http.get(url) as found:
            assert (found.status, found.content_type, await found.read()) == (200, "image/png", PNG)
        async with http.get(url[:-4] + "0000") as forged:
            assert forged.status == 404
        texts.clock.tick(13 * 3600)
        async with http.get(url) as ended:
            assert ended.status == 404
    await texts.check()


async def test_a_picture_that_the_provider_cannot_take_fails_with_a_reason(texts: Stage) -> None:
    message = await arrived(texts, await write(texts, "Hello"))
    key = await texts.runtime.files.put(b"<html>", folder=FOLDER, now=texts.now)
    sent = await answer(texts, message.conversation_id, "Broken", StoredFile("a.png", "image/png", 6, key))
    failed = await delivered(texts, sent.id, "failed")
    assert failed.delivery_error == "12300"
    verdicts = await texts.do(lambda tx: consent.list_for(tx, phone(ANA)))
    assert verdicts[0] == [], "what is wrong with the picture says nothing about the number"


async def test_the_providers_own_stop_is_adopted(texts: Stage) -> None:
    message = await arrived(texts, await write(texts, "Hello"))
    texts.sandbox.world.opted_out.add((SUPPORT, ANA))  # they stopped where we did not see it
    sent = await answer(texts, message.conversation_id, "Are you there?")
    await delivered(texts, sent.id, "failed")
    stops, _ = await texts.do(lambda tx: consent.list_for(tx, phone(ANA)))
    assert [(stop.reason, stop.sender, stop.source) for stop in stops] == [
        (SuppressionReason.SENDER_STOP, "texts", "provider")
    ]
    with pytest.raises(Refused):
        await answer(texts, message.conversation_id, "And now?")


async def test_a_doubtful_text_is_settled_by_the_providers_list_and_never_sent_twice(texts: Stage) -> None:
    message = await arrived(texts, await write(texts, "Hello"))
    await texts.fault("rest_500_after", next=1, match="/Messages")
    sent = await answer(texts, message.conversation_id, "Only once, please")
    doubtful = await delivered(texts, sent.id, "unknown", "sent", "delivered")
    if doubtful.delivery == "unknown":
        texts.clock.tick(30)
        await texts.turn()
    await delivered(texts, sent.id, "sent", "delivered")
    texts.clock.tick(700)
    await texts.turn()
    assert len(await seen(texts, "Only once, please")) == 1


async def test_writing_first_reaches_the_phone(texts: Stage) -> None:
    begun = await texts.do(
        lambda tx: starts.start(
            tx, account_id="texts", address=phone(ANA), purpose=Purpose.SERVICE, body="Your parcel is here.",
            user_id="kim", now=texts.now,
        )
    )  # fmt: skip
    await delivered(texts, begun.interaction.id, "delivered")
    assert len(await seen(texts, "Your parcel is here.")) == 1
    message = await arrived(texts, await write(texts, "Thanks!"))
    assert message.conversation_id == begun.conversation.id
    await texts.check()
