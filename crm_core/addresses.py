"""Phone numbers and e-mail addresses as parsed values: normalised once, at the edge, never compared as typed."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import timezone as phone_zones

from crm_core.errors import Invalid


class PointKind(StrEnum):
    """What a contact point is."""

    PHONE = "phone"
    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class Address:
    """One normalised address: E.164 for phones (extension kept apart), lower case with IDNA domain for mail."""

    kind: PointKind
    value: str
    raw: str
    extension: str = ""


# What providers send instead of a number (Twilio, "How does Twilio handle anonymous callers", read 2026-11).
_WITHHELD = {"anonymous", "restricted", "unknown", "unavailable", "private", "blocked", "withheld",
             "+266696687", "+7378742833", "+2562533", "+8656696", "+86282452253"}  # fmt: skip


def phone(raw: str, *, country: str = "") -> Address:
    """A dialable number in E.164; `country` (ISO 3166, such as GB) reads national notation. Invalid when it is none."""
    return _phone(raw, country)


@lru_cache(maxsize=10_000)
def _phone(raw: str, country: str) -> Address:
    typed = unicodedata.normalize("NFKC", raw).strip()
    if is_emergency(typed, country):
        raise Invalid(
            "Emergency numbers are never dialled from the hub: it cannot tell the rescuers where you are. "
            "Use another telephone, now."
        )
    try:
        parsed = phonenumbers.parse(typed, country.upper() or None)
    except phonenumbers.NumberParseException as error:
        raise Invalid(
            "“%(typed)s” is not a phone number; write it with its country code, such as +44 20 7946 0000.",
            typed=typed[:40],
        ) from error
    if not phonenumbers.is_possible_number(parsed):
        raise Invalid("“%(typed)s” has the wrong number of digits for a phone number.", typed=typed[:40])
    value = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    return Address(PointKind.PHONE, value, typed, parsed.extension or "")


def is_emergency(typed: str, country: str) -> bool:
    """Whether these digits, dialled in this country (unknown: in most), call the police, a fire brigade or an ambulance."""
    digits = re.sub(r"[^0-9]", "", typed)
    if typed.startswith("+") or not 2 <= len(digits) <= 6:
        return False
    region = country.upper()
    if region in phonenumbers.SUPPORTED_SHORT_REGIONS:
        return bool(phonenumbers.is_emergency_number(digits, region))
    return digits in ("112", "911", "999", "000")


def find_phone(raw: str, *, country: str = "") -> Address | None:
    """`phone`, or None for withheld, client:, sip: and unreadable caller ids."""
    if not raw or raw.lower() in _WITHHELD or raw.startswith(("client:", "sip:", "sips:")):
        return None
    try:
        return phone(raw, country=country)
    except Invalid:
        return None


def email(raw: str) -> Address:
    """A deliverable-looking mail address, lower case, domain in IDNA. Dots and plus tags are kept. Invalid when it is none."""
    return _email(raw)


@lru_cache(maxsize=10_000)
def _email(raw: str) -> Address:
    typed = raw.strip()
    if re.search(r"[\x00-\x20\x7f<>,;\"]", typed):
        raise Invalid("“%(typed)s” is not a mail address.", typed=typed[:60])
    try:
        checked = validate_email(typed, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise Invalid("“%(typed)s” is not a mail address: %(detail)s", typed=typed[:60], detail=str(error)) from error
    local = checked.ascii_local_part or checked.local_part
    return Address(PointKind.EMAIL, f"{local}@{checked.ascii_domain}".lower(), typed)


def find_email(raw: str) -> Address | None:
    """`email`, or None when it cannot be read."""
    try:
        return email(raw)
    except Invalid:
        return None


def address(kind: PointKind, raw: str, *, country: str = "") -> Address:
    """Parse as `kind`; Invalid when it is none."""
    return phone(raw, country=country) if kind == PointKind.PHONE else email(raw)


@lru_cache(maxsize=10_000)
def zones(e164: str) -> tuple[str, ...]:
    """Every time zone this number may lie in, by its numbering plan; empty when unknown. Evidence, not proof."""
    try:
        found = phone_zones.time_zones_for_number(phonenumbers.parse(e164, None))
    except phonenumbers.NumberParseException:
        return ()
    return tuple(zone for zone in found if zone != "Etc/Unknown")


@lru_cache(maxsize=10_000)
def country_of(e164: str) -> str:
    """ISO country of an E.164 number, or empty."""
    try:
        return phonenumbers.region_code_for_number(phonenumbers.parse(e164, None)) or ""
    except phonenumbers.NumberParseException:
        return ""


def shown(e164: str) -> str:
    """The number as people read it: +44 20 7946 0000."""
    try:
        return phonenumbers.format_number(phonenumbers.parse(e164, None), phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    except phonenumbers.NumberParseException:
        return e164


@lru_cache(maxsize=10_000)
def national(e164: str) -> str:
    """The digits people know by heart: without the country code. The whole number when it cannot be read."""
    try:
        return phonenumbers.national_significant_number(phonenumbers.parse(e164, None))
    except phonenumbers.NumberParseException:
        return e164.lstrip("+")
