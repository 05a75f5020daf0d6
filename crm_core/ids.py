"""Opaque, sortable public ids: 10 characters of milliseconds, then 16 of chance (ULID layout, lower case)."""

from __future__ import annotations

import secrets
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


def new_id(now: datetime) -> str:
    """A fresh 26-character id; ids made in a later millisecond sort after earlier ones."""
    number = (int(now.timestamp() * 1000) << 80) | secrets.randbits(80)
    parts = []
    for _ in range(13):
        parts.append(_PAIRS[number & 1023])
        number >>= 10
    return "".join(reversed(parts))


def new_secret(bits: int = 256) -> str:
    """A URL-safe random token of `bits` bits; store only its hash."""
    return secrets.token_urlsafe(bits // 8)
