"""Handing mails to an SMTP server: one connection, its phases bounded, and what its answers mean.

Codes: RFC 5321 section 4.2 and RFC 3463 (enhanced status). After DATA has begun, silence is an unknown outcome: the
server may have taken the mail. Before that nothing can have been taken.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import TypeVar

import aiosmtplib

from channels.errors import (
    ChannelError,
    ContentRejected,
    Misconfigured,
    OutcomeUnknown,
    RecipientInvalid,
    Throttled,
    Unavailable,
)
from channels.mail_oauth import TokenSource
from crm_core.texts import Text

ENHANCED = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})\b")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """One server. `security`: tls (from the first byte), starttls (demanded), auto (if offered) or none."""

    host: str
    port: int
    security: str = "auto"
    user: str = ""
    password: str = field(default="", repr=False)
    phase_s: float = 60.0
    data_s: float = 600.0  # RFC 5321 4.5.3.2.6: ten minutes after the final dot
    peer_allowed: Callable[[str], bool] | None = None  # asked with the connected address before the password is sent
    tokens: TokenSource | None = field(default=None, repr=False)  # XOAUTH2 in place of a password


@lru_cache(maxsize=1)
def _default_tls() -> ssl.SSLContext:
    """The system's trust, read once: it takes a tenth of a second and more, and a campaign opens twenty lines."""
    return ssl.create_default_context()


class SmtpLine:
    """One connection, opened when first needed. After any error but a refused mail it is closed, never used again."""

    def __init__(self, settings: SmtpSettings, *, tls: ssl.SSLContext | None = None) -> None:
        self.settings = settings
        self._tls = tls
        self._client: aiosmtplib.SMTP | None = None
        self.carried = 0  # mails taken over this connection

    async def __aenter__(self) -> SmtpLine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send(self, raw: bytes, *, sender: str, recipients: Sequence[str]) -> str:
        """Hand one mail over, once; the server's last words. Every recipient must be taken, or none gets it.

        Raises a ChannelError; OutcomeUnknown when the line was lost after DATA had begun.
        """
        client = self._client or await self._open()
        phase = "mail"
        try:
            await self._within(client.mail(sender, encoding="ascii"))
            phase = "rcpt"
            for one in recipients:
                await self._within(client.rcpt(one, encoding="ascii"))
            phase = "data"
            async with asyncio.timeout(self.settings.data_s):
                answer = await client.data(raw, timeout=self.settings.data_s)
        except aiosmtplib.SMTPResponseException as refused:
            meant = meaning(refused.code, refused.message, phase=phase)
            if refused.code == 421 or not await self._reset(client):
                self._drop()
            raise meant from None
        except (aiosmtplib.SMTPException, TimeoutError, OSError) as lost:
            self._drop()
            raise _lost(lost, phase=phase) from None
        except BaseException:
            self._drop()
            raise
        self.carried += 1
        return answer.message[:200]

    async def greet(self) -> None:
        """Connect and log in without sending anything. Raises a ChannelError."""
        if self._client is None:
            await self._open()

    async def close(self) -> None:
        """Say goodbye if there is somebody to say it to."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            async with asyncio.timeout(5):
                await client.quit()
        except (aiosmtplib.SMTPException, TimeoutError, OSError):
            client.close()

    async def _open(self) -> aiosmtplib.SMTP:
        settings, security = self.settings, self.settings.security
        if (settings.password or settings.tokens) and not is_local(settings.host):
            if security == "none":
                raise Misconfigured("A password would go over the network in the clear: use TLS.", code="no_tls")
            if security == "auto":  # a stranger on the way could leave STARTTLS out and read the password
                security = "starttls"
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            timeout=settings.phase_s,
            use_tls=security == "tls",
            start_tls={"starttls": True, "auto": None}.get(security, False),
            tls_context=self._tls or _default_tls(),
        )
        self._client = client
        try:
            await self._within(client.connect())
            self._refuse_peer(client)
            if settings.tokens is not None:
                await self._within(client.auth_xoauth2(settings.user, await settings.tokens.token()))
            elif settings.user:
                await self._within(client.login(settings.user, settings.password))
        except aiosmtplib.SMTPAuthenticationError as refused:
            self._drop()
            if settings.tokens is not None:
                settings.tokens.forget()
                raise Unavailable("The mail server refuses the mailbox's access token.", code="token") from None
            raise meaning(refused.code, refused.message, phase="login") from None
        except aiosmtplib.SMTPResponseException as refused:
            self._drop()
            raise meaning(refused.code, refused.message, phase="hello") from None
        except (ssl.SSLError, aiosmtplib.SMTPNotSupported) as error:
            self._drop()
            raise Misconfigured(
                Text("The mail server offers no usable encryption or login (%(detail)s).", detail=type(error).__name__)
            ) from None
        except ChannelError:
            self._drop()
            raise
        except (aiosmtplib.SMTPException, TimeoutError, OSError) as lost:
            self._drop()
            if "STARTTLS" in str(lost):
                raise Misconfigured("The mail server offers no encryption (STARTTLS).", code="no_tls") from None
            if isinstance(lost.__cause__, ssl.SSLError):
                raise Misconfigured("The mail server's certificate is not trusted.", code="certificate") from None
            raise Unavailable("The mail server cannot be reached.", code="unreachable") from None
        return client

    def _refuse_peer(self, client: aiosmtplib.SMTP) -> None:
        if self.settings.peer_allowed is None:
            return
        peer = client.transport.get_extra_info("peername") if client.transport is not None else None
        if not (peer and self.settings.peer_allowed(str(peer[0]))):
            self._drop()
            raise Misconfigured(
                "The mail server is inside the hub's own network, which this hub may not use.", code="internal"
            )

    async def _within(self, ask: Awaitable[T]) -> T:
        async with asyncio.timeout(self.settings.phase_s):
            return await ask

    async def _reset(self, client: aiosmtplib.SMTP) -> bool:
        """True when the server is ready for the next mail."""
        try:
            await self._within(client.rset())
        except (aiosmtplib.SMTPException, TimeoutError, OSError):
            return False
        return True

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _lost(error: Exception, *, phase: str) -> ChannelError:
    if phase == "data":
        return OutcomeUnknown("The mail server fell silent while it took the mail.", code="lost")
    return Unavailable("The mail server broke off before the mail.", code="lost")


def meaning(code: int, message: str, *, phase: str) -> ChannelError:
    """What a refusal means: from code, enhanced status and phase. The text is left out: it quotes people."""
    found = ENHANCED.search(message[:200])
    detail = (int(found[2]), int(found[3])) if found else (0, 0)
    shown = f"{code} {found[0]}" if found else str(code)
    said = Text("The mail server answered %(said)s.", said=shown)
    if 400 <= code < 500:
        # 4.7.x at most servers, and 421 when asked too often: slow down. The rest is a passing trouble.
        if code == 421 or detail[0] == 7 or detail == (4, 5) or detail == (3, 2):
            return Throttled(said, code=shown, retry_after_s=60.0)
        return Unavailable(said, code=shown)
    if code < 400:
        return OutcomeUnknown(said, code=shown) if phase == "data" else Unavailable(said, code=shown)
    if phase in ("login", "hello", "mail") or code in (530, 534, 535, 538):
        return Misconfigured(said, code=shown)
    if detail == (2, 2) or (code == 552 and phase == "rcpt"):
        return Unavailable(said, code=shown)  # mailbox full: definitely not taken, and it may be emptied
    if phase == "rcpt":
        if detail[0] == 7:  # relaying denied, or we are blocked
            return (
                Misconfigured(said, code=shown) if detail[1] == 1 and code == 554 else ContentRejected(said, code=shown)
            )
        return (
            RecipientInvalid(said, code=shown) if code in (550, 551, 553, 554, 556) else Misconfigured(said, code=shown)
        )
    if detail[0] == 1 or detail == (2, 1):
        return RecipientInvalid(said, code=shown)
    return ContentRejected(said, code=shown)


def is_local(host: str) -> bool:
    """True for this machine, where nobody listens on the way."""
    return host in ("localhost", "::1") or host.startswith("127.")
