"""A hub's webhooks over HTTP, on both engines: the real routes, the real router, a number, a queue, people and a form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from channels.sms import SmsChannel
from channels.twilio_api import TwilioSettings
from channels.voice import VoiceChannel
from crm_core import contacts
from crm_core.accounts import ChannelAccount, Form
from crm_core.addresses import phone
from crm_core.clock import FixedClock
from crm_core.db import Database
from routing.queues import Queue
from tests.webhooks.signing import ACCOUNT, ORIGIN, TOKEN
from webhooks.form_deps import FormDeps
from webhooks.intake import Deps
from webhooks.routes import routes

NUMBER = "+442079460000"


class Store:
    """Files in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def put(self, content: bytes, *, folder: str, now: Any) -> str:
        (key,) = await self.put_all([(folder, content)], now=now)
        return key

    async def put_all(self, contents: Sequence[tuple[str, bytes]], *, now: Any) -> list[str]:
        fresh = {f"{folder}/{number}": content for number, (folder, content) in enumerate(contents, len(self.kept))}
        self.kept |= fresh
        return list(fresh)


class Attempts:
    """Counts in memory; `wait_s` is what those over the limit are told."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    async def allow(self, name: str, *, limit: int, window_s: int, now: Any) -> int:
        self.seen[name] += 1
        return 0 if self.seen[name] <= limit else 7


async def page(request: web.Request, form: Form, **shown: Any) -> web.Response:
    """A page that tells what it was given."""
    return web.json_response(
        {"form": form.slug, **{k: v for k, v in shown.items() if k != "status"}}, status=shown["status"]
    )


@dataclass
class Hub:
    """What a test asks and looks at."""

    client: TestClient[Any, Any]
    db: Database
    deps: Deps
    clock: FixedClock
    store: Store
    counts: Counter[tuple[str, str]]
    secrets: dict[str, str]


class Counts(Counter[tuple[str, str]]):
    def __call__(self, channel: str, outcome: str) -> None:
        self[channel, outcome] += 1


async def seed(tx: Any, now: Any) -> None:
    await tx.add(Queue(id="queue", name="Support"))
    for channel, address in (("voice", NUMBER), ("sms", NUMBER), ("webform", "website")):
        await tx.add(
            ChannelAccount(
                id=f"account-{channel}", channel=channel, name=channel, address=address, country="GB", queue_id="queue",
                created_at=now,
            )
        )  # fmt: skip
    await tx.add(
        Form(
            id="form", slug="website", account_id="account-webform", title="Write to us", created_at=now,
            fields=[
                {"name": "name", "label": "Name", "kind": "text", "required": True},
                {"name": "email", "label": "E-mail", "kind": "email", "required": True},
                {"name": "phone", "label": "Phone", "kind": "phone"},
                {"name": "topic", "label": "Topic", "kind": "select", "options": ["sales", "support"]},
                {"name": "message", "label": "Message", "kind": "textarea"},
            ],
        )
    )  # fmt: skip
    await contacts.create(tx, name="Ana Example", source="test", points=[phone("+12025550101")], now=now)


@pytest.fixture
async def hub(
    db: Database, clock: FixedClock, aiohttp_client: Callable[[web.Application], Awaitable[TestClient[Any, Any]]]
) -> Hub:
    settings = TwilioSettings(ACCOUNT, TOKEN, public_url=ORIGIN)
    counts, store, secrets = Counts(), Store(), dict[str, str]()
    deps = Deps(
        db=db, clock=clock, channels={"voice": VoiceChannel(settings), "sms": SmsChannel(settings)}, public_url=ORIGIN,
        count=counts,
    )  # fmt: skip
    signing = lambda account: secrets.get(account.address, "").split()  # noqa: E731 - read when a post comes
    forms = FormDeps(deps, store, Attempts(), page, secrets_of=signing)
    app = web.Application()
    for route in routes(deps, forms):
        app.router.add_route(route.method, route.path, route.handler)
    await db.write(lambda tx: seed(tx, clock.now()))
    return Hub(await aiohttp_client(app), db, deps, clock, store, counts, secrets)
