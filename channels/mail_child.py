"""The child process that looks into strangers' mails: raw bytes in, plain values out, killed at will.

It is started with an empty environment and `python -I`, so it imports nothing of the hub and holds no secret. It limits
itself to 512 MB of memory and, for each mail, to 2 s of processor time (a little more for a large one);
channels/mail_pool.py watches from outside.

Frames: 4 bytes length and the mail in; 4 bytes length, JSON, and the contents of its files one after another out.
Headers are read as compat32 (raw text) and decoded here: the standard library's structured parser raises on a dozen
kinds of broken header.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import email
import email.message
import email.policy
import importlib.util
import json
import mimetypes
import os
import quopri
import re
import resource
import signal
import struct
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO


def _beside(name: str) -> ModuleType:
    """A file of this folder as a module: the child runs isolated, with no import path to the hub."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mail_report = _beside("mail_report")
split_reply = _beside("mail_split").split_reply

CPU_S = 2.0
CPU_S_PER_MIB = 0.1  # on top: an honest attachment of 25 MiB needs its time
MEMORY = 512 * 1024 * 1024
MAX_PARTS = 50
MAX_DEPTH = 20
MAX_HEADER = 4_000  # characters of one header's value that are looked at
MAX_HEADERS = 200
MAX_ADDRESSES = 500
MAX_TEXT = 1_000_000
MAX_HTML = 512 * 1024
MAX_NAME = 200
ENDINGS = mimetypes.MimeTypes()  # the built-in list: the same on every machine

ENCODED = re.compile(r"=\?([A-Za-z0-9_.:*-]{1,40})\?([BbQq])\?([^?\s]{0,1000})\?=")
BETWEEN_ENCODED = re.compile(r"(\?=)[ \t\r\n]+(=\?)")
ANGLE = re.compile(r"<\s*([^<>\s@]{1,64}@[^<>\s@\[\]]{1,255})\s*>")
BARE = re.compile(r"[^\s<>@,;:\"()\[\]]{1,64}@[^\s<>@,;:\"()\[\]]{1,255}")
MESSAGE_ID = re.compile(r"<[^<>\s]{1,500}>")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
TURNING = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")
LINE_BREAKS = re.compile(r"[\r\n\t]+ *")
SILENT = re.compile(r"<(script|style|head|title)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
TAGS = re.compile(r"<[^<>]*>")
PARAMETER = re.compile(r';\s*([\w*-]{1,40})\s*=\s*(?:"((?:[^"\\]|\\.){0,500})"|([^\s;"]{1,500}))')


# --- text ------------------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Text that any database and terminal can hold: no control characters, no half characters."""
    return CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def decode(data: bytes, charset: str) -> str:
    """Bytes as text, whatever the charset claims to be."""
    for name in (charset or "utf-8", "utf-8"):
        try:
            if name.lower() not in ("unicode_escape", "raw_unicode_escape", "undefined", "idna", "punycode", "utf-7"):
                return data.decode(name)
        except (LookupError, UnicodeError, ValueError):
            continue
    return data.decode("latin-1")


def _encoded_word(found: re.Match[str]) -> str:
    charset, how, word = found[1].partition("*")[0], found[2].upper(), found[3].encode("ascii", "replace")
    try:
        padded, plain = word + b"=" * (-len(word) % 4), word.replace(b"_", b" ")
        data = base64.b64decode(padded) if how == "B" else quopri.decodestring(plain)
    except (binascii.Error, ValueError):
        return found[0]
    return decode(data, charset)


def header_text(value: Any) -> str:
    """A header's value as people read it: RFC 2047 decoded, one line, nothing that turns text around."""
    text = str(value)[:MAX_HEADER]
    if any("\udc80" <= char <= "\udcff" for char in text):  # raw bytes, as compat32 hands them over
        text = decode(text.encode("ascii", "surrogateescape"), "utf-8")
    text = ENCODED.sub(_encoded_word, BETWEEN_ENCODED.sub(r"\1\2", text))
    return TURNING.sub("", CONTROL.sub("", LINE_BREAKS.sub(" ", text))).strip()


def one_address(text: str) -> tuple[str, str]:
    """(address, name) of the first mailbox in a header; the name is a stranger's word."""
    found = ANGLE.search(text)
    if found is not None:
        name = text[: found.start()].strip().strip('"').replace('\\"', '"').strip()
        return found[1].lower(), name[:MAX_NAME]
    bare = BARE.search(text)
    return (bare[0].lower(), "") if bare else ("", text[:MAX_NAME])


def addresses(text: str) -> list[str]:
    """All addresses of a header, in order, once each; linear in its length."""
    found = [one.lower() for one in BARE.findall(text)]
    return list(dict.fromkeys(found))[:MAX_ADDRESSES]


def sent_at(text: str) -> str:
    """The Date header in ISO 8601, UTC, or empty."""
    try:
        found = parsedate_to_datetime(text)
        found = found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""
    return found.isoformat() if datetime(1980, 1, 1, tzinfo=UTC) < found < datetime(2200, 1, 1, tzinfo=UTC) else ""


def html_text(html: str) -> str:
    """The words of an HTML mail."""
    html = html[:MAX_HTML]
    try:
        from inscriptis import get_text

        return clean(get_text(html)).strip()
    except (ValueError, RecursionError, AttributeError, TypeError, IndexError, ImportError):
        if html.count("<") < 5_000:  # beyond that the pattern's time grows with the square
            html = SILENT.sub(" ", html)
        return clean(re.sub(r"\s+", " ", TAGS.sub(" ", html))).strip()


# --- structure -------------------------------------------------------------------------------------------------------


class Found:
    """What a walk through the parts gathers."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.html: list[str] = []
        self.files: list[dict[str, str]] = []
        self.contents: list[bytes] = []
        self.parts = 0
        self.left_out = 0


def _parameters(value: str) -> dict[str, str]:
    """The parameters of a Content-Type or Content-Disposition, linear in its length; RFC 2231 joined and decoded."""
    found: dict[str, str] = {}
    for name, quoted, plain in PARAMETER.findall(value[:MAX_HEADER])[:50]:
        found.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted else plain)
    for base in ("filename", "name"):
        pieces = [found[key] for n in range(20) for key in (f"{base}*{n}", f"{base}*{n}*") if key in found]
        raw = "".join(pieces) or found.get(f"{base}*", "")
        if raw and base not in found:
            charset, _, rest = raw.partition("'")
            found[base] = _percent(rest.partition("'")[2], charset) if "'" in raw else raw
    return found


def _percent(text: str, charset: str) -> str:
    data = re.sub(rb"%([0-9A-Fa-f]{2})", lambda hit: bytes([int(hit[1], 16)]), text.encode("utf-8", "replace"))
    return decode(data, charset)


def _raw_header(part: email.message.Message, name: str) -> str:
    """A header as compat32 holds it, cut; never through the library's own header objects."""
    for key, value in part._headers[:1000]:  # type: ignore[attr-defined]
        if key.lower() == name:
            text = str(value)[: MAX_HEADER * 2]
            if any("\udc80" <= char <= "\udcff" for char in text):
                text = decode(text.encode("ascii", "surrogateescape"), "utf-8")
            return LINE_BREAKS.sub(" ", text).strip()
    return ""


def _body(part: email.message.Message) -> bytes:
    """A leaf's content, its transfer encoding undone as far as it can be."""
    held = part._payload  # type: ignore[attr-defined]
    if not isinstance(held, str):
        return b""
    data = held.encode("ascii", "surrogateescape") if held.isascii() or _escaped(held) else held.encode("utf-8")
    how = _raw_header(part, "content-transfer-encoding").lower().strip()
    if how == "base64":
        kept = re.sub(rb"[^A-Za-z0-9+/]", b"", data.partition(b"=")[0] if data.find(b"=") > len(data) - 80 else data)
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(kept + b"=" * (-len(kept) % 4) if len(kept) % 4 != 1 else kept[:-1])
        return data
    return quopri.decodestring(data) if how in ("quoted-printable", "quopri") else data


def _escaped(text: str) -> bool:
    try:
        text.encode("ascii", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _walk(part: email.message.Message, found: Found, *, depth: int, inside: str) -> None:
    kind_value = _raw_header(part, "content-type") or "text/plain"
    kind = kind_value.partition(";")[0].strip().lower()[:100] or "text/plain"
    held = part._payload  # type: ignore[attr-defined]
    found.parts += 1
    if found.parts > MAX_PARTS or depth > MAX_DEPTH:
        found.left_out += 1
        return
    if isinstance(held, list) and kind.startswith("multipart/"):
        for child in held:
            if isinstance(child, email.message.Message):
                _walk(child, found, depth=depth + 1, inside=kind)
        return
    disposition = _raw_header(part, "content-disposition")
    parameters = {**_parameters(kind_value), **_parameters(disposition)}
    name = header_text(parameters.get("filename") or parameters.get("name") or "")
    attached = disposition.lower().startswith("attachment") or bool(name)
    if isinstance(held, list):  # message/rfc822, message/delivery-status
        content = b"\r\n\r\n".join(one.as_bytes() for one in held[:20] if isinstance(one, email.message.Message))
        ending = "eml" if kind == "message/rfc822" else "txt"
        _keep(found, part, name or f"message.{ending}", kind, content)
    elif kind in ("text/plain", "text/html") and not attached:
        text = clean(decode(_body(part), parameters.get("charset", "")))[:MAX_TEXT]
        (found.html if kind == "text/html" else found.text).append(text)
    else:
        _keep(found, part, name or f"file{ENDINGS.guess_extension(kind) or ''}", kind, _body(part))


def _keep(found: Found, part: email.message.Message, name: str, kind: str, content: bytes) -> None:
    plain = name.replace("\\", "/").rpartition("/")[2].strip(" .")[:120] or "file"
    kind = kind if re.fullmatch(r"[\w.+-]{1,60}/[\w.+-]{1,60}", kind, re.ASCII) else "application/octet-stream"
    content_id = _raw_header(part, "content-id").strip("<> ")[:200]
    found.files.append({"name": plain, "type": kind, "id": clean(content_id)})
    found.contents.append(content)


# --- who may be answered ---------------------------------------------------------------------------------------------


def automatic(headers: dict[str, str], kind: str, from_address: str) -> str:
    """Why nobody may be answered automatically, or empty when a person seems to have written (RFC 3834 and custom)."""
    local = from_address.partition("@")[0]
    if headers.get("auto-submitted", "no").partition(";")[0].strip().lower() not in ("no", ""):
        return "auto-submitted"
    if kind in ("multipart/report", "message/delivery-status") or local in ("mailer-daemon", "postmaster"):
        return "bounce"
    return_path = headers.get("return-path")
    if return_path is not None and return_path.replace(" ", "") in ("<>", ""):
        return "null-sender"
    if return_path is not None and "mailer-daemon@" in return_path.lower():
        return "bounce"
    if headers.get("precedence", "").strip().lower() in ("bulk", "junk", "list", "auto_reply"):
        return "bulk"
    if "list-id" in headers or "list-unsubscribe" in headers or "list-post" in headers:
        return "list"
    if headers.get("x-auto-response-suppress", "none").strip().lower() not in ("none", ""):
        return "suppressed"
    if "x-loop" in headers or "x-autoreply" in headers or "x-autorespond" in headers:
        return "loop"
    if re.fullmatch(r"(no-?reply|do-?not-?reply|noreply.*|bounces?[+-].*)", local):
        return "no-reply"
    return ""


def parse(raw: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """All that the hub wants to know of a mail: values, and the contents of its files in the order of `files`."""
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    headers: dict[str, str] = {}
    for key, value in message._headers[:MAX_HEADERS]:  # type: ignore[attr-defined]
        name = clean(str(key)).lower()[:80]
        if name.isascii() and name not in headers:
            headers[name] = header_text(value)
    found = Found()
    _walk(message, found, depth=0, inside="")
    html = "\n<hr>\n".join(found.html)
    text = "\n\n".join(one.strip("\n") for one in found.text)
    if not text.strip() and html:
        text = html_text(html)
    kind = _raw_header(message, "content-type").partition(";")[0].strip().lower()
    raw_from = _raw_header(message, "from")
    from_address, from_name = one_address(header_text(raw_from))
    reply_to = one_address(headers.get("reply-to", ""))[0]
    ids = MESSAGE_ID.findall(headers.get("message-id", ""))
    if found.left_out:
        headers["x-hub-parts-left-out"] = str(found.left_out)
    whole = text[:MAX_TEXT]
    new_text = split_reply(whole)[0]
    at = whole.find(new_text) if new_text else 0
    report = mail_report.find(message, headers, from_address=from_address, text=whole, body=_body)
    return {
        "message_id": ids[0] if ids else "",
        "from_address": from_address,
        "from_name": from_name,
        "to": addresses(_raw_header_long(message, "to")),
        "cc": addresses(_raw_header_long(message, "cc")),
        "reply_to": reply_to,
        "subject": headers.get("subject", "")[:1000],
        "sent_at": sent_at(headers.get("date", "")[:100]),
        "in_reply_to": next(iter(MESSAGE_ID.findall(headers.get("in-reply-to", ""))), ""),
        "references": MESSAGE_ID.findall(_raw_header_long(message, "references"))[-100:],
        "text": whole,
        "html": html[: MAX_TEXT * 2],
        "new_text": new_text,
        "new_chars": at + len(new_text) if new_text and at >= 0 else 0,
        "report": report,
        "automatic": automatic(headers, kind, from_address) or ("bounce" if report else ""),
        "headers": headers,
        "files": found.files,
    }, found.contents


def _raw_header_long(message: email.message.Message, name: str) -> str:
    """All headers of this name, joined and cut at 400,000 characters: ten thousand recipients are read, not refused."""
    values = [str(value) for key, value in message._headers[:1000] if key.lower() == name]  # type: ignore[attr-defined]
    return clean(LINE_BREAKS.sub(" ", ", ".join(values)[:400_000]))


# --- process ---------------------------------------------------------------------------------------------------------


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer mails until stdin ends. An error is answered by its name alone, and ends the child: nothing leaks over."""
    while len(head := source.read(4)) == 4:
        raw = source.read(struct.unpack(">I", head)[0])
        signal.setitimer(
            signal.ITIMER_PROF, CPU_S + CPU_S_PER_MIB * len(raw) / 2**20
        )  # its default action ends the process
        try:
            values, contents = parse(raw)
            values["sizes"] = [len(one) for one in contents]
            answer = json.dumps(values).encode("ascii")
        except Exception as error:  # whatever a stranger's mail does to the parser is told, not raised
            answer, contents = json.dumps({"error": type(error).__name__}).encode("ascii"), []
        signal.setitimer(signal.ITIMER_PROF, 0)
        sink.write(struct.pack(">I", len(answer)))
        sink.write(answer)
        for content in contents:
            sink.write(content)
        sink.flush()
        if answer.startswith(b'{"error"'):
            return


def main() -> None:
    """Limit ourselves, warm up, serve."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.getuid():
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # it starts nothing; for root the limit does not hold
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when we end
    html_text("<p>warm</p>")
    split_reply("warm\n\nOn 1 May, A wrote:\n> b")
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
