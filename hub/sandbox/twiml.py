"""TwiML as Twilio documents it: which verbs, attributes and children there are. Anything else is refused, loudly.

Twilio itself warns (12200) and skips what it does not know; the twin ends the call instead, because a skipped verb
would be a bug that no test sees. Source: Twilio docs, "TwiML for Programmable Voice", page per verb, checked 2026-11.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

_RECORDING = ("recordingStatusCallback", "recordingStatusCallbackMethod", "recordingStatusCallbackEvent")
_STATUS = ("statusCallback", "statusCallbackMethod", "statusCallbackEvent")
_AMD = (
    "machineDetection",
    "machineDetectionTimeout",
    "machineDetectionSpeechThreshold",
    "machineDetectionSpeechEndThreshold",
    "machineDetectionSilenceTimeout",
    "amdStatusCallback",
    "amdStatusCallbackMethod",
)

ATTRIBUTES: dict[str, frozenset[str]] = {
    "Response": frozenset(),
    "Say": frozenset({"voice", "language", "loop"}),
    "Play": frozenset({"loop", "digits"}),
    "Pause": frozenset({"length"}),
    "Gather": frozenset(
        {
            "action",
            "actionOnEmptyResult",
            "enhanced",
            "finishOnKey",
            "hints",
            "input",
            "language",
            "method",
            "numDigits",
            "partialResultCallback",
            "partialResultCallbackMethod",
            "profanityFilter",
            "speechModel",
            "speechTimeout",
            "timeout",
            "bargeIn",
        }
    ),
    "Enqueue": frozenset({"action", "method", "waitUrl", "waitUrlMethod", "maxQueueSize"}),
    "Leave": frozenset(),
    "Dial": frozenset(
        {
            "action",
            "answerOnBridge",
            "callerId",
            "callReason",
            "method",
            "record",
            "recordingTrack",
            "ringTone",
            "timeLimit",
            "timeout",
            "trim",
            *_RECORDING,
        }
    ),
    "Number": frozenset({"sendDigits", "url", "method", *_STATUS, *_AMD}),
    "Client": frozenset({"url", "method", *_STATUS}),
    "Identity": frozenset(),
    "Parameter": frozenset({"name", "value"}),
    "Conference": frozenset(
        {
            "muted",
            "beep",
            "startConferenceOnEnter",
            "endConferenceOnExit",
            "participantLabel",
            "jitterBufferSize",
            "waitUrl",
            "waitMethod",
            "maxParticipants",
            "record",
            "region",
            "trim",
            "coach",
            *_STATUS,
            *_RECORDING,
        }
    ),
    "Record": frozenset(
        {
            "action",
            "method",
            "timeout",
            "finishOnKey",
            "maxLength",
            "playBeep",
            "trim",
            "transcribe",
            "transcribeCallback",
            *_RECORDING,
        }
    ),
    "Redirect": frozenset({"method"}),
    "Hangup": frozenset(),
    "Reject": frozenset({"reason"}),
}
VERBS = frozenset(
    {"Say", "Play", "Pause", "Gather", "Enqueue", "Leave", "Dial", "Record", "Redirect", "Hangup", "Reject"}
)
CHILDREN: dict[str, frozenset[str]] = {
    "Response": VERBS,
    "Gather": frozenset({"Say", "Play", "Pause"}),
    "Dial": frozenset({"Number", "Client", "Conference"}),
    "Client": frozenset({"Identity", "Parameter"}),
}
QUEUE_WAIT_VERBS = frozenset({"Play", "Say", "Pause", "Hangup", "Redirect", "Leave", "Gather"})
ROOM_WAIT_VERBS = frozenset({"Play", "Say", "Pause", "Redirect"})
WHISPER_VERBS = VERBS - {"Dial", "Enqueue"}
ONE_OF: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("actionOnEmptyResult", "answerOnBridge", "muted", "startConferenceOnEnter"),
        frozenset({"true", "false"}),
    ),
    **dict.fromkeys(("endConferenceOnExit", "playBeep", "transcribe"), frozenset({"true", "false"})),
    **dict.fromkeys(
        ("method", "waitMethod", "waitUrlMethod", "statusCallbackMethod", "recordingStatusCallbackMethod"),
        frozenset({"GET", "POST"}),
    ),
    "beep": frozenset({"true", "false", "onEnter", "onExit"}),
    "reason": frozenset({"rejected", "busy"}),
}
WHOLE = frozenset({"length", "numDigits", "timeLimit", "maxLength", "maxParticipants", "maxQueueSize", "loop"})
CALL_EVENTS = frozenset({"initiated", "ringing", "answered", "completed"})
ROOM_EVENTS = frozenset({"start", "end", "join", "leave", "mute", "hold", "modify", "speaker", "announcement"})


class TwimlError(Exception):
    """The document breaks the rules. `code` is Twilio's: 12100 not XML, 12200 schema, 12300 content type."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Source:
    """Where instructions come from: a URL to request, or a document given inline."""

    url: str = ""
    method: str = "POST"
    twiml: str = ""
    params: tuple[tuple[str, str], ...] = ()
    fallback_url: str = ""
    fallback_method: str = "POST"


@dataclass(frozen=True)
class Document:
    """Checked verbs, and the URL against which relative ones are resolved ("" for an inline document)."""

    verbs: tuple[ET.Element, ...]
    url: str
    method: str

    def resolve(self, url: str) -> str:
        """An absolute URL; "" means this document. Raises TwimlError 15004 for a relative one given inline."""
        if urlsplit(url).scheme in ("http", "https"):
            return url
        if not self.url:
            raise TwimlError(15004, f"a document given inline must use absolute URLs, not {url!r}")
        base = self.url.split("#")[0]
        return urljoin(base, url) if url else base


def parse(text: str, *, url: str, method: str, allowed: frozenset[str] = VERBS) -> Document:
    """A checked document. Raises TwimlError."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise TwimlError(12100, "a document type is not allowed in TwiML")
    try:
        root = ET.fromstring(text.strip())  # noqa: S314 - see the import
    except ET.ParseError as exc:
        raise TwimlError(12100, f"document parse failure: {exc}") from exc
    if root.tag != "Response":
        raise TwimlError(12100, f"the root element must be Response, not {root.tag}")
    _check(root, allowed=allowed)
    return Document(tuple(root), url, method)


def _check(element: ET.Element, *, allowed: frozenset[str]) -> None:
    known = ATTRIBUTES[element.tag]
    for name, value in element.attrib.items():
        if name not in known:
            raise TwimlError(12200, f"<{element.tag}> has no attribute {name!r}")
        _check_value(element.tag, name, value)
    children = CHILDREN.get(element.tag, frozenset())
    for child in element:
        if child.tag not in children:
            raise TwimlError(12200, f"<{element.tag}> may not hold <{child.tag}>")
        if element.tag == "Response" and child.tag not in allowed:
            raise TwimlError(12200, f"<{child.tag}> is not allowed in this document")
        _check(child, allowed=allowed)


def _check_value(tag: str, name: str, value: str) -> None:
    choices = frozenset({"busy", "rejected"}) if (tag, name) == ("Reject", "reason") else ONE_OF.get(name)
    if choices is not None and value not in choices:
        raise TwimlError(12200, f"<{tag} {name}={value!r}>: must be one of {', '.join(sorted(choices))}")
    if name in WHOLE and not value.isdigit():
        raise TwimlError(12200, f"<{tag} {name}={value!r}>: must be a whole number")
    if name == "timeout" and not value.isdigit() and not (tag == "Gather" and value == "auto"):
        raise TwimlError(12200, f"<{tag} timeout={value!r}>: must be seconds")
    if name == "participantLabel" and len(value) > 128:
        raise TwimlError(12200, "participantLabel is longer than 128 characters")
    if name == "statusCallbackEvent":
        events = ROOM_EVENTS if tag == "Conference" else CALL_EVENTS
        if wrong := set(value.split()) - events:
            raise TwimlError(12200, f"<{tag} statusCallbackEvent>: no event {', '.join(sorted(wrong))}")


def text_of(element: ET.Element) -> str:
    """The element's own text, white space collapsed."""
    return " ".join((element.text or "").split())


def flag(element: ET.Element, name: str, *, default: bool) -> bool:
    value = element.get(name)
    return default if value is None else value == "true"
