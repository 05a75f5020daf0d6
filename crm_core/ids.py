"""Opaque, sortable public ids: 10 characters of milliseconds, then 16 of chance (ULID layout, lower case).

Within one process ids of one millisecond rise too, as ULID's monotonic variant has it, so that rows made one after the other
sort that way. The last id is the only state; losing it costs nothing.
"""

from __future__ import annotations

import os
import secrets
from datetime import datetime
from functools import lru_cache

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_FORTY_BITS = (1 << 40) - 1
_last = [0]
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


class _Chance:
    """Random bits of the system, fetched 4 KiB at a time: a call to it for each id costs more than all the rest."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)  # else two processes would draw the same

    def forget(self) -> None:
        self._store, self._at = b"", 0

    def draw(self, count: int) -> int:
        """A number of `count` random bytes."""
        if self._at + count > len(self._store):
            self._store, self._at = os.urandom(4096), 0
        self._at += count
        return int.from_bytes(self._store[self._at - count : self._at], "big")


_chance = _Chance()


@lru_cache(maxsize=16)
def _beginning(millisecond: int) -> str:
    return "".join(_PAIRS[millisecond >> shift & 1023] for shift in (40, 30, 20, 10, 0))


def new_id(now: datetime) -> str:
    """A fresh 26-character id; later ones sort after earlier ones."""
    millisecond = int(now.timestamp() * 1000)
    same = _last[0] >> 80 == millisecond
    number = _last[0] + 1 + _chance.draw(5) if same else (millisecond << 80) | (_chance.draw(10) >> 1)
    _last[0] = number
    pairs, high, low = _PAIRS, number >> 40 & _FORTY_BITS, number & _FORTY_BITS
    return (
        f"{_beginning(number >> 80)}{pairs[high >> 30]}{pairs[high >> 20 & 1023]}{pairs[high >> 10 & 1023]}{pairs[high & 1023]}"
        f"{pairs[low >> 30]}{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"
    )


def first_id(moment: datetime) -> str:
    """The beginning that ids of this millisecond share: lower than every later id, for ranges by time."""
    return _beginning(int(moment.timestamp() * 1000))


def new_secret(bits: int = 256) -> str:
    """A URL-safe random token of `bits` bits; store only its hash."""
    return secrets.token_urlsafe(bits // 8)
