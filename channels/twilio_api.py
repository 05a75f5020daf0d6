"""What voice and SMS share of Twilio: settings, the one client, signatures of webhooks, strict reading of their forms.

Provider facts: Twilio's "Access tokens" (copy seen 2026-11-21); signatures as the official library makes them, whose
validator the tests compare with. Decides nothing: what Twilio says
becomes a ChannelError (channels/twilio_errors.py) or a plain value.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import importlib
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from channels.contract import AccountConfig, Download, RawRequest
from channels.errors import AnswerUnreadable, Misconfigured, OutcomeUnknown
from channels.form_body import MAX_FIELDS, Pairs, split_form
from channels.twilio_errors import API_ORIGIN, HttpFailed, meaning
from crm_core.texts import Text

TIMEOUT_S = 10.0
REST = "twilio.rest"
MAX_BODY = 64 * 1024
MAX_SOUND = 256 * 1024 * 1024  # two hours of a recorded call
SOUND_TIMEOUT_S = 22.0  # below the relay's own limit of one call


@dataclass(frozen=True, slots=True)
class TwilioSettings:
    """One Twilio account. During a rotation `previous_auth_token` is accepted on webhooks too."""

    account_sid: str
    auth_token: str = field(repr=False)
    previous_auth_token: str = field(default="", repr=False)
    api_key_sid: str = ""
    api_key_secret: str = field(default="", repr=False)
    app_sid: str = ""
    messaging_service_sid: str = ""
    api_base: str = API_ORIGIN
    public_url: str = ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never be logged."""
        return tuple(filter(None, (self.auth_token, self.previous_auth_token, self.api_key_secret)))


def settings_from(config: AccountConfig) -> TwilioSettings:
    """The account's Twilio settings; Misconfigured when SID or token is missing."""

    def given(name: str) -> str:
        return str(config.secrets.get(name) or config.settings.get(name) or "").strip()

    missing = [name for name in ("account_sid", "auth_token") if not given(name)]
    if missing:
        raise Misconfigured(Text("The Twilio account lacks its %(missing)s.", missing=missing), code="incomplete")
    return TwilioSettings(
        account_sid=given("account_sid"),
        auth_token=given("auth_token"),
        previous_auth_token=given("previous_auth_token"),
        api_key_sid=given("api_key_sid"),
        api_key_secret=given("api_key_secret"),
        app_sid=given("app_sid"),
        messaging_service_sid=given("messaging_service_sid"),
        api_base=given("api_base").rstrip("/") or API_ORIGIN,
        public_url=config.public_url.rstrip("/"),
    )


# --- signature -------------------------------------------------------------------------------------------------------


def is_signed(request: RawRequest, settings: TwilioSettings) -> bool:
    """True when Twilio signed this request with our token. Never raises; compares in constant time.

    HMAC-SHA1 only, whatever algorithm the request names for itself. Twilio signs over the URL and the sorted, distinct
    name and value pairs; its port is sometimes spelt out and sometimes not, so both spellings are tried.
    """
    given = request.headers.get("x-twilio-signature", "")
    if len(given) != 28 or not given.isascii():
        return False
    try:
        pairs: Pairs = () if request.method == "GET" else _pairs(request)
        tail = "".join(name + value for name, value in sorted(set(pairs)))
        good = _matches(settings, request.url + tail, given) or any(
            _matches(settings, url + tail, given) for url in _with_and_without_port(request.url)
        )
    except (AnswerUnreadable, ValueError):
        return False
    return good and all(value == settings.account_sid for name, value in pairs if name == "AccountSid")


def _matches(settings: TwilioSettings, text: str, given: str) -> bool:
    data, found = text.encode("utf-8", "surrogatepass"), False
    for token in filter(None, (settings.auth_token, settings.previous_auth_token)):
        digest = hmac.digest(token.encode(), data, "sha1")
        found |= hmac.compare_digest(base64.b64encode(digest).decode("ascii"), given)
    return found


def _with_and_without_port(url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    host = parts.netloc.rpartition(":")[0] if parts.port else parts.netloc
    port = parts.port or (443 if parts.scheme == "https" else 80)
    spellings = (urlunsplit(parts._replace(netloc=host)), urlunsplit(parts._replace(netloc=f"{host}:{port}")))
    return tuple(spelling for spelling in spellings if spelling != url)


# --- reading ---------------------------------------------------------------------------------------------------------

SID = re.compile(r"[A-Z]{2}[0-9a-f]{32}")
DIGITS = re.compile(r"[0-9]{1,18}")
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
KEYS = re.compile(r"[0-9*#A-Dwh]{0,128}|hangup|timeout")
URL = re.compile(r"https?://[\x21-\x7e]{1,2000}")
# Who calls is a stranger's word (a number, client:, sip:, or anything a carrier lets through): length and control
# characters are all that is asked of it; what it means is for crm_core.addresses.
PARTY = re.compile(r"[^\x00-\x1f\x7f]{0,256}")
STAMP = re.compile(r"[\x20-\x7e]{10,40}")
FREE = re.compile(r"(?s).{0,20000}")
_SID_OF = {
    "AccountSid": "AC",
    "ApplicationSid": "AP",
    "CallSid": "CA",
    "ParentCallSid": "CA",
    "DialCallSid": "CA",
    "ConferenceSid": "CF",
    "CallSidEndingConference": "CA",
    "QueueSid": "QU",
    "RecordingSid": "RE",
    "MessagingServiceSid": "MG",
}
FIELDS: dict[str, re.Pattern[str]] = {
    **{name: re.compile(prefix + "[0-9a-f]{32}") for name, prefix in _SID_OF.items()},
    **dict.fromkeys(("MessageSid", "SmsSid", "SmsMessageSid"), re.compile(r"(SM|MM)[0-9a-f]{32}")),
    **dict.fromkeys(
        ("SequenceNumber", "CallDuration", "Duration", "DialCallDuration", "RecordingDuration", "QueuePosition"), DIGITS
    ),
    **dict.fromkeys(
        ("QueueTime", "AvgQueueTime", "CurrentQueueSize", "NumMedia", "NumSegments", "RecordingChannels"), DIGITS
    ),
    **dict.fromkeys(("CallStatus", "MessageStatus", "SmsStatus", "DialCallStatus", "RecordingStatus"), WORD),
    **dict.fromkeys(("CallbackSource", "StatusCallbackEvent", "Direction", "QueueResult", "OptOutType"), WORD),
    **dict.fromkeys(("From", "To", "Caller", "Called", "ForwardedFrom"), PARTY),
    **dict.fromkeys(("RecordingUrl",), URL),
    "ErrorCode": DIGITS,
    "Timestamp": STAMP,
    "Digits": KEYS,
    "Body": FREE,
    "SpeechResult": FREE,
    "Confidence": re.compile(r"[0-9.eE-]{1,24}"),
    "FriendlyName": PARTY,
    "ParticipantLabel": PARTY,
    "Muted": WORD,
    "Hold": WORD,
    "Coaching": WORD,
    "EndConferenceOnExit": WORD,
    "StartConferenceOnEnter": WORD,
}
# Only these may be empty; an empty field of the others is read as absent.
_MEDIA = re.compile(r"Media(Url|ContentType)[0-9]{1,2}")
OWN_NAME = re.compile(r"[a-z][A-Za-z0-9_]{0,39}")  # parameters of a browser's connect(): ours, in lower case


def _pairs(request: RawRequest) -> Pairs:
    """All name and value pairs of a form body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise AnswerUnreadable("The request is not a form.", code="not_a_form")
    if len(request.body) > MAX_BODY:
        raise AnswerUnreadable(f"The request has more than {MAX_BODY} bytes.", code="too_large")
    try:
        if not request.body.isascii():
            raise ValueError("not ASCII")
        return split_form(request.body)[0]
    except ValueError as error:  # UnicodeDecodeError is one
        raise AnswerUnreadable("The form in the request cannot be read.", code="bad_form") from error


def read_form(request: RawRequest) -> dict[str, str]:
    """The request's fields: every known name at most once and of the right shape, unknown ones tolerated.

    Names in lower case are our own and must be single too; an unknown name that is repeated is left out. Raises
    AnswerUnreadable naming the field, never its value.
    """
    if request.method == "GET":
        query = urlsplit(request.url).query
        try:
            pairs: Pairs = tuple(parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
        except ValueError as error:
            raise AnswerUnreadable("The query of the request cannot be read.", code="bad_form") from error
    else:
        pairs = _pairs(request)
    fields: dict[str, str] = {}
    dropped: set[str] = set()
    for name, value in pairs:
        shape = FIELDS.get(name)
        if name in fields or name in dropped:
            if shape is not None or OWN_NAME.fullmatch(name) or _MEDIA.fullmatch(name):
                raise AnswerUnreadable(f"The field {name[:40]} is there more than once.", code="duplicate_field")
            fields.pop(name, None)
            dropped.add(name)
            continue
        if shape is not None and value and not shape.fullmatch(value):
            raise AnswerUnreadable(f"The field {name} has an impossible value.", code="bad_field")
        fields[name] = value
    return fields


def needed(fields: Mapping[str, str], name: str) -> str:
    """A field that must be there and not be empty; AnswerUnreadable otherwise."""
    value = fields.get(name, "")
    if not value:
        raise AnswerUnreadable(f"The field {name} is missing.", code="missing_field")
    return value


def whole(fields: Mapping[str, str], name: str) -> int | None:
    """A number, or None when the field is absent or empty."""
    value = fields.get(name, "")
    return int(value) if value else None


def instant(fields: Mapping[str, str], name: str = "Timestamp") -> datetime | None:
    """Twilio's own time (RFC 2822 or ISO 8601), aware UTC; None when absent or unreadable."""
    value = fields.get(name, "")
    try:
        found = datetime.fromisoformat(value) if value[:4].isdigit() else parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return None
    return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)


# --- client ----------------------------------------------------------------------------------------------------------


class TwilioApi:
    """The one REST client of an account: made on first use inside the running loop, closed with `close`."""

    def __init__(self, settings: TwilioSettings, *, timeout_s: float = TIMEOUT_S) -> None:
        self.settings = settings
        self._timeout_s = timeout_s
        self._client: Any = None
        self._http: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def client(self) -> Any:
        """Twilio's client, talking to `api_base`. A loop that has ended takes its connections with it."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            # Imported here: processes that never call Twilio need not pay for it.
            from twilio.rest import Client

            from channels.twilio_http import mapped_client

            self._loop, self._http = loop, mapped_client(self.settings.api_base, timeout_s=self._timeout_s)
            keyed = bool(self.settings.api_key_sid and self.settings.api_key_secret)
            self._client = Client(
                self.settings.api_key_sid if keyed else self.settings.account_sid,
                self.settings.api_key_secret if keyed else self.settings.auth_token,
                self.settings.account_sid,
                http_client=self._http,
                environment={"TWILIO_EDGE": ""},  # not the process's own: settings come from one place
            )
        return self._client

    async def call(self, ask: Callable[[Any], Awaitable[Any]], *, creates: bool = False) -> Any:
        """One request through Twilio's client, at most `timeout_s` long. Raises a ChannelError and nothing else."""
        if REST not in sys.modules:  # a sixth of a second at best: not in the loop, where calls wait meanwhile
            await asyncio.to_thread(importlib.import_module, REST)
        client = self.client()
        try:
            async with asyncio.timeout(self._timeout_s + 1):
                return await ask(client)
        except HttpFailed as failed:
            raise meaning(failed, creates=creates) from None
        except TimeoutError:
            raise meaning(HttpFailed(what="time-out"), creates=creates) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            # A 2xx whose body is not what the client expects: done, but we do not know under which id. The cause is
            # left out because it quotes the body.
            kind = OutcomeUnknown if creates else AnswerUnreadable
            raise kind("Twilio's answer could not be read.", code="unreadable") from None

    @asynccontextmanager
    async def open(self, path: str, *, most: int = MAX_SOUND) -> AsyncIterator[Download]:
        """A file below this account's resource, such as /Recordings/RE….wav, as it comes; Gone when absent."""
        self.client()
        url = f"{API_ORIGIN}/2010-04-01/Accounts/{self.settings.account_sid}{path}"
        auth = (self.settings.account_sid, self.settings.auth_token)
        try:
            async with asyncio.timeout(SOUND_TIMEOUT_S), self._http.open(url, auth=auth, most=most) as found:
                yield found
        except HttpFailed as failed:
            raise meaning(failed, creates=False) from None
        except TimeoutError:
            raise meaning(HttpFailed(what="time-out"), creates=False) from None

    async def close(self) -> None:
        """Close the connections."""
        http, self._http, self._client = self._http, None, None
        if http is not None and self._loop is asyncio.get_running_loop():
            await http.close()


def phone_token(settings: TwilioSettings, identity: str, *, ttl_s: int = 3600) -> str:
    """An access token for a browser phone that may connect to our TwiML App, and nothing else. At most 24 hours.

    No incoming calls: an accepted offer is fetched by the tab (DESIGN.md 6), so nothing rings by itself. Twilio,
    "Access tokens", copy seen 2026-11-21.
    """
    from twilio.jwt.access_token import AccessToken
    from twilio.jwt.access_token.grants import VoiceGrant

    if not (settings.api_key_sid and settings.api_key_secret and settings.app_sid):
        raise Misconfigured("Browser phones need an API key and a TwiML App.", code="incomplete")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,120}", identity):
        raise Misconfigured("A phone's identity may have letters, digits, dots, dashes and underscores only.")
    token = AccessToken(
        settings.account_sid,
        settings.api_key_sid,
        settings.api_key_secret,
        identity=identity,
        ttl=max(60, min(ttl_s, 86_400)),
    )
    token.add_grant(VoiceGrant(outgoing_application_sid=settings.app_sid, incoming_allow=False))
    return str(token.to_jwt())
