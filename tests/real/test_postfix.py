"""Debian's Postfix: what the hub sends through it, what it refuses, and the bounce that comes back through Dovecot."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest

from channels.contract import MailArrived, MailFile, OutboundMail
from channels.email import EmailChannel, EmailSettings
from channels.errors import ChannelError, ContentRejected, Misconfigured, RecipientInvalid, Throttled, Unavailable
from channels.imap import ImapSettings
from channels.mail_pool import MailPool
from channels.smtp import SmtpSettings
from tests.real.servers import PASSWORD, Dovecot, Postfix

pytestmark = [pytest.mark.needs_dovecot, pytest.mark.needs_postfix]

NUMBERS = itertools.count(1)
DOTS = ".\r\n..two dots\r\n.a line that begins with one\r\n\r\n.\r\nthe end"


@pytest.fixture
def sender(postfix: Postfix) -> str:
    """An address of ours that nobody used yet."""
    return f"hub{next(NUMBERS)}@example.test"


@pytest.fixture
def recipient(postfix: Postfix) -> str:
    """Somebody outside who has no mail yet."""
    return f"person{next(NUMBERS)}@example.com"


def channel(postfix: Postfix, sender: str, *, security: str = "none") -> EmailChannel:
    smtp = SmtpSettings("127.0.0.1", postfix.smtp, security, phase_s=20.0, data_s=20.0)
    return EmailChannel(EmailSettings(sender, smtp=smtp), tls=postfix.trust)


def letter(sender: str, recipient: str, **more: Any) -> OutboundMail:
    number = next(NUMBERS)
    fields = {"subject": "Hello", "text": "How are you?", "html": "", "message_id": f"<{number}@example.test>", **more}
    return OutboundMail(sender, "Support", recipient, **fields)


async def arrived(dovecot: Dovecot, user: str) -> MailArrived:
    """The first mail in somebody's mailbox."""
    imap = ImapSettings("127.0.0.1", dovecot.imap, user, PASSWORD, "none", step_s=10.0)
    mailbox = EmailChannel(EmailSettings(user, imap=imap), pool=MailPool(size=1))
    mails = mailbox.poll({})
    try:
        found, _ = await asyncio.wait_for(anext(mails), 30)
    finally:
        await mails.aclose()
        await mailbox.close()
    assert isinstance(found, MailArrived)
    return found


async def test_umlauts_files_and_lines_of_dots_arrive_as_they_were_sent(
    postfix: Postfix, dovecot: Dovecot, sender: str, recipient: str
) -> None:
    content = bytes(range(256)) * 400
    sent = letter(
        sender, recipient,
        subject="Grüße, 你好 und ein langer Betreff, " * 4 + "Ende", text=DOTS + " – ¡olé! 🚲",
        html="<p>.</p>\n.\n<p>¡olé!</p>", files=[MailFile("Übersicht 2026.pdf", "application/pdf", content)],
        in_reply_to="<before@example.com>", references=["<first@example.com>", "<before@example.com>"],
    )  # fmt: skip
    receipt = await channel(postfix, sender).send(sent)
    assert receipt.status == "sent"
    assert "queued as" in receipt.detail["answer"]
    found = await arrived(dovecot, recipient)
    assert found.subject == sent.subject
    assert found.text.replace("\r\n", "\n").strip() == sent.text.replace("\r\n", "\n")
    assert "¡olé!" in found.html
    assert [(file.name, file.content_type, file.content) for file in found.files] == [
        ("Übersicht 2026.pdf", "application/pdf", content)
    ]
    assert (found.message_id, found.from_address, found.from_name) == (sent.message_id, sender, "Support")
    assert (found.in_reply_to, list(found.references)) == (sent.in_reply_to, list(sent.references))
    assert found.automatic == ""


@pytest.mark.parametrize(
    ("to", "error", "code"),
    [
        ("nobody@example.com", RecipientInvalid, "550 5.1.1"),
        ("full@example.com", Unavailable, "452 4.2.2"),
        ("greylisted@example.com", Throttled, "450 4.7.1"),
        ("blocked@example.com", ContentRejected, "550 5.7.1"),
        ("relayed@example.com", Misconfigured, "554 5.7.1"),  # Postfix's own words for: you may not send here
        ("ana@elsewhere.example.org", ChannelError, ""),
    ],
)
async def test_what_postfix_refuses(
    postfix: Postfix, sender: str, to: str, error: type[ChannelError], code: str
) -> None:
    with pytest.raises(error) as caught:
        await channel(postfix, sender).send(letter(sender, to))
    assert code in caught.value.code
    assert "@" not in str(caught.value), "what a server says quotes people; the error must not"


async def test_one_refused_recipient_does_not_cost_the_connection(
    postfix: Postfix, dovecot: Dovecot, sender: str, recipient: str
) -> None:
    mail = channel(postfix, sender)
    async with mail.line() as line:
        for _ in range(3):
            with pytest.raises(RecipientInvalid):
                await mail.send_on(line, letter(sender, "nobody@example.com"))
        for number in range(20):
            await mail.send_on(line, letter(sender, recipient, subject=f"n{number}"))
        assert line.carried == 20
    assert (await arrived(dovecot, recipient)).subject in {f"n{number}" for number in range(20)}


@pytest.mark.parametrize("security", ["starttls", "auto"])
async def test_starttls(postfix: Postfix, dovecot: Dovecot, sender: str, recipient: str, security: str) -> None:
    await channel(postfix, sender, security=security).send(letter(sender, recipient))
    found = await arrived(dovecot, recipient)
    assert "TLSv1" in found.raw.decode(), "Postfix notes the encryption in its trace line"


async def test_starttls_with_a_certificate_that_nobody_vouches_for(
    postfix: Postfix, sender: str, recipient: str
) -> None:
    smtp = SmtpSettings("127.0.0.1", postfix.smtp, "starttls", phase_s=20.0)
    with pytest.raises(Misconfigured):
        await EmailChannel(EmailSettings(sender, smtp=smtp)).send(letter(sender, recipient))


async def test_a_bounce_comes_back_and_is_never_answered_by_itself(
    postfix: Postfix, dovecot: Dovecot, sender: str
) -> None:
    sent = letter(sender, "ana@bounce.example.test", subject="Ihre Anfrage")
    began = time.monotonic()
    assert (await channel(postfix, sender).send(sent)).status == "sent", "accepted: the refusal comes later"
    bounce = await arrived(dovecot, sender)
    assert time.monotonic() - began < 30
    assert bounce.automatic, "a delivery status notification"
    assert bounce.from_address.lower().startswith("mailer-daemon@")
    assert sent.message_id.encode() in bounce.raw, "it carries the head of what it is about"
    assert b"Final-Recipient: rfc822; ana@bounce.example.test" in bounce.raw
    assert b"Status: 5." in bounce.raw


async def test_a_mail_that_may_not_bounce(postfix: Postfix, dovecot: Dovecot, sender: str, recipient: str) -> None:
    await channel(postfix, sender).send(letter(sender, recipient, envelope_from=""))
    found = await arrived(dovecot, recipient)
    assert found.automatic, "a null sender is a machine"
