"""A mailbox over IMAP: new mails in order of their UID, and a guard around every await of aioimaplib.

aioimaplib 2.0.3 can hang in ways that its own time-outs do not end (its issues 110 and 118): each call is bounded from
outside and ends at once when the connection is lost, and after any trouble the connection is thrown away.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, TypeVar

import aioimaplib

from channels.errors import AnswerUnreadable, Misconfigured, Unavailable
from channels.mail_oauth import TokenSource
from crm_core.texts import Text

T = TypeVar("T")
MAX_SIZE = 25 * 1024 * 1024
HEAD_SIZE = 64 * 1024  # kept of a mail that is too large
UIDS_PER_SIZES = 200
UIDS_PER_FETCH = 50
BYTES_PER_FETCH = 4 * 1024 * 1024
SLOWEST = 100 * 1024  # bytes a second that a server must manage
MONTHS = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)  # never in another language
UNSAFE = re.compile("[\x00-\x1f\x7f]")
SIZE_LINE = re.compile(rb"\d+ FETCH \(.*")
UID = re.compile(rb"\bUID (\d+)")
SIZE = re.compile(rb"\bRFC822\.SIZE (\d+)")
FETCH_START = re.compile(rb"\d+ FETCH \(")
QUOTED_BODY = re.compile(rb'BODY\[\](?:<0>)? "((?:[^"\\]|\\.)*)"')
UIDVALIDITY = re.compile(rb"UIDVALIDITY (\d+)")
EXISTS = re.compile(rb"\* \d+ EXISTS\s*")
FIRST_IDLE_S = (
    1.0  # the first wait after a look that found something; each one that brings nothing is four times as long
)
LONGER = 4.0

# DEBUG prints every byte received, so every mail; INFO prints lines that the library did not expect, which may be mail.
logging.getLogger("aioimaplib.aioimaplib").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class ImapSettings:
    """One mailbox folder. `security`: tls or none (this machine only). Times in seconds."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    security: str = "tls"
    folder: str = "INBOX"
    step_s: float = 20.0
    idle_s: float = 60.0  # then we look for ourselves: a half-open connection is found within idle_s + step_s
    peer_allowed: Callable[[str], bool] | None = None  # asked with the connected address before the password is sent
    tokens: TokenSource | None = field(default=None, repr=False)  # XOAUTH2 in place of a password


class Mailbox:
    """One logged-in connection with the folder open. `close` is safe at any time."""

    def __init__(self, settings: ImapSettings, *, tls: ssl.SSLContext | None = None) -> None:
        self.settings = settings
        self._tls = tls
        self._client: Any = None
        self._lost = asyncio.Event()
        self._told = False  # the server spoke of more mails since the last look began
        self._hurried = False
        self._idle_s = FIRST_IDLE_S
        self.uidvalidity = 0

    @property
    def client(self) -> Any:
        """The library's client, for what this class has no word for; each of its calls through `ask`."""
        return self._client

    async def open(self) -> None:
        """Connect, log in, open the folder. Unavailable, or Misconfigured when the server refuses us."""
        await self.log_in()
        answer = await self.ask(self._client.select(folder_name(self.settings.folder)))
        if answer.result != "OK":
            raise Misconfigured("The mail server has no such folder for this mailbox.", code="folder")
        found = UIDVALIDITY.search(b"\n".join(bytes(line) for line in answer.lines))
        if found is None:
            raise AnswerUnreadable("The mail server does not number its mails.", code="uidvalidity")
        self.uidvalidity = int(found[1])

    async def log_in(self) -> None:
        """Connect and log in. Unavailable, or Misconfigured when the server refuses us."""
        settings = self.settings
        if (
            settings.security != "tls"
            and settings.host not in ("localhost", "::1")
            and not settings.host.startswith("127.")
        ):
            raise Misconfigured(
                "The mailbox's password would go over the network in the clear: use TLS.", code="no_tls"
            )
        if UNSAFE.search(settings.user) or UNSAFE.search(settings.password):
            raise Misconfigured("The mailbox's user name or password contains a control character.", code="login")
        if settings.security == "tls":
            self._client = aioimaplib.IMAP4_SSL(
                host=settings.host,
                port=settings.port,
                timeout=settings.step_s,
                ssl_context=self._tls or ssl.create_default_context(),
            )
        else:
            self._client = aioimaplib.IMAP4(host=settings.host, port=settings.port, timeout=settings.step_s)
        # Set here because the TLS class takes no such argument; nothing has been awaited yet.
        self._client.protocol.conn_lost_cb = lambda error: self._lost.set()
        self._listen(self._client.protocol)
        await self.ask(self._client.wait_hello_from_server())
        refuse_peer(self._client.protocol.transport, settings.peer_allowed)
        await self._identify()

    async def _identify(self) -> None:
        settings = self.settings
        if settings.tokens is not None:
            token = await settings.tokens.token()
            answer = await self.ask(self._client.xoauth2(settings.user, token))
            if answer.result != "OK":
                settings.tokens.forget()
                raise Unavailable("The mail server refuses the mailbox's access token.", code="token")
            return
        answer = await self.ask(self._client.login(aioimaplib.quoted(settings.user), settings.password))
        if answer.result != "OK":
            raise Misconfigured("The mail server refuses the mailbox's user name or password.", code="login")

    async def last_before(self, day: date) -> int:
        """The highest UID below every mail that came in on `day` or later, as the server dates them; 0 when there is none.

        All are asked for first: a mail that comes between the two answers is then among the recent ones, or above them all.
        """
        there = await self._search("ALL")
        recent = await self._search(f"SINCE {day.day}-{MONTHS[day.month - 1]}-{day.year}")
        return min(recent) - 1 if recent else max(there, default=0)

    async def uids_after(self, last_uid: int) -> list[int]:
        """UIDs above `last_uid`, rising."""
        self._told = False
        found = await self._search(f"UID {last_uid + 1}:*")
        new = sorted(uid for uid in found if uid > last_uid)  # n:* names the last one even when it is below n
        if new:
            self._idle_s, self._hurried = FIRST_IDLE_S, False
        return new

    async def _search(self, what: str) -> set[int]:
        answer = await self.ask(self._client.uid_search(what, charset=None))
        if answer.result != "OK":
            raise Unavailable("The mail server would not list its mails.", code="search")
        found: set[int] = set()
        for line in answer.lines[:-1]:
            found.update(int(word) for word in bytes(line).split() if word.isdigit())
        return found

    async def sizes(self, uids: Sequence[int]) -> dict[int, int]:
        """Bytes of each mail that is still there; at most 200 UIDs."""
        answer = await self.ask(self._client.uid("fetch", _set(uids[:UIDS_PER_SIZES]), "(UID RFC822.SIZE)"))
        self._must(answer)
        found: dict[int, int] = {}
        for line in answer.lines:
            text = bytes(line)
            uid, size = UID.search(text), SIZE.search(text)
            if FETCH_START.match(text) and uid and size:
                found[int(uid[1])] = int(size[1])
        return found

    async def bodies(self, uids: Sequence[int], *, bytes_expected: int) -> dict[int, bytes]:
        """The raw mails, without marking them seen; those that vanished meanwhile are missing."""
        answer = await self.ask(
            self._client.uid("fetch", _set(uids), "(UID BODY.PEEK[])"),
            within_s=self.settings.step_s + bytes_expected / SLOWEST,
        )
        self._must(answer)
        return _bodies(answer.lines)

    async def head(self, uid: int) -> bytes:
        """The first 64 KiB of a mail."""
        answer = await self.ask(self._client.uid("fetch", str(uid), f"(UID BODY.PEEK[]<0.{HEAD_SIZE}>)"))
        self._must(answer)
        return _bodies(answer.lines).get(uid, b"")[:HEAD_SIZE]

    async def mark_seen(self, uids: Sequence[int]) -> None:
        """For people who look into the mailbox; a server that refuses is not an error, flags are not our memory."""
        if uids:
            await self.ask(self._client.uid("store", _set(uids), "+FLAGS.SILENT (\\Seen)"))

    async def wait(self) -> None:
        """Return when something may have changed since the last look, at the latest after `idle_s`. Unavailable when the
        line is lost.

        A mail that comes between the look and IDLE is told in one of three ways: in the look's own answer (then we do not
        wait at all), at the start of IDLE (most servers), or never. For the last kind the first wait is short.
        """
        idle_s, step_s = min(self._idle_s, self.settings.idle_s), self.settings.step_s
        self._idle_s = min(self._idle_s * LONGER, self.settings.idle_s)
        if self._told and not self._hurried:
            self._hurried = True  # once: a server that says it in every answer must not keep us running
            return
        if not self._client.has_capability("IDLE"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self.settings.idle_s, 30.0)):
                    await self._lost.wait()
            self._check()
            await self.ask(self._client.noop())
            return
        idle = await self.ask(self._client.idle_start(timeout=idle_s + step_s))
        with contextlib.suppress(TimeoutError):
            await self.ask(self._client.wait_server_push(timeout=idle_s), within_s=idle_s + step_s)
        self._check()
        self._client.idle_done()
        await self.ask(idle)

    def _listen(self, protocol: Any) -> None:
        """Note every EXISTS: the library drops one that comes beside the answer to another command, and no server tells it
        twice. Content of mails is not among these lines."""
        handle = protocol._handle_line

        def line(said: bytes, command: Any) -> Any:
            if EXISTS.fullmatch(said):
                self._told = True
            return handle(said, command)

        protocol._handle_line = line

    async def close(self) -> None:
        """Drop the connection; there is nothing to say that could not hang."""
        client, self._client = self._client, None
        if client is None:
            return
        waiter = getattr(client, "_idle_waiter", None)
        if waiter is not None:
            waiter.cancel()
        protocol = client.protocol
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()
        tasks = [*client.tasks, *(protocol.tasks if protocol is not None else ()), client._client_task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, awaitable: Awaitable[T], *, within_s: float | None = None) -> T:
        """One answer, bounded from outside, ended at once by a lost connection. Unavailable for both."""
        asked = asyncio.ensure_future(awaitable)
        gone = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait(
                {asked, gone}, timeout=within_s or self.settings.step_s, return_when=asyncio.FIRST_COMPLETED
            )
            if asked.done() and not asked.cancelled():
                return asked.result()
            self._check()
            raise Unavailable("The mail server does not answer.", code="time-out")
        except (aioimaplib.AioImapException, OSError, UnicodeError, RecursionError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise Unavailable(
                Text("The mail server cannot be talked to (%(detail)s).", detail=type(error).__name__), code="lost"
            ) from None
        finally:
            for task in (asked, gone):
                if not task.done():
                    task.cancel()
            await asyncio.gather(asked, gone, return_exceptions=True)

    def _check(self) -> None:
        if self._lost.is_set():
            raise Unavailable("The connection to the mail server is lost.", code="lost")

    def _must(self, answer: Any) -> None:
        if answer.result != "OK":
            raise Unavailable("The mail server would not hand a mail over.", code="fetch")


def refuse_peer(transport: Any, allowed: Callable[[str], bool] | None) -> None:
    """Misconfigured when we are connected to an address that we may not use: a name can point anywhere, at any time."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    if allowed is not None and not (peer and allowed(str(peer[0]))):
        raise Misconfigured(
            "The mail server is inside the hub's own network, which this hub may not use.", code="internal"
        )


def folder_name(name: str) -> str:
    """A folder's name as sent: modified UTF-7 (RFC 3501, 5.1.3) in quotes. Misconfigured for control characters."""
    if not name or UNSAFE.search(name):
        raise Misconfigured("The mailbox folder has no usable name.", code="folder")
    pieces: list[str] = []
    for run in re.findall(r"[\x20-\x7e]+|[^\x20-\x7e]+", name):
        if run[0] <= "\x7e" and run[0] >= " ":
            pieces.append(run.replace("&", "&-"))
        else:
            packed = base64.b64encode(run.encode("utf-16-be")).rstrip(b"=").decode("ascii").replace("/", ",")
            pieces.append(f"&{packed}-")
    return str(aioimaplib.quoted("".join(pieces)))


def _set(uids: Iterable[int]) -> str:
    return ",".join(str(int(uid)) for uid in uids)


def _bodies(lines: Iterable[Any]) -> dict[int, bytes]:
    """UID -> content of a FETCH answer; the UID may stand before or after the content."""
    found: dict[int, bytes] = {}
    said, body = b"", None
    for line in [*lines, b"0 FETCH ("]:
        if isinstance(line, bytearray):
            body = bytes(line) if body is None else body
            continue
        text = bytes(line)
        if FETCH_START.match(text):
            uid = UID.search(said)
            if body is None and (quoted := QUOTED_BODY.search(said)):
                body = re.sub(rb"\\(.)", rb"\1", quoted[1])
            if uid is not None and body is not None:
                found[int(uid[1])] = body
            said, body = b"", None
        said += b" " + text
    return found
