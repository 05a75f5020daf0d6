"""A mail to send, as bytes. Pure. Whatever could break out of a header is refused here, before any library sees it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from channels.contract import MailFile, OutboundMail
from channels.errors import ContentRejected, Misconfigured, RecipientInvalid
from crm_core import addresses
from crm_core.errors import Invalid
from crm_core.texts import Text

# A line break or NUL ends a header or a command; none of the rest belongs into one either.
FORBIDDEN = re.compile("[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]")
MESSAGE_ID = re.compile(r"<[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,200}@[A-Za-z0-9.-]{1,200}>")
HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,75}")
CONTENT_TYPE = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}")
# Ours alone to set; the rest of a mail's headers may come with it (List-Unsubscribe, Auto-Submitted, X-…).
RESERVED = frozenset(
    {
        *(
            "from",
            "sender",
            "to",
            "cc",
            "bcc",
            "subject",
            "date",
            "message-id",
            "in-reply-to",
            "references",
            "reply-to",
        ),
        *("mime-version", "return-path", "received", "content-type", "content-transfer-encoding"),
        *("content-disposition", "content-id"),
    }
)
MAX_SUBJECT = 900
MAX_REFERENCES = 30
MAX_SIZE = 25 * 1024 * 1024


def compose(mail: OutboundMail, *, now: datetime) -> bytes:
    """The mail as it goes over the wire, lines ended by CRLF.

    RecipientInvalid for an address that cannot be one, ContentRejected for anything that may not stand in a mail,
    Misconfigured for our own sender or Message-ID.
    """
    message = EmailMessage(policy=SMTP)
    message["From"] = Address(_plain(mail.from_name, "sender's name"), addr_spec=sender(mail.from_address))
    message["To"] = Address(_plain(mail.to_name, "recipient's name"), addr_spec=recipient(mail.to_address))
    if mail.cc:
        message["Cc"] = tuple(Address(addr_spec=recipient(one)) for one in mail.cc)
    message["Subject"] = _plain(mail.subject, "subject")[:MAX_SUBJECT]
    message["Date"] = format_datetime(now)
    if not MESSAGE_ID.fullmatch(mail.message_id):
        raise Misconfigured("The mail has no usable Message-ID.", code="message_id")
    message["Message-ID"] = mail.message_id
    if mail.reply_to:
        message["Reply-To"] = Address(addr_spec=sender(mail.reply_to))
    references = list(_ids(mail.references))
    for parent in _ids([mail.in_reply_to]):
        message["In-Reply-To"] = parent
        if parent not in references:
            references.append(parent)
    if references:
        # The first and the newest: enough for every reader to thread by, and a header that stays short.
        kept = references[:1] + references[1:][-(MAX_REFERENCES - 1) :]
        message["References"] = " ".join(kept)
    for name, value in mail.headers.items():
        if not HEADER_NAME.fullmatch(name) or name.lower() in RESERVED:
            raise ContentRejected(Text("The header %(name)s may not be set.", name=repr(name[:40])), code="header")
        message[name] = _plain(value, f"header {name}")
    _fill(message, mail)
    whole = message.as_bytes()
    if len(whole) > MAX_SIZE:
        raise ContentRejected(Text("The mail is larger than %(most)s MiB.", most=MAX_SIZE // 2**20), code="too_large")
    return whole


def envelope(mail: OutboundMail) -> tuple[str, list[str]]:
    """(envelope sender, recipients), checked. The null sender is the empty text."""
    given = mail.from_address if mail.envelope_from is None else mail.envelope_from
    return (sender(given) if given else ""), [
        recipient(one) for one in dict.fromkeys((mail.to_address, *mail.cc, *mail.bcc))
    ]


def recipient(address: str) -> str:
    """The normalised address, or RecipientInvalid: aiosmtplib would send to what stands before a line break."""
    return _address(address) or _refuse(RecipientInvalid("This is not a mail address.", code="address"))


def sender(address: str) -> str:
    """The normalised address of ours, or Misconfigured."""
    return _address(address) or _refuse(Misconfigured("Our own mail address cannot be used.", code="address"))


def _refuse(error: Exception) -> str:
    raise error


def _address(address: str) -> str:
    if FORBIDDEN.search(address) or len(address) > 254:
        return ""
    try:
        found = addresses.email(address).value
    except Invalid:
        return ""
    return found if found.isascii() else ""


def _plain(text: str, what: str) -> str:
    if FORBIDDEN.search(text):
        raise ContentRejected(
            Text("The %(what_text)s contains a line break or a control character.", what_text=what), code="header"
        )
    return text


def _ids(values: Iterable[str]) -> Iterable[str]:
    """Message-IDs of others, as far as they can stand in a header: theirs, so a broken one is left out, not refused."""
    return (value for value in values if re.fullmatch(r"<[\x21-\x3b\x3d\x3f-\x7e]{1,400}>", value))


def _fill(message: EmailMessage, mail: OutboundMail) -> None:
    text, html = _body(mail.text), _body(mail.html)
    if not text.strip() and not html.strip() and not mail.files:
        raise ContentRejected("The mail is empty.", code="empty")
    inline = [file for file in mail.files if file.content_id and html]
    if text.strip() or not html:
        message.set_content(text, cte="quoted-printable")
        if html:
            message.add_alternative(html, subtype="html", cte="quoted-printable")
    else:
        message.set_content(html, subtype="html", cte="quoted-printable")
    for file in inline:
        part = message.get_body(("html",))
        if part is not None:
            kind, subtype = _kind(file)
            part.add_related(
                file.content, kind, subtype, cid=f"<{_plain(file.content_id.strip('<>'), 'content id')}>",
                filename=_plain(file.name, "file name"), disposition="inline",
            )  # fmt: skip
    for file in mail.files:
        if file not in inline:
            kind, subtype = _kind(file)
            message.add_attachment(file.content, kind, subtype, filename=_plain(file.name, "file name") or "file")


def _body(text: str) -> str:
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _kind(file: MailFile) -> tuple[str, str]:
    kind = file.content_type.lower()
    # Composite types would have to be parsed first; as plain bytes they arrive as they are.
    if not CONTENT_TYPE.fullmatch(kind) or kind.startswith(("multipart/", "message/")):
        kind = "application/octet-stream"
    main, _, sub = kind.partition("/")
    return main, sub
