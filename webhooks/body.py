"""Reading a request's body from strangers: bounded in size and in time, and multipart forms taken apart.

aiohttp has no timeout on a body (measured: one byte in five seconds is read for ever), so every read here has one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from channels.contract import MailFile

BODY_S = 15.0
WEBHOOK_BYTES = 64 * 1024
MAX_PARTS = 60
PART_HEAD_BYTES = 4096


class TooLarge(Exception):
    """The body is larger than this address takes."""


class TooSlow(Exception):
    """The body did not arrive in time."""


class Misshapen(Exception):
    """The body is not what its content type says; the text is a sentence for the sender."""


async def read_body(request: web.Request, *, limit: int = WEBHOOK_BYTES, timeout_s: float = BODY_S) -> bytes:
    """The body. TooLarge past `limit` bytes, without reading on; TooSlow after `timeout_s`; Misshapen when compressed."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Misshapen("Send the body without Content-Encoding.")
    if request.content_length is not None and request.content_length > limit:
        raise TooLarge
    read = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.content.iter_any():
                read += chunk
                if len(read) > limit:
                    raise TooLarge
    except TimeoutError as error:
        raise TooSlow from error
    return bytes(read)


@dataclass(frozen=True, slots=True)
class Parts:
    """A multipart form."""

    fields: Sequence[tuple[str, str]]
    files: Sequence[tuple[str, MailFile]]


_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(r';\s*name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_FILE_NAME = re.compile(r';\s*filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


def read_multipart(content_type: str, body: bytes) -> Parts:
    """Fields and files of a multipart/form-data body (RFC 7578); Misshapen when it is not one.

    Our own, because the standard library's mail parser blocks for seconds on small hostile input; this one looks at each
    byte a fixed number of times. Nested multiparts and transfer encodings, which no browser sends, are refused.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Misshapen("The content type names no boundary.")
    mark = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(mark, MAX_PARTS + 2)
    if len(pieces) > MAX_PARTS + 2:
        raise Misshapen(f"A form may have at most {MAX_PARTS} parts.")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise Misshapen("The form is cut off.")
    fields: list[tuple[str, str]] = []
    files: list[tuple[str, MailFile]] = []
    for piece in pieces[1:-1]:
        head, found_end, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not found_end or len(head) > PART_HEAD_BYTES:
            raise Misshapen("A part of the form has no readable head.")
        headers = _headers(head)
        place = headers.get("content-disposition", "")
        name = _NAME.search(place)
        if not place.lower().startswith("form-data") or name is None or "content-transfer-encoding" in headers:
            raise Misshapen("A part of the form has no name.")
        file_name = _FILE_NAME.search(place)
        if file_name is None:
            fields.append((_plain(name[1]), content.decode("utf-8", "replace")))
        elif content or file_name[1]:
            kind = headers.get("content-type", "application/octet-stream")[:100]
            files.append((_plain(name[1]), MailFile(safe_name(_plain(file_name[1])), kind, content)))
    return Parts(fields, files)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("utf-8", "replace").split("\r\n")
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _plain(quoted: str) -> str:
    return quoted.replace('\\"', '"').replace("%22", '"').replace("%0D", "").replace("%0A", "")


def safe_name(name: str) -> str:
    """A file name to show: no path, no control or direction characters, at most 120 characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    shown = "".join(c for c in last if c.isprintable() and c not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    return shown.strip(" .")[-120:] or "file"
