"""How a webhook comes in, the only order: size → shape → verify → one unit of work (receipt, effects, answer) → answer.

The effects in a savepoint, the receipt with what became of them, one COMMIT. When the effects fail, only they are undone: the
receipt says so and is swept again. Decides which answer a provider gets; leaves what a webhook means to its `Kind`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from urllib.parse import parse_qsl

from channels.contract import Arrival, RawRequest, Receives
from channels.errors import AnswerUnreadable, Misconfigured
from channels.form_body import split_form
from crm_core.clock import Clock
from crm_core.db import Database, DatabaseUnavailable, Rerun, Tx
from crm_core.errors import Conflict, Invalid, NotFound
from webhooks import receipts
from webhooks.receipts import ReceiptState, WebhookReceipt

log = logging.getLogger(__name__)

PROVIDER = "twilio"
FORM_TYPE = "application/x-www-form-urlencoded"
TOKEN_HEADER = "i-twilio-idempotency-token"  # noqa: S105 - the name of a header
MAX_FIELDS = 300
# Somebody else was first (Conflict): the whole unit runs again at once, before the receipt counts as failed.
LAST = 4
# Twilio gives up on a voice webhook after 15 s; a caller hears the safe answer well before that.
ANSWER_S = 8.0
KEPT_HEADERS = ("content-type", "user-agent", TOKEN_HEADER)


class Unreadable(Exception):
    """The request cannot be read; the text is one sentence for whoever sent it."""


@dataclass(frozen=True, slots=True)
class Post:
    """A webhook as received and taken apart: every name once."""

    request: RawRequest
    fields: Mapping[str, str]
    query: Mapping[str, str]

    @property
    def token(self) -> str:
        """Twilio's retry token: the same on every retry of one webhook; empty when it sent none."""
        return self.request.headers.get(TOKEN_HEADER, "")[:100]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider is told. `outcome` is for the count: stored, repeated, forged, unreadable, unknown, failed …"""

    status: int
    outcome: str
    body: str = ""
    content_type: str = "text/plain"
    fields: Mapping[str, str] = field(default_factory=dict)  # invalid: a sentence per field


Apply = Callable[["Deps", Tx, list[Arrival], Post, datetime], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of webhook: its key, what it brings about, and what is said when that fails."""

    name: str  # webhook_receipts.kind
    channel: str  # the adapter that verifies and reads it
    key: Callable[[Post], str]  # what makes two deliveries the same; raises Unreadable
    apply: Apply  # the effects; gives the answer's text
    content_type: str = "text/xml"
    empty: str = ""  # the answer when there is nothing to say
    safe: Callable[[Deps, Post], str] | None = None  # what a caller hears when we fail; None: a plain status
    unknown: Callable[[Deps, Post], str] | None = None  # what they hear when the number is not ours
    appends: bool = False  # nearly always it only appends: see `Database.write`
    parsed: bool = True  # False: `apply` reads the fields itself
    provider: str = PROVIDER
    read: Callable[[RawRequest], Post] | None = None  # takes a stored request apart again; None: a Twilio form


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a receipt: its state, why, the text that repeats get, and what the provider is told now."""

    answer: Answer
    state: ReceiptState
    error: str = ""
    replay: str | None = None


@dataclass(frozen=True, slots=True)
class Deps:
    """What the webhooks need, handed over by the entrance."""

    db: Database
    clock: Clock
    channels: Mapping[str, Receives]  # by kind: voice, sms
    public_url: str  # no slash at the end; origins in headers are never believed
    count: Callable[[str, str], None] = lambda channel, outcome: None
    answer_s: float = ANSWER_S


def read(request: RawRequest) -> Post:
    """Take the request apart; Unreadable when it has not the shape of a form."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != FORM_TYPE:
        raise Unreadable(f"The content type must be {FORM_TYPE}.")
    try:
        pairs, whole = split_form(request.body)
        if not whole or len(pairs) > MAX_FIELDS:
            raise ValueError("not a form")
    except ValueError as error:
        raise Unreadable("The body is not a form in UTF-8.") from error
    query = parse_qsl(request.url.partition("?")[2], keep_blank_values=True) if "?" in request.url else []
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields[name] = "\x00" if name in fields else value
    return Post(request, fields, dict(query))


def one(post: Post, name: str) -> str:
    """The value of a field that must be there exactly once.

    Twilio's signature joins names and values without separators, so a captured request can be cut anew into repeated
    parameters and still verify: a repeated name is therefore refused where it matters.
    """
    value = post.fields.get(name, "")
    if not value or "\x00" in value or len(value) > 200:
        raise Unreadable(f"{name} must be given exactly once.")
    return value


async def take(deps: Deps, kind: Kind, request: RawRequest, *, read_as: str = "") -> Answer:
    """Take one webhook in. Never raises for what a stranger or the provider did.

    `read_as`: the URL under which a genuine request is read and stored, where that is not its own (the fallback step
    stands for the call's arrival).
    """
    answer = await _take(deps, kind, request, read_as)
    deps.count(kind.channel, answer.outcome)
    return answer


async def _take(deps: Deps, kind: Kind, request: RawRequest, read_as: str) -> Answer:
    try:
        post = read(request)
    except Unreadable as error:
        return Answer(400, "unreadable", str(error))
    try:
        channel = deps.channels.get(kind.channel)
    except Misconfigured:
        channel = None  # a channel that is off can verify nothing
    if channel is None or not channel.verify(request):
        return Answer(403, "forged", "The signature is missing or wrong.")
    if read_as:
        post = replace(post, request=replace(request, url=read_as))
    try:
        return await store_and_run(deps, kind, post)
    except (DatabaseUnavailable, TimeoutError) as error:
        # Nothing is known to be stored: only a caller who hears something gets a 200, and their call comes back by itself.
        log.error("webhook not stored", extra={"kind": kind.name, "error": str(error) or type(error).__name__})
        if kind.safe is None:
            return Answer(503, "unavailable", "The hub cannot store this now; send it again.")
        return Answer(200, "unavailable", kind.safe(deps, post), kind.content_type)


async def store_and_run(
    deps: Deps, kind: Kind, post: Post, *, key: str = "", headers: Mapping[str, str] | None = None
) -> Answer:
    """One unit of work: the receipt (under `key`, or the kind's own), its effects, the answer.

    Raises DatabaseUnavailable or TimeoutError when nothing is known to be stored.
    """
    unit = lambda tx, turn: _store(deps, kind, tx, post, key, headers or {}, turn=turn)  # noqa: E731 - a closure
    async with asyncio.timeout(deps.answer_s):
        return await run(deps, unit, appends=kind.appends)


async def run(deps: Deps, unit: Callable[[Tx, int], Awaitable[Answer]], *, appends: bool = False) -> Answer:
    """Run a unit that is told which try this is, from 0 to `LAST`; run it again when somebody else was first."""
    for turn in range(LAST + 1):
        try:
            return await deps.db.write(lambda tx: unit(tx, turn), appends=appends and turn == 0)  # noqa: B023 - awaited
        except Conflict:
            if turn == LAST:
                raise
            await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - jitter, not a secret
    raise AssertionError("unreachable")


async def _store(
    deps: Deps, kind: Kind, tx: Tx, post: Post, given: str, extra: Mapping[str, str], *, turn: int
) -> Answer:
    now = deps.clock.now()
    request = post.request
    try:
        key, fault = given or f"{kind.name}:{kind.key(post)}", ""
    except Unreadable as error:
        key, fault = f"{kind.name}:unreadable:{hash_of(request)}", str(error)
    # Nearly every delivery is new, so the first turn does not ask. For a repeat the receipt's unique key undoes the whole
    # turn (a parallel copy waits there until the first is committed), and the second turn finds what was answered.
    known = await receipts.find(tx, kind.provider, key) if turn else None
    if known is not None:
        return await _repeat(deps, kind, tx, post, known, last=turn == LAST)
    if fault:
        ending = Ending(Answer(400, "unreadable", fault), ReceiptState.DISCARDED, fault)
    else:
        ending = await effects(deps, kind, tx, post, last=turn == LAST)
    receipts.keep(
        tx,
        provider=kind.provider,
        event_key=key,
        kind=kind.name,
        url=request.url,
        headers={name: request.headers[name] for name in KEPT_HEADERS if name in request.headers} | dict(extra),
        body=request.body,
        state=ending.state,
        error=ending.error,
        answer=ending.replay,
        now=now,
    )
    return ending.answer


def hash_of(request: RawRequest) -> str:
    """The same bytes to the same address have the same hash."""
    return hashlib.sha256(request.url.encode() + b"\n" + request.body).hexdigest()


async def _repeat(deps: Deps, kind: Kind, tx: Tx, post: Post, known: WebhookReceipt, *, last: bool) -> Answer:
    """This delivery was here before: the same answer, or now the effects that failed then."""
    if known.state in receipts.OPEN and await receipts.lock_unfinished(tx, known.id) is not None:
        # What was pressed or said is in the first delivery; the one that came back may carry less.
        stored = replace(_stored(kind, known), query=post.query)
        return await _end(deps, kind, tx, known.id, stored, last=last)
    if known.state in receipts.OPEN:
        known = await receipts.get(tx, known.id) or known
    return repeated(deps, kind, post, known)


async def _end(deps: Deps, kind: Kind, tx: Tx, receipt_id: str, post: Post, *, last: bool) -> Answer:
    """Make the effects that a receipt kept before still owes, and write down what became of it."""
    ending = await effects(deps, kind, tx, post, last=last)
    now = deps.clock.now()
    if ending.state is ReceiptState.DONE:
        await receipts.close(tx, receipt_id, now=now, answer=ending.replay)
    elif ending.state is ReceiptState.FAILED:
        await receipts.fail(tx, receipt_id, error=ending.error, now=now)
    else:
        await receipts.discard(tx, receipt_id, reason=ending.error, now=now, answer=ending.replay)
    return ending.answer


def repeated(deps: Deps, kind: Kind, post: Post, known: WebhookReceipt) -> Answer:
    """What a repeat gets: the stored answer."""
    if known.answer is not None:
        return Answer(200, "repeated", known.answer, kind.content_type)
    if known.state == ReceiptState.QUARANTINED and kind.safe is not None:
        return Answer(200, "repeated", kind.safe(deps, post), kind.content_type)
    if known.state == ReceiptState.DISCARDED:
        return Answer(400, "repeated", known.error)
    return Answer(200, "repeated", kind.empty, kind.content_type)


async def effects(deps: Deps, kind: Kind, tx: Tx, post: Post, *, last: bool) -> Ending:
    """Make the effects of a delivery in a savepoint; when they fail, only they are undone."""
    now = deps.clock.now()
    try:
        async with tx.savepoint():
            arrivals = deps.channels[kind.channel].parse(post.request) if kind.parsed else []
            if kind.parsed and not arrivals:
                raise NotFound("There was nothing in it that the hub knows.")
            answer = await kind.apply(deps, tx, arrivals, post, now)
    except (Rerun, DatabaseUnavailable):
        raise
    except (AnswerUnreadable, Unreadable) as error:
        if getattr(error, "code", "") == "unknown_status":
            # A word that the provider added: genuine, and nothing that sending it again would mend.
            told = Answer(200, "unknown", kind.empty, kind.content_type)
            return Ending(told, ReceiptState.DISCARDED, str(error), kind.empty)
        return Ending(Answer(400, "unreadable", str(error)), ReceiptState.DISCARDED, str(error))
    except NotFound as error:
        text = kind.unknown(deps, post) if kind.unknown else kind.empty
        return Ending(Answer(200, "unknown", text, kind.content_type), ReceiptState.DISCARDED, error.message, text)
    except Invalid as error:
        told = Answer(422, "invalid", error.message, fields=error.fields)
        return Ending(told, ReceiptState.DISCARDED, f"{error.message} {json.dumps(error.fields)}")
    except Exception as error:
        if isinstance(error, Conflict) and not last:
            raise
        # Whatever went wrong in our effects, what came in is kept and made again: that is what the receipt is for.
        log.exception("webhook effects failed", extra={"kind": kind.name}, exc_info=error)
        text = kind.safe(deps, post) if kind.safe is not None else kind.empty
        told = Answer(200, "failed", text, kind.content_type)
        return Ending(told, ReceiptState.FAILED, f"{type(error).__name__}: {error}")
    text = kind.empty if answer is None else answer
    return Ending(Answer(200, "stored", text, kind.content_type), ReceiptState.DONE, replay=text)


async def sweep(deps: Deps, kinds: Mapping[str, Kind], *, limit: int = 50) -> int:
    """Make the effects that are still owed, oldest first; how many were looked at."""
    async with deps.db.reading() as tx:
        owed = await receipts.list_unfinished(tx, now=deps.clock.now(), limit=limit)
    for receipt in owed:
        kind = kinds.get(receipt.kind)
        if kind is not None:
            answer = await run(deps, _again(deps, kind, receipt))
            deps.count(kind.channel, f"swept_{answer.outcome}")
    return len(owed)


def _stored(kind: Kind, receipt: WebhookReceipt) -> Post:
    """The post of a receipt, taken apart again."""
    return (kind.read or read)(RawRequest(receipt.url, "POST", receipt.headers, receipt.body, receipt.received_at))


def _again(deps: Deps, kind: Kind, receipt: WebhookReceipt) -> Callable[[Tx, int], Awaitable[Answer]]:
    async def unit(tx: Tx, turn: int) -> Answer:
        if await receipts.lock_unfinished(tx, receipt.id) is None:
            return Answer(200, "repeated")
        return await _end(deps, kind, tx, receipt.id, _stored(kind, receipt), last=turn == LAST)

    return unit
