"""A file of an incoming message, fetched from Twilio with our login and looked at before anybody trusts its name.

Sources: Twilio, "Media subresource" (basic authentication for all media URLs, kept until deleted, at most 5 MB a message),
copy seen 2026-11. Twilio may answer with a redirect to where the bytes lie: it is followed without our login, over https to
hosts that `peer_allowed` lets through. Decides no retry.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from channels.contract import MailFile
from channels.errors import AnswerUnreadable, ChannelError, ContentRejected, Gone, Misconfigured, Throttled, Unavailable
from channels.twilio_api import TwilioSettings
from channels.twilio_errors import API_ORIGIN, retry_after
from crm_core.texts import Text

LARGEST = 5 * 1024 * 1024  # bytes; Twilio takes no message with more
TIMEOUT_S = 20.0
REDIRECTS = 3
TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9][a-z0-9.+-]{0,80}")
MEDIA_PATH = re.compile(r"/2010-04-01/Accounts/(AC[0-9a-f]{32})/Messages/(?:SM|MM)[0-9a-f]{32}/Media/(ME[0-9a-f]{32})")
# What the first bytes prove. Only these are ever shown in a page; everything else is a download, whatever it calls itself.
PICTURES = {
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/gif": (b"GIF87a", b"GIF89a"),
}
ENDINGS = {
    "image/jpeg": "jpg", "image/png": "png", "image/gif": "gif", "image/webp": "webp", "video/mp4": "mp4", "video/3gpp": "3gp",
    "audio/mpeg": "mp3", "audio/amr": "amr", "application/pdf": "pdf", "text/vcard": "vcf", "text/x-vcard": "vcf",
}  # fmt: skip


def proven_type(content: bytes, claimed: str) -> str:
    """The type that the bytes prove; else what they claim to be, as long as that is no picture; else plain bytes."""
    for kind, heads in PICTURES.items():
        if content.startswith(heads):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    claimed = claimed.partition(";")[0].strip().lower()
    if not TYPE.fullmatch(claimed) or claimed in PICTURES or claimed in ("image/webp", "image/svg+xml"):
        return "application/octet-stream"
    return claimed


async def fetch(
    settings: TwilioSettings, url: str, *, peer_allowed: Callable[[str, str], bool] | None, timeout_s: float = TIMEOUT_S
) -> MailFile:
    """The file, at most 5 MB. ContentRejected for what is none of our account's media or too large; Gone when it was
    deleted; Unavailable, Throttled or Misconfigured otherwise."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    known = MEDIA_PATH.fullmatch(parts.path)
    if origin not in (API_ORIGIN, settings.api_base) or known is None or known[1] != settings.account_sid:
        raise ContentRejected(Text("This is no file of our provider account."), code="not_ours")
    try:
        async with asyncio.timeout(timeout_s):
            claimed, content = await _get(settings, settings.api_base + parts.path, peer_allowed)
    except TimeoutError:
        raise Unavailable(Text("The file did not come in time."), code="no_answer") from None
    except (aiohttp.ClientError, OSError):
        raise Unavailable(Text("The file cannot be fetched now."), code="unreachable") from None
    kind = proven_type(content, claimed)
    return MailFile(f"{known[2][-8:]}.{ENDINGS.get(kind, 'bin')}", kind, content)


async def _get(
    settings: TwilioSettings, url: str, peer_allowed: Callable[[str, str], bool] | None
) -> tuple[str, bytes]:
    own = _origin(settings.api_base)
    keyed = bool(settings.api_key_sid and settings.api_key_secret)
    login = {
        "Authorization": aiohttp.encode_basic_auth(
            settings.api_key_sid if keyed else settings.account_sid,
            settings.api_key_secret if keyed else settings.auth_token,
        )
    }
    connector = aiohttp.TCPConnector(resolver=_Guard(peer_allowed, free=urlsplit(settings.api_base).hostname or ""))
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        for _ in range(REDIRECTS + 1):
            trusted = _origin(url) == own
            if not trusted:
                _check_target(url, peer_allowed)
            async with session.get(url, headers=login if trusted else None, allow_redirects=False) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, answer.headers.get("Location", ""))
                    continue
                if answer.status != 200:
                    raise _refused(answer)
                return answer.content_type, await _read(answer)
    raise ContentRejected(Text("The file leads from place to place without end."), code="redirects")


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    too_large = ContentRejected(Text("The file has more than %(most)s bytes.", most=LARGEST), code="too_large")
    if (answer.content_length or 0) > LARGEST:
        raise too_large
    content = bytearray()
    async for piece in answer.content.iter_chunked(64 * 1024):
        content += piece
        if len(content) > LARGEST:
            raise too_large
    return bytes(content)


def _refused(answer: aiohttp.ClientResponse) -> ChannelError:
    said, code = Text("The file's place answered with HTTP %(status)s.", status=answer.status), str(answer.status)
    if answer.status in (401, 403):
        return Misconfigured(said, code=code)
    if answer.status in (404, 410):
        return Gone(said, code=code)
    if answer.status == 429:
        return Throttled(said, code=code, retry_after_s=retry_after(answer.headers.get("Retry-After")))
    return Unavailable(said, code=code) if answer.status >= 500 else AnswerUnreadable(said, code=code)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _check_target(url: str, peer_allowed: Callable[[str, str], bool] | None) -> None:
    """A redirect leads over https to a name, or to an address that we may talk to; never anywhere else."""
    scheme, host, _ = _origin(url)
    literal = _is_address(host)
    if scheme != "https" or not host or (literal and not (peer_allowed and peer_allowed(host, host))):
        raise ContentRejected(Text("The file is said to lie where the hub does not go."), code="redirect")


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


class _Guard(AbstractResolver):
    """Resolves names, and gives back only addresses that we may connect to; `free` is the provider's own host."""

    def __init__(self, peer_allowed: Callable[[str, str], bool] | None, *, free: str) -> None:
        self._inner = ThreadedResolver()
        self._peer_allowed = peer_allowed
        self._free = free

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses that are left; OSError when none is."""
        found = await self._inner.resolve(host, port, family)
        if host == self._free:
            return found
        left = [one for one in found if self._peer_allowed is not None and self._peer_allowed(host, one["host"])]
        if not left:
            raise OSError("not an address that the hub may connect to")
        return left

    async def close(self) -> None:
        """Nothing is kept open."""
        await self._inner.close()
