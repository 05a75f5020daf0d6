"""Files of incoming texts: what is still to be fetched from the provider, and what became of each.

The provider tells addresses, not bytes. Each becomes an outbox row beside the message; the bytes are in the object store
before a row names them. What cannot be had stays in the receipt and in `data["media"]`, with the reason.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from crm_core import interactions, outbox
from crm_core.db import Tx
from crm_core.interactions import Interaction
from routing.mails import StoredFile, keep_files

FETCH = "media.fetch"
AGAIN_EVERY = timedelta(minutes=15)  # after the relay's own quick tries
AGAIN_FOR = timedelta(hours=24)


async def ask_files(tx: Tx, interaction: Interaction, *, now: datetime) -> None:
    """Have the files of a message fetched that has just come in, one after another."""
    for number, one in enumerate(interaction.data.get("media", ())):
        await outbox.ask(
            tx, FETCH, interaction.id, lane="notice", now=now, ordering=f"media:{interaction.id}",
            dedupe=f"{FETCH}:{interaction.id}:{number}", number=number, url=one["url"],
        )  # fmt: skip


async def file_kept(tx: Tx, interaction_id: str, number: int, file: StoredFile, *, now: datetime) -> None:
    """A file is in the store: it stands with its message. Twice: nothing the second time."""
    interaction = await interactions.get(tx, interaction_id)
    if _state(interaction, number) == "kept":
        return
    await keep_files(tx, interaction.id, [file], now=now)
    await _note(tx, interaction, number, now=now, state="kept", error="")


async def file_failed(
    tx: Tx, interaction_id: str, number: int, *, url: str, error: str, may_come: bool, now: datetime
) -> None:
    """It could not be had. `may_come`: it is tried again for a day."""
    interaction = await interactions.get(tx, interaction_id)
    if _state(interaction, number) == "kept":
        return
    again = may_come and now - interaction.created_at < AGAIN_FOR
    if again:
        await outbox.ask(
            tx, FETCH, interaction.id, lane="notice", now=now, due_at=now + AGAIN_EVERY,
            ordering=f"media:{interaction.id}", number=number, url=url,
        )  # fmt: skip
    await _note(tx, interaction, number, now=now, state="awaited" if again else "failed", error=error)


def _state(interaction: Interaction, number: int) -> str:
    listed = interaction.data.get("media", [])
    return str(listed[number].get("state", "")) if number < len(listed) else ""


async def _note(tx: Tx, interaction: Interaction, number: int, *, now: datetime, **told: Any) -> None:
    listed = [dict(one) for one in interaction.data.get("media", [])]
    if number < len(listed):
        listed[number] |= told
    await interactions.change(tx, interaction, now=now, data={**interaction.data, "media": listed})
