"""Texts: from the hub to the people outside with their delivery states, and from them to the hub.

Source: Twilio docs, "Outbound message status in status callbacks", "Twilio's request to your incoming message webhook
URL", error pages 21610, 30003, 30006, 30007 (checked 2026-11). STOP words are those of the default opt-out handling.
"""

from __future__ import annotations

import asyncio
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from hub.sandbox.callbacks import Courier
from hub.sandbox.calls import hook_from
from hub.sandbox.media import MediaFailed, fetch_all, keep, media_url
from hub.sandbox.state import API_VERSION, Hook, Message, PhoneNumber, new_sid
from hub.sandbox.twiml import TwimlError
from hub.sandbox.world import MAGIC, World, country_of
from hub.tasks import end_tasks

STOP_WORDS = frozenset({"STOP", "UNSUBSCRIBE", "END", "QUIT", "STOPALL", "REVOKE", "OPTOUT", "CANCEL"})
START_WORDS = frozenset({"START", "YES", "UNSTOP"})
HELP_WORDS = frozenset({"HELP", "INFO"})
GSM7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM7_LONG = frozenset("^{}\\[~]|€\f")
FAILURES = {
    "unreachable": (30003, "Unreachable destination handset"),
    "landline": (30006, "Landline or unreachable carrier"),
    "filtered": (30007, "Message filtered"),
}
DELAYS_S = {"sending": 0.05, "sent": 0.2, "delivered": 0.6}


def segments(body: str) -> int:
    """How many parts a text is sent in: 160/153 in GSM-7 (extension characters count twice), 70/67 in UCS-2."""
    if all(letter in GSM7 or letter in GSM7_LONG for letter in body):
        units = sum(2 if letter in GSM7_LONG else 1 for letter in body)
        one, many = 160, 153
    else:
        units = len(body.encode("utf-16-be")) // 2
        one, many = 70, 67
    return 1 if units <= one else math.ceil(units / many)


class Texts:
    """Sends, delivers and receives."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._tasks: set[asyncio.Task[None]] = set()
        self._inbound: dict[str, Courier] = {}

    async def close(self) -> None:
        await end_tasks(self._tasks)

    def opted_out(self, sender: str, to: str) -> bool:
        return (sender, to) in self.world.opted_out

    def send(
        self,
        *,
        from_: str,
        to: str,
        body: str,
        media: list[str],
        hook: Hook | None,
        service_sid: str | None,
        direction: str = "outbound-api",
    ) -> Message:
        """Accept a text for sending. The first status gets no callback, as documented; the later ones do."""
        now = self.world.clock.now()
        message = Message(
            new_sid("MM" if media else "SM"),
            from_,
            to,
            body,
            direction,
            now,
            "accepted" if service_sid else "queued",
            now,
            num_segments=0 if service_sid else segments(body),
            media_urls=media,
            messaging_service_sid=service_sid,
            hook=hook,
        )
        self.world.messages[message.sid] = message
        self.world.tell("message", sid=message.sid)
        task = asyncio.create_task(self._carry(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return message

    async def _carry(self, message: Message) -> None:
        """accepted → queued → sending → sent → delivered, or undelivered with a code for the magic numbers."""
        courier = self.world.callbacks.courier()
        behaviour = MAGIC.get(message.to, "")
        if message.status == "accepted":
            await self.world.wait(DELAYS_S["sending"])
            message.num_segments = segments(message.body)
            self._status(courier, message, "queued")
        await self.world.wait(DELAYS_S["sending"])
        if message.status == "canceled":
            return
        if message.media_urls:
            try:
                await fetch_all(self.world, message)
            except MediaFailed as error:
                self.world.fault(error.code, str(error))
                message.error_code, message.error_message = error.code, str(error)
                self._status(courier, message, "failed")
                return
        self._status(courier, message, "sending")
        await self.world.wait(DELAYS_S["sent"])
        message.sent_at = self.world.clock.now()
        self._status(courier, message, "sent")
        if behaviour == "silent":
            return
        await self.world.wait(DELAYS_S["delivered"])
        if behaviour in FAILURES:
            message.error_code, message.error_message = FAILURES[behaviour]
            self._status(courier, message, "undelivered")
        else:
            self._status(courier, message, "delivered")

    def _status(self, courier: Courier, message: Message, status: str) -> None:
        message.status = status
        message.updated_at = self.world.clock.now()
        self.world.tell("message", sid=message.sid)
        hook = message.hook
        if hook is None:
            return
        pairs = [
            ("AccountSid", self.world.config.account_sid),
            ("ApiVersion", API_VERSION),
            ("From", message.from_),
            ("To", message.to),
            ("MessageSid", message.sid),
            ("MessageStatus", status),
            ("SmsSid", message.sid),
            ("SmsStatus", status),
        ]
        if message.messaging_service_sid:
            pairs.append(("MessagingServiceSid", message.messaging_service_sid))
        if message.error_code is not None:
            pairs += [("ErrorCode", str(message.error_code)), ("ErrorMessage", message.error_message or "")]
        if status in ("delivered", "undelivered"):
            pairs.append(("RawDlrDoneDate", message.updated_at.strftime("%y%m%d%H%M")))
        courier.send(f"message-{status}", hook.url, hook.method, pairs)

    # --- from outside ------------------------------------------------------------------------------------------------

    def receive(self, *, from_: str, to: str, body: str, media: Sequence[tuple[str, bytes]] = ()) -> Message:
        """A text from a person to one of the hub's numbers: keywords are honoured first, then the webhook is called.

        `media`: the files that go with it, as (content type, bytes).
        """
        number = self.world.number_of(to)
        now = self.world.clock.now()
        message = Message(
            new_sid("MM" if media else "SM"),
            from_,
            to,
            body,
            "inbound",
            now,
            "received",
            now,
            sent_at=now,
            num_segments=segments(body),
        )
        message.media = [keep(self.world, message.sid, content_type, content) for content_type, content in media]
        self.world.messages[message.sid] = message
        keyword = self._keyword(from_, to, body)
        self.world.tell("message", sid=message.sid)
        if number is not None:
            task = asyncio.create_task(self._deliver(message, number, keyword))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return message

    def _keyword(self, from_: str, to: str, body: str) -> str:
        """STOP, START or HELP, and what it does to the sender's permission to be texted."""
        word = body.strip().upper()
        if word in STOP_WORDS:
            self.world.opted_out.add((to, from_))
            self.world.save()
            return "STOP"
        if word in START_WORDS:
            known = (to, from_) in self.world.opted_out
            self.world.opted_out.discard((to, from_))
            self.world.save()
            return "START" if known or word != "YES" else ""
        return "HELP" if word in HELP_WORDS else ""

    async def _deliver(self, message: Message, number: PhoneNumber, keyword: str) -> None:
        world = self.world
        app = world.applications.get(number.sms_application_sid)
        owner = app or number
        if not owner.sms_url:
            world.fault(11100, f"number {number.number} has no SMS URL")
            return
        pairs = self._inbound_params(message, keyword)
        courier = self._inbound.setdefault(message.from_, world.callbacks.courier())
        answer = await courier.ask("sms", owner.sms_url, owner.sms_method, pairs)
        if not answer.ok:
            world.fault(11200, f"{owner.sms_url} answered {answer.status or answer.error}")
            if not owner.sms_fallback_url:
                return
            more = [("ErrorCode", "11200"), ("ErrorUrl", owner.sms_url)]
            answer = await courier.ask("sms-fallback", owner.sms_fallback_url, owner.sms_fallback_method, pairs + more)
        if answer.ok and answer.body.strip():
            try:
                self._replies(message, answer.body, answer.content_type)
            except TwimlError as error:
                world.fault(error.code, str(error), where=owner.sms_url)

    def _inbound_params(self, message: Message, keyword: str) -> list[tuple[str, str]]:
        pairs = [
            ("ToCountry", country_of(message.to)),
            ("ToState", ""),
            ("SmsMessageSid", message.sid),
            ("NumMedia", str(len(message.media))),
            ("ToCity", ""),
            ("FromZip", ""),
            ("SmsSid", message.sid),
            ("FromState", ""),
            ("SmsStatus", "received"),
            ("FromCity", ""),
            ("Body", message.body),
            ("FromCountry", country_of(message.from_)),
            ("To", message.to),
            ("ToZip", ""),
            ("NumSegments", str(message.num_segments)),
            ("MessageSid", message.sid),
            ("AccountSid", self.world.config.account_sid),
            ("From", message.from_),
            ("ApiVersion", API_VERSION),
        ]
        for number, media in enumerate(message.media):
            pairs += [
                (f"MediaUrl{number}", media_url(self.world, media)),
                (f"MediaContentType{number}", media.content_type),
            ]
        if keyword:
            pairs.append(("OptOutType", keyword))
        return pairs

    def _replies(self, message: Message, body: str, content_type: str) -> None:
        """Messaging TwiML: Message elements become texts back. Anything else is refused loudly."""
        if content_type not in ("text/xml", "application/xml"):
            raise TwimlError(12300, f"SMS answer has content type {content_type or 'none'}")
        if "<!DOCTYPE" in body or "<!ENTITY" in body:
            raise TwimlError(12100, "a document type is not allowed in TwiML")
        try:
            root = ET.fromstring(body.strip())  # noqa: S314 - see the import
        except ET.ParseError as exc:
            raise TwimlError(12100, f"document parse failure: {exc}") from exc
        for child in root:
            if root.tag != "Response" or child.tag != "Message" or set(child.attrib) - {"to", "from"}:
                raise TwimlError(14104, f"<{child.tag}> is not understood in an SMS answer")
            inner = child.find("Body")
            said = (inner.text if inner is not None else child.text) or ""
            sender, to = child.get("from", message.to), child.get("to", message.from_)
            if not self.opted_out(sender, to):
                self.send(
                    from_=sender, to=to, body=said, media=[], hook=None, service_sid=None, direction="outbound-reply"
                )


def message_hook(url: str) -> Hook | None:
    return hook_from(url, "POST", "")
