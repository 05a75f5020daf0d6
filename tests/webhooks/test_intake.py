"""The only order of intake: what is stored, what is answered, and what a failure undoes. Both engines."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlmodel import col, select

from channels.contract import CallArrived, RawRequest
from channels.twilio_api import TwilioSettings
from channels.voice import VoiceChannel
from crm_core import events
from crm_core.clock import FixedClock
from crm_core.db import Database, DatabaseUnavailable
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.events import Event
from tests.webhooks.signing import ACCOUNT, ORIGIN, TOKEN, call_fields, call_id, signature, signed
from webhooks import intake, receipts
from webhooks.intake import Deps, Kind, Post, one
from webhooks.receipts import ReceiptState, WebhookReceipt

PATH = "/webhooks/twilio/voice"
VOICE = VoiceChannel(TwilioSettings(ACCOUNT, TOKEN))


class Counts(Counter[tuple[str, str]]):
    def __call__(self, channel: str, outcome: str) -> None:
        self[channel, outcome] += 1


@pytest.fixture
def deps(db: Database, clock: FixedClock) -> Deps:
    return Deps(db=db, clock=clock, channels={"voice": VOICE}, public_url=ORIGIN, count=Counts())


def kind(effect: Callable[..., Any] | None = None, **more: Any) -> Kind:
    async def apply(deps: Deps, tx: Any, arrivals: list[Any], post: Post, now: datetime) -> str:
        (call,) = arrivals
        assert isinstance(call, CallArrived)
        await events.emit(tx, "test.called", call.call_id, now=now)
        if effect is not None:
            effect()
        return f"<Response>{call.call_id}</Response>"

    return Kind("voice", "voice", lambda post: one(post, "CallSid"), apply, **more)


async def stored(db: Database) -> list[WebhookReceipt]:
    async with db.reading() as tx:
        return await tx.all(select(WebhookReceipt).order_by(col(WebhookReceipt.id)))


async def emitted(db: Database) -> list[str]:
    async with db.reading() as tx:
        return await tx.all(select(Event.subject_id).where(Event.kind == "test.called").order_by(col(Event.id)))


async def test_a_genuine_webhook_is_kept_and_answered(deps: Deps) -> None:
    request = signed(PATH, call_fields(1), deps.clock.now(), i_twilio_idempotency_token="t-1")
    answer = await intake.take(deps, kind(), request)
    assert (answer.status, answer.outcome, answer.body) == (200, "stored", f"<Response>{call_id(1)}</Response>")
    (receipt,) = await stored(deps.db)
    assert receipt.state is ReceiptState.DONE
    assert receipt.body == request.body
    assert receipt.answer == answer.body
    assert receipt.headers["i-twilio-idempotency-token"] == "t-1"
    assert "x-twilio-signature" not in receipt.headers
    assert await emitted(deps.db) == [call_id(1)]


async def test_fifty_copies_at_once_have_one_effect_and_one_answer(deps: Deps) -> None:
    request = signed(PATH, call_fields(1), deps.clock.now())
    answers = await asyncio.gather(*(intake.take(deps, kind(), request) for _ in range(50)))
    assert {answer.body for answer in answers} == {f"<Response>{call_id(1)}</Response>"}
    assert {answer.status for answer in answers} == {200}
    assert Counter(answer.outcome for answer in answers) == {"stored": 1, "repeated": 49}
    assert len(await stored(deps.db)) == 1
    assert await emitted(deps.db) == [call_id(1)]


@pytest.mark.parametrize("spoil", ["signature", "none", "body", "origin", "account", "json"])
async def test_a_forgery_leaves_no_row(deps: Deps, spoil: str) -> None:
    request = signed(PATH, call_fields(1), deps.clock.now())
    headers = dict(request.headers)
    if spoil == "signature":
        headers["x-twilio-signature"] = "A" * 27 + "="
    elif spoil == "none":
        del headers["x-twilio-signature"]
    elif spoil == "body":
        request = replace(request, body=request.body + b"&Digits=1")
    elif spoil == "origin":
        request = replace(request, url=request.url.replace("https://", "http://"))
    elif spoil == "account":
        request = signed(PATH, {**call_fields(1), "AccountSid": "AC" + "1" * 32}, deps.clock.now())
        headers = dict(request.headers)
    elif spoil == "json":
        headers["content-type"] = "application/json"
    answer = await intake.take(deps, kind(), replace(request, headers=headers))
    assert answer.status == (400 if spoil == "json" else 403)
    assert answer.body
    assert await stored(deps.db) == []
    assert deps.count["voice", answer.outcome] == 1  # type: ignore[index]


async def test_what_passed_verification_but_cannot_be_read_is_kept(deps: Deps) -> None:
    fields = {**call_fields(1)}
    del fields["CallSid"]
    answer = await intake.take(deps, kind(), signed(PATH, fields, deps.clock.now()))
    assert (answer.status, answer.body) == (400, "CallSid must be given exactly once.")
    again = await intake.take(deps, kind(), signed(PATH, fields, deps.clock.now()))
    assert (again.status, again.outcome) == (400, "repeated")
    (receipt,) = await stored(deps.db)
    assert receipt.state is ReceiptState.DISCARDED
    assert await emitted(deps.db) == []


async def test_a_captured_request_cut_into_repeated_parameters_does_nothing(deps: Deps) -> None:
    # The signature joins names and values without separators: "+1202To+1900" verifies as two parameters as well.
    fields = {**call_fields(1)}
    body = urlencode([*fields.items(), ("CallSid", call_id(1))]).encode()
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "x-twilio-signature": signature(ORIGIN + PATH, fields),
    }
    answer = await intake.take(deps, kind(), RawRequest(ORIGIN + PATH, "POST", headers, body, deps.clock.now()))
    assert answer.status in (400, 403)
    assert await emitted(deps.db) == []


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a=%ff", b"&".join(b"a%d=1" % n for n in range(400)), b"nonsense"])
async def test_an_unreadable_body_gets_a_sentence(deps: Deps, body: bytes) -> None:
    request = replace(signed(PATH, call_fields(1), deps.clock.now()), body=body)
    answer = await intake.take(deps, kind(), request)
    assert (answer.status, answer.outcome) == (400, "unreadable")
    assert answer.body == "The body is not a form in UTF-8."
    assert await stored(deps.db) == []


async def test_failed_effects_are_undone_alone_and_made_again_by_the_sweep(deps: Deps, clock: FixedClock) -> None:
    broken = [True]

    def effect() -> None:
        if broken[0]:
            raise RuntimeError("disk on fire")

    voice = kind(effect, safe=lambda deps, post: "<Response>hold</Response>")
    answer = await intake.take(deps, voice, signed(PATH, call_fields(1), clock.now()))
    assert (answer.status, answer.outcome, answer.body) == (200, "failed", "<Response>hold</Response>")
    (receipt,) = await stored(deps.db)
    assert (receipt.state, receipt.attempts, receipt.error) == (ReceiptState.FAILED, 1, "RuntimeError: disk on fire")
    assert await emitted(deps.db) == []

    assert await intake.sweep(deps, {"voice": voice}) == 0
    clock.tick(20)
    assert await intake.sweep(deps, {"voice": voice}) == 1
    assert (await stored(deps.db))[0].attempts == 2
    broken[0] = False
    assert await intake.sweep(deps, {"voice": voice}) == 0, "a failed one rests between two tries"
    clock.tick(20)
    assert await intake.sweep(deps, {"voice": voice}) == 1
    assert (await stored(deps.db))[0].state is ReceiptState.DONE
    assert await emitted(deps.db) == [call_id(1)]
    assert await intake.sweep(deps, {"voice": voice}) == 0


async def test_five_failures_are_quarantined(deps: Deps, clock: FixedClock) -> None:
    def effect() -> None:
        raise RuntimeError("always")

    voice = kind(effect)
    await intake.take(deps, voice, signed(PATH, call_fields(1), clock.now()))
    for _ in range(6):
        clock.tick(20)
        await intake.sweep(deps, {"voice": voice})
    (receipt,) = await stored(deps.db)
    assert (receipt.state, receipt.attempts) == (ReceiptState.QUARANTINED, receipts.TRIES)


async def test_a_repeat_of_a_failed_delivery_makes_its_effects(deps: Deps) -> None:
    def on_fire() -> None:
        raise RuntimeError("once")

    request = signed(PATH, call_fields(1), deps.clock.now())
    first = await intake.take(deps, kind(on_fire), request)
    second = await intake.take(deps, kind(), request)
    assert (first.outcome, second.outcome) == ("failed", "stored")
    assert await emitted(deps.db) == [call_id(1)]


async def test_somebody_else_being_first_is_tried_again_at_once(deps: Deps) -> None:
    outcomes = iter([Conflict(), Conflict(), None])

    def effect() -> None:
        if (error := next(outcomes)) is not None:
            raise error

    answer = await intake.take(deps, kind(effect), signed(PATH, call_fields(1), deps.clock.now()))
    assert answer.outcome == "stored"
    assert await emitted(deps.db) == [call_id(1)]


async def test_a_lasting_conflict_is_a_failed_receipt(deps: Deps) -> None:
    def effect() -> None:
        raise Conflict

    answer = await intake.take(deps, kind(effect), signed(PATH, call_fields(1), deps.clock.now()))
    assert answer.outcome == "failed"
    (receipt,) = await stored(deps.db)
    assert (receipt.state, receipt.attempts) == (ReceiptState.FAILED, 1)


async def test_genuine_but_unknown_is_answered_counted_and_kept(deps: Deps) -> None:
    def effect() -> None:
        raise NotFound("Not our number.")

    voice = kind(effect, unknown=lambda deps, post: "<Response>not in service</Response>")
    for outcome in ("unknown", "repeated"):
        answer = await intake.take(deps, voice, signed(PATH, call_fields(1), deps.clock.now()))
        assert (answer.status, answer.outcome, answer.body) == (200, outcome, "<Response>not in service</Response>")
    (receipt,) = await stored(deps.db)
    assert (receipt.state, receipt.error) == (ReceiptState.DISCARDED, "Not our number.")
    assert deps.count["voice", "unknown"] == 1  # type: ignore[index]


async def test_invalid_content_is_told_by_field(deps: Deps) -> None:
    def effect() -> None:
        raise Invalid("Look again.", fields={"email": "This is not an e-mail address."})

    answer = await intake.take(deps, kind(effect), signed(PATH, call_fields(1), deps.clock.now()))
    assert (answer.status, answer.body, dict(answer.fields)) == (
        422, "Look again.", {"email": "This is not an e-mail address."}
    )  # fmt: skip


async def test_without_the_database_only_a_call_gets_a_200(deps: Deps) -> None:
    class Gone:
        async def write(self, unit: Any, **_: Any) -> Any:
            raise DatabaseUnavailable("gone")

    away = replace(deps, db=Gone())  # type: ignore[arg-type]
    request = signed(PATH, call_fields(1), deps.clock.now())
    plain = await intake.take(away, kind(), request)
    assert (plain.status, plain.outcome) == (503, "unavailable")
    safe = await intake.take(away, kind(safe=lambda deps, post: "<Response>hold</Response>"), request)
    assert (safe.status, safe.body) == (200, "<Response>hold</Response>")


async def test_a_database_that_hangs_does_not_keep_a_caller_waiting(deps: Deps) -> None:
    class Hanging:
        async def write(self, unit: Any, **_: Any) -> Any:
            await asyncio.Event().wait()

    away = replace(deps, db=Hanging(), answer_s=0.05)  # type: ignore[arg-type]
    answer = await intake.take(
        away, kind(safe=lambda deps, post: "<Response>hold</Response>"), signed(PATH, call_fields(1), deps.clock.now())
    )
    assert (answer.status, answer.outcome) == (200, "unavailable")
