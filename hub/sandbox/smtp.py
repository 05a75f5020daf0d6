"""The mail server that the hub sends through: a real socket in front, the mailboxes outside and the hub's behind.

Recipients with a fixed answer, whatever the domain: `bounce@` 550 5.1.1, `full@` 552 5.2.2, `later@` 451 4.2.0,
`dsn@` is accepted and comes back as a delivery status notification, `hold@` is accepted and never delivered.
"""

from __future__ import annotations

import asyncio
from email.utils import format_datetime, make_msgid, parseaddr
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from hub.sandbox.imap import ImapServer
from hub.sandbox.mailstore import MailStore
from hub.sandbox.world import World

REFUSED = {
    "bounce": "550 5.1.1 <{}>: user unknown",
    "full": "552 5.2.2 <{}>: mailbox full",
    "later": "451 4.2.0 <{}>: try again later",
}
LARGEST = 30 * 1024 * 1024
NOTIFICATION = """\
From: Mail Delivery System <MAILER-DAEMON@sandbox.example.test>
To: {to}
Subject: Undelivered Mail Returned to Sender
Date: {date}
Message-ID: {message_id}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="of-the-sandbox"

--of-the-sandbox
Content-Type: text/plain; charset=us-ascii

Your message could not be delivered to <{recipient}>: user unknown.

--of-the-sandbox
Content-Type: message/delivery-status

Reporting-MTA: dns; sandbox.example.test

Final-Recipient: rfc822; {recipient}
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 user unknown

--of-the-sandbox
Content-Type: text/rfc822-headers

{head}

--of-the-sandbox--
"""


class PostOffice:
    """Where accepted mail goes."""

    def __init__(self, world: World, store: MailStore, imap: ImapServer) -> None:
        self.world = world
        self.store = store
        self.imap = imap

    def is_hub(self, address: str) -> bool:
        """The hub's own mailbox, also with a `+detail` (reply tokens)."""
        local, _, domain = address.lower().partition("@")
        return f"{local.split('+')[0]}@{domain}" == self.world.config.mailbox.address.lower()

    async def deliver(self, raw: bytes, *, sender: str, recipient: str) -> None:
        """Into the recipient's mailbox, with the headers that a mail server adds on delivery."""
        now = self.world.clock.now()
        local = recipient.lower().partition("@")[0].split("+")[0]
        if local == "hold":
            return
        head = (
            f"Return-Path: <{sender}>\r\nDelivered-To: {recipient}\r\n"
            f"Received: from sandbox (localhost [127.0.0.1])\r\n\tby sandbox.example.test with ESMTP;"
            f" {format_datetime(now)}\r\n"
        )
        if self.is_hub(recipient):
            uid = await self.imap.deliver(head.encode() + raw, now)
            self.world.tell("mail", address=self.world.config.mailbox.address, id=uid)
            return
        mail = self.store.add(recipient, head.encode() + raw)
        self.world.tell("mail", address=mail.address, id=mail.number)
        if local == "dsn" and sender:
            await self.deliver(self._notification(raw, recipient), sender="", recipient=sender)

    def _notification(self, raw: bytes, recipient: str) -> bytes:
        """A delivery status notification (RFC 3464) for a recipient who turned out not to exist."""
        head = raw.split(b"\r\n\r\n", 1)[0].decode("ascii", "replace")
        text = NOTIFICATION.format(
            to=self.world.config.mailbox.address,
            date=format_datetime(self.world.clock.now()),
            message_id=make_msgid(domain="sandbox.example.test"),
            recipient=recipient,
            head=head.replace("\r\n", "\n"),
        )
        return text.replace("\n", "\r\n").encode("ascii", "replace")


class Handler:
    """aiosmtpd's hooks."""

    def __init__(self, office: PostOffice) -> None:
        self.office = office

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        local = address.lower().partition("@")[0].split("+")[0]
        if "@" not in address:
            return "501 5.1.3 bad recipient address"
        if local in REFUSED:
            return REFUSED[local].format(address)
        if self.office.world.faults.strikes("smtp_451", address):
            return f"451 4.3.0 <{address}>: a fault was switched on"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        raw = envelope.content if isinstance(envelope.content, bytes) else b""
        _, sender = parseaddr(envelope.mail_from or "")
        for recipient in envelope.rcpt_tos:
            await self.office.deliver(raw, sender=sender, recipient=recipient)
        return "250 2.0.0 OK: queued in the sandbox"


class SmtpServer:
    """A listening socket; one SMTP session object per connection."""

    def __init__(self, office: PostOffice, user: str, password: str) -> None:
        self.office = office
        self.user = user
        self.password = password
        self._server: asyncio.Server | None = None

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        good = (
            isinstance(data, LoginPassword)
            and data.login.decode("utf-8", "replace") == self.user
            and data.password.decode("utf-8", "replace") == self.password
        )
        return AuthResult(success=good, handled=False)

    async def start(self, host: str, port: int) -> int:
        """Listen; gives the port."""
        handler = Handler(self.office)

        def session() -> SMTP:
            return SMTP(
                handler,
                hostname="sandbox.example.test",
                ident="ESMTP sandbox",
                data_size_limit=LARGEST,
                enable_SMTPUTF8=True,
                authenticator=self._authenticate,
                auth_require_tls=False,
                auth_required=False,
            )

        self._server = await asyncio.get_running_loop().create_server(session, host=host, port=port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
