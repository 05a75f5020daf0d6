"""Hands the webhooks what they need of this process, and mounts their routes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from aiohttp import web

from channels.contract import Receives
from crm_core.accounts import ChannelAccount
from hub.channel_set import ChannelSet
from hub.desktop.public import form_page, form_words, slot_words
from hub.desktop.templating import reader_of
from hub.middleware import policy
from hub.redis_ports import RedisAttempts
from hub.runtime import Runtime
from hub.web import PUBLIC, SIGNED, Route, remote_of
from webhooks.form_deps import FormDeps
from webhooks.intake import Deps
from webhooks.routes import routes


class _Receivers(Mapping[str, Receives]):
    """The channels that get webhooks, built when the first one comes; a channel that is off raises Misconfigured."""

    def __init__(self, channels: ChannelSet) -> None:
        self._channels = channels

    def __getitem__(self, kind: str) -> Receives:
        makers = {"voice": self._channels.voice, "sms": self._channels.sms, "webform": self._channels.webform}
        return cast(Receives, makers[kind]())

    def __iter__(self) -> Iterator[str]:
        return iter(("voice", "sms", "webform"))

    def __len__(self) -> int:
        return 3


def intake_deps(runtime: Runtime) -> Deps:
    """What webhooks/ asks for."""
    return Deps(
        db=runtime.db,
        clock=runtime.clock,
        channels=_Receivers(runtime.channels),
        public_url=runtime.settings.public_url,
        count=runtime.metrics.webhook,
    )


def webhook_routes(runtime: Runtime) -> list[Route]:
    """Every address that the outside posts to, with its statement of who may."""
    deps = intake_deps(runtime)

    def secrets_of(account: ChannelAccount) -> list[str]:
        """The signing secret, and the one before while it is replaced."""
        known = runtime.channels.secrets(account)
        return [known[name] for name in ("signing_secret", "previous_signing_secret") if known.get(name)]

    def framed(request: web.Request, origins: Sequence[str]) -> str:
        return policy(runtime).replace("frame-ancestors 'none'", f"frame-ancestors 'self' {' '.join(origins)}")

    form_deps = FormDeps(
        intake=deps,
        files=runtime.files,
        attempts=RedisAttempts(runtime.redis),
        page=form_page,
        secrets_of=secrets_of,
        sign=lambda text: runtime.sealer.sign(text, purpose="form-key"),
        framed=framed,
        remote_of=remote_of,
        tell=lambda request, sentence: reader_of(request).tell(sentence) if sentence else "",
        slots=slot_words,
        words=form_words,
    )
    return [
        Route(route.method, route.path, route.handler, access=PUBLIC if route.public else SIGNED)
        for route in routes(deps, form_deps)
    ]
