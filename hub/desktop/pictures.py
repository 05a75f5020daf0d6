"""Pictures of texts on the desktop: taken from a form, and shown beside what was written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField
from sqlmodel import select

from channels.twilio_media import ENDINGS, LARGEST, PICTURES, proven_type
from crm_core.errors import Invalid, NotFound
from crm_core.interactions import Attachment
from hub import rights
from hub.desktop.files import KEPT_APART
from hub.media import FOLDER
from hub.web import STAFF, Route, now_of, runtime_of, user_of
from routing import messages
from routing.mails import StoredFile

MOST = 10
FORM_LIMIT = LARGEST + 256 * 1024  # bytes of a form that carries pictures
SHOWN = {*PICTURES, "image/webp"}


async def take(request: web.Request, given: Iterable[Any]) -> list[StoredFile]:
    """The pictures of a form, kept in the store. Invalid for more or larger ones than a message can carry, and for others
    than JPEG, PNG and GIF."""
    chosen = [one for one in given if isinstance(one, FileField) and one.filename]
    if len(chosen) > MOST:
        raise Invalid("A message carries at most 10 pictures.", fields={"pictures": "Choose fewer."})
    contents = [await asyncio.to_thread(one.file.read) for one in chosen]
    if sum(map(len, contents)) > LARGEST:
        raise Invalid(
            "The pictures of one message have at most 5 MB together.", fields={"pictures": "Choose smaller ones."}
        )
    kinds = [proven_type(content, "") for content in contents]
    if not set(kinds) <= set(PICTURES):
        raise Invalid("A message carries pictures in JPEG, PNG or GIF.", fields={"pictures": "Choose others."})
    files, now = runtime_of(request).files, now_of(request)
    return [
        StoredFile(
            f"picture-{number}.{ENDINGS[kind]}", kind, len(content), await files.put(content, folder=FOLDER, now=now)
        )
        for number, (kind, content) in enumerate(zip(kinds, contents, strict=True), start=1)
    ]


async def show(request: web.Request) -> web.StreamResponse:
    """A picture of a text, for whoever may see the conversation. Its type was proven when it was kept."""
    runtime = runtime_of(request)
    async with runtime.db.reading() as tx:
        file = await tx.one(select(Attachment).where(Attachment.id == request.match_info["file"]))
        if file is None or file.content_type not in SHOWN:
            raise NotFound("There is no such picture.")
        message = await rights.interaction(tx, user_of(request), file.interaction_id)
        if message.channel != messages.TEXT:
            raise NotFound("There is no such picture.")
    return web.Response(
        body=await runtime.files.get(file.file_key),
        headers={
            "Content-Type": file.content_type,
            "Content-Disposition": "inline",
            **KEPT_APART,
            "Cache-Control": "private, max-age=3600",
        },
    )


routes = [Route("GET", "/desk/pictures/{file:[0-9a-z]{26}}", show, roles=STAFF)]
