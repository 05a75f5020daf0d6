"""Reports as mail systems word them, made here after their published forms: bounces, delays, complaints, and what is none.

`{id}` stands for the Message-ID of the mail they speak of, `{to}` for who it was sent to, `{box}` for our address.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One mail; `kind` empty = no report. `about`: whether the returned mail can be named."""

    name: str
    raw: str
    kind: str = "bounce"
    failed: bool = True
    dead: bool = False
    code: str = ""
    about: bool = True
    address: str = "ana@example.com"

    def bytes(self, *, message_id: str, to: str = "ana@example.com", box: str = "support@example.test") -> bytes:
        """The mail with these names filled in, lines ended by CRLF."""
        text = self.raw.replace("{id}", message_id).replace("{to}", to).replace("{box}", box)
        return text.strip("\n").replace("\n", "\r\n").encode("utf-8") + b"\r\n"


def _dsn(status: str, *, words: str = "It failed.", returned: str = "text/rfc822-headers", head: str = "") -> str:
    return f"""
From: Mail Delivery System <MAILER-DAEMON@mx.example.com>
To: {{box}}
Subject: Undelivered Mail Returned to Sender
Message-ID: <dsn-1@mx.example.com>
Auto-Submitted: auto-replied
{head}MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b1"

--b1
Content-Type: text/plain; charset=us-ascii

{words}

--b1
Content-Type: message/delivery-status

{status}

--b1
Content-Type: {returned}

From: Support <{{box}}>
To: {{to}}
Subject: Re: Invoice
Message-ID: {{id}}

--b1--
"""


POSTFIX = """Reporting-MTA: dns; mx.example.com
X-Postfix-Queue-ID: 4ABCDE
Arrival-Date: Wed, 18 Nov 2026 10:00:00 +0000 (UTC)

Final-Recipient: rfc822; {to}
Original-Recipient: rfc822;{to}
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.com
Diagnostic-Code: smtp; 550 5.1.1 <{to}>: Recipient address
    rejected: User unknown in local recipient table"""

ARF = """
From: <abusedesk@provider.example.com>
To: {{box}}
Subject: FW: Re: Invoice
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="b2"

--b2
Content-Type: text/plain; charset=us-ascii

This is an email abuse report.

--b2
Content-Type: message/feedback-report

Feedback-Type: {sort}
User-Agent: SomeGenerator/1.0
Version: 1
Original-Mail-From: <{{box}}>
Original-Rcpt-To: <{{to}}>
Arrival-Date: Wed, 18 Nov 2026 10:00:00 +0000

--b2
Content-Type: message/rfc822

From: Support <{{box}}>
To: redacted@provider.example.com
Subject: Re: Invoice
Message-ID: {{id}}

Spam Spam Spam
--b2--
"""

SAMPLES = [
    Sample("postfix", _dsn(POSTFIX), dead=True, code="5.1.1"),
    Sample("postfix_whole_mail", _dsn(POSTFIX, returned="message/rfc822"), dead=True, code="5.1.1"),
    Sample(
        "postfix_gave_up",
        _dsn("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {to}\nAction: failed\nStatus: 4.4.1\n"
             "Diagnostic-Code: X-Postfix; connect to mx.example.com: Connection timed out"),
        code="4.4.1",
    ),
    Sample(
        "postfix_delayed",
        _dsn("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {to}\nAction: delayed\nStatus: 4.4.1\n"
             "Will-Retry-Until: Mon, 23 Nov 2026 10:00:00 +0000"),
        failed=False, code="4.4.1",
    ),
    Sample(
        "gateway_hides_the_code",
        _dsn("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {to}\nAction: failed\nStatus: 5.0.0\n"
             "Diagnostic-Code: smtp; 550 5.1.1 No such user"),
        dead=True, code="5.1.1",
    ),
    Sample(
        "mailbox_full",
        _dsn("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {to}\nAction: failed\nStatus: 5.2.2\n"
             "Diagnostic-Code: smtp; 552 5.2.2 over quota"),
        code="5.2.2",
    ),
    Sample(
        "policy",
        _dsn("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {to}\nAction: failed\nStatus: 5.7.1\n"
             "Diagnostic-Code: smtp; 550-5.7.1 [192.0.2.1 12] Our system has detected that this message is likely unsolicited"),
        code="5.7.1",
    ),
    Sample(
        "sender_refused",  # 5.1.8 is about us, not about them
        _dsn("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {to}\nAction: failed\nStatus: 5.1.8"),
        code="5.1.8",
    ),
    Sample(
        "exchange",
        _dsn("Reporting-MTA: dns;X.prod.example.com\nReceived-From-MTA: dns;Y\n\nFinal-Recipient: rfc822;{to}\n"
             "Action: failed\nStatus: 5.1.10\nDiagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found",
             head="X-MS-Exchange-Message-Is-Ndr: \nIn-Reply-To: {id}\nReferences: {id}\n", returned="message/rfc822"),
        dead=True, code="5.1.10",
    ),
    Sample(
        "delivered",
        _dsn("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {to}\nAction: delivered\nStatus: 2.1.5"),
        failed=False, code="2.1.5",
    ),
    Sample(
        "no_action_named",
        _dsn("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {to}\nStatus: 5.1.2"), dead=True, code="5.1.2",
    ),
    Sample(
        "international",
        _dsn("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {to}\nAction: failed\nStatus: 5.1.1").replace(
            "message/delivery-status", "message/global-delivery-status").replace(
            "text/rfc822-headers", "message/global-headers"),
        dead=True, code="5.1.1",
    ),
    Sample(
        "behind_an_alias",
        _dsn("Reporting-MTA: dns; mx\n\nOriginal-Recipient: rfc822;{to}\nFinal-Recipient: rfc822; a.example@inner.example.com\n"
             "Action: failed\nStatus: 5.1.1"),
        dead=True, code="5.1.1", address="a.example@inner.example.com",
    ),
    Sample(
        "qmail",
        """
From: MAILER-DAEMON@mx.example.com
To: {box}
Subject: failure notice
Return-Path: <>

Hi. This is the qmail-send program at mx.example.com.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<{to}>:
192.0.2.7 does not like recipient.
Remote host said: 550 5.1.1 No such mailbox here (#5.1.1)

--- Below this line is a copy of the message.

From: Support <{box}>
To: {to}
Message-ID: {id}
Subject: Re: Invoice

Hello
""",
        dead=True, code="5.1.1",
    ),
    Sample(
        "old_exim",
        """
From: Mail Delivery System <Mailer-Daemon@mx.example.com>
To: {box}
X-Failed-Recipients: {to}
Auto-Submitted: auto-replied
Subject: Mail delivery failed: returning message to sender

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  {to}
    Unrouteable address

------ This is a copy of the message, including all the headers. ------

Message-Id: {id}
From: {box}
""",
        code="5.0.0",
    ),
    Sample(
        "words_of_a_delay",
        """
From: MAILER-DAEMON@mx.example.com
To: {box}
Subject: Warning: could not send message for past 4 hours

The original message was received at Wed, 18 Nov 2026.
   ----- The following addresses had transient non-fatal errors -----
<{to}>... 451 4.4.1 connection timed out
Message-ID: {id}
""",
        failed=False, code="4.4.1",
    ),
    Sample(
        "unclear_words",
        """
From: postmaster@example.com
To: {box}
In-Reply-To: {id}
Subject: About your mail

We will look at your mail when we find the time. Thank you.
""",
        kind="",
    ),
    Sample(
        "out_of_office",
        """
From: Ana <ana@example.com>
To: {box}
Return-Path: <>
Auto-Submitted: auto-replied
In-Reply-To: {id}
Subject: Out of office

I am away. Error 5.1.1 is what my old server says to everybody. This is a permanent error.
""",
        kind="",
    ),
    Sample(
        "read_receipt",
        """
From: Ana <ana@example.com>
To: {box}
Content-Type: multipart/report; report-type=disposition-notification; boundary="m"

--m
Content-Type: text/plain

Your message was displayed.
--m
Content-Type: message/disposition-notification

Final-Recipient: rfc822; {to}
Original-Message-ID: {id}
Disposition: manual-action/MDN-sent-manually; displayed
--m--
""",
        kind="",
    ),
    Sample("complaint", ARF.format(sort="abuse"), kind="complaint", failed=False),
    Sample("opted_out_at_the_provider", ARF.format(sort="opt-out"), kind="complaint", failed=False),
    Sample("not_spam", ARF.format(sort="not-spam"), kind=""),
    Sample("dmarc_failure", ARF.format(sort="auth-failure"), kind=""),
]  # fmt: skip
