"""Requests from the provider to the hub: signed, in order per call, retried as asked, logged, spoilt on demand.

Sources (checked 2026-11): "Webhooks: security" (X-Twilio-Signature), "Webhooks: connection overrides" (the fragment
`#rc=2&rp=all&ct=…&rt=…&tt=…`, which is neither sent nor signed), "Number noun: status callback parameters".
Defaults are those of that page: 5 s to connect, 15 s to answer, one retry, on connect errors only.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aiohttp
from yarl import URL

from hub.sandbox.clock import Clock
from hub.sandbox.faults import Faults
from hub.sandbox.state import CallbackEntry
from hub.tasks import end_tasks

SWAP_WAIT_S = 0.5  # how long a callback that is to arrive out of order waits for one to overtake it


class BadOverride(ValueError):
    """The fragment of a callback URL names an override that does not exist."""


@dataclass(frozen=True)
class Override:
    """How often and how long one URL is tried; times in milliseconds, as in the fragment."""

    ct: int = 5000
    rt: int = 15000
    tt: int = 15000
    rc: int = 1
    rp: tuple[str, ...] = ("ct",)


@dataclass(frozen=True)
class Answer:
    """What the hub said. `status` None: nobody answered, `error` says why."""

    status: int | None
    body: str
    content_type: str
    url: str
    error: str = ""
    size: int = 0

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(eq=False)
class Post:
    """One callback on its way. `steers` marks those whose answer decides what happens next (TwiML)."""

    kind: str
    url: str
    method: str
    params: list[tuple[str, str]]
    steers: bool
    result: asyncio.Future[Answer]
    token: str = field(default_factory=lambda: str(uuid.uuid4()))
    swapped: bool = False


def signature(token: str, url: str, params: list[tuple[str, str]]) -> str:
    """HMAC-SHA1 over the URL and, for a form, its fields sorted by name, name and value joined; base64."""
    text = url + "".join(f"{name}{value}" for name, value in sorted(set(params)))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def split_override(url: str) -> tuple[str, Override]:
    """The URL as it is requested, and what its fragment asks for. Raises BadOverride."""
    parts = urlsplit(url)
    bare = urlunsplit(parts._replace(fragment=""))
    if "=" not in parts.fragment:
        return bare, Override()
    given = dict(parse_qsl(parts.fragment, keep_blank_values=True))
    numbers = {key: given.pop(key) for key in ("ct", "rt", "tt", "rc") if key in given}
    policy = given.pop("rp", "ct")
    for ignored in ("e", "sni"):
        given.pop(ignored, None)
    wrong = set(policy.split(",")) - {"ct", "rt", "4xx", "5xx", "all"}
    if given or wrong or not all(value.isdigit() for value in numbers.values()):
        raise BadOverride(f"connection override not understood: #{parts.fragment}")
    override = Override(**{key: int(value) for key, value in numbers.items()}, rp=tuple(policy.split(",")))
    if override.rc > 5 or not 100 <= override.ct <= 10_000 or not 100 <= override.rt <= 15_000:
        raise BadOverride(f"connection override out of range: #{parts.fragment}")
    return bare, override


class Callbacks:
    """The provider's outgoing side. One `Courier` per call, conference or message keeps order; all share the log."""

    def __init__(self, *, clock: Clock, faults: Faults, auth_token: str, note: Callable[[CallbackEntry], None]) -> None:
        self.clock = clock
        self.faults = faults
        self.auth_token = auth_token
        self.log: deque[CallbackEntry] = deque(maxlen=5000)
        self._note = note
        self._count = 0
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = False

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=200, limit_per_host=100), auto_decompress=True
            )
        return self._session

    def courier(self) -> Courier:
        return Courier(self)

    def spawn(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        self.closed = True
        await end_tasks(self._tasks)
        if self._session is not None:
            await self._session.close()

    def entry(self, post: Post, note: str = "") -> CallbackEntry:
        self._count += 1
        entry = CallbackEntry(
            self._count, self.clock.now(), post.kind, post.url, post.method, dict(post.params), post.token, note=note
        )
        self.log.append(entry)
        return entry

    async def deliver(self, post: Post, note: str = "") -> Answer:
        """Send now, with the retries that the URL asks for. The same token goes with every try."""
        entry = self.entry(post, note)
        started = time.monotonic()
        try:
            url, override = split_override(post.url)
        except BadOverride as exc:
            answer = Answer(None, "", "", post.url, str(exc))
        else:
            answer = await self._tries(post, url, override, entry, started)
        entry.status = answer.status
        entry.elapsed_ms = round((time.monotonic() - started) * 1000)
        entry.answer = answer.body[:4000]
        if answer.error:
            entry.note = f"{entry.note} {answer.error}".strip()
        self._note(entry)
        return answer

    async def _tries(self, post: Post, url: str, override: Override, entry: CallbackEntry, started: float) -> Answer:
        answer = Answer(None, "", "", url, "never tried")
        for _ in range(1 + override.rc):
            left = override.tt / 1000 - (time.monotonic() - started)
            if left <= 0.05:
                break
            entry.attempts += 1
            answer, failure = await self._once(post, url, override, left)
            if not failure or not ({"all", failure} & set(override.rp)):
                break
        return answer

    async def _once(self, post: Post, url: str, override: Override, left: float) -> tuple[Answer, str]:
        """One try: the answer, and the failure class of the retry policy ("" when it was fine)."""
        headers = {
            "User-Agent": "TwilioProxy/1.1",
            "Accept": "*/*",
            "X-Home-Region": "us1",
            "I-Twilio-Idempotency-Token": post.token,
        }
        data = None
        if post.method == "GET":
            if post.params:
                url += ("&" if "?" in url else "?") + urlencode(post.params)
            headers["X-Twilio-Signature"] = signature(self.auth_token, url, [])
        else:
            headers["X-Twilio-Signature"] = signature(self.auth_token, url, post.params)
            headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
            data = urlencode(post.params).encode()
        timeout = aiohttp.ClientTimeout(
            total=left, sock_connect=min(left, override.ct / 1000), sock_read=min(left, override.rt / 1000)
        )
        try:
            async with self.session().request(
                post.method,
                URL(url, encoded=True),  # signed as written, so it leaves as written
                data=data,
                headers=headers,
                timeout=timeout,
                allow_redirects=True,
            ) as response:
                raw = await response.read()
                kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
                body = "" if kind.startswith("audio/") else raw.decode("utf-8", "replace")
                failure = "5xx" if response.status >= 500 else "4xx" if response.status >= 400 else ""
                return Answer(response.status, body, kind, url, size=len(raw)), failure
        except (aiohttp.ServerTimeoutError, TimeoutError) as exc:
            connecting = isinstance(exc, aiohttp.ConnectionTimeoutError)
            return Answer(None, "", "", url, f"timeout: {exc}".strip(": ")), "ct" if connecting else "rt"
        except (aiohttp.ClientConnectorError, ConnectionRefusedError) as exc:
            return Answer(None, "", "", url, f"cannot connect: {exc}"), "ct"
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return Answer(None, "", "", url, f"no readable answer: {exc}"), "rt"


class Courier:
    """Delivers in order, one at a time. Its worker lives only while there is something to deliver."""

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks = callbacks
        self._waiting: deque[Post] = deque()
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._working = False

    def send(
        self, kind: str, url: str, method: str, params: list[tuple[str, str]], *, steers: bool = False
    ) -> asyncio.Future[Answer]:
        """Queue a callback; the future holds the hub's answer. Do not await it bare: shield it."""
        post = Post(kind, url, method.upper(), params, steers, asyncio.get_running_loop().create_future())
        if self.callbacks.closed:
            post.result.set_result(Answer(None, "", "", url, "the sandbox is closing"))
            return post.result
        self._waiting.append(post)
        self._more.set()
        self._idle.clear()
        if not self._working:
            self._working = True
            self.callbacks.spawn(asyncio.create_task(self._work()))
        return post.result

    async def ask(self, kind: str, url: str, method: str, params: list[tuple[str, str]]) -> Answer:
        """Send a request whose answer steers the call, behind everything that was sent before."""
        return await asyncio.shield(self.send(kind, url, method, params, steers=True))

    async def idle(self) -> None:
        """Return when all that was sent so far has been delivered or lost."""
        await self._idle.wait()

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._next()
        finally:
            self._working = False
            self._idle.set()
            for post in self._waiting:
                if not post.result.done():
                    post.result.set_result(Answer(None, "", "", post.url, "the sandbox is closing"))

    async def _next(self) -> None:
        faults, post = self.callbacks.faults, self._waiting.popleft()
        if not post.steers and not post.swapped and faults.strikes("out_of_order", post.url):
            post.swapped = True
            if not self._waiting:
                self._more.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SWAP_WAIT_S):
                        await self._more.wait()
            if self._waiting and not self._waiting[0].steers:
                self._waiting.insert(1, post)
                return
        note = "out of order" if post.swapped else ""
        if not post.steers and faults.strikes("lost", post.url):
            self.callbacks._note(self.callbacks.entry(post, "lost"))
            post.result.set_result(Answer(None, "", "", post.url, "lost"))
            return
        if late := faults.strikes("late", post.url):
            note = f"{note} {late.delay_s:g} s late".strip()
            await self.callbacks.clock.sleep(late.delay_s)
        answer = await self.callbacks.deliver(post, note)
        if faults.strikes("twice", post.url):
            await self.callbacks.deliver(post, "second delivery")
        if not post.result.done():
            post.result.set_result(answer)
