"""CSV files as people send them and as we write them: encoding, delimiter, header and rows, as a stream. No database.

Decides what a file is, what its columns probably mean, and how a cell is written so that no spreadsheet takes it for a
formula; leaves to its callers what becomes of a row.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from crm_core.addresses import PointKind
from crm_core.errors import Invalid
from crm_core.texts import Text

MAX_FILE = 256 * 1024 * 1024
MAX_COLUMNS = 100
MAX_CELL = 10_000
MAX_LINE = 2_000_000
HEAD = 64 * 1024
BOM = "\ufeff"
DELIMITERS = ",;\t|"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# What a spreadsheet computes, at a cell's begin or where another separator than ours would begin one (OWASP, "CSV Injection").
_BEGINS = r"(^|[,;|\t\n\r])"
_FORMULA = r"(?=[=+\-@\t\n\r＝＋－＠])"
_NEUTRAL = re.compile(f"{_BEGINS}('*){_FORMULA}")
_PLAIN = re.compile(f"{_BEGINS}'('*){_FORMULA}")

# What a column may be; any other word is a merge field of that name.
ADDRESS, NAME, FIRST, LAST, COUNTRY = "address", "name", "first_name", "last_name", "country"
CONSENT, CONSENT_AT, CONSENT_SOURCE, CONSENT_TEXT = "consent", "consent_at", "consent_source", "consent_text"
RESERVED = (ADDRESS, NAME, FIRST, LAST, COUNTRY, CONSENT, CONSENT_AT, CONSENT_SOURCE, CONSENT_TEXT)
_ALIASES: dict[str, set[str]] = {
    NAME: {"name", "full_name", "fullname", "contact", "nombre", "nombre_completo", "kunde", "xingming", "姓名"},
    FIRST: {"first_name", "firstname", "given_name", "vorname", "nombre_de_pila", "名"},
    LAST: {"last_name", "lastname", "surname", "family_name", "nachname", "apellido", "apellidos", "姓"},
    COUNTRY: {"country", "country_code", "land", "pais", "国家"},
    CONSENT: {"consent", "opt_in", "optin", "einwilligung", "consentimiento", "同意"},
    CONSENT_AT: {"consent_at", "consent_date", "opt_in_date", "opted_in_at", "consent_time"},
    CONSENT_SOURCE: {"consent_source", "opt_in_source", "consent_form"},
    CONSENT_TEXT: {"consent_text", "opt_in_text", "consent_wording"},
}
_ADDRESS_ALIASES: dict[PointKind, set[str]] = {
    PointKind.PHONE: {
        "phone", "phone_number", "mobile", "mobile_phone", "cell", "cell_phone", "number", "tel", "telephone", "msisdn",
        "telefon", "telefono", "movil", "handy", "mobil", "sms", "电话", "手机", "address",
    },
    PointKind.EMAIL: {
        "email", "e_mail", "mail", "email_address", "e_mail_address", "mail_address", "correo", "correo_electronico",
        "e_mail_adresse", "邮箱", "电子邮件", "address",
    },
}  # fmt: skip


class ImportState(StrEnum):
    """Where the import of a file stands."""

    UPLOADED = "uploaded"  # the mapping may still change
    READING = "reading"
    READ = "read"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Look:
    """What the head of a file shows. `mapping` is a proposal: header → use."""

    encoding: str
    delimiter: str
    headers: list[str]
    mapping: dict[str, str]
    sample: list[list[str]]


@dataclass(frozen=True, slots=True)
class Row:
    """One data row: its number (1 = first below the header), the file's line where it ends, and its cells or a fault."""

    number: int
    line: int
    cells: list[str]
    fault: str = ""


def slug(header: str) -> str:
    """A header as a field name: folded, accents dropped, words joined by _."""
    folded = unicodedata.normalize("NFKD", header.strip()).casefold()
    plain = "".join(c for c in folded if not unicodedata.combining(c))
    name = re.sub(r"\W+", "_", plain).strip("_")[:40]
    return f"f_{name}" if name[:1].isdigit() else name


def encoding_of(chunks: Iterable[bytes]) -> str:
    """utf-8-sig, utf-8, utf-16 or cp1252, by looking at the whole file. Invalid for what is no text in one of these."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    first, utf8, cp1252, size = True, True, True, 0
    bom = wide = False
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_FILE:
            raise Invalid("The file is larger than %(most)s MB; split it.", most=MAX_FILE // 1024 // 1024)
        if first:
            _refuse_other_formats(chunk)
            bom, wide, first = chunk.startswith(codecs.BOM_UTF8), chunk.startswith(UTF_16), False
            if wide:
                decoder = codecs.getincrementaldecoder("utf-16")()
        if b"\x00" in chunk and not wide:
            raise Invalid("This is no CSV file: it holds zero bytes.")
        if utf8:
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                utf8 = False
        # Five bytes have no letter in Windows-1252: a file with one is in neither encoding.
        cp1252 = cp1252 and not re.search(rb"[\x81\x8d\x8f\x90\x9d]", chunk)
    if first:
        raise Invalid("The file is empty.")
    if utf8:
        try:
            decoder.decode(b"", final=True)
            return "utf-16" if wide else "utf-8-sig" if bom else "utf-8"
        except UnicodeDecodeError:
            pass
    if cp1252 and not bom and not wide:
        return "cp1252"
    raise Invalid("The file is neither UTF-8 nor Windows-1252; save it as CSV UTF-8.")


def _refuse_other_formats(head: bytes) -> None:
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise Invalid("This is a spreadsheet, not a CSV file; save it as CSV UTF-8.")
    if head.startswith(b"%PDF"):
        raise Invalid("This is a PDF, not a CSV file.")


def delimiter_of(line: str) -> str:
    """The separator that splits the header into most columns, quoted parts left out; a comma when there is but one."""
    bare = re.sub(r'"[^"]*"', "", line)
    return max(DELIMITERS, key=lambda sign: (bare.count(sign), -DELIMITERS.index(sign)))


def _lines(chunks: Iterable[bytes], encoding: str) -> Iterator[str]:
    # Old files end lines by a lone carriage return: every kind of line end becomes one.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    rest = ""
    for chunk in chunks:
        parts = (rest + decoder.decode(chunk)).split("\n")
        rest = parts.pop()
        for part in parts:
            yield part + "\n"
        if len(rest) > MAX_LINE:
            raise Invalid("The file has a line without end; save it as CSV UTF-8.")
    rest += decoder.decode(b"", final=True)
    if rest:
        yield rest


def read(chunks: Iterable[bytes], *, encoding: str, delimiter: str) -> Iterator[Row]:
    """The header (number 0) and every row behind it; empty rows are left out, bad rows carry their fault. Cells are trimmed,
    and given back as they were before `neutral`.
    """
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(_lines(chunks, encoding), delimiter=delimiter)
    number = 0
    width = -1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            yield Row(number, reader.line_num, [], _told(str(error)))
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if width < 0:
            width = len(cells)
            yield Row(0, reader.line_num, [cell.strip() for cell in cells])
            continue
        number += 1
        cells = [plain(cell.strip()) for cell in cells]
        if len(cells) > width and any(cells[width:]):
            yield Row(
                number,
                reader.line_num,
                cells,
                Text("The row has %(has)s columns, the header %(header)s.", has=len(cells), header=width),
            )
        else:
            yield Row(number, reader.line_num, (cells + [""] * width)[:width])


def _told(message: str) -> str:
    if "field limit" in message:
        return Text("A cell is longer than %(most)s characters, or a quotation mark is never closed.", most=MAX_CELL)
    return Text("The row cannot be read: %(detail)s.", detail=message)


def neutral(cell: str) -> str:
    """The cell as a file may hold it: whatever a spreadsheet would compute gets an apostrophe before it. Undone by `plain`."""
    return _NEUTRAL.sub(r"\1'\2", cell.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n"))


def plain(cell: str) -> str:
    """The cell without the apostrophes of `neutral`."""
    return _PLAIN.sub(r"\1\2", cell) if "'" in cell else cell


def write(rows: Iterable[Sequence[str]]) -> str:
    """Lines of a file, comma-separated, every cell neutral. The first piece of a file begins with BOM, for spreadsheets."""
    lines = io.StringIO()
    csv.writer(lines).writerows([neutral(cell) for cell in row] for row in rows)
    return lines.getvalue()


def look(content: bytes, *, kind: PointKind) -> Look:
    """`look_at` a file of recipients, whose address is of this kind."""
    return look_at(content, {ADDRESS: _ADDRESS_ALIASES[kind], **_ALIASES}, reserved=RESERVED)


def look_at(
    content: bytes, words: Mapping[str, Collection[str]], *, reserved: Collection[str], several: Collection[str] = ()
) -> Look:
    """Headers, a proposed mapping and up to five rows of a file. Invalid, with what to do, when it cannot be used.

    `words`: use → names of columns that mean it, as `slug` writes them; `several`: uses that more than one column may have.
    """
    encoding = encoding_of([content])
    text = codecs.getincrementaldecoder(encoding)("replace").decode(content[:HEAD])
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise Invalid("The file is empty.")
    delimiter = delimiter_of(first)
    rows = read([text.encode()], encoding="utf-8", delimiter=delimiter)
    header = next(rows, None)
    if header is None or header.fault:
        raise Invalid("The first line is no header that can be read.")
    headers = header.cells
    if len(headers) > MAX_COLUMNS:
        raise Invalid("The file has %(has)s columns; %(most)s are possible.", has=len(headers), most=MAX_COLUMNS)
    if doubled := sorted({name for name in headers if name and headers.count(name) > 1}):
        raise Invalid("The header names %(names)s twice.", names=doubled)
    if any("@" in name or re.fullmatch(r"\+?[\d ()-]{6,}", name) for name in headers):
        raise Invalid("The first line holds data, not names of columns; add a header line.")
    sample: list[list[str]] = []
    for row in rows:
        if len(sample) == 5:
            break
        if not row.fault:
            sample.append(row.cells)
    return Look(encoding, delimiter, headers, propose(headers, words, reserved=reserved, several=several), sample)


def propose(
    headers: Sequence[str],
    words: Mapping[str, Collection[str]],
    *,
    reserved: Collection[str],
    several: Collection[str] = (),
) -> dict[str, str]:
    """What each column probably is. Names of reserved uses are given once, to the first that fits."""
    mapping: dict[str, str] = {}
    taken: set[str] = set()
    for header in headers:
        name = slug(header)
        use = next((word for word, names in words.items() if name in names), name)
        if use in taken and use not in several:
            use = "" if use in reserved else f"{use}_{len(taken)}"
        if use:
            taken.add(use)
        mapping[header] = use
    return mapping
