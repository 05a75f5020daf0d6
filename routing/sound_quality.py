"""How a call sounded at the agent's end: what their browser reported, kept with the call, one summary for each leg."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from crm_core import calls, interactions
from crm_core.calls import LegRole
from crm_core.db import Tx
from crm_core.errors import Invalid, NotFound
from crm_core.interactions import Interaction
from routing import talks

NAME = re.compile(r"[a-z][a-z0-9_-]{1,40}")
MOST_NAMES, MOST_LEGS = 20, 20
FAIR_MOS = 3.5  # below, people ask each other to repeat (ITU-T G.107, annex B: "many users dissatisfied" from 3.6 down)
FIGURES = ("seconds", "lost", "samples", "mos", "rtt_ms", "jitter_ms", "loss_percent")


@dataclass(frozen=True, slots=True)
class Quality:
    """Over all legs of a call: the lowest mean opinion score, how often the sound was lost, warnings by name."""

    mos: float | None
    rtt_ms: float | None
    loss_percent: float | None
    lost: int
    warnings: dict[str, int]

    @property
    def poor(self) -> bool:
        """Whether somebody should look at this agent's line."""
        return self.lost > 0 or bool(self.warnings) or (self.mos is not None and self.mos < FAIR_MOS)


def check(given: Mapping[str, Any]) -> dict[str, Any]:
    """A report as it is stored; Invalid when a browser could not have measured it."""
    kept: dict[str, Any] = {}
    for name in FIGURES:
        value = given.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Invalid("This is no report of a call's sound.")
        if not 0 <= value <= 1_000_000:
            raise Invalid("This is no report of a call's sound.")
        kept[name] = round(float(value), 3)
    warnings = given.get("warnings", {})
    if not isinstance(warnings, dict) or len(warnings) > MOST_NAMES:
        raise Invalid("This is no report of a call's sound.")
    kept["warnings"] = {
        str(name): min(int(times), 100_000)
        for name, times in warnings.items()
        if NAME.fullmatch(str(name)) and isinstance(times, int) and times > 0
    }
    return kept


async def report(tx: Tx, interaction_id: str, given: Mapping[str, Any], *, user_id: str, now: datetime) -> None:
    """What this agent's browser heard of a call it is, or was, in; a later report of the same leg replaces the earlier one."""
    kept = check(given)
    interaction, _ = await talks.open_call(tx, interaction_id)
    mine = [leg for leg in await calls.list_legs(tx, interaction.id) if leg.user_id == user_id]
    if not mine:
        raise NotFound("There is no such call.")
    leg = mine[-1]
    known: dict[str, Any] = dict(interaction.data.get("quality") or {})
    if leg.id not in known and len(known) >= MOST_LEGS:
        return
    for name in sorted(kept["warnings"]):
        await calls.record_event(
            tx, interaction_id=interaction.id, kind="sound-warning", event_key=f"{leg.id}:sound:{name}", happened_at=now,
            now=now, leg_id=leg.id, role=LegRole.AGENT, user_id=user_id, raw={"warning": name},
        )  # fmt: skip
    known[leg.id] = {"user_id": user_id, **kept}
    await interactions.change(tx, interaction, now=now, data={**interaction.data, "quality": known})


def of(interaction: Interaction) -> Quality | None:
    """How the call sounded; None when no browser told."""
    legs = list((interaction.data.get("quality") or {}).values())
    if not legs:
        return None
    warnings: dict[str, int] = {}
    for leg in legs:
        for name, times in leg.get("warnings", {}).items():
            warnings[name] = warnings.get(name, 0) + times

    def all_of(name: str) -> list[float]:
        return [leg[name] for leg in legs if leg.get(name) is not None]

    return Quality(
        min(all_of("mos"), default=None), max(all_of("rtt_ms"), default=None), max(all_of("loss_percent"), default=None),
        round(sum(all_of("lost"))), warnings,
    )  # fmt: skip
