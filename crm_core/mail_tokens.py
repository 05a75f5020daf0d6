"""The mark that proves a mail was ours: in its Message-ID and, where a mailbox wants it, in its return address.

`<id.proof.kind@domain>` and `box+id-proof-kind@domain`: the id of what was sent, 80 bits that nobody can guess, and what it was.
For a campaign's mail the proof is computed from the hub's secret; for an agent's it is chance, kept in the row. A report that
does not carry it changes nothing. All in lower case: mail systems fold the case of local parts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

CAMPAIGN, MESSAGE = "c", "m"
_LABEL = b"hub mail proof v1:"
_BYTES = 10
_SHAPE = re.compile(r"([0-9a-hjkmnp-tv-z]{26})[.-]([a-z2-7]{16})[.-]([cm])")
LONGEST_LOCAL = 64  # RFC 5321, 4.5.3.1.1


@dataclass(frozen=True, slots=True)
class MailMark:
    """What a Message-ID or return address of ours says; whether the proof is right is for whoever knows it."""

    subject_id: str  # of the delivery or interaction
    proof: str
    kind: str


def signed(secret: str, subject_id: str) -> str:
    """The proof of a campaign's mail."""
    digest = hmac.digest(secret.encode(), _LABEL + subject_id.encode(), hashlib.sha256)[:_BYTES]
    return base64.b32encode(digest).decode().lower()


def chance() -> str:
    """A proof for one mail, to be kept in its row (as part of the Message-ID)."""
    return base64.b32encode(secrets.token_bytes(_BYTES)).decode().lower()


def message_id(subject_id: str, proof: str, kind: str, *, address: str) -> str:
    """The Message-ID of a mail from our `address`."""
    return f"<{subject_id}.{proof}.{kind}@{address.partition('@')[2] or 'localhost'}>"


def return_address(mark: MailMark, *, address: str) -> str:
    """`box+id-proof-kind@domain`; the plain address where that would be longer than a local part may be."""
    local, _, domain = address.partition("@")
    marked = f"{local}+{mark.subject_id}-{mark.proof}-{mark.kind}"
    return f"{marked}@{domain}" if len(marked) <= LONGEST_LOCAL else address


def read(text: str) -> MailMark | None:
    """The mark in a Message-ID (with or without its brackets) or in one of our addresses; None when there is none."""
    local = text.strip().lstrip("<").partition("@")[0].lower()
    found = _SHAPE.fullmatch(local.rpartition("+")[2])
    return MailMark(found[1], found[2], found[3]) if found else None


def same(proof: str, other: str) -> bool:
    """Whether two proofs are equal, in constant time; empty ones never are."""
    return bool(proof) and hmac.compare_digest(proof.encode(), other.encode())
