"""What the twin refuses in a document, and how long a text is."""

from __future__ import annotations

import pytest

from hub.sandbox.messages import segments
from hub.sandbox.twiml import ROOM_WAIT_VERBS, Document, TwimlError, parse

URL = "https://hub.example.com/a/voice?x=1#rc=2"


def document(inner: str, **options) -> Document:
    return parse(f"<Response>{inner}</Response>", url=URL, method="POST", **options)


@pytest.mark.parametrize(
    ("inner", "code", "words"),
    [
        ("<Sing>la</Sing>", 12200, "<Response> may not hold <Sing>"),
        ("<Say pitch='high'>x</Say>", 12200, "no attribute 'pitch'"),
        ("<Gather><Dial/></Gather>", 12200, "<Gather> may not hold <Dial>"),
        ("<Dial><Queue>x</Queue></Dial>", 12200, "<Dial> may not hold <Queue>"),
        ("<Dial><Conference beep='yes'>x</Conference></Dial>", 12200, "must be one of"),
        ("<Dial><Conference startConferenceOnEnter='1'>x</Conference></Dial>", 12200, "must be one of"),
        ("<Dial><Conference statusCallbackEvent='join jump'>x</Conference></Dial>", 12200, "no event jump"),
        ("<Dial><Number statusCallbackEvent='join'>x</Number></Dial>", 12200, "no event join"),
        ("<Dial timeout='soon'/>", 12200, "must be seconds"),
        ("<Gather numDigits='one'/>", 12200, "whole number"),
        ("<Pause length='-1'/>", 12200, "whole number"),
        ("<Reject reason='tired'/>", 12200, "must be one of"),
        ("<Say>x", 12100, "parse failure"),
        ("<Say>&unknown;</Say>", 12100, "parse failure"),
    ],
)
def test_what_is_not_twiml_is_refused(inner, code, words):
    with pytest.raises(TwimlError, match=words) as refused:
        document(inner)
    assert refused.value.code == code


def test_entities_cannot_be_declared():
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><Response><Say>&a;</Say></Response>'
    with pytest.raises(TwimlError, match="document type"):
        parse(bomb, url=URL, method="POST")


def test_the_root_must_be_response():
    with pytest.raises(TwimlError, match="Response"):
        parse("<Answer/>", url=URL, method="POST")


def test_a_wait_document_may_not_dial():
    with pytest.raises(TwimlError, match="<Gather> is not allowed"):
        document("<Gather/>", allowed=ROOM_WAIT_VERBS)


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ("/next", "https://hub.example.com/next"),
        ("next?y=2", "https://hub.example.com/a/next?y=2"),
        ("", "https://hub.example.com/a/voice?x=1"),
        ("https://cdn.example.com/m.wav", "https://cdn.example.com/m.wav"),
    ],
)
def test_relative_urls_are_resolved_against_the_document(given, whole):
    assert document("<Hangup/>").resolve(given) == whole


def test_a_document_given_inline_has_no_relative_urls():
    with pytest.raises(TwimlError) as refused:
        parse("<Response/>", url="", method="POST").resolve("/next")
    assert refused.value.code == 15004


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("é" * 160, 1),
        ("ж" * 70, 1),
        ("ж" * 71, 2),
        ("ж" * 135, 3),
        ("😀" * 35, 1),
        ("😀" * 36, 2),
    ],
)
def test_segments(body, count):
    assert segments(body) == count
