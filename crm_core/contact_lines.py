"""What a line of a file says about a person: every cell read and checked, with no look at the data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any
from zoneinfo import available_timezones

from crm_core import addresses, contact_files
from crm_core.addresses import Address, PointKind
from crm_core.consent_columns import NO, YES, Claim
from crm_core.contact_files import CONSENTS, PROOFS
from crm_core.errors import Invalid
from crm_core.texts import Text

MOST_POINTS = 20  # addresses of one line
LONGEST = {contact_files.JOB: 200, contact_files.LANGUAGE: 35, contact_files.NOTES: 10_000}
CHANNELS = {PointKind.PHONE: ("sms", "voice"), PointKind.EMAIL: ("email",)}
_EVERYWHERE = YES | {"all", "*"}


@dataclass(frozen=True, slots=True)
class Person:
    """What a line says, read and checked."""

    id: str
    points: tuple[Address, ...]
    values: dict[str, Any]  # columns of Contact, those that the line fills in
    tags: tuple[str, ...]
    fields: dict[str, str]
    organisation: str
    owner: str
    claims: tuple[tuple[str, Claim], ...]  # column of CONSENTS → what it claims
    stopped: frozenset[str]

    @property
    def name(self) -> str:
        return str(self.values.get("name", ""))


def read_person(cells: Sequence[tuple[str, str]], *, country: str) -> Person:
    """The person that a line's (use, cell) pairs speak of. Invalid names the column at fault in `fields`."""
    said = {use: cell for use, cell in reversed(cells) if use and cell}  # the first column of a use counts
    values: dict[str, Any] = {}
    first, last = said.get(contact_files.FIRST, ""), said.get(contact_files.LAST, "")
    name = (said.get(contact_files.NAME, "") or f"{first} {last}").strip()[:200]
    if name:
        values["name"] = name
    own = country_of(said.get(contact_files.COUNTRY, ""))
    if own:
        values["country"] = own
    for use, most in LONGEST.items():
        if use in said:
            if len(said[use]) > most:
                raise _fault(use, Text("This is longer than %(most)s characters.", most=most))
            values[use] = said[use]
    if contact_files.ZONE in said:
        if said[contact_files.ZONE] not in _zones():
            raise _fault(contact_files.ZONE, Text("There is no such time zone; write it as Europe/Madrid."))
        values["zone"] = said[contact_files.ZONE]
    if contact_files.VIP in said:
        values["vip"] = _yes(contact_files.VIP, said[contact_files.VIP])
    if contact_files.BORN in said:
        try:
            values["born_on"] = date.fromisoformat(said[contact_files.BORN])
        except ValueError as error:
            raise _fault(contact_files.BORN, Text("Write the date as year-month-day.")) from error
    tags = [tag.strip()[:40] for tag in re.split(r"[,;\n]", said.get(contact_files.TAGS, "")) if tag.strip()][:30]
    claims = tuple(
        (use, Claim(*(said.get(f"{use}{proof}", "") for proof in PROOFS))) for use in CONSENTS if said.get(use)
    )
    known = {*contact_files.USES, ""}
    return Person(
        id=said.get(contact_files.ID, ""),
        points=_points(cells, own or country),
        values=values,
        tags=tuple(dict.fromkeys(tags)),
        fields={use: cell for use, cell in said.items() if use not in known},
        organisation=said.get(contact_files.ORGANISATION, "")[:200],
        owner=said.get(contact_files.OWNER, "").casefold(),
        claims=claims,
        stopped=_stopped(said.get(contact_files.STOPPED, "")),
    )


def _fault(column: str, message: str) -> Invalid:
    return Invalid(message, fields={column: message})


def _points(cells: Sequence[tuple[str, str]], country: str) -> tuple[Address, ...]:
    """Every address of the line once, numbers before mail addresses, each kind's own column before further ones."""
    found: dict[tuple[PointKind, str], Address] = {}
    for wanted, kind in (
        (contact_files.PHONE, PointKind.PHONE), (contact_files.MORE_PHONES, PointKind.PHONE),
        (contact_files.EMAIL, PointKind.EMAIL), (contact_files.MORE_EMAILS, PointKind.EMAIL),
    ):  # fmt: skip
        for use, cell in cells:
            for written in re.split(r";|\n|:::", cell) if use == wanted else ():
                if not written.strip():
                    continue
                try:
                    address = addresses.address(kind, written.strip(), country=country)
                except Invalid as error:
                    raise _fault(use, error.message) from error
                found.setdefault((kind, address.value), address)
    if len(found) > MOST_POINTS:
        raise _fault("", Text("The line holds more than %(most)s addresses.", most=MOST_POINTS))
    return tuple(found.values())


def _yes(column: str, cell: str) -> bool:
    word = cell.casefold()
    if word not in YES | NO:
        raise _fault(column, Text("“%(word)s” is neither yes nor no.", word=cell[:40]))
    return word in YES


def _stopped(cell: str) -> frozenset[str]:
    """Channels on which they asked to be left alone; `*` for all."""
    words = {part.strip().casefold() for part in re.split(r"[,;\n]", cell)} - NO
    channels = {channel for pair in CHANNELS.values() for channel in pair}
    if unknown := words - _EVERYWHERE - channels:
        raise _fault(
            contact_files.STOPPED,
            Text("“%(word)s” is no channel; write all, or sms, voice, email.", word=sorted(unknown)[0][:40]),
        )
    return frozenset({"*"} if words & _EVERYWHERE else words)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


@lru_cache(maxsize=1)
def _countries() -> dict[str, str]:
    """Names of countries in our languages → ISO 3166."""
    from babel import Locale

    named = {
        str(name).casefold(): code
        for language in ("zh", "de", "es", "en")
        for code, name in Locale(language).territories.items()
        if len(code) == 2 and code.isalpha()
    }
    return named | {"uk": "GB", "usa": "US"}


def country_of(cell: str) -> str:
    """Two letters of ISO 3166 out of a code or a name in one of our languages; empty stays empty. Invalid for none."""
    code = _countries().get(cell.casefold(), cell.upper())
    if cell and code not in _countries().values():
        raise _fault(
            contact_files.COUNTRY, Text("“%(word)s” is no country; write two letters, such as GB.", word=cell[:40])
        )
    return code
