"""Time-based one-time codes (RFC 6238: SHA-1, six digits, thirty seconds), and recovery codes for the day the phone is gone."""

from __future__ import annotations

import base64
import hmac
import secrets
from datetime import datetime
from urllib.parse import quote

STEP_S, DIGITS, WINDOW = 30, 6, 1
RECOVERY_CODES = 10
LETTERS = "abcdefghjkmnpqrstvwxyz23456789"


def new_secret() -> str:
    """160 bits in base32, as authenticator apps take it."""
    return base64.b32encode(secrets.token_bytes(20)).decode()


def code_at(secret: str, step: int) -> str:
    """The code of one step."""
    digest = hmac.digest(base64.b32decode(secret), step.to_bytes(8, "big"), "sha1")
    at = digest[-1] & 15
    return str((int.from_bytes(digest[at : at + 4], "big") & 0x7FFFFFFF) % 10**DIGITS).zfill(DIGITS)


def step_of(secret: str, code: str, now: datetime, *, after: int) -> int | None:
    """The step whose code this is, at most one from now; None when it is wrong or not later than `after`, the last one used."""
    typed = code.replace(" ", "")
    present = int(now.timestamp()) // STEP_S
    found = None
    for step in range(present - WINDOW, present + WINDOW + 1):
        if hmac.compare_digest(code_at(secret, step).encode(), typed.encode("utf-8", "replace")) and step > after:
            found = step
    return found


def address(secret: str, *, login: str, issuer: str) -> str:
    """What an authenticator app opens."""
    return f"otpauth://totp/{quote(issuer)}:{quote(login)}?secret={secret}&issuer={quote(issuer)}"


def in_groups(secret: str) -> str:
    """As one types it: four letters at a time."""
    return " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))


def picture(address: str) -> str:
    """The address as a QR code, black on white whatever the theme, as a data: URL for an `img`."""
    import segno

    return str(segno.make(address, error="m", micro=False).svg_data_uri(scale=5, border=4, light="#fff", dark="#000"))


def recovery_codes() -> list[str]:
    """Fresh codes of 50 bits, in two groups; each works once."""
    return [
        "-".join("".join(secrets.choice(LETTERS) for _ in range(5)) for _ in range(2)) for _ in range(RECOVERY_CODES)
    ]


def plain_recovery(code: str) -> str:
    """A recovery code as it is hashed, however it was typed."""
    return "".join(letter for letter in code.lower() if letter in LETTERS)
