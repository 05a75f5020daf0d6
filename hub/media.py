"""Files of texts on their way: those that came in are fetched and kept, those that go out lie under a signed address.

The provider fetches what we send, so each file gets an address of its own that ends after some hours and says nothing but
the file's id. Only files of outgoing texts are ever served so.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from aiohttp import web
from sqlmodel import col, select

from channels.errors import ChannelError, Unavailable
from crm_core import interactions
from crm_core.clock import Clock
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.interactions import Attachment
from crm_core.outbox import OutboxState, OutboxTask
from crm_core.touches import Direction
from hub.channel_set import ChannelSet
from hub.files import AWAY, Files, FilesUnavailable
from hub.relay import Done, Executor
from hub.runtime import Runtime
from hub.sealing import Sealer
from hub.web import SIGNED, Route, now_of, runtime_of
from routing import media, messages
from routing.mails import StoredFile

PURPOSE = "media"
# A message waits at Twilio for at most ten hours before it is sent (error 21611, "sender queue").
LASTS = timedelta(hours=12)
FOLDER = "texts"


class Media:
    """What the outbox needs to fetch and to send files."""

    def __init__(self, channels: ChannelSet, files: Files, sealer: Sealer, clock: Clock, *, public_url: str) -> None:
        self._channels = channels
        self._files = files
        self._sealer = sealer
        self._clock = clock
        self._public_url = public_url

    def executors(self) -> dict[str, Executor]:
        """For the relay's table."""
        return {media.FETCH: Executor("sms", self.fetch, repeatable=True, record=self.fetched)}

    async def fetch(self, task: OutboxTask, _: Any) -> StoredFile:
        """Fetch one file and keep it."""
        found = await self._channels.sms().fetch_media(str(task.payload["url"]))
        try:
            key = await self._files.put(found.content, folder=FOLDER, now=self._clock.now())
        except FilesUnavailable as error:
            raise Unavailable(str(error), code=AWAY) from error
        return StoredFile(found.name, found.content_type, len(found.content), key)

    async def fetched(self, tx: Tx, task: OutboxTask, _: Any, done: Done) -> None:
        """What became of it, with the message."""
        now, number = self._clock.now(), int(task.payload["number"])
        if isinstance(done.value, StoredFile):
            await media.file_kept(tx, task.subject_id, number, done.value, now=now)
            return
        may_come = isinstance(done.value, ChannelError) and done.value.retryable
        await media.file_failed(
            tx, task.subject_id, number, url=str(task.payload["url"]), error=done.error or "The file is gone.",
            may_come=may_come or done.state is OutboxState.UNKNOWN, now=now,
        )  # fmt: skip

    async def links(self, tx: Tx, interaction_id: str) -> tuple[str, ...]:
        """Where the provider fetches the files of this message."""
        found = await tx.all(
            select(Attachment.id)
            .where(Attachment.interaction_id == interaction_id)
            .order_by(col(Attachment.id))
            .limit(10)
        )
        until = self._clock.now() + LASTS
        return tuple(f"{self._public_url}/media/{token_of(self._sealer, one, until)}" for one in found)


def media_of(runtime: Runtime) -> Media:
    """That of a process."""
    return Media(runtime.channels, runtime.files, runtime.sealer, runtime.clock, public_url=runtime.settings.public_url)


def token_of(sealer: Sealer, attachment_id: str, until: datetime) -> str:
    """`<file id>.<end as a Unix time>.<signature>`."""
    told = f"{attachment_id}.{int(until.timestamp())}"
    return f"{told}.{sealer.sign(told, purpose=PURPOSE)}"


def read_token(sealer: Sealer, token: str, *, now: datetime) -> str:
    """The file's id; NotFound when the address is forged or has ended."""
    told, _, signature = token.rpartition(".")
    attachment_id, _, until = told.partition(".")
    if not sealer.genuine(told, signature, purpose=PURPOSE) or int(until) < now.timestamp():
        raise NotFound("There is no such file.")
    return attachment_id


async def serve(request: web.Request) -> web.StreamResponse:
    """The file, for whoever was told its address: HEAD and GET, as Twilio asks."""
    runtime = runtime_of(request)
    attachment_id = read_token(runtime.sealer, request.match_info["token"], now=now_of(request))
    async with runtime.db.reading() as tx:
        file = await tx.one(select(Attachment).where(Attachment.id == attachment_id))
        if file is None:
            raise NotFound("There is no such file.")
        message = await interactions.get(tx, file.interaction_id)
        if message.direction != Direction.OUTBOUND or message.channel != messages.TEXT:
            raise NotFound("There is no such file.")
    headers = {
        "Content-Type": file.content_type,
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(file.name)}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex",
        "Cache-Control": "private, no-store",
    }
    if request.method == "HEAD":
        return web.Response(headers={**headers, "Content-Length": str(file.size)})
    return web.Response(body=await runtime.files.get(file.file_key), headers=headers)


routes = [
    Route(method, "/media/{token:[0-9a-z]{26}[.][0-9]{1,12}[.][0-9a-f]{32}}", serve, access=SIGNED)
    for method in ("GET", "HEAD")
]
