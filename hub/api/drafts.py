"""API: unfinished answers with their files, and sending a mail on."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated

from pydantic import Base64Bytes, BeforeValidator, Field

from crm_core import addresses, drafts
from crm_core.db import Tx
from crm_core.drafts import DraftFile
from hub import rights
from hub.api.contacts import InteractionShown, shown_interaction
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, operation
from hub.api.work import AGENTS, READERS
from routing import replies

FOLDER = "drafts"
# A file goes up in base64 within JSON: a third more, and room for the rest.
UPLOAD_LIMIT = drafts.MOST_BYTES * 4 // 3 + 64 * 1024


class DraftIn(Strict):
    """What is typed and not sent; all empty drops it."""

    subject: str = Field("", max_length=500)
    body: str = Field("", max_length=100_000)
    cc: str = Field("", max_length=5000, description="addresses with commas between them, as typed")
    bcc: str = Field("", max_length=5000)


class DraftFileShown(Shown):
    """A file put to the answer."""

    id: str
    name: str
    content_type: str
    size: int


class DraftShown(Shown):
    """Your unfinished answer in a conversation; empty when there is none."""

    subject: str
    body: str
    cc: str
    bcc: str
    files: list[DraftFileShown]
    updated_at: datetime | None


def strictly(value: object) -> object:
    """Base64 and nothing else: the library passes over what is none."""
    if isinstance(value, str):
        base64.b64decode(value, validate=True)
    return value


class FileIn(Strict):
    """A file to put to the answer: at most 20 of together 18 MiB."""

    name: str = Field(min_length=1, max_length=500, description="kept without folders and unsafe characters")
    content: Annotated[Base64Bytes, BeforeValidator(strictly)] = Field(description="in base64")


class ForwardIn(Strict):
    """Send this mail on, with its files."""

    to: str = Field(min_length=3, max_length=254)
    body: str = Field("", max_length=20_000, description="words before it")


def _shown_file(row: DraftFile) -> DraftFileShown:
    return DraftFileShown(id=row.id, name=row.name, content_type=row.content_type, size=row.size)


@operation(
    "GET",
    "/api/v1/conversations/{id}/draft",
    "Your unfinished answer",
    scope="conversations:read",
    roles=READERS,
    answer=DraftShown,
)
async def get_draft(call: Call[Nothing, Nothing]) -> DraftShown:
    """Each user has one per conversation; the desktop shows the same."""
    async with call.runtime.db.reading() as tx:
        found = await rights.conversation(tx, call.user, call.path["id"])
        return await _shown(tx, call.user.id, found.id)


async def _shown(tx: Tx, user_id: str, conversation_id: str) -> DraftShown:
    draft = await drafts.find(tx, user_id=user_id, conversation_id=conversation_id)
    files = [_shown_file(row) for row in await drafts.list_files(tx, user_id=user_id, conversation_id=conversation_id)]
    if draft is None:
        return DraftShown(subject="", body="", cc="", bcc="", files=files, updated_at=None)
    return DraftShown(
        subject=draft.subject, body=draft.body, cc=draft.cc or "", bcc=draft.bcc or "", files=files, updated_at=draft.updated_at
    )  # fmt: skip


@operation(
    "PUT",
    "/api/v1/conversations/{id}/draft",
    "Keep an unfinished answer",
    scope="conversations:write",
    roles=READERS,
    body=DraftIn,
    answer=DraftShown,
)
async def put_draft(call: Call[Nothing, DraftIn]) -> DraftShown:
    """Replaces what was typed before; its files stay."""

    async def unit(tx: Tx) -> DraftShown:
        found = await rights.conversation(tx, call.user, call.path["id"])
        typed = call.body
        await drafts.keep(
            tx, user_id=call.user.id, conversation_id=found.id, subject=typed.subject, body=typed.body, cc=typed.cc,
            bcc=typed.bcc, now=call.now,
        )  # fmt: skip
        return await _shown(tx, call.user.id, found.id)

    return await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/conversations/{id}/draft/files",
    "Put a file to your answer",
    scope="conversations:write",
    roles=AGENTS,
    body=FileIn,
    answer=DraftFileShown,
    status=201,
    body_limit=UPLOAD_LIMIT,
)
async def add_draft_file(call: Call[Nothing, FileIn]) -> DraftFileShown:
    """Name its id in `file_ids` of the reply that takes it along. The type follows from the name."""
    content = call.body.content
    async with call.runtime.db.reading() as tx:
        found = await rights.conversation(tx, call.user, call.path["id"])
        known = await drafts.list_files(tx, user_id=call.user.id, conversation_id=found.id)
    drafts.check_size(len(content), beside=sum(one.size for one in known), count=len(known))
    key = await call.runtime.files.put(content, folder=FOLDER, now=call.now)

    async def unit(tx: Tx) -> DraftFileShown:
        row = await drafts.add_file(
            tx, user_id=call.user.id, conversation_id=found.id, name=call.body.name, size=len(content), file_key=key, now=call.now
        )  # fmt: skip
        return _shown_file(row)

    return await call.runtime.db.write(unit)


@operation(
    "DELETE",
    "/api/v1/conversations/{id}/draft/files/{file_id}",
    "Take a file away again",
    scope="conversations:write",
    roles=AGENTS,
    answer=None,
)
async def remove_draft_file(call: Call[Nothing, Nothing]) -> None:
    """404 once it was sent."""

    async def unit(tx: Tx) -> str:
        found = await rights.conversation(tx, call.user, call.path["id"])
        return await drafts.remove_file(tx, call.path["file_id"], user_id=call.user.id, conversation_id=found.id)

    await call.runtime.files.delete(await call.runtime.db.write(unit))


@operation(
    "POST",
    "/api/v1/interactions/{id}/forward",
    "Forward a mail",
    scope="conversations:write",
    roles=AGENTS,
    body=ForwardIn,
    answer=InteractionShown,
    status=201,
)
async def forward(call: Call[Nothing, ForwardIn]) -> InteractionShown:
    """To somebody else, with its files; their answer joins the conversation. 409 with `rule` when the gate refuses."""

    async def unit(tx: Tx) -> InteractionShown:
        original = await rights.interaction(tx, call.user, call.path["id"])
        sent = await replies.forward(
            tx, original.id, agent_id=call.user.id, to=addresses.email(call.body.to), body=call.body.body, now=call.now
        )
        return shown_interaction(sent)

    return await call.runtime.db.write(unit)


OPERATIONS: list[Operation] = [get_draft, put_draft, add_draft_file, remove_draft_file, forward]
