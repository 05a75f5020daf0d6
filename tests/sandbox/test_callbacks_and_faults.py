"""Signatures, retries by URL fragment, fallback, and every fault that can be switched on."""

from __future__ import annotations

import pytest
from twilio.request_validator import RequestValidator

from hub.sandbox.callbacks import BadOverride, signature, split_override
from hub.sandbox.faults import KINDS, Faults

LINE, ANA = "+442079460000", "+12025550101"


def test_signature_is_that_of_the_providers_documentation():
    # The example of the page "Webhooks: security".
    params = [
        ("CallSid", "CA1234567890ABCDE"),
        ("Caller", "+12349013030"),
        ("Digits", "1234"),
        ("From", "+12349013030"),
        ("To", "+18005551212"),
    ]
    made = signature("12345", "https://mycompany.com/myapp.php?foo=1&bar=2", params)
    assert made == "0/KCTR6DLpKmkAf8muzZqo1nDgQ="


@pytest.mark.parametrize(
    ("url", "bare", "tries"),
    [
        ("http://h/x?a=1#rc=2&rp=all", "http://h/x?a=1", 3),
        ("http://h/x", "http://h/x", 2),
        ("http://h/x#rc=0", "http://h/x", 1),
        ("http://h/x#top", "http://h/x", 2),
    ],
)
def test_override_fragment_is_read_and_stripped(url, bare, tries):
    found, override = split_override(url)
    assert (found, 1 + override.rc) == (bare, tries)


@pytest.mark.parametrize("url", ["http://h/x#rc=9", "http://h/x#zz=1", "http://h/x#rp=maybe", "http://h/x#ct=1"])
def test_override_that_does_not_exist_is_refused(url):
    with pytest.raises(BadOverride):
        split_override(url)


async def test_retry_asks_again_with_the_same_token_and_a_valid_signature(hub, sandbox, rest):
    number = next(iter(sandbox.world.numbers.values()))
    number.voice_url = f"{hub.url}/voice?flow=7#rc=2&rp=5xx"
    hub.statuses["/voice"] = [503, 503]
    hub.says("/voice", "<Hangup/>")
    await sandbox.over(await sandbox.dial(ANA, LINE))
    tries = hub.at("/voice")
    assert len(tries) == 3
    assert len({seen.headers["I-Twilio-Idempotency-Token"] for seen in tries}) == 1
    validator = RequestValidator(sandbox.config.auth_token)
    for seen in tries:
        signed = seen.headers["X-Twilio-Signature"]
        assert validator.validate(f"{hub.url}/voice?flow=7", seen.params, signed)
    assert sandbox.twin_faults == []


async def test_without_the_fragment_a_503_is_not_retried_but_goes_to_the_fallback(hub, sandbox):
    number = next(iter(sandbox.world.numbers.values()))
    number.voice_fallback_url = f"{hub.url}/fallback"
    hub.statuses["/voice"] = [503]
    hub.says("/fallback", "<Say>We are sorry.</Say>")
    sid = await sandbox.dial(ANA, LINE)
    await sandbox.over(sid)
    assert len(hub.at("/voice")) == 1
    assert hub.at("/fallback")[0].params["ErrorCode"] == "11200"
    assert sandbox.world.calls[sid].heard[-1]["text"] == "We are sorry."


async def test_get_request_is_signed_over_its_query(hub, sandbox):
    number = next(iter(sandbox.world.numbers.values()))
    number.voice_method = "GET"
    hub.says("/voice", "<Hangup/>")
    await sandbox.over(await sandbox.dial(ANA, LINE))
    seen = hub.at("/voice")[0]
    assert seen.method == "GET"
    validator = RequestValidator(sandbox.config.auth_token)
    assert validator.validate(f"{hub.url}/voice?{seen.query}", {}, seen.headers["X-Twilio-Signature"])


async def statuses_of(hub, rest, count):
    await rest("POST", "/Messages.json", expect=201, To=ANA, From_=LINE, Body="Hi", StatusCallback=f"{hub.url}/s")
    await hub.gets("/s", count)
    return [seen.params["MessageStatus"] for seen in hub.at("/s")]


async def test_callback_delivered_twice_carries_one_token(hub, sandbox, rest):
    await sandbox.request("POST", "/outside/faults", {"kind": "twice", "next": 1})
    assert await statuses_of(hub, rest, 4) == ["sending", "sending", "sent", "delivered"]
    first, second = hub.at("/s")[:2]
    assert first.headers["I-Twilio-Idempotency-Token"] == second.headers["I-Twilio-Idempotency-Token"]
    assert first.params == second.params


async def test_callback_out_of_order_changes_places_with_the_next(hub, sandbox, rest):
    await sandbox.request("POST", "/outside/faults", {"kind": "out_of_order", "next": 1})
    assert await statuses_of(hub, rest, 3) == ["sent", "sending", "delivered"]


async def test_lost_callback_never_comes_and_is_in_the_log(hub, sandbox, rest):
    await sandbox.request("POST", "/outside/faults", {"kind": "lost", "next": 1, "match": "/s"})
    assert await statuses_of(hub, rest, 2) == ["sent", "delivered"]
    log = await sandbox.request("GET", "/outside/callbacks?kind=message-sending")
    assert [entry["note"] for entry in log["callbacks"]] == ["lost"]


async def test_late_callback_comes_late(hub, sandbox, rest):
    await sandbox.request("POST", "/outside/faults", {"kind": "late", "next": 1, "delay_s": 0.2})
    assert await statuses_of(hub, rest, 3) == ["sending", "sent", "delivered"]
    log = await sandbox.request("GET", "/outside/callbacks?kind=message-sending")
    assert log["callbacks"][0]["note"] == "0.2 s late"


async def test_rest_faults(sandbox, rest):
    form = {"To": ANA, "From_": LINE, "Body": "Hi"}
    await sandbox.request("POST", "/outside/faults", {"kind": "rest_429", "next": 1})
    assert (await rest("POST", "/Messages.json", expect=429, **form))["code"] == 20429
    await sandbox.request("POST", "/outside/faults", {"kind": "rest_500", "next": 1})
    await rest("POST", "/Messages.json", expect=500, **form)
    assert sandbox.world.messages == {}
    await sandbox.request("POST", "/outside/faults", {"kind": "rest_500_after", "next": 1})
    await rest("POST", "/Messages.json", expect=500, **form)
    assert len(sandbox.world.messages) == 1
    await rest("POST", "/Messages.json", expect=201, **form)


async def test_unknown_fault_is_refused(sandbox):
    with pytest.raises(RuntimeError, match="unknown fault"):
        await sandbox.request("POST", "/outside/faults", {"kind": "earthquake"})


def test_faults_by_chance_are_the_same_for_a_seed():
    def drawn(seed):
        faults = Faults(seed=seed)
        faults.arm("lost", probability=0.3)
        return [faults.strikes("lost", "x") is not None for _ in range(50)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert 5 < sum(drawn(7)) < 30


def test_match_limits_a_fault():
    faults = Faults(seed=1)
    for kind in KINDS:
        faults.arm(kind, next_=1, match="/sms")
        assert faults.strikes(kind, "http://h/voice") is None
        assert faults.strikes(kind, "http://h/sms") is not None
        assert faults.strikes(kind, "http://h/sms") is None
