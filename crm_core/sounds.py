"""Sounds that callers hear: uploaded prompts and hold music, by name. The bytes are in the object store."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import col, select

from crm_core import audit
from crm_core.db import Tx
from crm_core.errors import Invalid, NotFound
from crm_core.ids import new_id
from crm_core.tables import Table, at, key, text

LARGEST = 10 * 1024 * 1024
# What the provider plays (Twilio, "Play", as of the knowledge notes): by the file's own first bytes, never by its name.
KINDS: tuple[tuple[bytes, int, str, str], ...] = (
    (b"RIFF", 0, "audio/wav", "wav"),
    (b"ID3", 0, "audio/mpeg", "mp3"),
    (b"\xff\xfb", 0, "audio/mpeg", "mp3"),
    (b"\xff\xf3", 0, "audio/mpeg", "mp3"),
    (b"\xff\xf2", 0, "audio/mpeg", "mp3"),
)


class Sound(Table, table=True):
    """One sound. Never changed: a new upload is a new sound, so that a running call keeps what it began with."""

    __tablename__ = "sounds"

    id: str = key()
    name: str = text()
    content_type: str = text()
    ending: str = text()
    size: int = 0
    file_key: str = text()
    created_by: str = text()
    created_at: datetime = at()
    retired: bool = False


def kind_of(content: bytes) -> tuple[str, str]:
    """Content type and file ending of these bytes; Invalid when they are no sound that a telephone can play."""
    if not content:
        raise Invalid("The file is empty.", fields={"file": "Choose another file."})
    if len(content) > LARGEST:
        raise Invalid("The file is larger than 10 MB.", fields={"file": "Choose a smaller file."})
    for magic, offset, content_type, ending in KINDS:
        if content[offset : offset + len(magic)] == magic and (ending != "wav" or content[8:12] == b"WAVE"):
            return content_type, ending
    raise Invalid(
        "Only WAV and MP3 files can be played on the telephone.", fields={"file": "Choose a WAV or MP3 file."}
    )


async def add(
    tx: Tx, *, name: str, file_key: str, content_type: str, ending: str, size: int, actor: str, now: datetime
) -> Sound:
    """Name a sound whose bytes are in the store already."""
    if not name.strip():
        raise Invalid("Give a name.", fields={"name": "Give a name."})
    sound = Sound(
        id=new_id(now), name=name.strip()[:100], content_type=content_type, ending=ending, size=size, file_key=file_key,
        created_by=actor, created_at=now,
    )  # fmt: skip
    await tx.add(sound)
    await audit.record(tx, actor=actor, action="sound.added", subject=f"sound:{sound.id}", now=now, name=sound.name)
    return sound


async def get(tx: Tx, sound_id: str) -> Sound:
    """The sound, or NotFound."""
    found: Sound | None = await tx.one(select(Sound).where(Sound.id == sound_id))
    if found is None:
        raise NotFound("There is no such sound.")
    return found


async def list_all(tx: Tx) -> list[Sound]:
    """Sounds in use, by name."""
    return await tx.all(select(Sound).where(col(Sound.retired).is_(False)).order_by(col(Sound.name)).limit(300))


async def retire(tx: Tx, sound_id: str, *, actor: str, now: datetime) -> None:
    """Take a sound out of the lists; flows that play it go on playing it."""
    sound = await get(tx, sound_id)
    await tx.change(Sound, {"retired": True}, id=sound.id)
    await audit.record(tx, actor=actor, action="sound.retired", subject=f"sound:{sound.id}", now=now, name=sound.name)


def url_of(sound: Sound) -> str:
    """Where the provider fetches it."""
    return path_of(sound.id, sound.ending)


def path_of(sound_id: str, ending: str = "wav") -> str:
    """The public path of a sound: unguessable, and nothing secret is in it."""
    return f"/sounds/{sound_id}.{ending}"
