"""Call-flow steps as plain values: routing/flows.py yields them, channels/twiml.py alone renders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Say:
    """Speak `text` in `language` (BCP 47)."""

    text: str
    language: str = "en-GB"
    loop: int = 1


@dataclass(frozen=True, slots=True)
class Play:
    """Play a sound file."""

    url: str
    loop: int = 1


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence, whole seconds."""

    seconds: int = 1


@dataclass(frozen=True, slots=True)
class Gather:
    """Ask for keys or speech; the answer goes to `action`, `prompts` play. Without one the next step follows."""

    action: str
    prompts: Sequence[Say | Play | Pause] = ()
    digits: int | None = None
    timeout_s: int = 5
    speech: bool = False
    finish_on_key: str = "#"
    language: str = "en-GB"


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Put the caller into the provider's queue `name`: `wait_url` says what they hear, `action` what follows."""

    name: str
    wait_url: str
    action: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave the queue: only in the answer of a wait URL; the Enqueue's `action` follows."""


@dataclass(frozen=True, slots=True)
class DialConference:
    """Join the room `name` (our own id)."""

    name: str
    label: str  # participant label, ours
    end_on_exit: bool
    start_on_enter: bool = True
    status_url: str = ""
    action: str = ""
    muted: bool = False
    wait_url: str = ""
    record: bool = False


@dataclass(frozen=True, slots=True)
class DialNumber:
    """Dial a number out of this call."""

    number: str
    caller_id: str
    action: str = ""
    timeout_s: int = 25
    status_url: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """Record the caller (voicemail)."""

    action: str
    status_url: str
    max_s: int = 180
    finish_on_key: str = "#"


@dataclass(frozen=True, slots=True)
class Redirect:
    """Go on with the steps of another URL."""

    url: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """End the call."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse an incoming call without answering it; `busy` or `rejected`."""

    reason: str = "rejected"


Step = Say | Play | Pause | Gather | Enqueue | Leave | DialConference | DialNumber | Record | Redirect | Hangup | Reject
