"""What passes between the hub and a channel adapter: values in and out, and four small protocols.

Adapters translate, they never decide: no database, no retries, no routing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A webhook as received: exact public URL (origin from configuration), headers in lower case, body bytes."""

    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime
    remote: str = ""  # the sender's address as the web layer saw it; only web forms use it


class Vault(Protocol):
    """Where one account's sealed secrets are kept, for those that a provider replaces while they are used."""

    async def latest(self, name: str) -> str:
        """The secret as it is stored now; empty when there is none."""
        ...

    async def store(self, name: str, value: str) -> None:
        """Keep this in place of the stored one."""
        ...


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """What a channel account's row says, secrets unsealed: all that `channels.registry.build` needs."""

    kind: str
    address: str  # E.164, mailbox address or form key
    settings: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    public_url: str = ""  # origin of the hub as the provider sees it
    peer_allowed: Callable[[str, str], bool] | None = None  # (host as named, address connected) → may we? None = to any
    vault: Vault | None = None


# --- values in -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallArrived:
    """Somebody phones one of our numbers, or one of our agents' browsers connects (`from_raw` starts with client:)."""

    call_id: str
    from_raw: str
    to_raw: str
    event_key: str
    params: Mapping[str, str]  # custom parameters of a browser call
    raw: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CallProgress:
    """A status of one leg: initiated, ringing, answered, completed, busy, no-answer, failed, canceled."""

    call_id: str
    status: str
    rank: int  # only rises
    sequence: int
    happened_at: datetime | None  # the provider's own time
    event_key: str
    duration_s: int | None
    raw: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RoomEvent:
    """Something in a conference: start, join, leave, hold, unhold, mute, unmute, end."""

    room: str  # our own name of the conference
    room_id: str  # the provider's id
    call_id: str
    label: str  # our label of the participant
    kind: str
    sequence: int
    happened_at: datetime | None
    event_key: str
    raw: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RecordingReady:
    """A recording's state: `status` is in-progress, completed, absent or failed; `url` needs the account's login."""

    recording_id: str
    call_id: str
    room_id: str
    status: str
    url: str
    duration_s: int | None
    event_key: str
    raw: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """A text message to one of our numbers."""

    external_id: str
    from_raw: str
    to_raw: str
    body: str
    media: Sequence[tuple[str, str]]  # (url, content type)
    opt_out: str  # STOP, START, HELP as the provider classified it, or empty
    event_key: str
    raw: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What became of a message we sent. `status` is one of queued, sent, delivered, undelivered, failed, read."""

    external_id: str
    status: str
    error_code: str
    error_class: (
        str  # recipient_invalid, recipient_opted_out, content_rejected, unavailable, throttled, misconfigured, or empty
    )
    our_key: str  # the attempt key we put into the callback URL, or empty
    event_key: str
    raw: Mapping[str, str]
    dead: bool = False  # the code proves that this address gets no messages, from nobody


@dataclass(frozen=True, slots=True)
class MailFile:
    """One file of a mail."""

    name: str
    content_type: str
    content: bytes
    content_id: str = ""


@dataclass(frozen=True, slots=True)
class ReportedRecipient:
    """What became of one recipient of a mail we sent, as a mail system reports it."""

    address: str  # where it went in the end; empty when it is not told (complaints are often redacted)
    original: str  # what we had written on it, where that is told
    failed: bool  # it will not be delivered; False: still being tried, or delivered
    dead: bool  # because there is no such address
    code: str  # enhanced status (RFC 3463), or empty
    text: str


@dataclass(frozen=True, slots=True)
class MailReport:
    """What a mail says about a mail of ours. Anybody can write one: only a mark that proves the mail ours gives it weight."""

    kind: str  # bounce (or delay), complaint
    about: Sequence[str]  # Message-IDs of the mail it speaks of, likeliest first
    returned_to: Sequence[str]  # addresses it came back to: a signed return address names the mail too
    recipients: Sequence[ReportedRecipient]
    text: str


@dataclass(frozen=True, slots=True)
class MailArrived:
    """A mail as parsed; `raw` was stored before anybody looked inside."""

    event_key: str  # account, folder, UIDVALIDITY, UID
    message_id: str
    from_address: str
    from_name: str
    to: Sequence[str]
    cc: Sequence[str]
    reply_to: str
    subject: str
    sent_at: datetime | None
    in_reply_to: str
    references: Sequence[str]
    text: str
    html: str
    files: Sequence[MailFile]
    # Why no automatic answer may go out: auto-submitted, list, bounce, null-sender, own …; empty = a person wrote.
    automatic: str
    headers: Mapping[str, str]
    raw: bytes
    new_text: str = ""  # `text` without what they quoted; `text` itself is always whole
    new_chars: int = 0  # where in `text` the new part ends and the quoted one begins; 0 = nothing is quoted apart
    report: MailReport | None = None  # a bounce, a delay or a complaint about a mail of ours


@dataclass(frozen=True, slots=True)
class MailUnreadable:
    """A mail that could not be looked into: keep `raw` in quarantine and let a person see it."""

    event_key: str
    reason: str  # a sentence
    size: int  # bytes on the server
    raw: bytes  # whole, or the first 64 KiB when it was too large to fetch


@dataclass(frozen=True, slots=True)
class FormArrived:
    """A web form as posted; values are strings, as typed."""

    form: str
    fields: Mapping[str, str]
    event_key: str
    remote: str
    files: Sequence[MailFile] = ()


Arrival = (
    CallArrived
    | CallProgress
    | RoomEvent
    | RecordingReady
    | MessageArrived
    | DeliveryReport
    | MailArrived
    | MailUnreadable
    | FormArrived
)


# --- values out ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OutboundText:
    """One text message to send. `our_key` identifies this attempt in callbacks."""

    from_address: str
    to_address: str
    body: str
    our_key: str
    status_url: str = ""
    media: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class OutboundMail:
    """One mail to send. `message_id` is ours and stable over attempts."""

    from_address: str
    from_name: str
    to_address: str
    subject: str
    text: str
    html: str
    message_id: str
    to_name: str = ""
    cc: Sequence[str] = ()
    bcc: Sequence[str] = ()  # in the envelope alone
    in_reply_to: str = ""
    references: Sequence[str] = ()
    reply_to: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[MailFile] = ()
    envelope_from: str | None = None  # None = from_address; empty = null sender


@dataclass(frozen=True, slots=True)
class OutboundCall:
    """One call to place: `to_address` joins the room `room` (our name) when they answer."""

    from_address: str
    to_address: str
    room: str
    label: str
    status_url: str
    room_status_url: str
    timeout_s: int = 30
    end_on_exit: bool = True  # the room ends when they leave
    answered_by_url: str = ""  # told there whether a person or a machine answered; empty: nobody listens


@dataclass(frozen=True, slots=True)
class SendReceipt:
    """The provider took it. `status` as in DeliveryReport."""

    external_id: str
    status: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Download:
    """A file on its way: its pieces may be read once, while it is open."""

    content_type: str
    pieces: AsyncIterator[bytes]


# --- what the provider's own lists show ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeenCall:
    """A call as the provider lists it now: heals callbacks that never came. Words and ranks as in CallProgress."""

    call_id: str
    from_raw: str
    to_raw: str
    status: str
    rank: int
    inbound: bool  # somebody phoned one of our numbers
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class SeenSeat:
    """Somebody in a room."""

    call_id: str
    label: str
    held: bool
    muted: bool


@dataclass(frozen=True, slots=True)
class SeenRoom:
    """A conference as the provider lists it now; those over have nobody in them."""

    room_id: str
    room: str  # our own name of it
    over: bool
    created_at: datetime
    updated_at: datetime
    seats: Sequence[SeenSeat] = ()


# --- protocols -------------------------------------------------------------------------------------------------------


class Channel(Protocol):
    """What every adapter has."""

    kind: str

    @property
    def secrets(self) -> Sequence[str]:
        """Values that must never be logged."""
        ...


@runtime_checkable
class Receives(Channel, Protocol):
    """Gets webhooks."""

    def verify(self, request: RawRequest) -> bool:
        """True when the request is genuine. Never raises."""
        ...

    def parse(self, request: RawRequest) -> list[Arrival]:
        """The values in it; AnswerUnreadable when it cannot be read."""
        ...


@runtime_checkable
class Sends(Channel, Protocol):
    """Sends messages. Raises a ChannelError; after `OutcomeUnknown` the message may or may not have gone."""

    async def send(self, message: Any) -> SendReceipt:
        """Hand one message over, once."""
        ...


@runtime_checkable
class PlacesCalls(Channel, Protocol):
    """Controls calls."""

    async def place_call(self, call: OutboundCall) -> SendReceipt:
        """Dial somebody into a room."""
        ...

    async def move_call(self, call_id: str, url: str) -> None:
        """Have a live call go on with the steps of `url`."""
        ...

    async def end_call(self, call_id: str) -> None:
        """Hang a leg up; already gone is success."""
        ...

    async def hold(self, room_id: str, call_id: str, *, on: bool, music_url: str) -> None:
        """Put one participant on hold or back."""
        ...

    async def end_room(self, room_id: str) -> None:
        """End a conference for everybody; already over is success."""
        ...


@runtime_checkable
class Polls(Channel, Protocol):
    """Fetches what came in."""

    def poll(self, cursor: Mapping[str, Any]) -> AsyncIterator[tuple[Arrival, Mapping[str, Any]]]:
        """Values newer than `cursor`, each with the cursor to store in the same transaction; never ends by itself.

        Asking for the next value confirms the one before: commit inside the loop body. Raises a ChannelError when
        the connection is lost; the caller waits and polls again from its stored cursor.
        """
        ...
