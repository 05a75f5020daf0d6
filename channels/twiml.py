"""The only renderer of call-flow steps: Step values in, TwiML out. Nothing a stranger typed can become a verb here.

Sources: Twilio's pages on Say, Conference, Enqueue and Leave (copies seen 2026-11-21); those on the other verbs as of the
knowledge notes, unconfirmed. Requests that follow are POST.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import quote_plus
from xml.sax.saxutils import escape, quoteattr

from channels.steps import (
    DialConference,
    DialNumber,
    Enqueue,
    Gather,
    Hangup,
    Leave,
    Pause,
    Play,
    Record,
    Redirect,
    Reject,
    Say,
    Step,
)

CONTENT_TYPE = "text/xml"
# Characters that XML 1.0 forbids, the rest of C0 and C1, and those that turn the direction of text around.
UNSPEAKABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef"
    "\ufffe\uffff]"
)
# Language (BCP 47) -> Twilio's code and voice for speaking, and its code for listening. From Twilio's
# "available voices and languages" and "Gather: languages" as of the knowledge notes; unconfirmed.
VOICES: Mapping[str, tuple[str, str, str]] = {
    "en-gb": ("en-GB", "Polly.Amy-Neural", "en-GB"),
    "en-us": ("en-US", "Polly.Joanna-Neural", "en-US"),
    "en": ("en-GB", "Polly.Amy-Neural", "en-GB"),
    "es": ("es-ES", "Polly.Lucia-Neural", "es-ES"),
    "es-us": ("es-US", "Polly.Lupe-Neural", "es-US"),
    "de": ("de-DE", "Polly.Vicki-Neural", "de-DE"),
    "zh": ("cmn-CN", "Polly.Zhiyu-Neural", "cmn-Hans-CN"),
    "fr": ("fr-FR", "Polly.Lea-Neural", "fr-FR"),
    "it": ("it-IT", "Polly.Bianca-Neural", "it-IT"),
}
# One Say with a Polly voice: Twilio, "Error 13521", seen 2026-11-21. Chinese meets the second limit after 500 characters.
MAX_SAID_BYTES = 3000
MAX_SAID_ENCODED = 4500
NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
KEY = re.compile(r"[0-9*#]?")
CALL_EVENTS = "initiated ringing answered completed"
ROOM_EVENTS = "start end join leave mute hold"


def render(steps: Iterable[Step], *, base: str) -> str:
    """The document for these steps; `base` is the hub's public origin, put before every path.

    ValueError when a step names a number, room, key or URL that cannot be one: our own mistake, never a caller's.
    """
    return (
        '<?xml version="1.0" encoding="UTF-8"?><Response>' + "".join(_step(one, base) for one in steps) + "</Response>"
    )


def clean(text: str) -> str:
    """The text as it may be spoken or written into XML."""
    return UNSPEAKABLE.sub("", text)


def _step(step: Step, base: str) -> str:
    match step:
        case Say():
            return _say(step)
        case Play():
            return _element("Play", _url(step.url, base), loop=step.loop if step.loop != 1 else None)
        case Pause():
            return _element("Pause", length=_between(step.seconds, 1, 600))
        case Gather():
            return _gather(step, base)
        case Enqueue():
            return _element(
                "Enqueue",
                _matching(NAME, step.name, "queue name"),
                waitUrl=_url(step.wait_url, base),
                waitUrlMethod="POST",
                action=_url(step.action, base),
                method="POST",
            )
        case DialConference():
            return _conference(step, base)
        case DialNumber():
            return _number(step, base)
        case Record():
            return _element(
                "Record",
                action=_url(step.action, base),
                method="POST",
                maxLength=_between(step.max_s, 1, 14_400),
                finishOnKey=_matching(KEY, step.finish_on_key, "key"),
                playBeep="true",
                trim="trim-silence",
                recordingStatusCallback=_url(step.status_url, base) if step.status_url else None,
                recordingStatusCallbackMethod="POST" if step.status_url else None,
                recordingStatusCallbackEvent="completed absent" if step.status_url else None,
            )
        case Redirect():
            return _element("Redirect", _url(step.url, base), method="POST")
        case Reject():
            return _element("Reject", reason="busy" if step.reason == "busy" else "rejected")
        case Leave():
            return "<Leave/>"
        case Hangup():
            return "<Hangup/>"


@lru_cache(maxsize=256)
def _say(step: Say) -> str:
    language, voice, _ = _voice(step.language)
    said = _sayable(" ".join(clean(step.text).split()))
    if not said:
        return ""
    loop = step.loop if step.loop != 1 else None
    return _element("Say", said, language=language, voice=voice, loop=loop)


def _sayable(text: str) -> str:
    """As much of the text as one Say may hold, cut at a character."""
    if len(text) <= min(MAX_SAID_BYTES // 4, MAX_SAID_ENCODED // 12):  # UTF-8: four bytes at most, "%XX" for each
        return text
    size = encoded = 0
    for at, character in enumerate(text):
        size += len(character.encode())
        encoded += len(quote_plus(character))
        if size > MAX_SAID_BYTES or encoded > MAX_SAID_ENCODED:
            return text[:at]
    return text


def _gather(step: Gather, base: str) -> str:
    inside = "".join(_step(prompt, base) for prompt in step.prompts)
    attributes = _attributes(
        {
            "input": "dtmf speech" if step.speech else "dtmf",
            "action": _url(step.action, base),
            "method": "POST",
            "numDigits": step.digits,
            "timeout": _between(step.timeout_s, 1, 120),
            "finishOnKey": _matching(KEY, step.finish_on_key, "key"),
            "language": _voice(step.language)[2] if step.speech else None,
            "speechTimeout": "auto" if step.speech else None,
        }
    )
    return f"<Gather{attributes}>{inside}</Gather>"


def _conference(step: DialConference, base: str) -> str:
    inner = _element(
        "Conference",
        _matching(NAME, step.name, "room name"),
        participantLabel=_matching(LABEL, step.label, "label"),
        startConferenceOnEnter=_flag(on=step.start_on_enter),
        endConferenceOnExit=_flag(on=step.end_on_exit),
        muted=_flag(on=True) if step.muted else None,
        beep="false",
        # An empty address means silence; without the attribute Twilio plays its own music.
        waitUrl=_url(step.wait_url, base) if step.wait_url else "",
        waitMethod="POST" if step.wait_url else None,
        record="record-from-start" if step.record else None,
        statusCallback=_url(step.status_url, base) if step.status_url else None,
        statusCallbackMethod="POST" if step.status_url else None,
        statusCallbackEvent=ROOM_EVENTS if step.status_url else None,
    )
    action = _url(step.action, base) if step.action else None
    return f"<Dial{_attributes({'action': action, 'method': 'POST' if action else None})}>{inner}</Dial>"


def _number(step: DialNumber, base: str) -> str:
    inner = _element(
        "Number",
        _matching(NUMBER, step.number, "number"),
        statusCallback=_url(step.status_url, base) if step.status_url else None,
        statusCallbackMethod="POST" if step.status_url else None,
        statusCallbackEvent=CALL_EVENTS if step.status_url else None,
    )
    attributes = _attributes(
        {
            "callerId": _matching(NUMBER, step.caller_id, "caller id"),
            "answerOnBridge": "true",
            "timeout": _between(step.timeout_s, 5, 600),
            "action": _url(step.action, base) if step.action else None,
            "method": "POST" if step.action else None,
        }
    )
    return f"<Dial{attributes}>{inner}</Dial>"


def _voice(language: str) -> tuple[str, str, str]:
    wanted = language.lower()
    return VOICES.get(wanted) or VOICES.get(wanted.partition("-")[0]) or VOICES["en"]


def _url(url: str, base: str) -> str:
    whole = base.rstrip("/") + url if url.startswith("/") and not url.startswith("//") else url
    if not re.fullmatch(r"https?://[\x21-\x7e]+", whole):
        raise ValueError("a step's URL must be a path or absolute")
    return whole


def _matching(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"not a usable {what}")
    return value


def _between(value: int, low: int, high: int) -> int:
    return max(low, min(int(value), high))


def _flag(*, on: bool) -> str:
    return "true" if on else "false"


def _attributes(values: Mapping[str, object]) -> str:
    return "".join(f" {name}={quoteattr(clean(str(value)))}" for name, value in values.items() if value is not None)


def _element(tag: str, content: str = "", **attributes: object) -> str:
    inside = escape(content)
    return f"<{tag}{_attributes(attributes)}>{inside}</{tag}>" if inside else f"<{tag}{_attributes(attributes)}/>"
