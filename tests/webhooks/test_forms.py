"""Public forms: three ways to post, what is refused and why, and one lead for a double click. Both engines."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any

import aiohttp
import pytest
from sqlmodel import select

from crm_core.contacts import Contact
from crm_core.interactions import Attachment, Interaction
from crm_core.leads import Lead
from routing import router
from tests.webhooks.conftest import Hub
from webhooks import intake
from webhooks.form_guard import SIGNATURE_HEADER
from webhooks.forms import HONEYPOT, KEY_FIELD, PER_ADDRESS
from webhooks.receipts import ReceiptState, WebhookReceipt
from webhooks.routes import KINDS

POST = "/webhooks/forms/website"
HOSTED = "/forms/website"
FILLED = {
    "name": "Dana Demo",
    "email": "dana@example.com",
    "phone": "+12025550142",
    "topic": "sales",
    "message": "Call me",
}


async def rows(hub: Hub, table: Any) -> list[Any]:
    async with hub.db.reading() as tx:
        return list(await tx.all(select(table)))


async def send(hub: Hub, path: str = POST, **how: Any) -> tuple[int, Any]:
    async with hub.client.post(path, **how) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize("way", ["json", "urlencoded", "multipart"])
async def test_a_post_becomes_a_lead_on_a_contact(hub: Hub, way: str) -> None:
    form = aiohttp.FormData(FILLED, default_to_multipart=way == "multipart")
    how = {"json": FILLED} if way == "json" else {"data": form}
    status, answer = await send(hub, **how)
    assert (status, answer["status"]) == (200, "received")
    (lead,) = await rows(hub, Lead)
    assert lead.id == answer["lead"]
    assert lead.fields["message"] == "Call me"
    people = {person.id: person.name for person in await rows(hub, Contact)}
    assert people[lead.contact_id] == "Dana Demo"
    (receipt,) = await rows(hub, WebhookReceipt)
    assert (receipt.provider, receipt.state) == ("form", ReceiptState.DONE)
    assert b"Dana" in receipt.body


async def test_a_form_posted_twice_at_once_is_one_lead(hub: Hub) -> None:
    answers = await asyncio.gather(*(send(hub, json=FILLED) for _ in range(10)))
    assert len({answer["lead"] for _, answer in answers}) == 1
    assert len(await rows(hub, Lead)) == 1
    hub.clock.tick(240)
    assert (await send(hub, json=FILLED))[1] == answers[0][1]
    hub.clock.tick(3600)
    assert (await send(hub, json=FILLED))[1]["lead"] != answers[0][1]["lead"]


async def test_a_key_of_the_senders_makes_different_bytes_one_post(hub: Hub) -> None:
    first = await send(hub, json=FILLED, headers={"Idempotency-Key": "order-4711-a"})
    turned = dict(reversed(FILLED.items()))
    assert json.dumps(turned) != json.dumps(FILLED)
    assert await send(hub, json=turned, headers={"Idempotency-Key": "order-4711-a"}) == first
    assert await send(hub, data=FILLED, headers={"Idempotency-Key": "order-4711-a"}) == first
    third = await send(hub, json={**FILLED, "message": "Another"}, headers={"Idempotency-Key": "order-4711-b"})
    assert third[1]["lead"] != first[1]["lead"]
    assert len(await rows(hub, Lead)) == 2


async def test_a_used_key_with_other_words_is_refused_and_the_words_are_kept(hub: Hub) -> None:
    key = {"Idempotency-Key": "always-the-same"}
    assert (await send(hub, json=FILLED, headers=key))[0] == 200
    other = {**FILLED, "message": "Changed", "email": "else@example.com"}
    for _ in range(2):
        status, told = await send(hub, json=other, headers=key)
        assert (status, "key of its own" in told["detail"]) == (422, True)
    refused = [one for one in await rows(hub, WebhookReceipt) if one.state is ReceiptState.DISCARDED]
    assert [(one.error, json.loads(one.body)["message"]) for one in refused] == [("key_used", "Changed")]
    assert len(await rows(hub, Lead)) == 1


async def test_who_goes_back_and_writes_something_else_is_heard_again(hub: Hub) -> None:
    async with hub.client.get(HOSTED) as response:
        key = (await response.json())["key"]
    hub.clock.tick(60)
    for message in ("Call me", "Call me", "Call me on Monday"):  # the second one is a second click
        assert (await send(hub, HOSTED, data={**FILLED, "message": message, KEY_FIELD: key}))[0] == 200
    assert [one.state for one in await rows(hub, WebhookReceipt)] == [ReceiptState.DONE] * 2
    assert sorted(one.fields["message"] for one in await rows(hub, Lead)) == ["Call me", "Call me on Monday"]


async def test_each_wrong_field_has_its_sentence_and_the_post_is_kept(hub: Hub) -> None:
    status, answer = await send(hub, json={"email": "nobody", "phone": "12", "topic": "weather"})
    assert status == 422
    assert answer["fields"] == {
        "name": "Please fill this in.",
        "email": "This is not an e-mail address.",
        "phone": "This is not a phone number; begin with + and the country code.",
        "topic": "Please choose one of the list.",
    }
    assert await rows(hub, Lead) == []
    (receipt,) = await rows(hub, WebhookReceipt)
    assert receipt.state is ReceiptState.DISCARDED
    assert json.loads(receipt.body)["email"] == "nobody"
    key = {"Idempotency-Key": "try-again-1"}
    assert (await send(hub, json={}, headers=key))[0] == 422
    assert (await send(hub, json=FILLED, headers=key))[0] == 200, "a corrected post may use the same key"


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b'{"a":' * 2000, "application/json", 400),
        (b"\xff\xfe=1", "application/x-www-form-urlencoded", 400),
        (b"nonsense", "multipart/form-data", 400),
        (b"--x\r\ncut off", "multipart/form-data; boundary=x", 400),
        (b"<form/>", "application/xml", 415),
        (b"x" * 70_000, "application/json", 413),
        (b"a=1&" * 30_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_what_cannot_be_read_gets_a_sentence(hub: Hub, body: bytes, content_type: str, status: int) -> None:
    found, answer = await send(hub, data=body, headers={"Content-Type": content_type})
    assert found == status
    assert answer["detail"].endswith(".")
    assert await rows(hub, Lead) == []


async def test_a_form_that_is_not_there(hub: Hub) -> None:
    assert (await send(hub, "/webhooks/forms/nowhere", json=FILLED))[0] == 404
    async with hub.client.get("/forms/nowhere") as response:
        assert response.status == 404
    assert await rows(hub, WebhookReceipt) == []


async def test_a_machine_that_fills_everything_in_is_thanked_and_dropped(hub: Hub) -> None:
    status, answer = await send(hub, json={**FILLED, HONEYPOT: "yes"})
    assert (status, answer) == (200, {"status": "received"})
    assert await rows(hub, Lead) == []
    (receipt,) = await rows(hub, WebhookReceipt)
    assert (receipt.state, receipt.error) == (ReceiptState.DISCARDED, "honeypot")


async def test_too_many_from_one_address_wait(hub: Hub) -> None:
    statuses = [
        (await send(hub, json={**FILLED, "message": str(n)}))[0] for n in range(PER_ADDRESS)
    ]  # fmt: skip
    assert set(statuses) == {200}
    async with hub.client.post(POST, json=FILLED) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
    assert hub.counts["webform", "throttled"] == 1


async def test_a_form_with_a_secret_takes_signed_posts_only(hub: Hub) -> None:
    hub.secrets["website"] = "s3cret"
    body = json.dumps(FILLED).encode()
    headers = {"Content-Type": "application/json"}
    assert (await send(hub, data=body, headers=headers))[0] == 403
    mac = "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert (await send(hub, data=body + b" ", headers={**headers, SIGNATURE_HEADER: mac}))[0] == 403
    assert (await send(hub, data=body, headers={**headers, SIGNATURE_HEADER: mac}))[0] == 200
    assert len(await rows(hub, WebhookReceipt)) == 1


async def test_files_are_stored_before_their_rows_and_named_safely(hub: Hub) -> None:
    def filled() -> aiohttp.FormData:
        form = aiohttp.FormData(FILLED, quote_fields=False, default_to_multipart=True)
        form.add_field("file", b"%PDF" * 40_000, filename="../../etc/offer.pdf", content_type="application/pdf")
        return form

    key = {"Idempotency-Key": "with-a-file-1"}
    first = await send(hub, data=filled(), headers=key)
    assert first[0] == 200
    assert await send(hub, data=filled(), headers=key) == first
    (file,) = await rows(hub, Attachment)
    assert (file.name, file.size, file.content_type) == ("offer.pdf", 160_000, "application/pdf")
    assert hub.store.kept[file.file_key] == b"%PDF" * 40_000
    (call,) = await rows(hub, Interaction)
    assert file.interaction_id == call.id
    assert len(hub.store.kept) == 2, "the raw body, too large for its row, and the file; nothing for the repeat"


async def test_failed_effects_are_made_again_with_their_files(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    real = router.form_arrived

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(router, "form_arrived", broken)
    form = aiohttp.FormData(FILLED, default_to_multipart=True)
    form.add_field("file", b"x" * 100_000, filename="a.txt")
    assert await send(hub, data=form) == (200, {"status": "received"})
    assert await rows(hub, Lead) == []
    monkeypatch.setattr(router, "form_arrived", real)
    hub.clock.tick(20)
    assert await intake.sweep(hub.deps, KINDS) == 1
    (lead,) = await rows(hub, Lead)
    assert lead.fields["name"] == "Dana Demo"
    assert [file.name for file in await rows(hub, Attachment)] == ["a.txt"]


async def test_the_hosted_form_shows_corrects_and_thanks(hub: Hub) -> None:
    async with hub.client.get(HOSTED) as response:
        shown = await response.json()
    assert (shown["form"], shown["done"], shown["key"].count(".")) == ("website", False, 2)
    wrong = {**FILLED, "email": "nobody", KEY_FIELD: shown["key"]}
    status, corrected = await send(hub, HOSTED, data=wrong)
    assert (status, corrected["errors"], corrected["values"]["name"], corrected["key"]) == (
        422, {"email": "This is not an e-mail address."}, "Dana Demo", shown["key"]
    )  # fmt: skip
    for _ in range(2):
        status, thanked = await send(hub, HOSTED, data={**FILLED, KEY_FIELD: shown["key"]})
        assert (status, thanked["done"]) == (200, True)
    (lead,) = await rows(hub, Lead)
    assert KEY_FIELD not in lead.fields
