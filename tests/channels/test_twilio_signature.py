"""The signature check against Twilio's own RequestValidator, over many vectors; and that nothing makes it raise."""

from __future__ import annotations

import random
from dataclasses import replace
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDict
from twilio.request_validator import RequestValidator

from channels.contract import RawRequest
from channels.twilio_api import TwilioSettings, is_signed
from tests.channels.wire import ACCOUNT, NOW, ORIGIN, TOKEN, posted, sign

SETTINGS = TwilioSettings(ACCOUNT, TOKEN, public_url=ORIGIN)
FORM = "application/x-www-form-urlencoded"
URLS = [
    "https://hub.example.com/webhooks/twilio/voice",
    "https://hub.example.com:443/webhooks/twilio/voice?x=1&y=%20a",
    "https://hub.example.com:8443/webhooks/twilio/sms/status?k=d-1.2",
    "http://127.0.0.1:8080/webhooks/twilio/voice/step?i=01J&step=wait&n=3",
    "http://127.0.0.1/webhooks/twilio/voice",
]


def request(url: str, pairs: list[tuple[str, str]], signature: str) -> RawRequest:
    headers = {"content-type": FORM, "x-twilio-signature": signature}
    return RawRequest(url, "POST", headers, urlencode(pairs).encode(), NOW)


@pytest.mark.parametrize("url", URLS)
def test_agrees_with_twilios_validator(url):
    rng = random.Random(url)
    names = ["From", "To", "Body", "CallSid", "Digits", "Ünï", "a b", ""]
    values = ["+12025550101", "", "Grüße 🎉", "a&b=c+d", "  spaces ", "<x>", "a\nb"]
    for _ in range(200):
        pairs = [(rng.choice(names), rng.choice(values)) for _ in range(rng.randrange(0, 8))]
        token = rng.choice([TOKEN, "another-token"])
        signed_url = rng.choice([url, url.replace(":443", ""), url.replace(":8443", ""), url + "x"])
        signature = RequestValidator(token).compute_signature(signed_url, MultiDict(pairs))
        expected = RequestValidator(TOKEN).validate(url, MultiDict(pairs), signature)
        assert is_signed(request(url, pairs, signature), SETTINGS) is expected, (pairs, signed_url)


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=12)), max_size=6))
@settings(max_examples=200)
def test_what_twilio_signs_is_accepted(pairs):
    url = URLS[0]
    signature = RequestValidator(TOKEN).compute_signature(url, MultiDict(pairs))
    assert is_signed(request(url, pairs, signature), SETTINGS) is ("AccountSid" not in dict(pairs))


def test_with_and_without_port():
    fields = [("CallSid", "CA1")]
    for asked, signed in [
        ("https://hub.example.com/x", "https://hub.example.com:443/x"),
        ("https://hub.example.com:8443/x", "https://hub.example.com/x"),
        ("http://hub.example.com/x", "http://hub.example.com:80/x"),
    ]:
        assert is_signed(request(asked, fields, sign(signed, fields)), SETTINGS)
    assert not is_signed(
        request("https://hub.example.com/x", fields, sign("http://hub.example.com/x", fields)), SETTINGS
    )
    assert not is_signed(
        request("https://hub.example.com/x", fields, sign("https://hub.example.com/X", fields)), SETTINGS
    )


def test_rotation_accepts_the_previous_token_only_while_it_is_set():
    old = posted("/webhooks/twilio/sms", {"From": "+12025550101"}, token="old-token")
    assert not is_signed(old, SETTINGS)
    assert is_signed(old, replace(SETTINGS, previous_auth_token="old-token"))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": FORM},
        {"content-type": FORM, "x-twilio-signature": ""},
        {"content-type": FORM, "x-twilio-signature": "ü" * 28},
        {"content-type": FORM, "x-twilio-signature": "A" * 28},
        {"content-type": FORM, "x-twilio-signature": "A" * 100_000},
        {"content-type": "application/json", "x-twilio-signature": "A" * 28},
        {"x-twilio-signature": sign(URLS[0], [])},
    ],
)
@pytest.mark.parametrize("body", [b"", b"{}", b"\xff\xfe", b"a=%ff", b"&" * 70_000, b"x=1&" * 9000])
def test_never_raises_and_never_accepts(headers, body):
    assert is_signed(RawRequest(URLS[0], "POST", headers, body, NOW), SETTINGS) is False


def test_another_account_is_refused_even_with_a_good_signature():
    assert is_signed(posted("/x", {"AccountSid": ACCOUNT}), SETTINGS)
    assert not is_signed(posted("/x", {"AccountSid": "AC" + "9" * 32}), SETTINGS)


def test_the_request_cannot_choose_its_algorithm():
    header = {"x_twilio_webhooks_signature_settings": "key=k,algorithm=HMAC_SHA256"}
    assert is_signed(posted("/x", {"A": "1"}, **header), SETTINGS)
    body = RequestValidator(TOKEN).compute_signature(ORIGIN + "/x", {"A": "1"}, "HMAC_SHA256")
    assert not is_signed(request(ORIGIN + "/x", [("A", "1")], body), SETTINGS)


def test_a_get_is_signed_over_its_url_alone():
    url = ORIGIN + "/hold?x=1"
    good = RawRequest(url, "GET", {"x-twilio-signature": sign(url, [])}, b"", NOW)
    assert is_signed(good, SETTINGS)
    assert not is_signed(replace(good, url=url + "&y=2"), SETTINGS)
