"""Drafts: what an agent has typed and not sent, and the files put to it, kept on the server: a closed tab loses nothing."""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from datetime import datetime

from sqlalchemy import Index, delete
from sqlmodel import col, select

from crm_core.db import Tx
from crm_core.errors import Invalid, NotFound
from crm_core.ids import new_id
from crm_core.tables import Table, at, key, ref, text

LONGEST = 100_000
MOST_FILES = 20
# Base64 makes a third more of them, and most servers take 25 MiB a mail.
MOST_BYTES = 18 * 1024 * 1024
LONGEST_NAME = 120
# What may not stand in a file's name anywhere, or turns its reading direction so that an .exe looks like a .txt.
UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff<>:"|?*]')


class Draft(Table, table=True):
    """One unfinished answer of one user in one conversation."""

    __tablename__ = "drafts"

    user_id: str = ref("users.id", primary_key=True)
    conversation_id: str = ref("conversations.id", primary_key=True)
    subject: str = text()
    body: str = text()
    cc: str | None = text(default=None)  # as typed
    bcc: str | None = text(default=None)
    updated_at: datetime = at()


class DraftFile(Table, table=True):
    """One file put to an unfinished answer; its bytes are in the object store already."""

    __tablename__ = "draft_files"
    __table_args__ = (Index("ix_draft_files_draft", "user_id", "conversation_id"),)

    id: str = key()
    user_id: str = ref("users.id", index=False)
    conversation_id: str = ref("conversations.id", index=False)
    name: str = text()
    content_type: str = text()
    size: int = 0  # bytes
    file_key: str = text()
    created_at: datetime = at()


async def keep(
    tx: Tx, *, user_id: str, conversation_id: str, subject: str, body: str, now: datetime, cc: str = "", bcc: str = ""
) -> None:
    """Store what is typed now; an empty draft is dropped (its files stay until they are sent or taken away)."""
    if not any(one.strip() for one in (body, subject, cc, bcc)):
        await _forget(tx, user_id=user_id, conversation_id=conversation_id)
        return
    row = Draft(
        user_id=user_id, conversation_id=conversation_id, subject=subject[:500], body=body[:LONGEST], cc=cc[:5000],
        bcc=bcc[:5000], updated_at=now,
    )  # fmt: skip
    await tx.put(row, unique=["user_id", "conversation_id"], update=["subject", "body", "cc", "bcc", "updated_at"])


async def find(tx: Tx, *, user_id: str, conversation_id: str) -> Draft | None:
    """The draft, if there is one."""
    mine = select(Draft).where(Draft.user_id == user_id, Draft.conversation_id == conversation_id)
    draft: Draft | None = await tx.one(mine)
    return draft


async def drop(tx: Tx, *, user_id: str, conversation_id: str) -> None:
    """Forget the draft and its files: it was sent."""
    await _forget(tx, user_id=user_id, conversation_id=conversation_id)
    mine = (col(DraftFile.user_id) == user_id, col(DraftFile.conversation_id) == conversation_id)
    await tx.run(delete(DraftFile).where(*mine))


async def _forget(tx: Tx, *, user_id: str, conversation_id: str) -> None:
    await tx.run(delete(Draft).where(col(Draft.user_id) == user_id, col(Draft.conversation_id) == conversation_id))


# --- files -----------------------------------------------------------------------------------------------------------


def safe_name(name: str) -> str:
    """A file's name without folders, control characters and what turns text around, at most 120 characters, ending kept."""
    bare = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    bare = " ".join(UNSAFE.sub("", bare).split()).strip(" .")
    if len(bare) > LONGEST_NAME:
        stem, dot, ending = bare.rpartition(".")
        tail = dot + ending if dot and len(ending) <= 10 else ""
        bare = (stem if tail else bare)[: LONGEST_NAME - len(tail)] + tail
    return bare or "file"


def type_of(name: str) -> str:
    """The content type that the name promises; what the uploading browser claims is not asked."""
    found, packed = mimetypes.guess_type(name, strict=True)
    return "application/octet-stream" if found is None or packed else found


def check_size(size: int, *, beside: int = 0, count: int = 0) -> None:
    """Invalid when a file of `size` bytes does not fit beside the `count` others of together `beside` bytes."""
    if size <= 0:
        raise Invalid("The file is empty.", fields={"file": "Choose another file."})
    if count >= MOST_FILES:
        raise Invalid("At most %(count)s files go with one message.", fields={"file": "Too many."}, count=MOST_FILES)
    if beside + size > MOST_BYTES:
        raise Invalid(
            "The files of one message may have %(limit)s MB together.", fields={"file": "Too large."},
            limit=MOST_BYTES // 2**20,
        )  # fmt: skip


async def add_file(
    tx: Tx, *, user_id: str, conversation_id: str, name: str, size: int, file_key: str, now: datetime
) -> DraftFile:
    """Put a stored file to the draft. Invalid when there are too many, or too much together."""
    known = await list_files(tx, user_id=user_id, conversation_id=conversation_id)
    check_size(size, beside=sum(one.size for one in known), count=len(known))
    plain = safe_name(name)
    return await tx.add(
        DraftFile(
            id=new_id(now), user_id=user_id, conversation_id=conversation_id, name=plain, content_type=type_of(plain),
            size=size, file_key=file_key, created_at=now,
        )
    )  # fmt: skip


async def list_files(tx: Tx, *, user_id: str, conversation_id: str) -> list[DraftFile]:
    """The draft's files, first put first."""
    mine = select(DraftFile).where(DraftFile.user_id == user_id, DraftFile.conversation_id == conversation_id)
    return await tx.all(mine.order_by(col(DraftFile.id)).limit(MOST_FILES))


async def take_files(tx: Tx, ids: list[str], *, user_id: str, conversation_id: str) -> list[DraftFile]:
    """The named files of this draft, in this order. NotFound when one is not there: it was sent, or is somebody else's."""
    known = {one.id: one for one in await list_files(tx, user_id=user_id, conversation_id=conversation_id)}
    if not set(ids) <= set(known):
        raise NotFound("There is no such file.")
    return [known[one] for one in dict.fromkeys(ids)]


async def remove_file(tx: Tx, file_id: str, *, user_id: str, conversation_id: str) -> str:
    """Take a file away again; the key of its bytes, which nothing names any more. NotFound."""
    (row,) = await take_files(tx, [file_id], user_id=user_id, conversation_id=conversation_id)
    await tx.run(delete(DraftFile).where(col(DraftFile.id) == row.id))
    return row.file_key
