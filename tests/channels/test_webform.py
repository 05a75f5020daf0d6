"""Web forms: limits, names, and what cannot be read."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import pytest

from channels import webform
from channels.contract import AccountConfig, RawRequest
from channels.errors import AnswerUnreadable
from tests.channels.wire import NOW

CHANNEL = webform.build(AccountConfig("webform", "website"))
FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=B"


def posted(
    body: bytes, kind: str = FORM, *, url: str = "/webhooks/forms/website", at=NOW, **headers: str
) -> RawRequest:
    sent = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return RawRequest("https://hub.example.com" + url, "POST", sent, body, at, "203.0.113.9")


def part(name: str, content: bytes, extra: str = "") -> bytes:
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"


UNREADABLE = [
    (b"a=1", "text/plain", "content_type"),
    (b"a=1", "multipart/form-data", "bad_form"),
    (b"a=%ff", FORM, "bad_form"),
    (b"\xff=1", FORM, "bad_form"),
    (b"&".join(b"a%d=1" % n for n in range(150)), FORM, "too_large"),
    (b"&".join(b"a%d=1" % n for n in range(100_0)), FORM, "too_large"),
    (b"a=" + b"x" * 10_001, FORM, "too_large"),
    (b"x" * 70_000, FORM, "too_large"),
    (b"=1", FORM, "bad_field"),
    (b"n" * 101 + b"=1", FORM, "bad_field"),
    (b"a%00b=1", FORM, "bad_field"),
    (b"{", "application/json", "bad_form"),
    (b"[1]", "application/json", "bad_form"),
    (b'"x"', "application/json", "bad_form"),
    (b'{"a":NaN}', "application/json", "bad_form"),
    (b'{"a":' * 3000 + b"1" + b"}" * 3000, "application/json", "bad_form"),
    (b"[" * 60_000, "application/json", "bad_form"),
    (b"\xff", "application/json", "bad_form"),
    (json.dumps({"a": list(range(500))}).encode(), "application/json", "too_large"),
    (part("a", b"1"), PARTS, "bad_form"),  # cut off
    (b"--B\r\nno header end--B--\r\n", PARTS, "bad_form"),
    (b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n", PARTS, "bad_form"),
    (part("a", b"\xff") + b"--B--\r\n", PARTS, "bad_form"),
    (b"".join(part(f"a{n}", b"1") for n in range(200)) + b"--B--\r\n", PARTS, "too_large"),
    (b"".join(part(f"f{n}", b"1", '; filename="a"') for n in range(6)) + b"--B--\r\n", PARTS, "too_large"),
    (b"x" * (10 * 2**20 + 1), PARTS, "too_large"),
    (b"--B\r\n" * 1_000_000, PARTS, "too_large"),
]


@pytest.mark.parametrize(("body", "kind", "code"), UNREADABLE)
def test_unreadable(body, kind, code):
    started = time.perf_counter()
    with pytest.raises(AnswerUnreadable) as caught:
        CHANNEL.parse(posted(body, kind))
    assert caught.value.code == code
    assert str(caught.value).endswith(".")
    assert time.perf_counter() - started < 1


def test_compressed_bodies_are_not_unpacked():
    with pytest.raises(AnswerUnreadable):
        CHANNEL.parse(posted(b"\x1f\x8b", content_encoding="gzip"))


@pytest.mark.parametrize(
    "url", ["/webhooks/forms/", "/webhooks/forms/a%2fb", "/webhooks/forms/../x y", "/f/" + "k" * 65]
)
def test_a_key_that_cannot_be_one(url):
    with pytest.raises(AnswerUnreadable):
        CHANNEL.parse(posted(b"a=1", url=url))


def test_remote_and_control_characters():
    [form] = CHANNEL.parse(posted(b"a=x%00y%E2%80%AEz%0Aw"))
    assert form.fields == {"a": "xyz\nw"}
    assert form.remote == "203.0.113.9"


def test_event_keys():
    def key(body: bytes, **more) -> str:
        return CHANNEL.parse(posted(body, **more))[0].event_key

    assert key(b"a=1&b=2") == key(b"b=2&a=1")
    assert key(b"a=1") != key(b"a=2")
    assert key(b"a=1", at=NOW + timedelta(seconds=299)) == key(b"a=1")
    assert key(b"a=1", at=NOW + timedelta(seconds=300)) != key(b"a=1")
    assert key(b"a=1", idempotency_key="abcdefgh") == key(
        b"a=2", idempotency_key="abcdefgh", at=NOW + timedelta(days=1)
    )
    assert key(b"a=1", idempotency_key="abcdefgh") != key(
        b"a=1", url="/webhooks/forms/other", idempotency_key="abcdefgh"
    )


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\évil\x00.exe", "évil.exe"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("...", "file"),
        ("", "file"),
        ("a<b>|?.txt", "a_b___.txt"),
        ("x" * 300 + ".pdf", "x" * 100 + ".pdf"),
    ],
)
def test_file_names(sent, shown):
    assert webform.clean_name(sent) == shown


def test_a_file_keeps_its_bytes_and_rfc_5987_names():
    content = bytes(range(256)) + b"\r\n--Bx\r\n"
    extra = "; filename=\"x.bin\"; filename*=UTF-8''na%C3%AFve%20file.bin\r\nContent-Type: application/x-thing"
    body = part("f", content, extra) + b"--B--\r\n"
    # A boundary that also begins a line of the content would end the part: browsers choose one that does not occur.
    body = body.replace(b"\r\n--Bx\r\n", b"\r\n--Cx\r\n")
    [form] = CHANNEL.parse(posted(body, PARTS))
    [file] = form.files
    assert file.name == "naïve file.bin"
    assert file.content_type == "application/x-thing"
    assert file.content == content.replace(b"--Bx", b"--Cx")
