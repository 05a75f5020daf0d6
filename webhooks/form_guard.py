"""What keeps machines from filling in forms, without riddles for people: time, work, signatures, networks.

A form is `strict` by its account's settings. Then a visitor's post needs a key of a page that was shown, and either the work
that the page's script does in the background or, without script, a longer look at the page. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

from channels.contract import FormArrived

WORK_BITS = 14  # 16,000 hashes on average: under a second in a browser
WITHOUT_WORK_S = 15
KEY_HOURS = 24
SIGNATURE_HEADER = "x-hub-signature-256"  # sha256=<hex HMAC-SHA256 of the body>
TIMED_HEADER = "x-hub-signature"  # t=<seconds since 1970>,v1=<hex HMAC-SHA256 of "t.body">; v1 may come several times
REPLAY_WINDOW_S = 300
# Reasons for which a post is held back; a person may make it count after all.
HONEYPOT, QUICK, NO_KEY, RATE, CALL, KEY_USED = "honeypot", "too_quick", "no_key", "rate", "call", "key_used"
HELD = (HONEYPOT, QUICK, NO_KEY, RATE, KEY_USED, "own_number", "blocked", "never_call")
_TIMED = re.compile(r"t=(\d{1,12})((?:,\s*v1=[0-9a-f]{64}){1,4})")


def said(sent: FormArrived) -> str:
    """A digest of what a post says: its fields but those of the page itself, which begin with `_`, and its files."""
    fields = sorted((name, value) for name, value in sent.fields.items() if not name.startswith("_"))
    files = [(file.name, hashlib.sha256(file.content).hexdigest()) for file in sent.files]
    return hashlib.sha256(repr((fields, files)).encode()).hexdigest()


def network_of(remote: str) -> str:
    """The neighbourhood of an address: /24, or /64 in IPv6."""
    try:
        address = ip_address(remote.partition("%")[0])
    except ValueError:
        return remote
    return str(ip_network((address, 24 if address.version == 4 else 64), strict=False))


def work_done(key: str, answer: str, *, bits: int = WORK_BITS) -> bool:
    """True when sha256(key:answer) begins with this many zero bits."""
    if not answer.isascii() or not answer.isdigit() or len(answer) > 12:
        return False
    digest = hashlib.sha256(f"{key}:{answer}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits) == 0


def why_not_yet(settings: Mapping[str, Any], open_s: int | None, *, key: str, answer: str) -> str:
    """`no_key`, `too_quick`, or empty: whether a visitor looked at the page for long enough. `open_s` None: no key of ours."""
    least = int(settings.get("min_seconds") or 0)
    if settings.get("strict"):
        if open_s is None or not 0 <= open_s <= KEY_HOURS * 3600:
            return NO_KEY
        if not work_done(key, answer):
            least = max(least, WITHOUT_WORK_S)
    return QUICK if open_s is not None and open_s < least else ""


def signed(
    secrets: Sequence[str], headers: Mapping[str, str], body: bytes, *, now: datetime, timed: bool
) -> bool:  # fmt: skip
    """True when one of the secrets signed this body. `timed`: only a signature that carries its time counts; one that does
    counts for five minutes either way."""
    if (found := _TIMED.fullmatch(headers.get(TIMED_HEADER, ""))) is not None:
        stamp, given = found[1], re.findall("[0-9a-f]{64}", found[2])
        near = abs(now.timestamp() - int(stamp)) <= REPLAY_WINDOW_S
        ours = [_hex(secret, stamp.encode() + b"." + body) for secret in secrets]
        return any([hmac.compare_digest(mine, theirs) for mine in ours for theirs in given]) and near
    if timed:
        return False
    given_plain = headers.get(SIGNATURE_HEADER, "").encode("utf-8", "replace")
    return any([hmac.compare_digest(b"sha256=" + _hex(secret, body).encode(), given_plain) for secret in secrets])


def _hex(secret: str, said: bytes) -> str:
    return hmac.new(secret.encode(), said, hashlib.sha256).hexdigest()
