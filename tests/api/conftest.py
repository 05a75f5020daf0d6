"""A hub with people, a queue, conversations of two agents, and tokens; on both engines for what depends on the data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crm_core import contacts, users
from crm_core.accounts import ChannelAccount
from crm_core.addresses import email, phone
from crm_core.clock import FixedClock
from crm_core.interactions import Disposition
from crm_core.users import Role, User
from hub.api.scopes import SCOPES
from hub.app import serving
from hub.runtime import Runtime, running
from hub.settings import read_settings
from routing import desk, queues, router
from routing.queues import Queue
from tests.apps import test_environment

NUMBER, SENDER, MAILBOX = "+442079460000", "+442079460001", "support@example.test"
ANA = "+12025550101"


@dataclass
class Client:
    """A machine with a token."""

    url: str
    http: aiohttp.ClientSession
    secret: str
    user: User
    runtime: Runtime
    last_headers: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        """One request; its status and parsed answer. Every error must be problem+json."""
        headers = {"Authorization": f"Bearer {self.secret}", **more.pop("headers", {})}
        if body is not None:
            more["json"] = body
        address = path if path.startswith("/api") else f"/api/v1{path}"
        async with self.http.request(method, self.url + address, headers=headers, **more) as answer:
            self.last_headers = dict(answer.headers)
            if answer.status >= 400:
                assert answer.content_type == "application/problem+json", await answer.text()
                told = await answer.json(content_type=None)
                assert told["status"] == answer.status
                assert told["detail"]
                assert told["type"].startswith("urn:hub:")
                return answer.status, told
            return answer.status, await answer.json() if answer.status != 204 else None

    async def get(self, path: str, **query: Any) -> Any:
        """The answer of a GET that must succeed."""
        status, told = await self.ask("GET", path, params=query)
        assert status == 200, told
        return told

    async def post(self, path: str, body: Any = None, *, expect: int = 200, **more: Any) -> Any:
        """The answer of a POST that must have the status `expect`."""
        status, told = await self.ask("POST", path, body, **more)
        assert status == expect, told
        return told


@dataclass
class House:
    """The hub, who works here, and what there is."""

    url: str
    http: aiohttp.ClientSession
    runtime: Runtime
    amy: Client
    ben: Client
    tina: Client
    mara: Client
    sam: Client
    ada: Client
    ana_id: str

    async def token(self, user: User, scopes: Iterable[str]) -> Client:
        """Another token of somebody."""
        return await client(self.url, self.http, self.runtime, user, scopes)

    async def text(self, words: str, *, sender: str = ANA, number: int = 1) -> None:
        """A text message comes in."""
        from channels.contract import MessageArrived

        event = MessageArrived(
            external_id=f"SM{number:032x}", from_raw=sender, to_raw=SENDER,
            body=words, media=(), opt_out="STOP" if words == "STOP" else "", event_key=f"sms:{number}", raw={},
        )  # fmt: skip
        await self.runtime.db.write(lambda tx: router.message_arrived(tx, event, now=self.runtime.clock.now()))

    async def route(self) -> None:
        """What the router does when it is woken."""
        from routing import engine

        await engine.tick(self.runtime.db, clock=self.runtime.clock, holder="test")


async def client(url: str, http: aiohttp.ClientSession, runtime: Runtime, user: User, scopes: Iterable[str]) -> Client:
    """Somebody's token."""
    _, secret = await runtime.db.write(
        lambda tx: users.create_token(
            tx, user_id=user.id, name="test", scopes=scopes, actor="test", now=runtime.clock.now()
        )
    )
    return Client(url, http, secret, user, runtime)


STAFF = {
    "amy": [Role.AGENT], "ben": [Role.AGENT], "tina": [Role.TELEMARKETER], "mara": [Role.MARKETER],
    "sam": [Role.SUPERVISOR], "ada": [Role.ADMIN],
}  # fmt: skip


async def furnish(runtime: Runtime) -> tuple[dict[str, User], str]:
    """One queue `q` served by amy, one account per channel, one contact; late morning where she is."""
    assert isinstance(runtime.clock, FixedClock)
    now = runtime.clock.tick(6 * 3600)

    async def unit(tx: Any) -> tuple[dict[str, User], str]:
        people = {
            login: await users.create(
                tx, login=login, name=login.title(), roles=roles, password_hash="!", now=now, actor="test"
            )
            for login, roles in STAFF.items()
        }
        await tx.add(Queue(id="q", name="Support"))
        for channel, address in (("voice", NUMBER), ("sms", SENDER), ("email", MAILBOX)):
            await tx.add(
                ChannelAccount(
                    id=f"acc-{channel}", channel=channel, name=channel.title(), address=address, country="GB", queue_id="q",
                    created_at=now,
                )
            )  # fmt: skip
        for key, label, flags in (
            ("done", "Done", {"reached": True}),
            ("no_answer", "No answer", {"retry_after_s": 3600}),
            ("callback", "Call back", {"callback": True}),
            ("never", "Never again", {"do_not_call": True}),
        ):
            await tx.add(Disposition(key=key, label=label, flags=flags))
        await queues.put_member(tx, "q", people["amy"].id)
        ana = await contacts.create(
            tx, name="Ana Example", now=now, source="test", points=[phone(ANA), email("ana@example.com")]
        )
        return people, ana.id

    people, ana_id = await runtime.db.write(unit)
    for login in ("amy", "ben", "tina"):
        user = people[login]

        async def begin(tx: Any, user_id: str = user.id) -> None:
            await desk.heartbeat(tx, user_id, voice_ready=True, now=now)
            await desk.set_activity(tx, user_id, "available", now=now)

        await runtime.db.write(begin)
    return people, ana_id


async def housed(runtime: Runtime) -> AsyncIterator[House]:
    """A house that is open for as long as the iterator lives."""
    people, ana_id = await furnish(runtime)
    async with serving(runtime, host="127.0.0.1", port=0) as (_, port), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}"
        clients = {login: await client(url, http, runtime, user, SCOPES) for login, user in people.items()}
        yield House(url, http, runtime, ana_id=ana_id, **clients)


@pytest.fixture
async def house(runtime: Runtime) -> AsyncIterator[House]:
    """On SQLite."""
    async for made in housed(runtime):
        yield made


@pytest.fixture
async def either_house(db_url: str, valkey_url: str, tmp_path: Path, clock: FixedClock) -> AsyncIterator[House]:
    """On each engine in turn."""
    settings = read_settings(test_environment(tmp_path / "data", db_url, valkey_url))
    async with running(settings, clock=clock) as made:
        async for one in housed(made):
            yield one
