"""Twilio's HTTP client on aiohttp with what its own lacks: a real time limit, another origin, and no logging of bodies.

twilio 9.13's AsyncTwilioHttpClient drops its `timeout` and passes None, which aiohttp takes as no limit at all.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.response import Response

from channels.contract import Download
from channels.twilio_errors import API_ORIGIN, HttpFailed, retry_after

CONNECT_TIMEOUT_S = 5.0
KEEP_ALIVE_S = 15.0  # shorter than Twilio's own, so that a create rarely meets a connection that is being closed
MAX_ANSWER = 4 * 1024 * 1024
PIECE = 256 * 1024


@contextlib.contextmanager
def told_apart() -> Iterator[None]:
    """The ways in which a request fails, as HttpFailed: never sent, no answer in time, lost on the way."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL):
        raise HttpFailed(sent=False, what="no connection") from None
    except TimeoutError:
        raise HttpFailed(what="time-out") from None
    except (aiohttp.ClientError, OSError):
        raise HttpFailed(what="connection lost") from None


class MappedHttp(AsyncTwilioHttpClient):  # type: ignore[misc]  # twilio ships no types
    """Sends what is meant for api.twilio.com to `base`; every other host is refused, so credentials go nowhere else."""

    def __init__(self, base: str, *, timeout_s: float) -> None:
        super().__init__(pool_connections=False)
        self._base = base
        self.session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            connector=aiohttp.TCPConnector(limit=50, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def request(
        self,
        method: str,
        url: str,
        params: dict[str, object] | None = None,
        data: dict[str, object] | None = None,
        headers: dict[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        allow_redirects: bool = False,  # noqa: FBT001, FBT002 - the library's own signature
    ) -> Response:
        """One request. Raises HttpFailed for everything but a 2xx."""
        if not url.startswith(API_ORIGIN + "/"):
            raise HttpFailed(sent=False, what="unknown host")
        own = dict(headers or {})
        if auth is not None:
            own["Authorization"] = aiohttp.encode_basic_auth(auth[0], auth[1])
        with told_apart():
            async with self.session.request(
                method.upper(),
                self._base + url.removeprefix(API_ORIGIN),
                params=_plain(params),
                data=_plain(data),
                headers=own,
                allow_redirects=False,
            ) as answer:
                body = await answer.content.read(MAX_ANSWER)
                while not answer.content.at_eof() and len(body) < MAX_ANSWER:
                    body += await answer.content.read(MAX_ANSWER - len(body))
                text = body.decode("utf-8", "replace")
                if not 200 <= answer.status < 300:
                    wait = retry_after(answer.headers.get("Retry-After"))
                    raise HttpFailed(status=answer.status, code=error_code(text), retry_after_s=wait)
                return Response(answer.status, text, answer.headers)

    @contextlib.asynccontextmanager
    async def open(self, url: str, *, auth: tuple[str, str], most: int) -> AsyncIterator[Download]:
        """A file as it comes, so that an hour of sound is never whole in memory. HttpFailed for everything but a 2xx.

        Also HttpFailed, in the middle, when more than `most` bytes come.
        """
        if not url.startswith(API_ORIGIN + "/"):
            raise HttpFailed(sent=False, what="unknown host")
        headers = {"Authorization": aiohttp.encode_basic_auth(auth[0], auth[1])}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=2 * CONNECT_TIMEOUT_S)
        with told_apart():
            async with self.session.get(
                self._base + url.removeprefix(API_ORIGIN), headers=headers, allow_redirects=False, timeout=limits
            ) as answer:
                if not 200 <= answer.status < 300:
                    text = (await answer.content.read(65536)).decode("utf-8", "replace")
                    raise HttpFailed(status=answer.status, code=error_code(text))

                async def pieces() -> AsyncIterator[bytes]:
                    size = 0
                    async for piece in answer.content.iter_chunked(PIECE):
                        size += len(piece)
                        if size > most:
                            raise HttpFailed(status=413, what="too large")
                        yield piece
                    if answer.content_length is not None and size < answer.content_length:
                        raise HttpFailed(what="cut short")

                yield Download(answer.content_type, pieces())

    async def close(self) -> None:
        """Close the connections."""
        await self.session.close()


def mapped_client(base: str, *, timeout_s: float) -> MappedHttp:
    """A client for this origin; must be made inside the running loop."""
    return MappedHttp(base, timeout_s=timeout_s)


def error_code(text: str) -> int:
    """The `code` of an error body; 0 when there is none."""
    try:
        found = json.loads(text)
        return int(found["code"]) if isinstance(found, dict) else 0
    except (ValueError, KeyError, TypeError):
        return 0


def _plain(values: dict[str, object] | None) -> list[tuple[str, str]] | None:
    """Form or query fields as text; a list becomes a repeated field."""
    if values is None:
        return None
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            found.append((name, _text(one)))
    return found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
