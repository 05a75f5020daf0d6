"""Passwords: argon2id, in a thread, and the same time whether or not the login exists."""

from __future__ import annotations

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from crm_core.errors import Invalid

MIN_LENGTH = 10
# OWASP 2026: argon2id with at least 19 MiB, two passes, one lane.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_NOBODY = _HASHER.hash("nobody has this password")


async def hash_password(password: str) -> str:
    """The argon2id hash; Invalid when the password is too short or too long."""
    if not MIN_LENGTH <= len(password) <= 200:
        raise Invalid(
            "A password has %(least)s to 200 characters.",
            least=MIN_LENGTH,
            fields={"password": "Choose a longer password."},
        )
    return await asyncio.to_thread(_HASHER.hash, password)


async def right_password(stored: str, password: str) -> bool:
    """True when it is; an empty `stored` takes as long as any other and is never right."""

    def check() -> bool:
        try:
            _HASHER.verify(stored or _NOBODY, password[:200])
        except (VerificationError, InvalidHashError):
            return False
        return bool(stored)

    return await asyncio.to_thread(check)
