"""The contract that every adapter keeps, by case tables: what is in tests/fixtures/<kind>/ and the faults listed here.

Valid, unsigned, duplicate, unknown status, time-out, 429, 5xx, opt-out; no secret or address in an error or a log.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from channels import contract, email, fake, registry, sms, voice, webform
from channels.errors import (
    AnswerUnreadable,
    ChannelError,
    ContentRejected,
    Gone,
    Misconfigured,
    OutcomeUnknown,
    RecipientInvalid,
    RecipientOptedOut,
    Throttled,
    Unavailable,
)
from channels.mail_pool import MailPool
from channels.twilio_api import TwilioApi, settings_from
from tests.channels import wire
from tests.channels.wire import CALL, KEY_SECRET, MESSAGE, ROOM, TOKEN, posted

FIXTURES = Path(__file__).parent.parent / "fixtures"
TEXT = contract.OutboundText("+442079460000", "+12025550101", "Hello canary-body", "d-1.1")
PHONED = contract.OutboundCall("+442079460000", "+12025550101", "room-1", "customer", "/status", "/room?i=1")
MAIL = contract.OutboundMail(
    "support@example.test", "Support", "ana@example.com", "Hello", "canary-body", "", "<out-1@example.test>"
)


def fixtures(kind: str) -> list[Any]:
    found = sorted((FIXTURES / kind).glob("*.json"))
    return [pytest.param(kind, json.loads(path.read_text()), id=f"{kind}-{path.stem}") for path in found]


def channel_of(kind: str, base: str = "http://127.0.0.1:9", **more: str) -> Any:
    if kind in ("voice", "sms"):
        return registry.build(wire.twilio_config(kind, base=base, **more))
    if kind == "email":
        secrets = {"imap_url": "imap://u:canary-mailbox-password@127.0.0.1:9", "smtp_url": "smtp://127.0.0.1:9"}
        return registry.build(contract.AccountConfig("email", "support@example.test", {}, secrets))
    return registry.build(contract.AccountConfig(kind, "website"))


def request_of(kind: str, case: Mapping[str, Any]) -> contract.RawRequest:
    if "fields" in case:
        return posted(case["path"], case["fields"])
    return contract.RawRequest(
        wire.ORIGIN + case["path"], "POST", case["headers"], case["body"].encode(), wire.NOW, "203.0.113.9"
    )


def shown(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value):
        return {one.name: shown(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [shown(one) for one in value]
    return dict(value) if isinstance(value, Mapping) else value


def assert_expected(found: list[Any], expected: list[Mapping[str, Any]]) -> None:
    assert [type(one).__name__ for one in found] == [one["type"] for one in expected]
    for one, wanted in zip(found, expected, strict=True):
        for name, value in wanted.items():
            if name != "type":
                got = shown(getattr(one, name))
                if name == "files":
                    got = [{key: file[key] for key in want} for file, want in zip(got, value, strict=True)]
                assert got == value, name


# --- receiving -------------------------------------------------------------------------------------------------------

RECEIVED = [*fixtures("voice"), *fixtures("sms"), *fixtures("webform")]
SIGNED = [*fixtures("voice"), *fixtures("sms")]


@pytest.mark.parametrize(("kind", "case"), RECEIVED)
def test_valid(kind, case):
    channel, request = channel_of(kind), request_of(kind, case)
    assert isinstance(channel, contract.Receives)
    assert channel.verify(request) is True
    assert_expected(channel.parse(request), case["expect"])


@pytest.mark.parametrize(("kind", "case"), fixtures("email"))
async def test_valid_mail(kind, case):
    pool = MailPool(size=1)
    try:
        assert_expected([await pool.read(case["mail"].encode(), event_key="mail:1")], case["expect"])
    finally:
        await pool.close()


@pytest.mark.parametrize(("kind", "case"), SIGNED)
def test_unsigned_or_wrongly_signed(kind, case):
    channel = channel_of(kind)
    assert channel.verify(posted(case["path"], case["fields"], token=None)) is False
    assert channel.verify(posted(case["path"], case["fields"], token="wrong")) is False
    good = posted(case["path"], case["fields"])
    assert channel.verify(replace(good, body=good.body + b"&To=%2B19005550100")) is False
    assert channel.verify(replace(good, url=good.url.replace("https", "http"))) is False


@pytest.mark.parametrize(("kind", "case"), RECEIVED)
def test_duplicates_have_one_key_and_others_another(kind, case):
    channel = channel_of(kind)
    first, second = (channel.parse(request_of(kind, case)) for _ in range(2))
    assert [one.event_key for one in first] == [one.event_key for one in second]


def test_event_keys_of_all_fixtures_are_distinct_per_event():
    for kind in ("voice", "sms"):
        keys: dict[str, str] = {}
        for param in fixtures(kind):
            _, case = param.values
            for one in channel_of(kind).parse(request_of(kind, case)):
                meaning = json.dumps([type(one).__name__, one.event_key.rpartition(":")[2]])
                assert keys.setdefault(one.event_key, meaning) == meaning


UNKNOWN = [
    (
        "voice",
        {"CallSid": CALL, "CallStatus": "teleported", "CallbackSource": "call-progress-events", "SequenceNumber": "9"},
    ),
    ("voice", {"ConferenceSid": ROOM, "StatusCallbackEvent": "participant-vanish", "FriendlyName": "room-1"}),
    ("sms", {"MessageSid": MESSAGE, "MessageStatus": "teleported", "From": "+442079460000", "To": "+12025550101"}),
]


@pytest.mark.parametrize(("kind", "fields"), UNKNOWN)
def test_unknown_status_is_loud_and_named(kind, fields):
    channel = channel_of(kind)
    request = posted("/webhooks/twilio/x", fields)
    assert channel.verify(request)
    with pytest.raises(AnswerUnreadable) as caught:
        channel.parse(request)
    assert caught.value.code == "unknown_status"


UNREADABLE: list[tuple[str, list[tuple[str, str]], str]] = [
    ("voice", [], "missing_field"),
    ("voice", [("CallSid", "CAxyz")], "bad_field"),
    ("voice", [("CallSid", CALL), ("CallSid", "CA" + "0" * 32)], "duplicate_field"),
    ("voice", [("CallSid", CALL), ("To", "+1"), ("To", "+19005550100")], "duplicate_field"),
    ("voice", [("CallSid", CALL), ("From", "client:a"), ("offer", "1"), ("offer", "2")], "duplicate_field"),
    ("voice", [("CallSid", CALL), ("From", "a\r\nb")], "bad_field"),
    ("voice", [("CallSid", CALL), ("SequenceNumber", "-1"), ("CallStatus", "ringing")], "bad_field"),
    ("voice", [("CallSid", CALL), ("SequenceNumber", "9" * 30), ("CallStatus", "ringing")], "bad_field"),
    ("voice", [(f"n{n}", "x") for n in range(600)], "bad_form"),
    ("voice", [("CallSid", CALL), ("X", "x" * 66_000)], "too_large"),
    ("sms", [("MessageSid", MESSAGE)], "missing_field"),
    ("sms", [("MessageSid", "SM1"), ("From", "+12025550101"), ("To", "+442079460000")], "bad_field"),
    ("sms", [("MessageSid", MESSAGE), ("MediaUrl0", "https://a"), ("MediaUrl0", "https://b")], "duplicate_field"),
]


@pytest.mark.parametrize(("kind", "pairs", "code"), UNREADABLE)
def test_unreadable(kind, pairs, code):
    with pytest.raises(AnswerUnreadable) as caught:
        channel_of(kind).parse(posted("/webhooks/twilio/x", pairs))
    assert caught.value.code == code
    assert "19005550100" not in str(caught.value), "the sentence names the field, never its value"


@pytest.mark.parametrize("kind", ["voice", "sms"])
def test_bodies_that_are_no_form(kind):
    good = posted("/webhooks/twilio/x", {"CallSid": CALL})
    for body, content_type in [
        (b"{}", "application/json"),
        (b"\xff", "application/x-www-form-urlencoded"),
        (b"a=%ff", ""),
    ]:
        with pytest.raises(AnswerUnreadable):
            channel_of(kind).parse(replace(good, body=body, headers={"content-type": content_type}))


def test_unknown_extra_names_are_tolerated():
    fields = {"CallSid": CALL, "From": "+12025550101", "To": "+442079460000", "CallStatus": "ringing", "BrandNew": "x"}
    [arrived] = channel_of("voice").parse(posted("/x", [*fields.items(), ("Odd", "1"), ("Odd", "2")]))
    assert arrived.raw["BrandNew"] == "x"
    assert "Odd" not in arrived.raw


def test_lower_case_fields_of_a_phone_call_are_nobodys_parameters():
    fields = {
        "CallSid": CALL,
        "From": "+12025550101",
        "To": "+442079460000",
        "CallStatus": "ringing",
        "offer": "forged",
    }
    [arrived] = channel_of("voice").parse(posted("/x", fields))
    assert arrived.params == {}


# --- sending ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What Twilio does, and what the sender must be told: for a create, and for a command that may be repeated."""

    name: str
    answer: Callable[[Any], Any]
    create: type[ChannelError]
    repeatable: type[ChannelError]
    retry_after_s: float | None = None


FAULTS = [
    Fault("time-out", wire.hangs, OutcomeUnknown, Unavailable),
    Fault("cut", wire.cuts, OutcomeUnknown, Unavailable),
    Fault("500", wire.refuses(500, 20500), OutcomeUnknown, Unavailable),
    Fault("503 without JSON", wire.says(503, "busy"), OutcomeUnknown, Unavailable),
    Fault("201 without JSON", wire.nonsense, OutcomeUnknown, AnswerUnreadable),
    Fault("429", wire.refuses(429, 20429, Retry_After="7"), Throttled, Throttled, 7.0),
    Fault("429 without a time", wire.refuses(429, 0), Throttled, Throttled),
    Fault("401", wire.refuses(401, 20003), Misconfigured, Misconfigured),
    Fault("403", wire.refuses(403, 0), Misconfigured, Misconfigured),
    Fault("404", wire.refuses(404, 20404), Misconfigured, Gone),
    Fault("opted out", wire.refuses(400, 21610), RecipientOptedOut, RecipientOptedOut),
    Fault("invalid number", wire.refuses(400, 21211), RecipientInvalid, RecipientInvalid),
    Fault("landline", wire.refuses(400, 21614), RecipientInvalid, RecipientInvalid),
    Fault("unreachable", wire.refuses(400, 30003), Unavailable, Unavailable),
    Fault("filtered", wire.refuses(400, 30007), ContentRejected, ContentRejected),
    Fault("region off", wire.refuses(403, 21408), Misconfigured, Misconfigured),
    Fault("unlisted code", wire.refuses(400, 99999), Misconfigured, Misconfigured),
    Fault("redirect", wire.says(302, {}, Location="http://127.0.0.1:9/"), AnswerUnreadable, AnswerUnreadable),
]
ASKS: dict[str, Callable[[Any], Any]] = {
    "sms send": lambda channel: channel.send(TEXT),
    "voice place": lambda channel: channel.place_call(PHONED),
    "voice move": lambda channel: channel.move_call(CALL, "/webhooks/twilio/voice/step?i=1&step=join&n=2"),
    "voice hold": lambda channel: channel.hold(ROOM, CALL, on=True, music_url="/hold.wav"),
}
CREATES = {"sms send", "voice place"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("ask", ASKS)
async def test_faults(ask, fault, caplog):
    caplog.set_level(logging.DEBUG)
    kind = ask.split()[0]
    async with wire.twilio_wire() as server:
        server.answers = [fault.answer]
        settings = settings_from(wire.twilio_config(kind, base=server.base))
        api = TwilioApi(settings, timeout_s=2.0 if fault.answer is wire.hangs else 30.0)
        channel = sms.SmsChannel(settings, api=api) if kind == "sms" else voice.VoiceChannel(settings, api=api)
        wanted = fault.create if ask in CREATES else fault.repeatable
        try:
            with pytest.raises(ChannelError) as caught:
                await ASKS[ask](channel)
        finally:
            await channel.close()
        assert type(caught.value) is wanted
        assert caught.value.retry_after_s == fault.retry_after_s
        assert len(server.asked) == 1, "an adapter never tries again by itself"
    words = repr(caught.value) + str(caught.value) + str(caught.value.data) + caplog.text + repr(channel.settings)
    for secret in (TOKEN, KEY_SECRET, "canary-body", "+12025550101", "12025550101"):
        assert secret not in words


@pytest.mark.parametrize("ask", ASKS)
async def test_a_refused_connection_is_known_not_to_have_sent(ask):
    channel = channel_of(ask.split()[0])
    try:
        with pytest.raises(Unavailable) as caught:
            await ASKS[ask](channel)
        assert caught.value.retryable
    finally:
        await channel.close()


MAIL_FAULTS: list[tuple[str, dict[str, str], type[ChannelError]]] = [
    ("greeting busy", {"greeting": "421 4.7.0 too many"}, Throttled),
    ("greeting refuses", {"greeting": "554 5.7.1 no"}, Misconfigured),
    ("cut at hello", {"EHLO": "cut", "HELO": "cut"}, Unavailable),
    ("hang at sender", {"MAIL": "hang"}, Unavailable),
    ("sender refused", {"MAIL": "553 5.7.1 not yours"}, Misconfigured),
    ("unknown user", {"RCPT": "550 5.1.1 ana@example.com unknown"}, RecipientInvalid),
    ("no such domain", {"RCPT": "550 5.1.2 bad"}, RecipientInvalid),
    ("mailbox full", {"RCPT": "552 5.2.2 full"}, Unavailable),
    ("grey listed", {"RCPT": "450 4.2.0 later"}, Unavailable),
    ("rate limited", {"RCPT": "450 4.7.1 slow down"}, Throttled),
    ("relaying denied", {"RCPT": "554 5.7.1 relay access denied"}, Misconfigured),
    ("login wanted", {"RCPT": "530 5.7.0 authenticate first"}, Misconfigured),
    ("cut at recipient", {"RCPT": "cut"}, Unavailable),
    ("data refused", {"DATA": "451 4.3.0 try later"}, Unavailable),
    ("content refused", {"body": "554 5.7.1 spam canary-body"}, ContentRejected),
    ("content too large", {"body": "552 5.3.4 too big"}, ContentRejected),
    ("content deferred", {"body": "451 4.3.0 disk"}, Unavailable),
    ("late unknown user", {"body": "550 5.1.1 unknown"}, RecipientInvalid),
    ("cut after data", {"body": "cut"}, OutcomeUnknown),
    ("reset after data", {"body": "reset"}, OutcomeUnknown),
    ("hang after data", {"body": "hang"}, OutcomeUnknown),
]


@pytest.mark.parametrize(("name", "rules", "wanted"), MAIL_FAULTS, ids=[one[0] for one in MAIL_FAULTS])
async def test_mail_faults(name, rules, wanted, caplog):
    caplog.set_level(logging.DEBUG)
    async with wire.smtp_wire(**rules) as server:
        short = 1.0 if "hang" in rules.values() else 30.0
        smtp = replace(email.smtp_from_url(f"smtp://127.0.0.1:{server.port}"), phase_s=short, data_s=short)
        channel = email.EmailChannel(email.EmailSettings("support@example.test", smtp=smtp))
        with pytest.raises(ChannelError) as caught:
            await channel.send(MAIL)
        assert type(caught.value) is wanted
        assert server.connections == 1
    words = repr(caught.value) + str(caught.value) + str(caught.value.data) + caplog.text
    assert "canary-body" not in words
    assert "ana@example.com" not in words


# --- the suite's own completeness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(registry.BUILDERS))
def test_every_adapter_is_built_named_documented_and_has_fixtures(kind):
    channel = channel_of(kind)
    assert channel.kind == kind
    docs = Path(__file__).parents[2] / "docs" / "channels"
    assert (docs / f"{kind}.md").read_text().startswith("# ")
    assert f"({kind}.md)" in (docs / "README.md").read_text(), "no row in the capability matrix"
    assert fixtures(kind), "no captured payloads"
    assert any(isinstance(channel, one) for one in (contract.Receives, contract.Sends, contract.Polls))


def test_every_adapter_in_the_folder_is_registered():
    folder = Path(registry.__file__).parent
    adapters = {path.stem for path in folder.glob("*.py") if "def build(config" in path.read_text()} - {"registry"}
    assert adapters == set(registry.BUILDERS)
    assert all(module.__name__.rpartition(".")[2] in registry.BUILDERS for module in (voice, sms, email, webform))


def test_the_matrix_tells_the_truth():
    rows = (Path(__file__).parents[2] / "docs/channels/README.md").read_text().splitlines()
    protocols = {
        "Receives": contract.Receives, "Sends": contract.Sends,
        "PlacesCalls": contract.PlacesCalls, "Polls": contract.Polls,
    }  # fmt: skip
    head = next(row for row in rows if row.startswith("| Channel")).strip("|").split("|")
    names = [cell.strip() for cell in head]
    for kind in registry.BUILDERS:
        row = next(row for row in rows if f"({kind}.md)" in row).strip("|").split("|")
        cells = dict(zip(names, (cell.strip() for cell in row), strict=True))
        for name, protocol in protocols.items():
            assert (cells[name] == "yes") is isinstance(channel_of(kind), protocol), (kind, name)


@pytest.mark.parametrize("kind", sorted(registry.BUILDERS))
def test_secrets_are_named_and_never_shown(kind):
    channel = channel_of(kind)
    for secret in channel.secrets:
        assert len(secret) >= 8
        assert secret not in repr(channel.settings)
        assert secret not in repr(channel)
    expected = {"voice": {TOKEN, KEY_SECRET}, "sms": {TOKEN, KEY_SECRET}, "email": {"canary-mailbox-password"}}
    assert set(channel.secrets) == expected.get(kind, set())


@pytest.mark.parametrize("kind", ["voice", "sms", "email", "pigeon"])
def test_an_incomplete_account_is_refused_in_a_sentence(kind):
    with pytest.raises(Misconfigured, match=r"^The .*\.$|^There is no channel"):
        registry.build(contract.AccountConfig(kind, "x", {}, {}))


async def test_the_fake_keeps_the_contract():
    channel = fake.FakeChannel("sms")
    for protocol in (contract.Receives, contract.Sends, contract.PlacesCalls, contract.Polls):
        assert isinstance(channel, protocol)
    channel.fail(Throttled(retry_after_s=3), None)
    with pytest.raises(Throttled):
        await channel.send(TEXT)
    assert (await channel.send(TEXT)).external_id == "fake-message-1"
    assert channel.sent == [TEXT]
    placed = await channel.place_call(PHONED)
    await channel.end_call(placed.external_id)
    await channel.end_call(placed.external_id)
    with pytest.raises(Gone):
        await channel.move_call(placed.external_id, "/x")
    body = json.dumps({"id": "1", "from": "+12025550101", "to": "+442079460000", "body": "Hi"}).encode()
    request = contract.RawRequest("http://x", "POST", {"x-fake-signature": "fake-secret-value"}, body, wire.NOW)
    assert channel.verify(request)
    assert not channel.verify(replace(request, headers={}))
    assert channel.parse(request)[0].event_key == "1"
    with pytest.raises(AnswerUnreadable):
        channel.parse(replace(request, body=b"{"))
