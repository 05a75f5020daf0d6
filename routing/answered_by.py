"""A machine took the call that we placed: told at the call, so that the agent need not guess, and its code is chosen ahead."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from channels import answered_by
from channels.answered_by import AnsweredBy
from crm_core import calls, interactions
from crm_core.accounts import ChannelAccount
from crm_core.calls import LegRole
from crm_core.db import Tx
from crm_core.interactions import Interaction
from crm_core.touches import Direction

PATH = "/webhooks/twilio/voice/answered-by"


def wanted(account: ChannelAccount) -> bool:
    """Whether calls from this number are listened to by the provider (it costs a little per call)."""
    return bool(account.settings.get("detect_machines"))


def path_of(interaction_id: str) -> str:
    """Where the provider tells who answered."""
    return f"{PATH}?i={interaction_id}"


async def told(tx: Tx, event: AnsweredBy, *, interaction_id: str, now: datetime) -> None:
    """Keep what was heard, at any time of the call; twice is once."""
    interaction = await interactions.get(tx, interaction_id)
    fresh = await calls.record_event(
        tx, interaction_id=interaction.id, kind="answered-by", event_key=event.event_key, happened_at=now, now=now,
        leg_id=event.call_id, role=LegRole.CUSTOMER,
        raw={"answer": event.answer, "beep": event.beep, "after_ms": event.after_ms},
    )  # fmt: skip
    if fresh and interaction.direction == Direction.OUTBOUND:
        await interactions.change(tx, interaction, now=now, data={**interaction.data, "answered_by": event.answer})


def by_machine(interaction: Interaction | None) -> bool:
    """Whether a machine (or a fax) took the call."""
    return of(interaction) in (answered_by.MACHINE, answered_by.FAX)


def of(interaction: Interaction | None) -> str:
    """human, machine, fax, unknown; empty when nobody listened, or not yet."""
    return str(interaction.data.get("answered_by", "")) if interaction is not None else ""


def likely(flags: Any) -> bool:
    """Whether a disposition with these flags is the one for an answering machine."""
    return bool(isinstance(flags, dict) and flags.get("machine"))
