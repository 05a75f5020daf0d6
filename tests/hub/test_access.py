"""Roles × routes × other people's ids: who may use what, walked over every route there is."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from sqlmodel import select

from crm_core import accounts, contacts, conversations, interactions, sounds, users
from crm_core.addresses import phone
from crm_core.ids import new_id
from crm_core.interactions import Attachment, Interaction, InteractionState
from crm_core.recordings import Recording, RecordingState
from crm_core.touches import Direction
from crm_core.users import Role, User
from hub.app import collect_routes
from hub.models import metadata
from hub.runtime import Runtime
from hub.web import LOGGED_IN, PUBLIC, ROLES, SIGNED, Route
from routing import agents, desk
from routing.agents import Activity
from routing.queues import Queue, QueueMember
from tests.apps import PASSWORD, Visitor, add_user

WORDS = {"field": "name", "kind": "phone", "value": "+12025550101", "key": "website", "step": "who"}
VARIABLE = re.compile(r"\{(\w+)(?::(?:[^{}]|\{[^}]*\})*)?\}")

# Open to everybody on purpose. A new public route must be added here by hand.
EXPECTED_PUBLIC = {
    ("GET", "/"),
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/login"), ("POST", "/login"),
    ("POST", "/login/code"), ("POST", "/login/second"), ("GET", "/login/forgot"), ("POST", "/login/forgot"),
    ("GET", "/account/{token}"),
    ("POST", "/account/{token}"), ("GET", "/api/openapi.json"),
    # What callers hear anyhow: the provider fetches it without a log-in, by a name with 79 bits of chance, from one table.
    ("GET", "/sounds/{sound:[0-9a-z]{26}}.{ending:wav|mp3}"),
    ("GET", "/forms/{key}"), ("POST", "/forms/{key}"), ("POST", "/webhooks/forms/{key}"),
    # For scripts of sites that an administrator named; others may ask, and cannot read the answer.
    ("GET", "/forms/{key}/fields.json"), ("OPTIONS", "/forms/{key}"), ("OPTIONS", "/webhooks/forms/{key}"),
    ("GET", "/embed/form.js"),
}  # fmt: skip


@dataclass
class House:
    """One user per role, and somebody else's things."""

    runtime: Runtime
    people: dict[Role, User]
    other: User
    ids: dict[str, str]


async def add_things(runtime: Runtime, other: User) -> dict[str, str]:
    """A queue that only `other` serves, with a conversation of theirs."""
    now = runtime.clock.now()

    async def make(tx: Any) -> dict[str, str]:
        queue = await tx.add(Queue(id=new_id(now), name="Elsewhere"))
        await tx.add(QueueMember(queue_id=queue.id, user_id=other.id))
        await desk.set_activity(tx, other.id, Activity.AVAILABLE, now=now)
        account = await tx.add(
            accounts.ChannelAccount(
                id=new_id(now), channel="sms", name="s", address="+442079460009", queue_id=queue.id, created_at=now
            )
        )
        contact = await contacts.create(tx, name="Ana", now=now, source="test", points=[phone("+12025550101")])
        thread, _ = await conversations.open_thread(
            tx, channel="sms", account_id=account.id, thread_key="+12025550101", peer="+12025550101", now=now,
            contact_id=contact.id, queue_id=queue.id,
        )  # fmt: skip
        await conversations.change(tx, thread, now=now, event="conversation.assigned", assigned_user_id=other.id)
        said = Interaction(
            id=new_id(now), conversation_id=thread.id, contact_id=contact.id, channel="sms",
            direction=Direction.INBOUND, account_id=account.id, external_id="SM1", from_address="+12025550101",
            state=InteractionState.WAITING, queue_id=queue.id, body="the secret of Ana", first_arrival_at=now, created_at=now,
        )  # fmt: skip
        await interactions.create(tx, said, now=now)
        return {"conversation": thread.id, "interaction": said.id, "contact": contact.id, "queue": queue.id}

    return await runtime.db.write(make)


@pytest.fixture
async def house(runtime: Runtime, hub_url: str) -> House:
    people = {role: await add_user(runtime, role.value, [role]) for role in Role}
    other = await add_user(runtime, "other", [Role.AGENT])
    return House(runtime, people, other, await add_things(runtime, other))


def one_of_words(match: re.Match[str]) -> str:
    """`hold` for {action:hold|mute|end}, a known word for others; empty for a variable that is an id."""
    if match.group(1) in WORDS:
        return WORDS[match.group(1)]
    return match.group(0).partition(":")[2].partition("|")[0] if "|" in match.group(0) else ""


def filled(route: Route, house: House) -> str:
    """The path with other people's ids in it."""

    def value(match: re.Match[str]) -> str:
        if word := one_of_words(match):
            return word
        for name, key in house.ids.items():
            if name in route.path:
                return key
        return house.ids["contact"]

    return VARIABLE.sub(value, route.path)


async def fingerprint(runtime: Runtime) -> str:
    """A hash over every row that a refused request must not have changed."""
    volatile = {"sessions", "login_failures", "webhook_receipts"}
    digest = hashlib.sha256()
    async with runtime.db.reading() as tx:
        for name in sorted(metadata.tables):
            if name not in volatile:
                rows = await tx.all(select(*metadata.tables[name].columns))
                digest.update(name.encode() + repr(sorted(map(repr, rows))).encode())
    return digest.hexdigest()


def test_every_route_states_who_may_use_it(runtime_routes: list[Route]) -> None:
    public = {(route.method, route.path) for route in runtime_routes if route.access == PUBLIC}
    assert {pair for pair in public if not pair[1].startswith(("/static", "/u/"))} == EXPECTED_PUBLIC
    for route in runtime_routes:
        assert route.access in (PUBLIC, SIGNED, LOGGED_IN, ROLES)
        assert (route.access == ROLES) == bool(route.roles), route.path
        if route.path.startswith("/api/v1/"):
            assert route.scope, f"{route.path} has no scope"


@pytest.fixture
async def runtime_routes(runtime: Runtime) -> list[Route]:
    return collect_routes(runtime)


async def test_nobody_gets_in_without_logging_in(house: House, visitor: Visitor, runtime_routes: list[Route]) -> None:
    before = await fingerprint(house.runtime)
    for route in runtime_routes:
        if route.access not in (PUBLIC, SIGNED):
            status, _ = await visitor.ask(route.method, filled(route, house))
            assert status == 401, f"{route.method} {route.path}: {status}"
    assert await fingerprint(house.runtime) == before


@pytest.mark.parametrize("role", list(Role))
async def test_a_role_reaches_its_routes_and_no_other(
    house: House, visitor: Visitor, runtime_routes: list[Route], role: Role
) -> None:
    assert await visitor.log_in(role.value) == 303
    assert visitor.csrf
    refused = [r for r in runtime_routes if r.access == ROLES and role not in r.roles]
    assert refused or role == Role.ADMIN
    before = await fingerprint(house.runtime)
    for route in refused:
        status, told = await visitor.ask(route.method, filled(route, house))
        assert status == 403, f"{role} {route.method} {route.path}: {status} {told}"
    assert await fingerprint(house.runtime) == before
    for route in runtime_routes:
        if route.access == ROLES and role in route.roles and route.method == "GET" and "events" not in route.path:
            status, told = await visitor.ask("GET", filled(route, house))
            assert status < 500, f"{role} GET {route.path}: {status} {told}"
            assert status not in (401, 403), f"{role} GET {route.path}: {status} {told}"


async def test_other_peoples_conversations_do_not_exist(
    house: House, visitor: Visitor, runtime_routes: list[Route]
) -> None:
    await house.runtime.db.write(
        lambda tx: agents.ensure(tx, house.people[Role.AGENT].id, now=house.runtime.clock.now())
    )
    await visitor.log_in("agent")
    before = await fingerprint(house.runtime)
    looked = 0
    for route in runtime_routes:
        if Role.AGENT not in route.roles or not re.search(
            r"conversation|interaction|/calls/|entries|offers", route.path
        ):
            continue
        if "{" not in route.path:
            continue
        for key in (house.ids["conversation"], house.ids["interaction"], "nobody"):
            path = VARIABLE.sub(lambda m, key=key: one_of_words(m) or key, route.path)
            body = {"body": "x", "on": True, "disposition": "resolved", "until": "2027-01-01T00:00:00Z"}
            for form in ({"json": body}, {"data": {**body, "on": "1"}}) if route.method != "GET" else ({},):
                status, told = await visitor.ask(route.method, path, **form)
                looked += 1
                # A page may say it in a toast; the API says it in the status. Neither shows nor changes anything.
                least = 400 if route.path.startswith("/api/") else 200
                assert least <= status < 500, f"{route.method} {path} ({route.path}): {status} {told}"
                assert "the secret of Ana" not in str(told)
    assert looked > 20
    assert await fingerprint(house.runtime) == before


async def test_a_changing_request_needs_the_pages_token(house: House, visitor: Visitor) -> None:
    await visitor.log_in("agent")
    good, visitor.csrf = visitor.csrf, "wrong"
    before = await fingerprint(house.runtime)
    assert (await visitor.ask("POST", "/logout"))[0] == 403
    visitor.csrf = good
    assert (await visitor.ask("POST", "/logout", headers={"Origin": "http://evil.example.com"}))[0] == 403
    assert (await visitor.ask("POST", "/logout", headers={"Sec-Fetch-Site": "cross-site"}))[0] == 403
    assert await fingerprint(house.runtime) == before
    assert (await visitor.ask("POST", "/logout"))[0] == 303
    assert (await visitor.ask("GET", "/desk/profile"))[0] == 401


async def test_wrong_passwords(house: House, visitor: Visitor) -> None:
    assert [await visitor.log_in("agent", "wrong") for _ in range(6)] == [422] * 6
    assert await visitor.log_in("agent") == 429
    house.runtime.clock.tick(3)  # type: ignore[attr-defined]
    assert await visitor.log_in("agent") == 303
    assert await visitor.log_in("nobody here", PASSWORD) in (422, 429)


async def test_a_sound_is_fetched_without_a_log_in_and_nothing_else_is(house: House, visitor: Visitor) -> None:
    runtime, now, call = house.runtime, house.runtime.clock.now(), house.ids["interaction"]
    key = await runtime.files.put(b"RIFF....WAVE", folder="sounds", now=now)
    secret = await runtime.files.put(b"what a customer said", folder="recordings", now=now)

    async def make(tx: Any) -> tuple[str, list[str]]:
        sound = await sounds.add(
            tx, name="Welcome", file_key=key, content_type="audio/wav", ending="wav", size=12, actor="test", now=now
        )
        recording = Recording(
            id=new_id(now), interaction_id=call, kind="call", state=RecordingState.KEPT, consent="given",
            file_key=secret, content_type="audio/wav", size=20, started_at=now,
        )  # fmt: skip
        await tx.add(recording)
        file = await tx.add(Attachment(id=new_id(now), interaction_id=call, name="a.wav", file_key=secret))
        return sound.id, [recording.id, file.id, call]

    sound_id, others = await runtime.db.write(make)
    status, heard = await visitor.ask("GET", f"/sounds/{sound_id}.wav")
    assert (status, heard) == (200, "RIFF....WAVE")
    closed = [
        f"{sound_id}.mp3",
        *(f"{other}.wav" for other in others),
        f"..%2f{secret}.wav",
        f"{sound_id}.wav%2f..%2fx.wav",
    ]
    for name in closed:
        assert (await visitor.ask("GET", f"/sounds/{name}"))[0] == 404, name
    assert (await visitor.ask("GET", f"/desk/recordings/{others[0]}"))[0] == 401


async def test_tokens_are_bound_to_scope_and_user(house: House, visitor: Visitor) -> None:
    now = house.runtime.clock.now()

    async def token(role: Role, *scopes: str) -> str:
        made = await house.runtime.db.write(
            lambda tx: users.create_token(
                tx, user_id=house.people[role].id, name="t", scopes=scopes, actor="test", now=now
            )
        )
        return made[1]

    async def ask(secret: str, method: str, path: str, **more: Any) -> tuple[int, Any]:
        return await visitor.ask(method, path, headers={"Authorization": f"Bearer {secret}"}, **more)

    reader = await token(Role.AGENT, "contacts:read")
    status, page = await ask(reader, "GET", "/api/v1/contacts")
    assert (status, [c["name"] for c in page["items"]]) == (200, ["Ana"])
    assert (await ask(reader, "POST", "/api/v1/contacts", json={"name": "B"}))[0] == 403
    assert (await ask(reader, "GET", "/desk/profile"))[0] == 403
    assert (await ask("hub_wrong", "GET", "/api/v1/contacts"))[0] == 401
    marketer = await token(Role.MARKETER, "conversations:read", "admin:write")
    assert (await ask(marketer, "GET", f"/api/v1/conversations/{house.ids['conversation']}"))[0] == 403
    assert (await ask(marketer, "GET", "/api/v1/users"))[0] == 403
    agent = await token(Role.AGENT, "conversations:read")
    assert (await ask(agent, "GET", f"/api/v1/conversations/{house.ids['conversation']}"))[0] == 404
    boss = await token(Role.SUPERVISOR, "conversations:read")
    status, told = await ask(boss, "GET", f"/api/v1/conversations/{house.ids['conversation']}/interactions")
    assert (status, told["items"][0]["body"]) == (200, "the secret of Ana")


async def test_the_same_key_is_the_same_request(house: House, visitor: Visitor) -> None:
    await visitor.log_in("agent")
    headers = {"Idempotency-Key": "k1"}
    first = await visitor.ask("POST", "/api/v1/contacts", json={"name": "Once"}, headers=headers)
    again = await visitor.ask("POST", "/api/v1/contacts", json={"name": "Once"}, headers=headers)
    assert first[0] == 201
    assert first == again
    assert (await visitor.ask("POST", "/api/v1/contacts", json={"name": "Other"}, headers=headers))[0] == 422
    status, page = await visitor.ask("GET", "/api/v1/contacts?q=once")
    assert (status, len(page["items"])) == (200, 1)


async def test_bad_input_is_told_by_field(house: House, visitor: Visitor) -> None:
    await visitor.log_in("agent")
    for path, body, field in (
        ("/api/v1/contacts", {"name": ""}, "name"),
        ("/api/v1/contacts", {"name": "x", "role": "admin"}, "role"),
        ("/api/v1/contacts", {"name": 3}, "name"),
    ):
        status, told = await visitor.ask("POST", path, json=body)
        assert (status, field in told["fields"]) == (422, True), told
    async with aiohttp.ClientSession() as _:
        status, told = await visitor.ask(
            "POST", "/api/v1/contacts", data=b"\xff{", headers={"Content-Type": "application/json"}
        )
        assert status == 422
    assert (await visitor.ask("GET", "/api/v1/contacts?limit=9999"))[0] == 422
    assert (await visitor.ask("GET", "/api/v1/contacts?sort=name;drop"))[0] == 422
