"""Opaque, sortable public ids: 10 characters of milliseconds, then 16 of chance (ULID layout, lower case).

Within one process ids of one millisecond rise too, as ULID's monotonic variant has it, so that rows made one after the other
sort that way. The last id is the only state; losing it costs nothing.
"""

from __future__ import annotations

import secrets
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_last = [0]
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


def new_id(now: datetime) -> str:
    """A fresh 26-character id; later ones sort after earlier ones."""
    millisecond = int(now.timestamp() * 1000)
    number = (millisecond << 80) | secrets.randbits(79)
    if _last[0] >> 80 == millisecond:
        number = _last[0] + 1 + secrets.randbits(40)
    _last[0] = number
    parts = []
    for _ in range(13):
        parts.append(_PAIRS[number & 1023])
        number >>= 10
    return "".join(reversed(parts))


def first_id(moment: datetime) -> str:
    """The beginning that ids of this millisecond share: lower than every later id, for ranges by time."""
    number = int(moment.timestamp() * 1000)
    return "".join(_PAIRS[number >> shift & 1023] for shift in (40, 30, 20, 10, 0))


def new_secret(bits: int = 256) -> str:
    """A URL-safe random token of `bits` bits; store only its hash."""
    return secrets.token_urlsafe(bits // 8)
