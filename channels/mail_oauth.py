"""Access tokens for mailboxes that take no password any more: bought with a refresh token (RFC 6749, section 6), kept in memory
until shortly before they end. XOAUTH2 itself is spoken by the IMAP and SMTP libraries.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from channels.contract import Vault
from channels.errors import AnswerUnreadable, Misconfigured, Unavailable
from crm_core.clock import Clock, SystemClock

EARLY = timedelta(minutes=2)  # a token that ends while a mail is under way is no use
SHORTEST = timedelta(minutes=5)
TIMEOUT_S = 15.0
NAME = "oauth_refresh_token"  # of the secret that a provider may replace with each purchase
MAX_ANSWER = 64 * 1024
# RFC 6749, 5.2: what a person has to put right; anything else may pass.
FINAL = frozenset({"invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"})


@dataclass(frozen=True, slots=True)
class OauthSettings:
    """Where tokens are bought, and with what."""

    token_url: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    scope: str = ""
    peer_allowed: Callable[[str], bool] | None = None  # asked with the address before anything is sent there


class TokenSource:
    """The mailbox's access token, one purchase at a time."""

    def __init__(self, settings: OauthSettings, *, clock: Clock | None = None, vault: Vault | None = None) -> None:
        parts = urlsplit(settings.token_url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not parts.hostname or parts.scheme not in (("https", "http") if local else ("https",)):
            raise Misconfigured("The address for access tokens must begin with https.", code="oauth_url")
        self.settings = settings
        self._clock = clock or SystemClock()
        self._vault = vault
        self._lock = asyncio.Lock()
        self._token = ""
        self._until: datetime | None = None
        self._refresh = settings.refresh_token  # a provider may hand out the next one with each purchase

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never be logged."""
        return tuple(one for one in (self.settings.client_secret, self._refresh, self._token) if one)

    async def token(self) -> str:
        """A token that is good for some minutes. Misconfigured when the grant is refused, Unavailable when it may pass."""
        async with self._lock:
            if self._until is None or self._clock.now() >= self._until:
                await self._buy()
            return self._token

    def forget(self) -> None:
        """The server refused the token: buy another one next time."""
        self._until = None

    async def _buy(self) -> None:
        """Buy a token; once more with the refresh token that another process was handed meanwhile, when ours is used up."""
        try:
            await self._buy_with(self._refresh)
        except Misconfigured:
            stored = await self._vault.latest(NAME) if self._vault is not None else ""
            if not stored or stored == self._refresh:
                raise
            self._refresh = stored
            await self._buy_with(stored)

    async def _buy_with(self, refresh: str) -> None:
        settings, now = self.settings, self._clock.now()
        asked = {"grant_type": "refresh_token", "refresh_token": refresh, "client_id": settings.client_id}
        asked |= {"client_secret": settings.client_secret} if settings.client_secret else {}
        asked |= {"scope": settings.scope} if settings.scope else {}
        status, told = await self._post(asked)
        if status != 200:
            code = str(told.get("error", ""))[:60]
            if code in FINAL or status in (401, 403):
                raise Misconfigured(
                    "The mailbox's access was withdrawn or has run out: grant it again.", code=code or str(status)
                )
            raise Unavailable("No access token is to be had for the mailbox now.", code=code or str(status))
        token, lasts = told.get("access_token"), told.get("expires_in", 3600)
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise AnswerUnreadable("The answer with the access token cannot be read.", code="oauth")
        seconds = int(lasts) if isinstance(lasts, int | str) and str(lasts).isdigit() else 3600
        self._token = token
        self._until = now + max(timedelta(seconds=min(seconds, 86_400)) - EARLY, SHORTEST - EARLY)
        following = told.get("refresh_token")
        if isinstance(following, str) and following and following != self._refresh:
            self._refresh = following
            if self._vault is not None:  # or a restart would come back with one that is used up
                await self._vault.store(NAME, following)

    async def _post(self, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar(),
                    connector=aiohttp.TCPConnector(resolver=_Resolver(self.settings.peer_allowed)),
                ) as session,
                session.post(self.settings.token_url, data=asked, allow_redirects=False) as answer,
            ):  # fmt: skip
                raw = await answer.content.read(MAX_ANSWER)
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable("The server for access tokens cannot be reached.", code=type(error).__name__) from None
        try:
            told = json.loads(raw)
        except ValueError:
            told = None
        if isinstance(told, dict):
            return status, told
        if status == 200:
            raise AnswerUnreadable("The answer with the access token cannot be read.", code="oauth")
        return status, {}


class _Resolver(AbstractResolver):
    """Names become only addresses that may be connected to."""

    def __init__(self, allowed: Callable[[str], bool] | None) -> None:
        self._allowed = allowed
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        kept = [one for one in found if self._allowed is None or self._allowed(one["host"])]
        if not kept:
            raise OSError("this host may not be connected to")
        return kept

    async def close(self) -> None:
        await self._inner.close()
