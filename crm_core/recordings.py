"""Recordings of calls and voicemail messages: where each stands, from the provider's first word to our own copy of the sound.

Decides how a recording's state moves; leaves fetching to hub/executors.py and what a voicemail brings about to routing.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import bindparam
from sqlmodel import col, select

from crm_core.db import Tx
from crm_core.errors import Conflict, NotFound
from crm_core.statements import fixed
from crm_core.tables import Table, at, key, one_of, ref, text, word


class RecordingState(StrEnum):
    """Where a recording stands; `kept` is ours, whatever becomes of the provider's copy."""

    ASKED = "asked"  # the provider was asked to begin
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"  # at the provider, not fetched yet
    KEPT = "kept"  # in our object store
    EMPTY = "empty"  # there was nothing to hear
    FAILED = "failed"
    DELETED = "deleted"  # by a person or by retention


class Recording(Table, table=True):
    """One recording. `consent` says how the other side knew: announced, given (a key), asked (by the agent), own (voicemail)."""

    __tablename__ = "recordings"
    __table_args__ = (one_of("state", RecordingState),)

    id: str = key()
    interaction_id: str = ref("interactions.id")
    external_id: str | None = text(default=None, unique=True)  # the provider's; null until it is known
    leg_id: str = text()
    kind: str = text()  # call, voicemail
    state: RecordingState = word(RecordingState, default=RecordingState.ASKED)
    consent: str = text()
    duration_s: int | None = None
    pauses: int = 0  # how often it was paused: an old resume must not end a newer pause
    paused_until: datetime | None = at(nullable=True)
    file_key: str = text()
    content_type: str = text()
    size: int = 0
    error: str = text()
    started_at: datetime = at()
    ended_at: datetime | None = at(nullable=True)
    version: int = 1


_S = RecordingState
OPEN = (_S.ASKED, _S.RUNNING, _S.PAUSED)
_RANK = {_S.ASKED: 0, _S.RUNNING: 1, _S.PAUSED: 1, _S.DONE: 2, _S.EMPTY: 3, _S.FAILED: 3, _S.KEPT: 4, _S.DELETED: 5}

_GET = fixed(select(Recording).where(Recording.id == bindparam("id")))
_EXTERNAL = fixed(select(Recording).where(Recording.external_id == bindparam("external_id")))
_OF = fixed(select(Recording).where(Recording.interaction_id == bindparam("id")).order_by(col(Recording.id)).limit(50))


async def get(tx: Tx, recording_id: str) -> Recording:
    """The recording, or NotFound."""
    found: Recording | None = await tx.one(_GET, id=recording_id)
    if found is None:
        raise NotFound("There is no such recording.")
    return found


async def find_external(tx: Tx, external_id: str) -> Recording | None:
    """The recording with the provider's id."""
    found: Recording | None = await tx.one(_EXTERNAL, external_id=external_id)
    return found


async def list_of(tx: Tx, interaction_id: str) -> list[Recording]:
    """An interaction's recordings, oldest first."""
    return await tx.all(_OF, id=interaction_id)


async def running(tx: Tx, interaction_id: str) -> Recording | None:
    """The recording of this call that is under way (asked for, running or paused)."""
    return next((each for each in await list_of(tx, interaction_id) if each.state in OPEN), None)


async def change(tx: Tx, recording: Recording, *, state: RecordingState | None = None, **values: object) -> bool:
    """Change a recording, guarded by version; False when its state would fall back: a late report changes nothing."""
    if state is not None and _RANK[state] < _RANK[recording.state]:
        return False
    fresh = {**values, "version": recording.version + 1}
    if state is not None:
        fresh["state"] = state
    if await tx.change(Recording, fresh, id=recording.id, version=recording.version) != 1:
        raise Conflict
    recording.__dict__.update(fresh)
    return True
