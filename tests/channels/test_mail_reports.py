"""Bounces, delays and complaints are told from other mail, in the killable child, and nothing in them is believed on shapes."""

from __future__ import annotations

import random

import pytest

from channels.contract import MailArrived, MailUnreadable
from channels.mail_child import parse
from channels.mail_pool import MailPool, ParseFailed, arrived
from tests.channels.report_corpus import SAMPLES, Sample

ID = "<01kabcdefghjkmnpqrstvwxyz0.aaaabbbbccccdddd.m@example.test>"


@pytest.mark.parametrize("sample", SAMPLES, ids=[one.name for one in SAMPLES])
async def test_the_corpus(sample: Sample) -> None:
    pool = MailPool(size=1)
    try:
        mail = await pool.read(sample.bytes(message_id=ID), event_key="mail:a")
    finally:
        await pool.close()
    assert isinstance(mail, MailArrived)
    if not sample.kind:
        assert mail.report is None
        return
    assert mail.report is not None
    assert mail.report.kind == sample.kind
    assert mail.automatic, "nobody ever answers a report by itself"
    assert mail.report.about[0] == ID
    assert "support@example.test" in mail.report.returned_to
    [one] = mail.report.recipients
    assert (one.address, one.failed, one.dead, one.code) == (
        sample.address, sample.failed, sample.dead, sample.code,
    )  # fmt: skip


def test_several_recipients_each_with_their_own_fate() -> None:
    status = "\n\n".join(
        f"Final-Recipient: rfc822; p{n}@example.com\nAction: {action}\nStatus: {code}"
        for n, (action, code) in enumerate([("failed", "5.1.1"), ("delayed", "4.2.0"), ("delivered", "2.0.0")])
    )
    raw = SAMPLES[0].bytes(message_id=ID).replace(b"Reporting-MTA: dns; mx.example.com", b"Reporting-MTA: dns; mx", 1)
    head, _, rest = raw.partition(b"Final-Recipient:")
    tail = rest.partition(b"\r\n--b1\r\nContent-Type: text/rfc822-headers")[2]
    raw = head + status.replace("\n", "\r\n").encode() + b"\r\n\r\n--b1\r\nContent-Type: text/rfc822-headers" + tail
    report = parse(raw)[0]["report"]
    assert [(one["address"], one["action"]) for one in report["recipients"]] == [
        ("p0@example.com", "failed"), ("p1@example.com", "delayed"), ("p2@example.com", "delivered"),
    ]  # fmt: skip
    assert report["about"] == [ID]


def test_a_message_id_inside_the_returned_mail_is_not_taken_for_its_own() -> None:
    """Only the head of the returned copy counts: its body is what somebody wrote."""
    sample = next(one for one in SAMPLES if one.name == "postfix_whole_mail")
    raw = sample.bytes(message_id=ID).replace(b"\r\n--b1--", b"\r\nMessage-ID: <forged@example.com>\r\n--b1--")
    assert parse(raw)[0]["report"]["about"] == [ID]


async def test_a_hostile_report_is_read_or_refused_in_bounded_time() -> None:
    rng = random.Random(20261121)
    pool = MailPool(size=2)
    huge = SAMPLES[0].bytes(message_id=ID).replace(
        b"Action: failed", b"".join(b"Final-Recipient: rfc822; a@b.example\r\n\r\n" for _ in range(20_000)) + b"Action: failed"
    )  # fmt: skip
    many = SAMPLES[0].bytes(message_id="<" + "x" * 5000 + "@y>" + " " * 50_000)
    damaged = []
    for sample in SAMPLES:
        raw = bytearray(sample.bytes(message_id=ID))
        for _ in range(20):
            at = rng.randrange(len(raw))
            raw[at : at + rng.randrange(0, 6)] = rng.randbytes(rng.randrange(0, 6))
        damaged.append(bytes(raw))
    try:
        for raw in [huge, many, *damaged]:
            found = await pool.read(raw, event_key="x")
            assert isinstance(found, MailArrived | MailUnreadable)
            if isinstance(found, MailArrived) and found.report is not None:
                assert len(found.report.recipients) <= 50
                assert len(found.report.about) <= 20
                for one in found.report.recipients:
                    assert "\x00" not in one.text + one.code + one.address
    finally:
        await pool.close()


@pytest.mark.parametrize(
    "report",
    [
        {"kind": "promotion", "about": [], "returned_to": [], "recipients": [], "text": ""},
        {"kind": "bounce", "about": "x", "returned_to": [], "recipients": [], "text": ""},
        {"kind": "bounce", "about": [], "returned_to": [], "recipients": [{"address": 1}], "text": ""},
        {"kind": "bounce"},
        "bounce",
        7,
    ],
)
def test_a_child_that_was_taken_over_is_not_believed_about_reports(report: object) -> None:
    values, contents = parse(SAMPLES[0].bytes(message_id=ID))
    with pytest.raises(ParseFailed):
        arrived({**values, "report": report}, contents, raw=b"", event_key="x")
