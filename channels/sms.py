"""Text messages through Twilio: what arrives, what became of ours, and sending one.

Sources: Twilio's "Outbound message status in status callbacks" and "Advanced Opt-Out" (copies seen 2026-11-21); "Messaging
webhooks" and "Message resource" as of the knowledge notes, unconfirmed. Creating a message is not idempotent there:
after an unclear end it is examined, never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from channels import twilio_media
from channels.contract import (
    AccountConfig,
    Arrival,
    DeliveryReport,
    MailFile,
    MessageArrived,
    OutboundText,
    RawRequest,
    SendReceipt,
)
from channels.errors import AnswerUnreadable, ContentRejected, Misconfigured, OutcomeUnknown, RecipientInvalid
from channels.segments import Segments, segments
from channels.twilio_api import TwilioApi, TwilioSettings, is_signed, needed, read_form, settings_from
from channels.twilio_codes import is_dead
from channels.twilio_errors import error_class
from crm_core.texts import Text

__all__ = ["STATUSES", "Segments", "SmsChannel", "build", "segments"]

# Twilio's word -> ours. Ranks are the ledger's business; Twilio gives neither order nor time.
STATUSES = {
    "accepted": "queued",
    "scheduled": "queued",
    "queued": "queued",
    "sending": "queued",
    "sent": "sent",
    "delivered": "delivered",
    "partially_delivered": "delivered",
    "read": "read",
    "undelivered": "undelivered",
    "failed": "failed",
    "canceled": "failed",
}
INBOUND = frozenset({"received", "receiving"})
OPT_OUT = {"STOP": "STOP", "START": "START", "HELP": "HELP"}
MAX_CHARACTERS = 1600
MAX_MEDIA = 10
STATUS_PATH = "/webhooks/twilio/sms/status"
NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
SENDER = re.compile(r"\+[1-9][0-9]{6,14}|[0-9]{3,8}|(?=.*[A-Za-z])[A-Za-z0-9 ]{1,11}")
MESSAGE_SID = re.compile(r"(SM|MM)[0-9a-f]{32}")
KEY = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
# Twilio's page: "URL must contain a valid hostname and underscores are not allowed".
CALLBACK = re.compile(r"https?://[A-Za-z0-9.\-:\[\]]+/[\x21-\x7e]{0,1900}")
MEDIA = re.compile(r"https?://[\x21-\x7e]{1,2000}")


class SmsChannel:
    """Text messages of one Twilio account. Receives and Sends."""

    kind = "sms"

    def __init__(
        self,
        settings: TwilioSettings,
        *,
        api: TwilioApi | None = None,
        peer_allowed: Callable[[str, str], bool] | None = None,
    ) -> None:
        self.settings = settings
        self._peer_allowed = peer_allowed
        self._api = api or TwilioApi(settings)

    @property
    def secrets(self) -> Sequence[str]:
        """Values that must never be logged."""
        return self.settings.secrets

    async def close(self) -> None:
        """Close the connections to Twilio."""
        await self._api.close()

    def verify(self, request: RawRequest) -> bool:
        """True when Twilio signed it."""
        return is_signed(request, self.settings)

    def parse(self, request: RawRequest) -> list[Arrival]:
        """A message to us, or what became of one of ours. AnswerUnreadable; unknown_status for a new word."""
        fields = read_form(request)
        status = fields.get("MessageStatus", "")
        if status and status not in INBOUND:
            return [delivery_report(fields, status, our_key=key_of(request.url))]
        return [message_arrived(fields)]

    async def send(self, message: OutboundText) -> SendReceipt:
        """Hand one message over, once. The receipt's id is Twilio's; `detail` holds parts and encoding by our count.

        ContentRejected, RecipientInvalid or Misconfigured before anything is sent; after OutcomeUnknown, look with
        `find_sent`.
        """
        asked = self._checked(message)
        made = await self._api.call(lambda client: client.messages.create_async(**asked), creates=True)
        external_id, word = str(made.sid or ""), str(made.status or "")
        if not MESSAGE_SID.fullmatch(external_id):
            raise OutcomeUnknown("Twilio's answer names no message.", code="unreadable")
        counted = segments(message.body)
        # A word that is new to us is still a message that Twilio took: its callbacks will tell.
        return SendReceipt(
            external_id,
            STATUSES.get(word, "queued"),
            {"encoding": counted.encoding, "parts": counted.parts, "error_code": str(made.error_code or "")},
        )

    async def report(self, external_id: str, *, our_key: str = "") -> DeliveryReport:
        """What Twilio says of a message now: heals a callback that never came. Gone when it knows no such message."""
        if not MESSAGE_SID.fullmatch(external_id):
            raise AnswerUnreadable("This is not the id of a message.", code="not_a_message")
        found = await self._api.call(lambda client: client.messages(external_id).fetch_async())
        fields = {"MessageSid": external_id, "ErrorCode": str(found.error_code or "")}
        return delivery_report(fields, str(found.status), our_key=our_key)

    async def find_sent(self, message: OutboundText, *, limit: int = 50) -> list[tuple[str, str]]:
        """Messages at Twilio with this sender, recipient and text, newest first, as (id, our status).

        For an attempt whose outcome is unknown: none found after ten minutes means that it did not go.
        """
        asked: dict[str, Any] = {"to": message.to_address, "limit": limit, "page_size": limit}
        if message.from_address:
            asked["from_"] = message.from_address
        found = await self._api.call(lambda client: client.messages.list_async(**asked))
        same = [one for one in found if one.body == message.body and str(one.direction).startswith("outbound")]
        return [(str(one.sid), STATUSES.get(str(one.status), "queued")) for one in same]

    async def fetch_media(self, url: str) -> MailFile:
        """A file of an incoming message, with the type that its bytes prove (channels/twilio_media.py)."""
        return await twilio_media.fetch(self.settings, url, peer_allowed=self._peer_allowed)

    def _checked(self, message: OutboundText) -> dict[str, Any]:
        if not NUMBER.fullmatch(message.to_address):
            raise RecipientInvalid("This is not a number that can get a text message.", code="not_e164")
        service = self.settings.messaging_service_sid
        if not service and not SENDER.fullmatch(message.from_address):
            raise Misconfigured("There is no sender for text messages.", code="no_sender")
        if not message.body.strip() and not message.media:
            raise ContentRejected("The text is empty.", code="empty")
        if len(message.body) > MAX_CHARACTERS:
            raise ContentRejected(
                Text("The text has more than %(most)s characters.", most=MAX_CHARACTERS), code="too_long"
            )
        if len(message.media) > MAX_MEDIA or not all(MEDIA.fullmatch(url) for url in message.media):
            raise ContentRejected("The pictures of this message cannot be sent.", code="media")
        asked: dict[str, Any] = {"to": message.to_address, "status_callback": self._status_url(message)}
        if message.body:
            asked["body"] = message.body
        if message.media:
            asked["media_url"] = list(message.media)
        if message.from_address:
            asked["from_"] = message.from_address
        if service:
            asked["messaging_service_sid"] = service
        return asked

    def _status_url(self, message: OutboundText) -> str:
        """Where Twilio reports to, with our key of the attempt: it finds the row even if we never saw the answer."""
        if not KEY.fullmatch(message.our_key):
            raise Misconfigured("The attempt has no usable key.", code="no_key")
        url = message.status_url or STATUS_PATH
        url = self.settings.public_url + url if url.startswith("/") else url
        url += ("&" if "?" in url else "?") + urlencode({"k": message.our_key})
        if not CALLBACK.fullmatch(url):
            raise Misconfigured("Twilio needs an absolute URL of the hub: set its public URL.", code="no_url")
        return url


def key_of(url: str) -> str:
    """Our attempt key in a callback's URL, or empty."""
    found = dict(parse_qsl(urlsplit(url).query, max_num_fields=20)).get("k", "")
    return found if KEY.fullmatch(found) else ""


def message_arrived(fields: Mapping[str, str]) -> MessageArrived:
    """A text message to one of our numbers."""
    message_id = needed(fields, "MessageSid")
    count = min(int(fields.get("NumMedia") or 0), MAX_MEDIA)
    media = [(fields.get(f"MediaUrl{n}", ""), fields.get(f"MediaContentType{n}", "")) for n in range(count)]
    return MessageArrived(
        external_id=message_id,
        from_raw=needed(fields, "From"),
        to_raw=needed(fields, "To"),
        body=fields.get("Body", ""),
        media=tuple((url, kind) for url, kind in media if MEDIA.fullmatch(url)),
        opt_out=OPT_OUT.get(fields.get("OptOutType", "").upper(), ""),
        event_key=message_id,
        raw=fields,
    )


def delivery_report(fields: Mapping[str, str], word: str, *, our_key: str) -> DeliveryReport:
    """What became of a message. Keyed by message and status: one status is told once, in any order."""
    message_id = needed(fields, "MessageSid")
    if word not in STATUSES:
        raise AnswerUnreadable("Twilio reports a message status that we do not know.", code="unknown_status")
    code = fields.get("ErrorCode", "")
    code = "" if code == "0" else code
    return DeliveryReport(
        external_id=message_id,
        status=STATUSES[word],
        error_code=code,
        error_class=error_class(code),
        our_key=our_key,
        event_key=f"{message_id}:{word}",
        raw=fields,
        dead=is_dead(code),
    )


def build(config: AccountConfig) -> SmsChannel:
    """The SMS channel of an account row. Misconfigured when credentials are missing."""
    return SmsChannel(settings_from(config), peer_allowed=config.peer_allowed)
