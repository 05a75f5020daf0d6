"""TwiML: every step renders to a document that the twin's own parser takes, and no text can become a verb."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels import steps
from channels.twiml import render
from hub.sandbox import twiml as twin

BASE = "https://hub.example.com"
EVERY = [
    steps.Say("Hello", "de-DE", loop=2),
    steps.Play("/sounds/a.wav", loop=3),
    steps.Pause(2),
    steps.Gather("/next?a=1&b=2", [steps.Say("One"), steps.Play("/x.wav"), steps.Pause()], digits=1, speech=True),
    steps.Enqueue("q-1", "/wait", "/left"),
    steps.Leave(),
    steps.DialConference(
        "room-1", "customer", True, status_url="/room", action="/after", muted=True, wait_url="/w", record=True
    ),
    steps.DialConference("room-1", "agent-u1", False, start_on_enter=False),
    steps.DialNumber("+12025550101", "+442079460000", "/dialled", status_url="/status"),
    steps.Record("/recorded", "/recording"),
    steps.Redirect("/again"),
    steps.Hangup(),
    steps.Reject("busy"),
]


def rendered(*all_steps: steps.Step) -> ET.Element:
    return ET.fromstring(render(all_steps, base=BASE))


def test_every_step_is_taken_by_the_twins_parser():
    document = twin.parse(render(EVERY, base=BASE), url=BASE + "/x", method="POST")
    assert [verb.tag for verb in document.verbs] == [
        *("Say", "Play", "Pause", "Gather", "Enqueue", "Leave", "Dial", "Dial", "Dial", "Record", "Redirect", "Hangup"),
        "Reject",
    ]


def test_urls_become_absolute_and_stay_what_they_are():
    gather = rendered(EVERY[3])[0]
    assert gather.attrib["action"] == "https://hub.example.com/next?a=1&b=2"
    assert gather.attrib["language"] == "en-GB"
    assert rendered(steps.Play("https://cdn.example.com/a.mp3"))[0].text == "https://cdn.example.com/a.mp3"


def test_conference_says_all_that_call_control_rests_on():
    customer, agent = rendered(EVERY[6])[0][0], rendered(EVERY[7])[0][0]
    assert customer.attrib == {
        "participantLabel": "customer", "startConferenceOnEnter": "true", "endConferenceOnExit": "true",
        "muted": "true",
        "beep": "false", "waitUrl": BASE + "/w", "waitMethod": "POST", "record": "record-from-start",
        "statusCallback": BASE + "/room", "statusCallbackMethod": "POST",
        "statusCallbackEvent": "start end join leave mute hold",
    }  # fmt: skip
    assert agent.attrib["endConferenceOnExit"] == "false"
    assert agent.attrib["waitUrl"] == "", "no address means silence, not the provider's own music"


@pytest.mark.parametrize(
    ("language", "spoken"),
    [("en-GB", "en-GB"), ("en-US", "en-US"), ("es", "es-ES"), ("de-AT", "de-DE"), ("zh-CN", "cmn-CN"), ("xx", "en-GB")],
)
def test_each_language_has_a_voice(language, spoken):
    say = rendered(steps.Say("x", language))[0]
    assert say.attrib["language"] == spoken
    assert say.attrib["voice"].startswith("Polly.")


HOSTILE = [
    "</Say><Dial>+19005550100</Dial><Say>",
    "<![CDATA[ <Hangup/> ]]>",
    "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>&a;",
    "\x00\x01\x08\x0b\x0c\x1f\x7f\x9f",
    "\u202eevil\u2066\u2069\u200f",
    "\ud800 \ufffe \uffff",
    '" onclick="x" <?xml?>',
    "a" * 20_000,
    "&#0; &amp; &lt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    say = rendered(steps.Say(text), steps.Hangup())
    assert [verb.tag for verb in say if verb.tag != "Say"] == ["Hangup"]
    assert all(len(verb) == 0 for verb in say)
    spoken = say[0].text or "" if say[0].tag == "Say" else ""
    assert len(spoken) <= 3000
    assert not any(char in spoken for char in "\x00\u202e\u2066\ufffe")


@given(st.text(max_size=200))
@settings(max_examples=300)
def test_any_text_gives_a_sound_document(text):
    document = twin.parse(render([steps.Say(text), steps.Hangup()], base=BASE), url=BASE, method="POST")
    assert {verb.tag for verb in document.verbs} <= {"Say", "Hangup"}


@pytest.mark.parametrize(
    "step",
    [
        steps.DialNumber("+19005550100;sip:x", "+442079460000"),
        steps.DialNumber("sip:evil@example.com", "+442079460000"),
        steps.DialNumber("+12025550101", "anonymous"),
        steps.DialConference('room"/><Hangup/>', "customer", True),
        steps.DialConference("room-1", "a b", True),
        steps.Enqueue("q" * 65, "/w", "/l"),
        steps.Redirect("javascript:alert(1)"),
        steps.Redirect("//evil.example.com/x"),
        steps.Redirect(""),
        steps.Play("file:///etc/passwd"),
        steps.Gather("/x", finish_on_key="##"),
    ],
)
def test_a_target_that_cannot_be_one_is_refused(step):
    with pytest.raises(ValueError, match=r"not a usable|must be a path"):
        render([step], base=BASE)


@pytest.mark.parametrize(("letter", "kept"), [("a", 3000), ("é", 750), ("你", 500), ("🚲", 375)])
def test_one_say_holds_what_a_polly_voice_may_speak(letter, kept):
    """Twilio, error 13521: 3,000 bytes, and 4,500 characters once encoded for a URL."""
    document = ET.fromstring(render([steps.Say(letter * 5000, "zh")], base=BASE))
    assert document[0].text == letter * kept
