"""Webhooks over HTTP: the real routes into the real router, what strangers send, and what comes twice, late or never."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from sqlmodel import col, func, select

from crm_core.calls import CallRecord
from crm_core.errors import NotFound
from crm_core.interactions import Interaction, InteractionState
from routing import router
from routing.queues import QueueEntry
from tests.webhooks.conftest import NUMBER, Hub
from tests.webhooks.signing import ACCOUNT, call_fields, call_id, signed_headers
from webhooks import body, intake, routes, voice
from webhooks.receipts import ReceiptState, WebhookReceipt

VOICE = "/webhooks/twilio/voice"
SMS = "/webhooks/twilio/sms"


async def post(client: TestClient[Any, Any], path: str, fields: dict[str, str], **extra: str) -> tuple[int, str]:
    from urllib.parse import urlencode

    async with client.post(path, data=urlencode(fields), headers=signed_headers(path, fields, **extra)) as response:
        return response.status, await response.text()


def text_fields(number: int, said: str = "Hello", **more: str) -> dict[str, str]:
    return {
        "MessageSid": f"SM{number:032x}", "AccountSid": ACCOUNT, "From": "+12025550101", "To": NUMBER, "Body": said,
        "NumMedia": "0", "NumSegments": "1", "SmsStatus": "received", **more,
    }  # fmt: skip


def status_fields(number: int, status: str, sequence: int) -> dict[str, str]:
    return call_fields(
        number, CallStatus=status, SequenceNumber=str(sequence), CallbackSource="call-progress-events",
        Timestamp=f"Wed, 18 Nov 2026 10:00:{sequence:02d} +0000",
    )  # fmt: skip


async def rows(hub: Hub, table: Any) -> list[Any]:
    async with hub.db.reading() as tx:
        return list(await tx.all(select(table)))


async def test_a_call_is_matched_queued_and_answered(hub: Hub) -> None:
    status, text = await post(hub.client, VOICE, call_fields(1))
    assert status == 200
    assert "<Enqueue" in text
    assert 'waitUrl="https://hub.example.test/webhooks/twilio/voice/step?i=' in text
    (call,) = await rows(hub, Interaction)
    assert call.match["level"] == "exact"
    assert call.state is InteractionState.WAITING
    (entry,) = await rows(hub, QueueEntry)
    assert entry.interaction_id == call.id
    assert hub.counts["voice", "stored"] == 1


async def test_fifty_copies_of_one_call_are_one_call(hub: Hub) -> None:
    answers = await asyncio.gather(*(post(hub.client, VOICE, call_fields(1)) for _ in range(50)))
    assert len(set(answers)) == 1
    assert answers[0][0] == 200
    assert len(await rows(hub, Interaction)) == 1
    assert len(await rows(hub, QueueEntry)) == 1
    assert len(await rows(hub, WebhookReceipt)) == 1


async def test_fifty_copies_of_one_text_are_one_text(hub: Hub) -> None:
    answers = await asyncio.gather(*(post(hub.client, SMS, text_fields(1)) for _ in range(50)))
    assert set(answers) == {(200, '<?xml version="1.0" encoding="UTF-8"?><Response/>')}
    assert len(await rows(hub, Interaction)) == 1


async def test_twenty_first_texts_at_once_are_one_conversation(hub: Hub) -> None:
    answers = await asyncio.gather(*(post(hub.client, SMS, text_fields(n, f"part {n}")) for n in range(20)))
    assert {status for status, _ in answers} == {200}
    found = await rows(hub, Interaction)
    assert len(found) == 20
    assert len({one.conversation_id for one in found}) == 1
    assert hub.counts["sms", "failed"] == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
async def test_statuses_in_any_order_and_twice_fold_to_one_record(hub: Hub, order: tuple[int, ...]) -> None:
    await post(hub.client, VOICE, call_fields(1, CallStatus="ringing"))
    told = [status_fields(1, "ringing", 0), status_fields(1, "in-progress", 1), status_fields(1, "completed", 2)]
    for number in (*order, *order):
        assert (await post(hub.client, f"{VOICE}/status", told[number]))[0] == 200
    (call,) = await rows(hub, Interaction)
    assert (call.state, call.outcome) == (InteractionState.ENDED, "abandoned")
    (record,) = await rows(hub, CallRecord)
    assert record.end_reason == "abandoned"
    assert hub.counts["voice", "repeated"] == 3


async def test_a_wait_loop_is_a_new_step_and_a_retry_is_the_old_one(hub: Hub) -> None:
    _, text = await post(hub.client, VOICE, call_fields(1))
    found = re.search(r'waitUrl="https://hub\.example\.test([^"]+)"', text)
    assert found is not None
    wait = found[1].replace("&amp;", "&")
    queue = {"QueueSid": "QU" + "0" * 32, "QueueTime": "0", "CallStatus": "in-progress"}
    first = await post(hub.client, wait, call_fields(1, **queue), i_twilio_idempotency_token="one")
    retry = await post(hub.client, wait, call_fields(1, **queue), i_twilio_idempotency_token="one")
    again = await post(hub.client, wait, call_fields(1, **queue), i_twilio_idempotency_token="two")
    assert first == retry
    assert (first[0], again[0]) == (200, 200)
    assert hub.counts["voice", "repeated"] == 1
    assert hub.counts["voice", "stored"] == 3


async def test_forged_and_misshapen_requests(hub: Hub) -> None:
    fields = call_fields(1)
    async with hub.client.post(VOICE, data=fields) as response:
        assert response.status == 403
    async with hub.client.post(VOICE, data=fields, headers={"X-Forwarded-Host": "evil.example"}) as response:
        assert response.status == 403
    async with hub.client.post(VOICE, json=fields) as response:
        assert (response.status, await response.text()) == (
            400, "The content type must be application/x-www-form-urlencoded."
        )  # fmt: skip
    async with hub.client.post(VOICE, data=b"x" * (body.WEBHOOK_BYTES + 1)) as response:
        assert (response.status, await response.text()) == (413, "At most 64 KiB.")
    async with hub.client.post(VOICE, data=b"x", headers={"Content-Encoding": "gzip"}) as response:
        assert response.status == 415
    async with hub.client.get(VOICE) as response:
        assert response.status == 405
    assert await rows(hub, WebhookReceipt) == []
    assert hub.counts["voice", "forged"] == 2


async def test_a_forgery_costs_less_than_five_milliseconds(hub: Hub) -> None:
    request = intake.RawRequest(
        "https://hub.example.test" + VOICE, "POST",
        {"content-type": "application/x-www-form-urlencoded", "x-twilio-signature": "A" * 27 + "="},
        b"&".join(b"a%d=%s" % (n, b"x" * 200) for n in range(250)), hub.clock.now(),
    )  # fmt: skip
    spent = []
    for _ in range(9):
        began = time.process_time()
        assert (await intake.take(hub.deps, voice.ARRIVED, request)).status == 403
        spent.append(time.process_time() - began)
    assert sorted(spent)[4] < 0.005


async def test_a_body_in_drops_is_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hasty(request: Any) -> bytes:
        return await body.read_body(request, timeout_s=0.2)

    monkeypatch.setattr(routes, "read_body", hasty)
    reader, writer = await asyncio.open_connection(hub.client.host, hub.client.port)
    writer.write(f"POST {VOICE} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nCallSid=".encode())
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()
    assert b"took too long" in await asyncio.wait_for(reader.read(), 60)
    writer.close()


async def test_a_number_that_is_not_ours(hub: Hub) -> None:
    status, text = await post(hub.client, VOICE, call_fields(1, to="+442079460999"))
    assert status == 200
    assert "<Reject" in text or "<Say" in text
    assert (await post(hub.client, SMS, text_fields(1, To="+442079460999")))[0] == 200
    assert hub.counts["sms", "unknown"] == 1
    assert await rows(hub, Interaction) == []


async def test_a_report_of_a_message_that_nobody_knows_is_kept_and_counted(hub: Hub) -> None:
    fields = {
        "MessageSid": "SM" + "9" * 32,
        "AccountSid": ACCOUNT,
        "MessageStatus": "delivered",
        "From": NUMBER,
        "To": "+12025550101",
    }
    assert (await post(hub.client, f"{SMS}/status", fields))[0] == 200
    assert hub.counts["sms", "unknown"] == 1
    (receipt,) = await rows(hub, WebhookReceipt)
    assert receipt.state is ReceiptState.DISCARDED
    odd = {**fields, "MessageStatus": "teleported"}
    assert (await post(hub.client, f"{SMS}/status", odd))[0] == 200
    assert hub.counts["sms", "unknown"] == 2


async def test_a_caller_is_held_while_we_fail_and_served_when_we_are_back(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = router.call_arrived

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(router, "call_arrived", broken)
    status, text = await post(hub.client, VOICE, call_fields(1))
    assert status == 200
    assert "Please hold the line" in text
    found = re.search(r"<Redirect[^>]*>https://hub\.example\.test([^<]+)<", text)
    assert found is not None
    back = found[1].replace("&amp;", "&")
    assert (await rows(hub, WebhookReceipt))[0].state is ReceiptState.FAILED
    status, text = await post(hub.client, back, call_fields(1, CallStatus="in-progress"))
    assert (status, "<Redirect" in text, "Please hold" in text) == (200, True, False)
    monkeypatch.setattr(router, "call_arrived", real)
    status, text = await post(hub.client, back, call_fields(1, CallStatus="in-progress"))
    assert (status, "<Enqueue" in text) == (200, True)
    assert len(await rows(hub, Interaction)) == 1
    (receipt,) = await rows(hub, WebhookReceipt)
    assert receipt.state is ReceiptState.DONE


async def test_a_held_caller_is_told_to_call_later_in_the_end(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(router, "call_arrived", broken)
    path = VOICE
    turns = 0
    while True:
        status, text = await post(hub.client, path, call_fields(1))
        assert status == 200
        found = re.search(r"<Redirect[^>]*>https://hub\.example\.test([^<]+)<", text)
        if found is None:
            break
        turns += 1
        path = found[1].replace("&amp;", "&")
    assert turns == voice.PATIENCE
    assert "<Hangup/>" in text
    assert (await rows(hub, WebhookReceipt))[0].state is ReceiptState.QUARANTINED


async def test_a_failed_step_is_the_same_step_when_it_comes_back(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, str]] = []

    async def flaky(tx: Any, **given: Any) -> Any:
        calls.append((given["number"], given["params"]["Digits"]))
        if len(calls) == 1:
            raise RuntimeError("a bug")
        return []

    monkeypatch.setattr(router, "call_step", flaky)
    step = f"{VOICE}/step?i=x&step=pressed&n=3"
    _, text = await post(hub.client, step, call_fields(1, Digits="1"), i_twilio_idempotency_token="first")
    found = re.search(r"<Redirect[^>]*>https://hub\.example\.test([^<]+)<", text)
    assert found is not None
    back = found[1].replace("&amp;", "&")
    status, text = await post(hub.client, back, call_fields(1), i_twilio_idempotency_token="second")
    assert (status, text.endswith("<Response></Response>")) == (200, True)
    assert calls == [(3, "1"), (3, "1")]
    async with hub.db.reading() as tx:
        assert await tx.one(select(func.count()).select_from(WebhookReceipt)) == 1
        assert await tx.one(select(WebhookReceipt.state).order_by(col(WebhookReceipt.id))) is ReceiptState.DONE


async def test_an_unknown_step_is_not_our_fault(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: Any, **__: Any) -> Any:
        raise NotFound("There is no such interaction.")

    monkeypatch.setattr(router, "call_step", unknown)
    status, text = await post(hub.client, f"{VOICE}/step?i=x&step=wait&n=1", call_fields(1))
    assert (status, "<Hangup/>" in text) == (200, True)
    status, text = await post(hub.client, f"{VOICE}/step?i=x&step=wait&n=many", call_fields(1))
    assert (status, text) == (400, "n must be a number.")
    assert call_id(1)
