"""Faults on demand: what the network and the provider do to us on a bad day, switched on by count or by chance.

| kind | what happens | applies to |
| --- | --- | --- |
| late | the callback is delivered `delay_s` later (and those behind it wait) | every callback |
| twice | the same callback, same idempotency token, is delivered again at once | every callback |
| out_of_order | the callback changes places with the next one of the same call | status callbacks |
| lost | the callback is never delivered | status callbacks |
| rest_429 | REST answers 429, code 20429, and does nothing | REST writes |
| rest_500 | REST answers 500 and does nothing | REST writes |
| rest_500_after | REST does the work, then answers 500: the outcome is doubtful | REST writes |
| media_500 | a file of a message cannot be fetched | REST reads of media |
| smtp_451 | the mail server refuses the message for now | SMTP |

Each is armed with `next` (that many times) or `probability` (0..1, drawn from the seeded generator); `match` limits it
to URLs or recipients that contain a text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

KINDS = ("late", "twice", "out_of_order", "lost", "rest_429", "rest_500", "rest_500_after", "media_500", "smtp_451")


class UnknownFault(ValueError):
    """There is no fault of that name."""


@dataclass
class Fault:
    """One thing that goes wrong, how often and where."""

    kind: str
    next: int = 0
    probability: float = 0.0
    delay_s: float = 2.0
    match: str = ""
    hits: int = 0


class Faults:
    """Which faults are armed. `strikes` decides and counts; the draw is deterministic for a seed."""

    def __init__(self, *, seed: int) -> None:
        self.armed: dict[str, Fault] = {}
        self._random = random.Random(seed)

    def arm(
        self, kind: str, *, next_: int = 0, probability: float = 0.0, delay_s: float = 2.0, match: str = ""
    ) -> Fault:
        if kind not in KINDS:
            raise UnknownFault(f"unknown fault {kind!r}; known: {', '.join(KINDS)}")
        fault = Fault(kind, max(0, next_), min(1.0, max(0.0, probability)), max(0.0, delay_s), match)
        self.armed[kind] = fault
        return fault

    def reseed(self, seed: int) -> None:
        self._random.seed(seed)

    def clear(self) -> None:
        self.armed.clear()

    def strikes(self, kind: str, subject: str) -> Fault | None:
        """The fault, when it hits this URL, path or recipient now."""
        fault = self.armed.get(kind)
        if fault is None or (fault.match and fault.match not in subject):
            return None
        if fault.next > 0:
            fault.next -= 1
            fault.hits += 1
            return fault
        if fault.probability > 0 and self._random.random() < fault.probability:
            fault.hits += 1
            return fault
        return None
