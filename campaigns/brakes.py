"""Brakes: when bounces, complaints, refusals or opt-outs since the last start say that a campaign should not go on. Pure.

Each has a share that stops and a least number of cases, so that the first bad address of ten does not stop anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from campaigns.deliveries import AFTER_SUBMIT, DeliveryState
from crm_core.texts import Text

UNSUBSCRIBED = "unsubscribed"
REJECTED = "rejected"  # refused for their content, counted beside the states
_D = DeliveryState


@dataclass(frozen=True, slots=True)
class Brake:
    """One brake: `words` are counted, `share` of those handed over stops it, once there are `least` cases."""

    name: str
    words: tuple[str, ...]
    share: float
    least: int
    sentence: str


# Complaints: Gmail and Yahoo ask for under 0.1 % and never 0.3 % (their sender guidelines, read 2026-11).
BRAKES = (
    Brake(
        "complaints",
        (_D.COMPLAINED,),
        0.003,
        3,
        Text("Stopped by itself: %(cases)s of %(total)s complained (%(share)s, the limit is %(limit)s)."),
    ),
    Brake(
        "bounces",
        (_D.BOUNCED, _D.UNDELIVERED),
        0.08,
        10,
        Text("Stopped by itself: %(cases)s of %(total)s could not be reached (%(share)s, the limit is %(limit)s)."),
    ),
    Brake(
        "content",
        (REJECTED,),
        0.10,
        10,
        Text(
            "Stopped by itself: %(cases)s of %(total)s were refused for their content (%(share)s, the limit is %(limit)s)."
        ),
    ),
    Brake(
        "opt_outs",
        (UNSUBSCRIBED,),
        0.05,
        10,
        Text("Stopped by itself: %(cases)s of %(total)s opted out (%(share)s, the limit is %(limit)s)."),
    ),
)


def pulled(counts: Mapping[str, int], base: Mapping[str, int]) -> tuple[str, str] | None:
    """(brake, sentence) when one is pulled by what happened since `base`, else None. `counts` holds states and events."""
    handed = [*AFTER_SUBMIT, _D.UNKNOWN]
    total = sum(max(0, counts.get(word, 0) - base.get(word, 0)) for word in handed)
    for brake in BRAKES:
        cases = sum(max(0, counts.get(word, 0) - base.get(word, 0)) for word in brake.words)
        if cases >= brake.least and total and cases / total >= brake.share:
            told = {"cases": cases, "total": total, "share": f"{cases / total:.1%}", "limit": f"{brake.share:.1%}"}
            return brake.name, Text(brake.sentence, **told)
    return None
