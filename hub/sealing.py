"""Secrets at rest and signed links, under HUB_SECRET_KEY. Each purpose has a key of its own, derived from that one."""

from __future__ import annotations

import base64
import hmac
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crm_core.errors import HubError
from crm_core.ids import new_secret


class Unsealable(HubError):
    """A stored secret cannot be read: HUB_SECRET_KEY is not the one it was sealed under."""


class Sealer:
    """Seals, unseals and signs for one secret key."""

    def __init__(self, secret_key: str) -> None:
        self._root = secret_key.encode()

    def _key(self, purpose: str) -> bytes:
        return HKDF(SHA256(), 32, b"hub", purpose.encode()).derive(self._root)

    def seal(self, text: str, *, purpose: str) -> str:
        """Encrypted and authenticated; the same text seals differently each time."""
        nonce = base64.urlsafe_b64decode(new_secret(96))[:12]
        box = AESGCM(self._key(purpose)).encrypt(nonce, text.encode(), purpose.encode())
        return base64.urlsafe_b64encode(nonce + box).decode()

    def unseal(self, sealed: str, *, purpose: str) -> str:
        """The text; Unsealable when the key or the purpose is another, or somebody changed it."""
        try:
            raw = base64.urlsafe_b64decode(sealed)
            return AESGCM(self._key(purpose)).decrypt(raw[:12], raw[12:], purpose.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise Unsealable from error

    def sign(self, text: str, *, purpose: str) -> str:
        """A 128-bit signature of `text`, safe in URLs and addresses (hexadecimal)."""
        return hmac.new(self._key("sign:" + purpose), text.encode(), sha256).hexdigest()[:32]

    def genuine(self, text: str, signature: str, *, purpose: str) -> bool:
        """True when `signature` is ours for `text`; compared in constant time."""
        return hmac.compare_digest(self.sign(text, purpose=purpose).encode(), signature.encode())
