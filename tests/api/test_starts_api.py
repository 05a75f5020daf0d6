"""Writing to somebody first over the API: once per key, only from one's own senders, through the gate."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from sqlmodel import select

from crm_core.interactions import Attachment
from tests.api.conftest import ANA, House

MESSAGE: dict[str, Any] = {"account_id": "acc-sms", "to": ANA, "purpose": "service", "body": "Your parcel is here."}


async def test_senders_are_those_of_my_queues(house: House) -> None:
    mine = await house.amy.get("/senders")
    assert {one["id"] for one in mine["items"]} == {"acc-sms", "acc-email"}
    assert await house.ben.get("/senders") == {"items": []}
    assert len((await house.sam.get("/senders"))["items"]) == 2


async def test_a_keyed_start_is_carried_out_once(either_house: House) -> None:
    house = either_house
    key = {"Idempotency-Key": "first-message-1"}
    first = await house.amy.post("/conversations", MESSAGE, expect=201, headers=key)
    again = await house.amy.post("/conversations", MESSAGE, expect=201, headers=key)
    assert again == first
    assert (first["joined"], first["interaction"]["delivery"]) == (False, "queued")
    assert first["conversation"]["contact_id"] == house.ana_id
    assert first["conversation"]["assigned_user_id"] == house.amy.user.id
    told = await house.amy.get(f"/conversations/{first['conversation']['id']}/interactions")
    assert [one["body"] for one in told["items"]] == ["Your parcel is here."]
    more = await house.amy.post("/conversations", {**MESSAGE, "body": "And more"}, expect=201)
    assert (more["joined"], more["conversation"]["id"]) == (True, first["conversation"]["id"])


async def test_a_mail_begins_a_thread(house: House) -> None:
    mail = {**MESSAGE, "account_id": "acc-email", "to": "ana@example.com", "contact_id": house.ana_id}
    status, told = await house.amy.ask("POST", "/conversations", mail)
    assert (status, "subject" in told["fields"]) == (422, True)
    made = await house.amy.post("/conversations", {**mail, "subject": "Parcel"}, expect=201)
    assert made["conversation"]["subject"] == "Parcel"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"account_id": "acc-nowhere"}, 404),
        ({"account_id": "acc-voice"}, 422),
        ({"to": "nobody"}, 422),
        ({"to": "+12025550155", "contact_id": "ana"}, 422),
        ({"purpose": "fun"}, 422),
        ({"purpose": "reply"}, 422),
        ({"body": ""}, 422),
        ({"body": "x" * 1601}, 422),
        ({"contact_id": "0" * 26}, 404),
    ],
)
async def test_what_does_not_fit(house: House, change: dict[str, Any], status: int) -> None:
    if change.get("contact_id") == "ana":
        change = {**change, "contact_id": house.ana_id}
    assert (await house.amy.ask("POST", "/conversations", {**MESSAGE, **change}))[0] == status


async def test_the_gate_and_the_rights(house: House) -> None:
    status, told = await house.amy.ask("POST", "/conversations", {**MESSAGE, "purpose": "marketing"})
    assert (status, told["rule"]) == (409, "consent")
    assert (await house.ben.ask("POST", "/conversations", MESSAGE))[0] == 404, "he serves no queue with this number"
    assert (await house.mara.ask("POST", "/conversations", MESSAGE))[0] == 403
    await house.text("STOP")
    status, told = await house.amy.ask("POST", "/conversations", MESSAGE)
    assert (status, told["rule"]) == (409, "sender_stop")


async def test_pictures_go_with_a_text_by_the_draft(house: House) -> None:
    begun = await house.amy.post("/conversations", MESSAGE, expect=201)
    path = f"/conversations/{begun['conversation']['id']}"
    content = base64.b64encode(b"\x89PNG\r\n\x1a\npicture").decode()
    file = await house.amy.post(f"{path}/draft/files", {"name": "plan.png", "content": content}, expect=201)
    wrong = await house.amy.post(f"{path}/draft/files", {"name": "plan.exe", "content": content}, expect=201)
    status, told = await house.amy.ask("POST", f"{path}/replies", {"body": "", "file_ids": [wrong["id"]]})
    assert (status, "pictures" in told["fields"]) == (422, True)
    sent = await house.amy.post(f"{path}/replies", {"body": "See", "file_ids": [file["id"]]}, expect=201)
    async with house.runtime.db.reading() as tx:
        (kept,) = await tx.all(select(Attachment).where(Attachment.interaction_id == sent["id"]))
    assert (kept.name, kept.content_type) == ("plan.png", "image/png")
