"""Runs TwiML on a leg: asks the hub for a document, executes verb after verb, follows redirects and actions.

Errors are Twilio's: 11200 the hub did not answer well, 12100 not XML, 12200 breaks the schema, 12300 content type.
With a fallback URL the call goes on there (ErrorCode, ErrorUrl), once; without one the caller hears that an application
error has occurred, and the call ends. Every error is kept in `world.twin_faults`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from hub.sandbox.calls import EndCall, Leg, Legs
from hub.sandbox.conferences import Rooms
from hub.sandbox.queues import Queues
from hub.sandbox.twiml import VERBS, Document, Source, TwimlError, flag, parse, text_of
from hub.sandbox.world import World

WORDS_PER_SECOND = 2.5
APPLICATION_ERROR = "We are sorry, an application error has occurred. Goodbye."

Next = Source | Document | None


@dataclass(frozen=True)
class Context:
    """Where a document runs: what it may hold, and what every request from it carries besides the standard."""

    kind: str = "twiml"
    allowed: frozenset[str] = VERBS
    params: Callable[[], list[tuple[str, str]]] = list


Verb = Callable[["Exchange", Leg, ET.Element, Document, Context], Awaitable[Next]]


@dataclass(eq=False)
class Exchange:
    """All that a verb may need."""

    world: World
    legs: Legs
    rooms: Rooms
    queues: Queues
    verbs: dict[str, Verb] = field(default_factory=dict)
    reachable: Callable[[str], bool] = lambda address: True
    call_in: Callable[[Leg], None] = lambda leg: None


async def fetch(exchange: Exchange, leg: Leg, source: Source, context: Context) -> Document:
    """The document behind a source, checked. Raises TwimlError, also when the hub answers badly."""
    if source.twiml:
        return parse(source.twiml, url="", method="POST", allowed=context.allowed)
    extra = [*source.params, *context.params()]
    answer = await leg.ask(context.kind, source.url, source.method, extra)
    if not answer.ok:
        raise TwimlError(11200, f"{source.url} answered {answer.status or answer.error}")
    if answer.status == 204:
        return Document((), source.url, source.method)
    if answer.content_type.startswith("audio/"):
        leg.hear("play", source.url)
        await exchange.world.wait(max(1.0, answer.size / 16_000))
        return Document((), source.url, source.method)
    if answer.content_type not in ("text/xml", "application/xml", "text/html"):
        raise TwimlError(12300, f"{source.url} answered content type {answer.content_type or 'none'}, not text/xml")
    return parse(answer.body, url=source.url, method=source.method, allowed=context.allowed)


async def execute(exchange: Exchange, leg: Leg, document: Document, context: Context) -> Next:
    """Run the verbs of one document; gives where to go on, or None at its end."""
    for element in document.verbs:
        if not (element.tag == "Reject" or (element.tag == "Dial" and flag(element, "answerOnBridge", default=False))):
            leg.answer()
        onward = await exchange.verbs[element.tag](exchange, leg, element, document, context)
        if onward is not None:
            return onward
    return None


async def play_out(exchange: Exchange, leg: Leg, source: Source, context: Context) -> None:
    """Run a source and all that follows from it, until a document ends. Raises TwimlError, EndCall."""
    onward: Next = source
    while onward is not None:
        document = onward if isinstance(onward, Document) else await fetch(exchange, leg, onward, context)
        onward = await execute(exchange, leg, document, context)


async def run(exchange: Exchange, leg: Leg, source: Source) -> None:
    """Run a call's instructions to their end; the caller of this ends the call."""
    if source.fallback_url:
        leg.fallback = (source.fallback_url, source.fallback_method)
    try:
        await play_out(exchange, leg, source, Context())
        return
    except TwimlError as error:
        exchange.world.fault(error.code, str(error), where=source.url, call_sid=leg.call.sid)
        url, method = leg.fallback
        leg.fallback = ("", "POST")
        if not url:
            await _give_up(leg)
        params = (("ErrorCode", str(error.code)), ("ErrorUrl", source.url))
    try:
        await play_out(exchange, leg, Source(url, method, params=params), Context(kind="fallback"))
    except TwimlError as error:
        exchange.world.fault(error.code, str(error), where=url, call_sid=leg.call.sid)
        await _give_up(leg)


async def _give_up(leg: Leg) -> None:
    leg.answer()
    leg.hear("say", APPLICATION_ERROR)
    raise EndCall


async def say(exchange: Exchange, leg: Leg, element: ET.Element) -> None:
    """Speak: about 150 words a minute, times the configured scale."""
    text = text_of(element)
    for _ in range(max(1, int(element.get("loop", "1")))):
        leg.hear("say", text)
        seconds = max(0.4, len(text.split()) / WORDS_PER_SECOND)
        await exchange.world.clock.sleep(seconds * exchange.world.config.speech_scale)


def after(document: Document, url: str, method: str, params: list[tuple[str, str]]) -> Source:
    """Where an action attribute leads."""
    return Source(document.resolve(url), method, params=tuple(params))


def with_params(source: Source, params: list[tuple[str, str]]) -> Source:
    return replace(source, params=(*source.params, *params))
