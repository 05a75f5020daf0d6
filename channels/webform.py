"""Web forms as posted: JSON, urlencoded or multipart into plain strings, with limits on everything that can be counted.

Nothing is signed: that the form exists, and how often who may post, is for the caller. Values are kept as typed.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from channels.contract import AccountConfig, Arrival, FormArrived, MailFile, RawRequest
from channels.errors import AnswerUnreadable
from crm_core.texts import Text

MAX_BODY = 64 * 1024  # JSON and urlencoded
MAX_MULTIPART = 10 * 1024 * 1024
MAX_FIELDS = 100
MAX_NAME = 100
MAX_VALUE = 10_000
MAX_FILES = 5
MAX_DEPTH = 3  # of JSON
BUCKET_S = 300
FORM_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{8,200}")
BOUNDARY = re.compile(r'boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
PART_NAME = re.compile(r'[;\s]name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
PART_FILE = re.compile(r'[;\s]filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
PART_FILE_STAR = re.compile(r"[;\s]filename\*=utf-8''([^\s;]*)", re.IGNORECASE)
PART_TYPE = re.compile(r"^content-type:\s*([\w.+-]{1,60}/[\w.+-]{1,60})", re.IGNORECASE | re.MULTILINE)
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Settings:
    """One form, by its public key."""

    key: str = ""


class WebFormChannel:
    """Web forms. Receives."""

    kind = "webform"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def secrets(self) -> Sequence[str]:
        """None: a form's key is public."""
        return ()

    async def close(self) -> None:
        """Nothing is held open."""

    def verify(self, request: RawRequest) -> bool:
        """True: anybody may post. The caller looks whether the form of `form_key` exists."""
        return True

    def parse(self, request: RawRequest) -> list[Arrival]:
        """The form as posted. AnswerUnreadable with a sentence for the sender; code too_large means 413."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        limit = MAX_MULTIPART if kind == "multipart/form-data" else MAX_BODY
        if len(request.body) > limit:
            raise AnswerUnreadable(
                Text("The form is too large; at most %(most)s KiB are taken.", most=limit // 1024), code="too_large"
            )
        if request.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise AnswerUnreadable("Compressed forms are not taken.", code="encoding")
        files: list[MailFile] = []
        if kind in ("application/x-www-form-urlencoded", ""):
            fields = _fields(_urlencoded(request.body))
        elif kind == "application/json" or kind.endswith("+json"):
            fields = _fields(_json(request.body))
        elif kind == "multipart/form-data":
            pairs, files = _multipart(request.body, request.headers.get("content-type", ""))
            fields = _fields(pairs)
        else:
            raise AnswerUnreadable(
                "Send the form as JSON, urlencoded or multipart; this content type is not taken.", code="content_type"
            )
        key = form_key(request.url)
        return [FormArrived(key, fields, event_key(request, key, fields, files), request.remote, tuple(files))]


def form_key(url: str) -> str:
    """The form's public key: the last part of the path. AnswerUnreadable when it cannot be one."""
    key = urlsplit(url).path.rpartition("/")[2]
    if not FORM_KEY.fullmatch(key):
        raise AnswerUnreadable("There is no such form.", code="no_form")
    return key


def event_key(request: RawRequest, key: str, fields: dict[str, str], files: Sequence[MailFile] = ()) -> str:
    """The sender's Idempotency-Key, or else what was posted and the five minutes it came in: a double click is one."""
    given = request.headers.get("idempotency-key", "")
    if IDEMPOTENCY_KEY.fullmatch(given):
        return f"form:{key}:{hashlib.sha256(given.encode()).hexdigest()[:40]}"
    digest = hashlib.sha256(json.dumps([key, sorted(fields.items())], ensure_ascii=False).encode("utf-8", "replace"))
    for file in files:
        digest.update(hashlib.sha256(file.content).digest())
    bucket = int(request.received_at.timestamp()) // BUCKET_S
    return f"form:{key}:{digest.hexdigest()[:40]}:{bucket}"


def clean_name(name: str) -> str:
    """A file name to show and to save under: last part only, no control characters, at most 120 characters."""
    plain = unicodedata.normalize("NFC", CONTROL.sub("", name)).replace("\\", "/").rpartition("/")[2]
    plain = re.sub(r'[<>:"|?*\r\n\t]', "_", plain).strip(" .")
    if len(plain) > 120:
        stem, dot, ending = plain.rpartition(".")
        plain = f"{stem[:100]}.{ending[:15]}" if dot else plain[:120]
    return plain or "file"


def _fields(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names once each; a name that comes again (checkboxes) has its values joined. `_charset_` says nothing to us."""
    found: dict[str, str] = {}
    for count, (name, value) in enumerate(pairs):
        if count >= MAX_FIELDS:
            raise AnswerUnreadable(Text("The form has more than %(most)s fields.", most=MAX_FIELDS), code="too_large")
        if name == "_charset_":
            continue
        if not name or len(name) > MAX_NAME or CONTROL.search(name):
            raise AnswerUnreadable("A field of the form has no usable name.", code="bad_field")
        whole = f"{found[name]}, {value}" if name in found else value
        if len(whole) > MAX_VALUE:
            raise AnswerUnreadable(Text("A field has more than %(most)s characters.", most=MAX_VALUE), code="too_large")
        found[name] = CONTROL.sub("", whole)
    return found


def _urlencoded(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS * 2)
    except UnicodeDecodeError as error:
        raise AnswerUnreadable("The form is not UTF-8.", code="bad_form") from error
    except ValueError as error:
        raise AnswerUnreadable(
            Text("The form has more than %(most)s fields.", most=MAX_FIELDS), code="too_large"
        ) from error


def _json(body: bytes) -> list[tuple[str, str]]:
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise AnswerUnreadable("The form is not valid JSON.", code="bad_form") from error
    if not isinstance(found, dict):
        raise AnswerUnreadable("The form must be a JSON object with one value for each field.", code="bad_form")
    return [pair for name, value in found.items() for pair in _flat(str(name), value, 1)]


def _no_constant(word: str) -> str:
    raise ValueError(word)


def _flat(name: str, value: Any, depth: int) -> list[tuple[str, str]]:
    if depth > MAX_DEPTH:
        raise AnswerUnreadable("The form is nested too deeply.", code="bad_form")
    if value is None:
        return [(name, "")]
    if isinstance(value, bool):
        return [(name, "yes" if value else "")]  # as a checkbox says it
    if isinstance(value, str):
        return [(name, value.encode("utf-8", "replace").decode())]  # no lone surrogates
    if isinstance(value, int | float):
        return [(name, str(value))]
    if isinstance(value, list):
        return [pair for one in value[: MAX_FIELDS + 1] for pair in _flat(name, one, depth + 1)]
    return [pair for inner, one in value.items() for pair in _flat(f"{name}.{inner}", one, depth + 1)]


def _multipart(body: bytes, content_type: str) -> tuple[list[tuple[str, str]], list[MailFile]]:
    """Fields and files. Linear in the body, and counted before anything is cut."""
    found = BOUNDARY.search(content_type)
    if found is None:
        raise AnswerUnreadable("The multipart form names no boundary.", code="bad_form")
    mark = b"--" + (found[1] or found[2]).encode("ascii", "replace")
    if body.count(mark) > MAX_FIELDS + MAX_FILES + 1:
        raise AnswerUnreadable(Text("The form has more than %(most)s fields.", most=MAX_FIELDS), code="too_large")
    pieces = (b"\r\n" + body).split(b"\r\n" + mark)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise AnswerUnreadable("The multipart form is cut off.", code="bad_form")
    pairs: list[tuple[str, str]] = []
    files: list[MailFile] = []
    for piece in pieces[1:-1]:
        head, split, content = piece.partition(b"\r\n\r\n")
        if not split or len(head) > 4096:
            raise AnswerUnreadable("A part of the multipart form cannot be read.", code="bad_form")
        try:
            header, name = _part_header(head)
            if (file_name := _file_name(header)) is None:
                pairs.append((name, content.decode("utf-8")))
                continue
        except UnicodeDecodeError as error:
            raise AnswerUnreadable("The form is not UTF-8.", code="bad_form") from error
        if not file_name and not content:
            continue  # an empty file input
        if len(files) >= MAX_FILES:
            raise AnswerUnreadable(Text("The form has more than %(most)s files.", most=MAX_FILES), code="too_large")
        kind = PART_TYPE.search(header)
        files.append(MailFile(clean_name(file_name), kind[1].lower() if kind else "application/octet-stream", content))
    return pairs, files


def _part_header(head: bytes) -> tuple[str, str]:
    header = head.decode("utf-8").replace("\r\n", "\n").strip("\n")
    found = PART_NAME.search(header)
    if found is None:
        raise AnswerUnreadable("A part of the multipart form has no name.", code="bad_form")
    return header, found[1].replace('\\"', '"')


def _file_name(header: str) -> str | None:
    """The name of a file part, as sent; None for a plain field."""
    if (starred := PART_FILE_STAR.search(header)) is not None:
        return unquote(starred[1], errors="replace")
    plain = PART_FILE.search(header)
    return None if plain is None else plain[1].replace('\\"', '"')


def build(config: AccountConfig) -> WebFormChannel:
    """The channel of one form."""
    return WebFormChannel(Settings(config.address))
