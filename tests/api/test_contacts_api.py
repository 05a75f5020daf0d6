"""Contacts, addresses, permission and timeline over the API."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest

from hub.api import operation
from tests.api.conftest import ANA, House


async def test_a_contact_from_creation_to_its_last_address(either_house: House) -> None:
    house = either_house
    made = await house.amy.post(
        "/contacts",
        {
            "name": "Bo Sample", "country": "GB", "tags": ["vip"], "language": "de",
            "points": [
                {"kind": "phone", "value": "020 7946 0123", "label": "desk"},
                {"kind": "email", "value": "Bo@Example.com"},
            ],
        },
        expect=201,
    )  # fmt: skip
    assert [(point["kind"], point["value"], point["shared"]) for point in made["points"]] == [
        ("phone", "+442079460123", False),
        ("email", "bo@example.com", False),
    ]
    assert (made["source"], made["version"], made["tags"]) == ("api", 1, ["vip"])
    path = f"/contacts/{made['id']}"
    assert await house.amy.get(path) == made

    status, changed = await house.amy.ask("PATCH", path, {"version": 1, "name": "Bo S.", "vip": True})
    assert (status, changed["name"], changed["vip"], changed["version"]) == (200, "Bo S.", True, 2)
    status, problem = await house.amy.ask("PATCH", path, {"version": 1, "name": "Late"})
    assert status == 409
    assert problem["type"] == "urn:hub:Conflict"

    shared = await house.amy.post(f"{path}/points", {"kind": "phone", "value": ANA}, expect=201)
    assert shared["points"][-1] == {**shared["points"][-1], "value": ANA, "shared": True}
    again = await house.amy.post(f"{path}/points", {"kind": "phone", "value": ANA}, expect=201)
    assert len(again["points"]) == 3, "the same address twice is once"
    assert await house.amy.ask("DELETE", f"{path}/points/phone/{ANA}") == (204, None)
    assert len((await house.amy.get(path))["points"]) == 2
    assert len((await house.amy.get(f"/contacts/{house.ana_id}"))["points"]) == 2, "the other's stays"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "x", "surname": "y"}, "surname"),
        ({"name": "x", "points": [{"kind": "pigeon", "value": "1"}]}, "points.0.kind"),
        ({"name": 7}, "name"),
        ([], "body"),
        ("text", "body"),
    ],
)
async def test_what_does_not_fit_is_named_field_by_field(house: House, body: object, field: str) -> None:
    status, problem = await house.amy.ask("POST", "/contacts", body)
    assert status == 422
    assert field in problem["fields"]


async def test_what_cannot_be_an_address(house: House) -> None:
    for kind, value in (
        ("phone", "12"),
        ("phone", "+999"),
        ("email", "nobody"),
        ("email", "a@b\r\nBcc: c@example.com"),
    ):
        status, _ = await house.amy.ask("POST", "/contacts", {"name": "x", "points": [{"kind": kind, "value": value}]})
        assert status == 422, value
    assert (await house.amy.ask("DELETE", f"/contacts/{house.ana_id}/points/pigeon/x"))[0] == 422
    assert (await house.amy.ask("DELETE", f"/contacts/{house.ana_id}/points/phone/+12025550199"))[0] in (204, 404)


async def test_nobody_there(house: House) -> None:
    for path in (
        "/contacts/none",
        "/contacts/none/timeline",
        "/contacts/none/consent",
        "/contacts/%00",
        "/contacts/%F0%9F%9A%B2",
    ):
        status, problem = await house.amy.ask("GET", path)
        assert status == 404, path
        assert problem["type"] == "urn:hub:NotFound"


async def test_pages_have_no_gaps_and_no_doubles_while_others_write(either_house: House) -> None:
    house = either_house
    for number in range(57):
        await house.amy.post("/contacts", {"name": f"n{number:02d}", "tags": ["spring"]}, expect=201)
        house.runtime.clock.tick(0.001)  # type: ignore[attr-defined]
    seen: list[str] = []
    after, pages = "", 0
    while True:
        page = await house.amy.get("/contacts", tag="spring", limit="10", after=after)
        seen += [item["name"] for item in page["items"]]
        await house.amy.post("/contacts", {"name": f"late{pages}", "tags": ["spring"]}, expect=201)
        pages += 1
        if page["next"] is None:
            break
        after = page["next"]
    assert seen == [f"n{number:02d}" for number in reversed(range(57))]
    assert pages == 6
    assert (await house.amy.get("/contacts", after="0"))["items"] == []
    for query in ({"limit": "0"}, {"limit": "201"}, {"limit": "x"}, {"before": "1"}, {"after": "x" * 41}):
        assert (await house.amy.ask("GET", "/contacts", params=query))[0] == 422
    assert (await house.amy.ask("GET", "/contacts?limit=1&limit=2"))[0] == 422


async def test_search_by_name_and_by_any_notation_of_a_number(either_house: House) -> None:
    for words in ("ana", "EXAMPLE", "+1 (202) 555-0101", "ana@example.com"):
        found = await either_house.amy.get("/contacts", q=words)
        assert [item["name"] for item in found["items"]] == ["Ana Example"], words
        assert found["next"] is None
    for words in ("nobody", "%", "_", "' OR 1=1 --", '"'):
        assert (await either_house.amy.get("/contacts", q=words))["items"] == [], words


async def test_an_opt_out_holds_at_once_and_consent_needs_evidence(either_house: House) -> None:
    house = either_house
    path = f"/contacts/{house.ana_id}"
    assert await house.amy.get(f"{path}/consent") == {"suppressions": [], "ledger": []}
    grant = {"kind": "phone", "value": ANA, "channel": "sms", "purpose": "marketing"}
    assert (await house.amy.ask("POST", f"{path}/consents", {**grant, "evidence": {}}))[0] == 422
    assert (await house.amy.ask("POST", f"{path}/consents", grant))[0] == 422
    evidence = {"text": "v1", "where": "form"}
    assert (await house.amy.ask("POST", f"{path}/consents", {**grant, "evidence": evidence}))[0] == 204
    [entry] = (await house.amy.get(f"{path}/consent"))["ledger"]
    assert (entry["channel"], entry["purpose"], entry["evidence"]) == ("sms", "marketing", evidence)
    stop = {"kind": "phone", "value": ANA, "do_not_call": True, "said": "Never again!"}
    assert (await house.amy.ask("POST", f"{path}/opt-outs", stop))[0] == 204
    state = await house.amy.get(f"{path}/consent")
    assert [row["reason"] for row in state["suppressions"]] == ["do_not_call"]
    assert len(state["ledger"]) == 2
    status, refused = await house.amy.ask(
        "POST", "/calls", {"number": ANA, "account_id": "acc-voice", "purpose": "telemarketing"}
    )
    assert (status, refused["rule"]) == (409, "do_not_call")
    assert (await house.amy.ask("POST", f"{path}/opt-outs", {**stop, "channel": "fax"}))[0] == 422


async def test_a_timeline_shows_what_its_reader_may_see(house: House) -> None:
    for number in range(1, 8):
        await house.text(f"Question {number}", number=number)
        house.runtime.clock.tick(1)  # type: ignore[attr-defined]
    path = f"/contacts/{house.ana_id}/timeline"
    first = await house.amy.get(path, limit="5")
    rest = await house.amy.get(path, limit="5", before=first["next"])
    assert [item["body"] for item in [*first["items"], *rest["items"]]] == [f"Question {n}" for n in range(7, 0, -1)]
    assert rest["next"] is None
    assert first["items"][0]["match"]["level"] == "exact"
    assert len((await house.sam.get(path))["items"]) == 7
    assert (await house.ben.get(path))["items"] == [], "ben serves no queue: he knows Ana, not what she wrote"
    assert (await house.mara.ask("GET", path))[0] == 403


async def test_twenty_copies_of_one_request_make_one_contact(either_house: House) -> None:
    house = either_house
    body, key = {"name": "Once"}, {"Idempotency-Key": "order 4711"}
    answers = await asyncio.gather(*(house.amy.ask("POST", "/contacts", body, headers=key) for _ in range(20)))
    made = [told for status, told in answers if status == 201]
    assert {status for status, _ in answers} <= {201, 409}
    assert made
    assert len({told["id"] for told in made}) == 1
    status, again = await house.amy.ask("POST", "/contacts", body, headers=key)
    assert (status, again) == (201, made[0])
    assert len((await house.amy.get("/contacts", q="Once"))["items"]) == 1
    assert (await house.amy.ask("POST", "/contacts", {"name": "Other"}, headers=key))[0] == 422
    status, other = await house.ben.ask("POST", "/contacts", body, headers=key)
    assert (status, other["id"] != again["id"]) == (201, True), "keys belong to the user"
    assert (await house.amy.ask("POST", "/contacts", body, headers={"Idempotency-Key": "k" * 201}))[0] == 422
    # What failed did not happen: the same key may be used again.
    retry = {"Idempotency-Key": "again"}
    assert (await house.amy.ask("POST", "/contacts/none/points", {"kind": "phone", "value": ANA}, headers=retry))[
        0
    ] == 404
    assert (await house.amy.ask("POST", "/contacts/none/points", {"kind": "phone", "value": ANA}, headers=retry))[
        0
    ] == 404


async def test_a_key_whose_first_request_was_killed_is_carried_out_once(
    either_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = either_house
    body = {"name": "Once"}
    run = operation._run

    async def killed_before(*_: object) -> str:
        raise asyncio.CancelledError

    async def killed_after(*more: Any) -> str:
        await run(*more)
        raise asyncio.CancelledError

    for number, killed in enumerate((killed_before, killed_after), 1):
        key = {"Idempotency-Key": killed.__name__}
        with monkeypatch.context() as patched, contextlib.suppress(aiohttp.ClientError):
            patched.setattr(operation, "_run", killed)
            await house.amy.ask("POST", "/contacts", body, headers=key)
        status, told = await house.amy.ask("POST", "/contacts", body, headers=key)
        if killed is killed_before:
            assert status == 409
            assert "still running" in told["detail"]
            house.runtime.clock.tick(11)  # type: ignore[attr-defined]
            status, told = await house.amy.ask("POST", "/contacts", body, headers=key)
        assert status == 201
        assert await house.amy.ask("POST", "/contacts", body, headers=key) == (201, told)
        assert len((await house.amy.get("/contacts", q="Once"))["items"]) == number


async def test_a_version_beyond_every_column(either_house: House) -> None:
    for version in (0, -1, 2**31 - 1, 2**31, 2**63, 10**40, 1.5, "one", None):
        status, _ = await either_house.amy.ask("PATCH", f"/contacts/{either_house.ana_id}", {"version": version})
        assert status == 422, version
