"""What the public forms need of the process that serves them, and how they refuse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from aiohttp import web

from crm_core.accounts import ChannelAccount, Form
from routing.hours import Hours
from webhooks.intake import Deps


class Attempts(Protocol):
    """Counts tries of strangers, shared by all processes where it can."""

    async def allow(self, name: str, *, limit: int, window_s: int, now: datetime) -> int:
        """0 when this try is within `limit` per window, else the seconds to wait."""
        ...


class FileStore(Protocol):
    """The object store."""

    async def put(self, content: bytes, *, folder: str, now: datetime) -> str:
        """Keep the bytes; their key."""
        ...


class FormPage(Protocol):
    """Shows a hosted form: to be filled in, to be corrected, or thanked for (`done`)."""

    def __call__(
        self, request: web.Request, form: Form, *, values: Mapping[str, str], errors: Mapping[str, str], key: str,
        done: bool, sentence: str, status: int, slots: Sequence[tuple[str, str]], work: int,
    ) -> Awaitable[web.StreamResponse]: ...  # fmt: skip


@dataclass(frozen=True, slots=True)
class FormDeps:
    """What forms need beyond webhooks in general."""

    intake: Deps
    files: FileStore
    attempts: Attempts
    page: FormPage
    secrets_of: Callable[[ChannelAccount], Sequence[str]] = lambda account: ()  # any: posts of machines must be signed
    sign: Callable[[str], str] = lambda text: "unsigned"  # of the hosted form's key
    framed: Callable[[web.Request, Sequence[str]], str] = lambda request, origins: (
        ""
    )  # the page's policy inside a frame
    remote_of: Callable[[web.Request], str] = lambda request: request.remote or ""
    tell: Callable[[web.Request, str], str] = lambda request, sentence: str(sentence)  # in the visitor's language
    # Hours that a visitor may choose to be called at: (value, words) in their language.
    slots: Callable[[web.Request, Hours | None, datetime], Sequence[tuple[str, str]]] = lambda request, hours, now: ()
    words: Callable[[web.Request], Mapping[str, str]] = lambda request: {}  # of a form that a script builds


class Rejected(Exception):
    """The post is answered with a status and a sentence, and leads to nothing."""

    def __init__(
        self, status: int, sentence: str, *, fields: Mapping[str, str] | None = None, retry_s: int = 0,
        fresh: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(sentence)
        self.status, self.sentence, self.fields, self.retry_s = status, sentence, fields or {}, retry_s
        self.fresh = fresh  # the page needs a new key
