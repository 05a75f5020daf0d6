"""Who answered a call that we placed: a person, an answering machine, a fax. Told by Twilio after the answer.

Source: "Answering Machine Detection" (twilio.com/docs/voice/answering-machine-detection) and "Participant resource:
AmdStatusCallback" (twilio.com/docs/voice/api/conference-participant-resource): a POST with CallSid, AccountSid, AnsweredBy and
MachineDetectionDuration (milliseconds), once, some seconds into the call; the call goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from channels.errors import AnswerUnreadable
from channels.twilio_api import needed, whole

HUMAN, MACHINE, FAX, UNKNOWN = "human", "machine", "fax", "unknown"
WORDS = {
    "human": HUMAN,
    "machine_start": MACHINE,
    "machine_end_beep": MACHINE,
    "machine_end_silence": MACHINE,
    "machine_end_other": MACHINE,
    "fax": FAX,
    "unknown": UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class AnsweredBy:
    """human, machine, fax, or unknown; `beep`: the machine's tone has come."""

    call_id: str
    answer: str
    beep: bool
    after_ms: int | None
    event_key: str


def read(fields: Mapping[str, str]) -> AnsweredBy:
    """The report's meaning. AnswerUnreadable for a word that we do not know."""
    call_id, word = needed(fields, "CallSid"), needed(fields, "AnsweredBy")
    if word not in WORDS:
        raise AnswerUnreadable("Twilio reports an answer that we do not know.", code="unknown_status")
    after = whole(fields, "MachineDetectionDuration")
    return AnsweredBy(call_id, WORDS[word], word == "machine_end_beep", after, f"{call_id}:answered-by")
