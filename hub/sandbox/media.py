"""Pictures that go with texts: fetched from the hub like Twilio does, kept, and served to whoever has the account's login.

Sources: Twilio docs, "Media subresource" (basic authentication for all media URLs; at most 10 files and 5 MB together),
"Accepted content types for media" (GET and HEAD; the Content-Type header must be that of the file), both checked 2026-11.
Which error code a fetch ends in is unconfirmed: 11200 (not retrieved), 12300 (content type), 11751 (too large).
"""

from __future__ import annotations

import aiohttp

from hub.sandbox.state import Media, Message, new_sid
from hub.sandbox.world import World

LARGEST = 5 * 1024 * 1024
FETCH_S = 15.0
ACCEPTED = ("image/", "audio/", "video/", "text/", "application/pdf", "application/vcard")
HEADS = {
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/gif": (b"GIF87a", b"GIF89a"),
}


class MediaFailed(Exception):
    """A file could not be taken over; with the code that the message then carries."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def keep(world: World, message_sid: str, content_type: str, content: bytes) -> Media:
    """One more file of a message."""
    made = Media(new_sid("ME"), message_sid, content_type, content, world.clock.now())
    world.media[made.sid] = made
    return made


def media_url(world: World, media: Media) -> str:
    """Its address as told in webhooks."""
    account = world.config.account_sid
    return f"{world.base_url}/2010-04-01/Accounts/{account}/Messages/{media.message_sid}/Media/{media.sid}"


async def fetch_all(world: World, message: Message) -> None:
    """Take over what the message's MediaUrls name; MediaFailed when one cannot be had."""
    timeout = aiohttp.ClientTimeout(total=FETCH_S)
    left = LARGEST
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for url in message.media_urls:
            content_type, content = await _fetch(session, url, left)
            left -= len(content)
            message.media.append(keep(world, message.sid, content_type, content))


async def _fetch(session: aiohttp.ClientSession, url: str, most: int) -> tuple[str, bytes]:
    try:
        async with session.head(url) as head:
            if head.status != 200:
                raise MediaFailed(11200, f"HEAD {url} answered {head.status}")
        async with session.get(url) as answer:
            content = await answer.content.read(most + 1)
            while len(content) <= most and (more := await answer.content.read(most + 1 - len(content))):
                content += more
            content_type = answer.content_type
            if answer.status != 200:
                raise MediaFailed(11200, f"GET {url} answered {answer.status}")
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise MediaFailed(11200, f"{url} cannot be retrieved: {type(exc).__name__}") from exc
    if len(content) > most:
        raise MediaFailed(11751, f"the media of this message have more than {LARGEST} bytes")
    if not content_type.startswith(ACCEPTED):
        raise MediaFailed(12300, f"{content_type} is not accepted")
    heads = HEADS.get(content_type)
    if heads and not content.startswith(heads):
        raise MediaFailed(12300, f"{url} is not {content_type}")
    return content_type, content
