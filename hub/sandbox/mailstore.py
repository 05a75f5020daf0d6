"""Mail as files: the mailboxes of the people outside, one folder per address, one raw message per file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from hub.sandbox.clock import Clock

_SAFE = re.compile(r"[^a-z0-9@._+-]")
_NAME = re.compile(r"^(\d{8})-(\d+)\.eml$")


def folder_name(address: str) -> str:
    """An address as the name of a folder: lower case, nothing that could leave the folder."""
    return _SAFE.sub("_", address.lower()).strip(".") or "_"


@dataclass(frozen=True)
class StoredMail:
    """A mail in somebody's mailbox. `number` counts per mailbox from 1 and is never used again."""

    number: int
    address: str
    path: Path
    at: datetime

    def raw(self) -> bytes:
        return self.path.read_bytes()

    def parsed(self) -> EmailMessage:
        message = message_from_bytes(self.raw(), policy=policy.default)
        assert isinstance(message, EmailMessage)
        return message


@dataclass
class MailStore:
    """All mailboxes outside. What lies in the folder is found again after a restart."""

    root: Path
    clock: Clock
    boxes: dict[str, list[StoredMail]] = field(default_factory=dict)
    read: set[tuple[str, int]] = field(default_factory=set)

    def load(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for folder in sorted(path for path in self.root.iterdir() if path.is_dir()):
            mails = []
            for path in sorted(folder.iterdir()):
                if found := _NAME.match(path.name):
                    at = datetime.fromtimestamp(int(found[2]) / 1000, tz=self.clock.now().tzinfo)
                    mails.append(StoredMail(int(found[1]), folder.name, path, at))
            self.boxes[folder.name] = mails

    def add(self, address: str, raw: bytes) -> StoredMail:
        box = folder_name(address)
        mails = self.boxes.setdefault(box, [])
        number = mails[-1].number + 1 if mails else 1
        now = self.clock.now()
        folder = self.root / box
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:08d}-{int(now.timestamp() * 1000)}.eml"
        part = path.with_suffix(".part")
        part.write_bytes(raw)
        part.rename(path)
        mail = StoredMail(number, box, path, now)
        mails.append(mail)
        return mail

    def list(self, address: str) -> list[StoredMail]:
        return self.boxes.get(folder_name(address), [])

    def get(self, address: str, number: int) -> StoredMail | None:
        return next((mail for mail in self.list(address) if mail.number == number), None)


def _header(message: EmailMessage, name: str) -> str:
    """A header as text; one that cannot be decoded is shown raw rather than not at all."""
    try:
        return str(message.get(name, ""))
    except (ValueError, LookupError, IndexError, AttributeError):
        return next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")


def summary(mail: StoredMail, *, read: bool) -> dict[str, Any]:
    message = mail.parsed()
    return {
        "id": mail.number,
        "address": mail.address,
        "at": mail.at.isoformat(),
        "from": _header(message, "From"),
        "to": _header(message, "To"),
        "subject": _header(message, "Subject"),
        "message_id": _header(message, "Message-ID").strip(),
        "in_reply_to": _header(message, "In-Reply-To").strip(),
        "read": read,
        "size": mail.path.stat().st_size,
    }


def _text(part: EmailMessage) -> str:
    raw = part.get_payload(decode=True)
    data = raw if isinstance(raw, bytes) else b""
    try:
        return data.decode(part.get_content_charset() or "utf-8", "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def full(mail: StoredMail) -> dict[str, Any]:
    """A mail for reading: texts, HTML, the attachments' names, and every header as it came."""
    message = mail.parsed()
    texts: dict[str, list[str]] = {"text/plain": [], "text/html": []}
    attachments = []
    for index, part in enumerate(message.walk()):
        if part.is_multipart():
            continue
        kind, name = part.get_content_type(), part.get_filename()
        if kind in texts and not name and part.get_content_disposition() != "attachment":
            texts[kind].append(_text(part))
        else:
            payload = part.get_payload(decode=True)
            size = len(payload) if isinstance(payload, bytes) else 0
            attachments.append({"part": index, "name": name or "unnamed", "type": kind, "size": size})
    headers = [{"name": name, "value": str(value)} for name, value in message.raw_items()]
    return {
        **summary(mail, read=True),
        "text": "\n".join(texts["text/plain"]),
        "html": "\n".join(texts["text/html"]),
        "attachments": attachments,
        "headers": headers,
        "list_unsubscribe": _header(message, "List-Unsubscribe"),
    }


def part_of(mail: StoredMail, index: int) -> tuple[str, str, bytes] | None:
    """Name, type and bytes of one part."""
    for number, part in enumerate(mail.parsed().walk()):
        if number == index and not part.is_multipart():
            payload = part.get_payload(decode=True)
            return (
                part.get_filename() or "part",
                part.get_content_type(),
                payload if isinstance(payload, bytes) else b"",
            )
    return None
