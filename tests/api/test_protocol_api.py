"""What holds for every operation: the description, the form of errors, odd bodies, and the event stream."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from hub.api.routes import OPERATIONS, ROUTES, document
from hub.api.scopes import SCOPES
from hub.desktop import stream
from hub.publisher import STREAM, Publisher
from tests.api.conftest import Client, House

# --- the description


def references(node: Any) -> list[str]:
    """Every $ref below."""
    if isinstance(node, dict):
        found = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return found + [one for value in node.values() for one in references(value)]
    return [one for value in node for one in references(value)] if isinstance(node, list) else []


def test_every_route_is_described_and_nothing_else() -> None:
    described = document("http://127.0.0.1")
    told = {(method.upper(), path) for path, one in described["paths"].items() for method in one}
    assert told == {(route.method, route.path) for route in ROUTES if route.path.startswith("/api/v1/")}


def test_the_description_is_openapi_3_1() -> None:
    described = document("http://127.0.0.1")
    json.dumps(described)
    assert described["openapi"].startswith("3.1.")
    assert {"title", "version"} <= set(described["info"])
    for reference in references(described):
        node: Any = described
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    names: list[str] = []
    for path, operations in described["paths"].items():
        variables = set(re.findall(r"{(\w+)}", path))
        for told in operations.values():
            names.append(told["operationId"])
            assert told["summary"]
            assert told["description"]
            assert {one["name"] for one in told["parameters"] if one["in"] == "path"} == variables
            assert all(one["required"] for one in told["parameters"] if one["in"] == "path")
            assert set(told["security"][0]["token"]) <= set(SCOPES)
            assert all(
                re.fullmatch(r"[2-5]\d\d", status) and one["description"] for status, one in told["responses"].items()
            )
            assert {"401", "403"} <= set(told["responses"])
    assert len(names) == len(set(names))


def test_schemas_of_the_description_are_valid_json_schema() -> None:
    import jsonschema_rs

    for name, schema in document("http://127.0.0.1")["components"]["schemas"].items():
        jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})
        assert name


async def test_the_document_is_public(house: House) -> None:
    async with house.http.get(f"{house.url}/api/openapi.json") as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert (await answer.json())["paths"]


# --- errors


async def raw(
    house: House, method: str, path: str, data: bytes | AsyncIterator[bytes] | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    """A request as it is; its error."""
    sent = {
        "Authorization": f"Bearer {house.amy.secret}",
        **{name.replace("_", "-"): one for name, one in headers.items()},
    }
    body = io.BytesIO(data) if isinstance(data, bytes) else data
    async with house.http.request(method, house.url + path, data=body, headers=sent) as answer:
        assert answer.content_type == "application/problem+json", await answer.text()
        told: dict[str, Any] = await answer.json(content_type=None)
        assert told["status"] == answer.status
        return answer.status, told


async def test_addresses_and_methods_that_are_not_there(house: House) -> None:
    assert (await raw(house, "GET", "/api/v1/nothing"))[0] == 404
    assert (await raw(house, "GET", "/api/v2/contacts"))[0] == 404
    assert (await raw(house, "DELETE", "/api/v1/contacts"))[0] == 405
    async with house.http.delete(f"{house.url}/api/v1/contacts") as answer:
        assert answer.headers["Allow"] == "GET,HEAD,POST" or "POST" in answer.headers["Allow"]


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b'{"name": "x"}', "text/plain", 415),
        (b"name=x", "application/x-www-form-urlencoded", 415),
        (b"", "application/json", 422),
        (b"{", "application/json", 422),
        (b"\xff\xfe\xfa", "application/json", 422),
        (b'{"name": "\xff"}', "application/json", 422),
        (b'{"name": "\\ud800"}', "application/json", 422),
        (b'{"name": "a\\u0000b"}', "application/json", 422),
        (b'{"name": NaN}', "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b'{"name": "x", "tags": [' + b"1" * 5000 + b"]}", "application/json", 422),
        (b'{"name": "' + b"x" * 2**20 + b'"}', "application/json", 413),
    ],
)
async def test_bodies_that_are_not_what_they_should_be(
    either_house: House, data: bytes, kind: str, status: int
) -> None:
    found, told = await raw(either_house, "POST", "/api/v1/contacts", data, Content_Type=kind)
    assert found == status, told
    assert (await either_house.amy.get("/contacts", q="x"))["items"] == []


async def test_a_body_without_a_length_is_bounded_too(house: House) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65_536

    assert (await raw(house, "POST", "/api/v1/contacts", endless(), Content_Type="application/json"))[0] == 413


async def test_no_text_of_a_stranger_is_markup_in_an_error(house: House) -> None:
    status, told = await raw(house, "GET", "/api/v1/contacts?%3Cscript%3E=1")
    assert status == 422
    assert set(told["fields"]) == {"<script>"}, "JSON, with its own content type and nosniff"


async def test_paths_and_queries_with_nul(either_house: House) -> None:
    for path in ("/contacts/a%00b", "/leads/%00", "/conversations/%00/interactions"):
        assert (await either_house.amy.ask("GET", path))[0] == 404, path
    for path in ("/contacts?q=a%00b", "/contacts?after=%00", "/leads?after=%00"):
        assert (await either_house.amy.ask("GET", path))[0] == 422, path


async def test_every_operation_answers_a_stranger_with_401_and_the_wrong_scope_with_403(house: House) -> None:
    powerless = await house.token(house.ada.user, ["events:read"])
    for op in OPERATIONS:
        path = re.sub(r"{\w+}", "none", op.path)
        async with house.http.request(op.method, house.url + path) as answer:
            assert answer.status == 401, path
        assert (await powerless.ask(op.method, path))[0] == 403, path


# --- events


@asynccontextmanager
async def listening(machine: Client, **headers: str) -> AsyncIterator[AsyncIterator[tuple[str, dict[str, Any]]]]:
    """The open stream: (id, event) one by one."""
    sent = {
        "Authorization": f"Bearer {machine.secret}",
        **{name.replace("_", "-"): one for name, one in headers.items()},
    }
    timeout = aiohttp.ClientTimeout(total=60)
    async with machine.http.get(f"{machine.url}/api/v1/events", headers=sent, timeout=timeout) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"

        async def told() -> AsyncIterator[tuple[str, dict[str, Any]]]:
            number = ""
            async for line in answer.content:
                text = line.decode().rstrip("\n")
                if text.startswith("id: "):
                    number = text[4:]
                if text.startswith("data: "):
                    yield number, json.loads(text[6:])

        yield told()


async def happen(house: House, count: int) -> list[int]:
    """So many contacts are made, one after the other; the numbers of what was published."""
    publisher = Publisher(house.runtime.db, house.runtime.redis, house.runtime.wakeups)
    for number in range(count):
        await house.amy.post("/contacts", {"name": f"n{number}"}, expect=201)
    await publisher.publish()
    return [int(one.partition(b"-")[0]) for one, _ in await house.runtime.redis.xrange(STREAM)]


async def next_of(events: AsyncIterator[tuple[str, dict[str, Any]]], kind: str) -> tuple[str, dict[str, Any]]:
    """The next event of this type."""
    async with asyncio.timeout(60):
        async for number, event in events:
            if event["type"] == kind:
                return number, event
    raise AssertionError(f"the stream ended without {kind}")


async def test_events_come_live_and_are_replayed_from_the_last_one_seen(either_house: House) -> None:
    house = either_house
    published = await happen(house, 3)
    async with listening(house.sam) as events:
        start, hello = await next_of(events, "hello")
        assert hello["beat_s"] > 0
        assert int(start) == published[-1], "begins with now"
        await happen(house, 1)
        first, event = await next_of(events, "contact")
        assert event["kind"] == "contact.created"
        assert (await house.amy.get(f"/contacts/{event['subject']}"))["name"] == "n0"
    missed = [number for number in await happen(house, 5) if number > int(first)]
    async with listening(house.sam, Last_Event_ID=first) as events:
        await next_of(events, "hello")
        found = [int((await next_of(events, "contact"))[0]) for _ in range(5)]
    assert found == missed
    async with house.http.get(f"{house.url}/api/v1/events") as answer:
        assert answer.status == 401


@pytest.mark.parametrize("last", ["999999", "soon", "-1", "9" * 30])
async def test_an_unknown_last_event_is_answered_with_resync(house: House, last: str) -> None:
    await happen(house, 2)
    async with listening(house.sam, Last_Event_ID=last) as events:
        number, _ = await next_of(events, "resync")
        await happen(house, 1)
        assert int((await next_of(events, "contact"))[0]) > int(number)


async def test_a_lost_stream_is_answered_with_resync(house: House) -> None:
    published = await happen(house, 3)
    await house.runtime.redis.flushall()
    async with listening(house.sam, Last_Event_ID=str(published[0])) as events:
        await next_of(events, "resync")


async def test_nobody_hears_what_they_may_not_see(house: House) -> None:
    async with listening(house.ben) as events, listening(house.amy) as amys:
        await next_of(events, "hello")
        await next_of(amys, "hello")
        await house.text("For amy only")
        await house.route()
        await happen(house, 1)
        async with asyncio.timeout(60):
            heard = []
            async for _, event in events:
                heard.append(event["type"])
                if event["type"] == "contact" and event["kind"] == "contact.created":
                    break
        assert "offer" not in heard
        assert "entry" not in heard
        await next_of(amys, "offer")


async def test_a_revoked_token_hears_nothing_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RIGHTS_S", 0.1)
    monkeypatch.setattr(stream, "BEAT_S", 0.1)
    made = await house.ada.post(
        "/tokens", {"name": "t", "user_id": house.sam.user.id, "scopes": ["events:read"]}, expect=201
    )
    machine = Client(house.url, house.http, made["secret"], house.sam.user, house.runtime)
    async with listening(machine) as events, asyncio.timeout(60):
        await next_of(events, "hello")
        await house.ada.ask("DELETE", f"/tokens/{made['id']}")
        async for _ in events:
            pass  # until the hub ends the stream
