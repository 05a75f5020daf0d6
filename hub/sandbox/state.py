"""The nouns of the provider's side, as plain records: calls, queues, conferences, messages, recordings, numbers.

Nothing here acts; `calls.py`, `conferences.py`, `queues.py` and `messages.py` do. Times are aware UTC.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

API_VERSION = "2010-04-01"
FINAL_CALL_STATUSES = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})


def new_sid(prefix: str) -> str:
    return prefix + secrets.token_hex(16)


def stable_sid(prefix: str, text: str) -> str:
    """The same SID for the same thing after a restart."""
    return prefix + hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Hook:
    """Where events go: URL, method and the subscribed events."""

    url: str
    method: str = "POST"
    events: tuple[str, ...] = ()


@dataclass(eq=False)
class Call:
    """One leg. `status` is one of Twilio's eight call statuses."""

    sid: str
    from_: str
    to: str
    direction: str
    created_at: datetime
    status: str = "queued"
    updated_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    parent_sid: str | None = None
    caller_name: str | None = None
    forwarded_from: str | None = None
    answered_by: str | None = None
    phone_number_sid: str | None = None
    application_sid: str | None = None
    hook: Hook | None = None
    sequence: int = 0
    heard: list[dict[str, Any]] = field(default_factory=list)
    doing: str = ""

    @property
    def over(self) -> bool:
        return self.status in FINAL_CALL_STATUSES

    def duration_s(self) -> int:
        if self.started_at is None or self.ended_at is None:
            return 0
        return max(0, round((self.ended_at - self.started_at).total_seconds()))


@dataclass(eq=False)
class Message:
    """One text message, in or out."""

    sid: str
    from_: str
    to: str
    body: str
    direction: str
    created_at: datetime
    status: str
    updated_at: datetime
    sent_at: datetime | None = None
    num_segments: int = 1
    media: list[Media] = field(default_factory=list)
    media_urls: list[str] = field(default_factory=list)  # outbound: where the provider fetches them
    messaging_service_sid: str | None = None
    error_code: int | None = None
    error_message: str | None = None
    hook: Hook | None = None


@dataclass(eq=False)
class Media:
    """One file that goes with a text."""

    sid: str
    message_sid: str
    content_type: str
    content: bytes
    created_at: datetime


@dataclass(eq=False)
class Recording:
    """One recording of a call or conference."""

    sid: str
    call_sid: str
    source: str
    started_at: datetime
    status: str = "in-progress"
    conference_sid: str | None = None
    channels: int = 1
    duration_s: int | None = None
    ended_at: datetime | None = None
    words: list[str] = field(default_factory=list)
    hook: Hook | None = None
    trim: bool = False
    paused_s: float = 0.0
    paused_at: datetime | None = None


@dataclass(eq=False)
class PhoneNumber:
    """A number of the account, with the URLs that it calls."""

    sid: str
    number: str
    friendly_name: str
    created_at: datetime
    updated_at: datetime
    voice_url: str = ""
    voice_method: str = "POST"
    voice_fallback_url: str = ""
    voice_fallback_method: str = "POST"
    voice_application_sid: str = ""
    voice_caller_id_lookup: bool = False
    status_callback: str = ""
    status_callback_method: str = "POST"
    sms_url: str = ""
    sms_method: str = "POST"
    sms_fallback_url: str = ""
    sms_fallback_method: str = "POST"
    sms_application_sid: str = ""


@dataclass(eq=False)
class Application:
    """A TwiML App: what a browser's call, or a number that names it, runs."""

    sid: str
    friendly_name: str
    created_at: datetime
    updated_at: datetime
    voice_url: str = ""
    voice_method: str = "POST"
    voice_fallback_url: str = ""
    voice_fallback_method: str = "POST"
    voice_caller_id_lookup: bool = False
    status_callback: str = ""
    status_callback_method: str = "POST"
    sms_url: str = ""
    sms_method: str = "POST"
    sms_fallback_url: str = ""
    sms_fallback_method: str = "POST"
    sms_status_callback: str = ""
    message_status_callback: str = ""
    public_application_connect_enabled: bool = False


@dataclass(frozen=True)
class TwinFault:
    """Something the product did that Twilio would refuse, or that the twin does not know. Tests want none."""

    code: int
    message: str
    where: str
    call_sid: str
    at: datetime


@dataclass
class CallbackEntry:
    """One callback as it left: what was sent where, and what came back."""

    number: int
    at: datetime
    kind: str
    url: str
    method: str
    params: dict[str, str]
    token: str
    status: int | None = None
    elapsed_ms: int = 0
    note: str = ""
    attempts: int = 0
    answer: str = ""
