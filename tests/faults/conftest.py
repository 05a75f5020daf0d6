"""The webhooks over HTTP on SQLite, for faults of its file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from channels.sms import SmsChannel
from channels.twilio_api import TwilioSettings
from channels.voice import VoiceChannel
from crm_core.clock import FixedClock
from crm_core.db import Database
from tests.webhooks.conftest import Attempts, Counts, Hub, Store, page, seed
from tests.webhooks.signing import ACCOUNT, ORIGIN, TOKEN
from webhooks.forms import FormDeps
from webhooks.intake import Deps
from webhooks.routes import routes


@pytest.fixture
async def sqlite_hub(
    sqlite_db: Database, clock: FixedClock, aiohttp_client: Callable[[web.Application], Awaitable[TestClient[Any, Any]]]
) -> Hub:
    """A number, a form, one person."""
    settings = TwilioSettings(ACCOUNT, TOKEN, public_url=ORIGIN)
    channels = {"voice": VoiceChannel(settings), "sms": SmsChannel(settings)}
    counts, store = Counts(), Store()
    deps = Deps(db=sqlite_db, clock=clock, channels=channels, public_url=ORIGIN, count=counts)
    forms = FormDeps(deps, store, Attempts(), page, secrets_of=lambda account: [])
    app = web.Application()
    for route in routes(deps, forms):
        app.router.add_route(route.method, route.path, route.handler)
    await sqlite_db.write(lambda tx: seed(tx, clock.now()))
    return Hub(await aiohttp_client(app), sqlite_db, deps, clock, store, counts, {})
