"""What a mail server or mailbox provider reports about a mail of ours: bounces, delays, complaints. Runs in the parsing child,
so it imports nothing of the hub and believes nothing: its answer is checked again outside.

Standards: RFC 3464 (delivery status), RFC 3463 (status codes), RFC 6533 (international ones), RFC 5965 (abuse reports), read
2026-11. Reports without a machine-readable part are read only when a mail system wrote them (its address or its header says
so), and only for a status code or a known sentence; whatever is unclear is no report.
"""

from __future__ import annotations

import email.message
import re
from collections.abc import Callable, Iterator
from typing import Any

MAX_PARTS = 50
MAX_DEPTH = 10
MAX_RECIPIENTS = 50
MAX_TEXT = 64 * 1024
MAX_SAID = 500

STATUS = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\d|\.\d)")
SMTP_REFUSED = re.compile(r"(?<![\d.])(5[05]\d)[ -]")
MESSAGE_ID_LINE = re.compile(r"^(?:>\s?)?message-id:\s{0,20}(<[^<>\s]{1,500}>)", re.IGNORECASE | re.MULTILINE)
MESSAGE_ID = re.compile(r"<[^<>\s]{1,500}>")
ADDRESS = re.compile(r"[^\s<>@,;:\"()\[\]]{1,64}@[^\s<>@,;:\"()\[\]]{1,255}")
DAEMONS = ("mailer-daemon", "postmaster", "mail-daemon", "mailerdaemon", "mailer_daemon")
# qmail's and old Exim's own sentences: these are never said of a mail that is still being tried.
FINAL = re.compile(
    r"this is a permanent error|could not be delivered to one or more of its recipients|i've given up|permanent fatal errors",
    re.IGNORECASE,
)
COMPLAINTS = frozenset(
    {"abuse", "fraud", "opt-out", "opt-out-list"}
)  # not: not-spam, auth-failure (DMARC), virus, other
RETURNED_TO = (
    "to",
    "delivered-to",
    "x-original-to",
    "envelope-to",
    "x-envelope-to",
    "x-delivered-to",
    "original-mail-from",
)

Body = Callable[[email.message.Message], bytes]


def find(
    message: email.message.Message, headers: dict[str, str], *, from_address: str, text: str, body: Body
) -> dict[str, Any] | None:
    """The report in a mail as plain values (`kind`, `about`, `returned_to`, `recipients`, `text`), or None when it is none."""
    parts = list(_parts(message, 0))
    complaint = next((part for kind, part in parts if kind == "message/feedback-report"), None)
    about = _about(parts, headers, body)
    if complaint is not None:
        return _complaint(complaint, about, headers)
    if any(kind == "message/disposition-notification" for kind, _ in parts):
        return None  # somebody's mail program says that it was shown
    recipients = [
        told
        for kind, part in parts
        if kind in ("message/delivery-status", "message/global-delivery-status")
        for block in _blocks(part)
        if (told := _recipient(block)) is not None
    ][:MAX_RECIPIENTS]
    if not recipients:
        recipients = _from_words(headers, from_address=from_address, text=text)
        about = about or MESSAGE_ID_LINE.findall(text[:MAX_TEXT])[:10]
    if not recipients:
        return None
    return {
        "kind": "bounce",
        "about": about,
        "returned_to": _returned_to(headers),
        "recipients": recipients,
        "text": recipients[0]["text"],
    }


def _parts(part: email.message.Message, depth: int) -> Iterator[tuple[str, email.message.Message]]:
    """(type, part) of the report's own parts; never of what is inside the returned mail."""
    seen = 0
    stack = [(part, depth)]
    while stack and seen < MAX_PARTS:
        one, deep = stack.pop(0)
        seen += 1
        kind = (_value(one, "content-type") or "text/plain").partition(";")[0].strip().lower()
        held = one._payload  # type: ignore[attr-defined]
        if kind.startswith("multipart/") and isinstance(held, list) and deep < MAX_DEPTH:
            stack += [(child, deep + 1) for child in held if isinstance(child, email.message.Message)]
        else:
            yield kind, one


def _value(part: email.message.Message, name: str) -> str:
    return next((str(value)[:2000] for key, value in part._headers[:300] if key.lower() == name), "")  # type: ignore[attr-defined]


def _fields(part: email.message.Message) -> dict[str, str]:
    """A block of fields by lower-case name, each on one line; the first of each counts."""
    found: dict[str, str] = {}
    for key, value in part._headers[:100]:  # type: ignore[attr-defined]
        found.setdefault(str(key).lower()[:60], re.sub(r"\s+", " ", _plain(str(value)[:2000])).strip())
    return found


def _plain(text: str) -> str:
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)
    return text.encode("ascii", "replace").decode() if not text.isascii() else text


def _blocks(part: email.message.Message) -> Iterator[dict[str, str]]:
    """The blocks of a delivery status: as the library parsed them, or (international ones) cut at empty lines."""
    held = part._payload  # type: ignore[attr-defined]
    if isinstance(held, str):
        yield from _cut(held)
        return
    for block in held[: MAX_RECIPIENTS + 5]:
        if isinstance(block, email.message.Message):
            yield _fields(block)
            rest = block._payload  # type: ignore[attr-defined]
            if isinstance(rest, str) and ":" in rest[:MAX_TEXT]:
                yield from _cut(rest)


def _cut(text: str) -> Iterator[dict[str, str]]:
    for block in re.split(r"\r?\n[ \t]*\r?\n", text[:MAX_TEXT])[: MAX_RECIPIENTS + 5]:
        found: dict[str, str] = {}
        for line in re.sub(r"\r?\n[ \t]+", " ", block).splitlines()[:100]:
            name, colon, value = line.partition(":")
            if colon and re.fullmatch(r"[A-Za-z-]{1,60}", name):
                found.setdefault(name.lower(), _plain(value.strip()[:2000]))
        if found:
            yield found


def _address(field: str) -> str:
    """The address of `rfc822; ana@example.com`."""
    found = ADDRESS.search(field.partition(";")[2] or field)
    return found[0].lower() if found else ""


def _recipient(block: dict[str, str]) -> dict[str, str] | None:
    if not {"final-recipient", "original-recipient", "action"} & set(block):
        return None
    said = block.get("diagnostic-code", "").partition(";")[2].strip() or block.get("diagnostic-code", "")
    code = _code(block.get("status", ""))
    closer = _code(said)
    if closer and (not code or (code.endswith(".0.0") and closer[0] == code[0])):
        code = closer  # a gateway that says 5.0.0 repeats what the other server really said
    action = block.get("action", "").partition(" ")[0].partition(";")[0].lower()
    if action not in ("failed", "delayed", "delivered", "relayed", "expanded"):
        action = {"5": "failed", "4": "delayed"}.get(code[:1], "")
    if not action:
        return None
    return {
        "address": _address(block.get("final-recipient", "")),
        "original": _address(block.get("original-recipient", "")),
        "action": action,
        "code": code,
        "text": said[:MAX_SAID],
    }


def _code(text: str) -> str:
    found = STATUS.search(text)
    return found[0] if found else ""


def _from_words(headers: dict[str, str], *, from_address: str, text: str) -> list[dict[str, str]]:
    """A report in words: only from a mail system, only with a code or a sentence that is final."""
    failed = [one.lower() for one in ADDRESS.findall(headers.get("x-failed-recipients", "")[:2000])]
    if not failed and from_address.partition("@")[0] not in DAEMONS:
        return []
    said = re.split(r"^-{3,}|^\S{0,5}message-id:", text[:MAX_TEXT], maxsplit=1, flags=re.IGNORECASE | re.MULTILINE)[0]
    code = _code(said)
    if code.startswith("4") and not failed:
        action = "delayed"
    elif code.startswith("5") or SMTP_REFUSED.search(said) or failed or FINAL.search(said):
        action, code = "failed", code or "5.0.0"
    else:
        return []
    line = next((line.strip() for line in said.splitlines() if code in line), "") or " ".join(said.split())
    own = [one.lower() for one in ADDRESS.findall(said) if one.partition("@")[0].lower() not in DAEMONS]
    return [
        {"address": address, "original": "", "action": action, "code": code, "text": line[:MAX_SAID]}
        for address in (failed or own[:1] or [""])[:MAX_RECIPIENTS]
    ]


def _about(parts: list[tuple[str, email.message.Message]], headers: dict[str, str], body: Body) -> list[str]:
    """Message-IDs of the mail that is reported: in the returned copy or its headers, else what the report answers to."""
    found: list[str] = []
    for kind, part in parts:
        held = part._payload  # type: ignore[attr-defined]
        if kind in ("message/rfc822", "message/global") and isinstance(held, list):
            for inner in held[:3]:
                found += MESSAGE_ID.findall(_value(inner, "message-id"))
        elif kind in ("text/rfc822-headers", "message/rfc822-headers", "message/global-headers"):
            inner = held[0] if isinstance(held, list) and held else None
            if isinstance(inner, email.message.Message):
                found += MESSAGE_ID.findall(_value(inner, "message-id"))
            else:
                found += MESSAGE_ID_LINE.findall(body(part)[:MAX_TEXT].decode("latin-1"))
    found += MESSAGE_ID.findall(headers.get("in-reply-to", "")) + MESSAGE_ID.findall(headers.get("references", ""))[-3:]
    return list(dict.fromkeys(found))[:20]


def _returned_to(headers: dict[str, str], feedback: dict[str, str] | None = None) -> list[str]:
    given = [headers.get(name, "") for name in RETURNED_TO] + [(feedback or {}).get("original-mail-from", "")]
    found = [one.lower() for value in given for one in ADDRESS.findall(value[:2000])]
    return list(dict.fromkeys(found))[:20]


def _complaint(part: email.message.Message, about: list[str], headers: dict[str, str]) -> dict[str, Any] | None:
    held = part._payload  # type: ignore[attr-defined]
    blocks = (
        [_fields(held[0])] if isinstance(held, list) and held else list(_cut(held)) if isinstance(held, str) else []
    )
    told = blocks[0] if blocks else {}
    sort = told.get("feedback-type", "").lower()
    if sort not in COMPLAINTS:
        return None
    who = [one.lower() for one in ADDRESS.findall(told.get("original-rcpt-to", ""))[:MAX_RECIPIENTS]]
    said = f"{sort} {told.get('user-agent', '')}".strip()[:MAX_SAID]
    return {
        "kind": "complaint",
        "about": about,
        "returned_to": _returned_to(headers, told),
        "recipients": [
            {"address": one, "original": "", "action": "complained", "code": "", "text": said} for one in who
        ],
        "text": said,
    }
