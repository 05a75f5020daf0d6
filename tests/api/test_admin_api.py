"""Users, tokens and the audit log over the API."""

from __future__ import annotations

import pytest

from hub.api.routes import ROUTES
from hub.api.scopes import SCOPES
from hub.desktop import admin_more
from tests.api.conftest import Client, House

NEW = {"login": "new", "name": "New", "roles": ["agent"], "password": "long enough for anybody"}


async def test_a_user_from_creation_to_disabling(either_house: House) -> None:
    house = either_house
    made = await house.ada.post("/users", NEW, expect=201)
    assert (made["login"], made["roles"], made["disabled_at"]) == ("new", ["agent"], None)
    assert "password" not in str(made)
    assert (await house.ada.ask("POST", "/users", NEW))[0] == 409, "the login is taken"
    path = f"/users/{made['id']}"
    status, changed = await house.ada.ask("PATCH", path, {"version": 1, "roles": ["agent", "supervisor"]})
    assert (status, changed["roles"], changed["version"]) == (200, ["agent", "supervisor"], 2)
    assert (await house.ada.ask("PATCH", path, {"version": 1, "name": "Late"}))[0] == 409
    token = await house.ada.post(
        "/tokens", {"name": "t", "user_id": made["id"], "scopes": ["contacts:read"]}, expect=201
    )
    theirs = Client(house.url, house.http, token["secret"], house.amy.user, house.runtime)
    assert (await theirs.ask("GET", "/contacts"))[0] == 200
    status, disabled = await house.ada.ask("PATCH", path, {"version": 2, "disabled": True})
    assert status == 200
    assert disabled["disabled_at"]
    assert (await theirs.ask("GET", "/contacts"))[0] == 401, "at once, for tokens too"
    assert (await house.ada.ask("PATCH", "/users/none", {"version": 1}))[0] == 404
    for wrong in ({"roles": []}, {"roles": ["king"]}, {"password": "short"}, {"login": "x"}):
        assert (await house.ada.ask("POST", "/users", {**NEW, "login": "other", **wrong}))[0] == 422, wrong
    logins = [row["login"] for row in (await house.ada.get("/users"))["items"]]
    assert {"ada", "amy", "new"} <= set(logins)


async def test_a_token_opens_what_its_scopes_say_until_it_ends(either_house: House) -> None:
    house = either_house
    body = {
        "name": "import",
        "user_id": house.amy.user.id,
        "scopes": ["contacts:read"],
        "expires_at": "2026-11-19T00:00:00Z",
    }
    made = await house.ada.post("/tokens", body, expect=201)
    assert made["secret"].startswith("hub_")
    listed = (await house.ada.get("/tokens"))["items"]
    assert made["id"] in {row["id"] for row in listed}
    assert made["secret"] not in str(listed)
    machine = Client(house.url, house.http, made["secret"], house.amy.user, house.runtime)
    assert (await machine.ask("GET", "/contacts"))[0] == 200
    status, problem = await machine.ask("POST", "/contacts", {"name": "x"})
    assert status == 403
    assert "contacts:write" in problem["detail"]
    assert (await machine.ask("GET", "/events"))[0] == 403
    house.runtime.clock.tick(86_400)  # type: ignore[attr-defined]
    assert (await machine.ask("GET", "/contacts"))[0] == 401, "expired"
    other = await house.ada.post("/tokens", {**body, "expires_at": None}, expect=201)
    machine = Client(house.url, house.http, other["secret"], house.amy.user, house.runtime)
    assert (await machine.ask("GET", "/contacts"))[0] == 200
    assert (await house.ada.ask("DELETE", f"/tokens/{other['id']}"))[0] == 204
    assert (await machine.ask("GET", "/contacts"))[0] == 401, "revoked"
    assert (await house.ada.ask("DELETE", f"/tokens/{other['id']}"))[0] == 404
    assert (await house.ada.ask("POST", "/tokens", {**body, "scopes": ["everything"]}))[0] == 422
    assert (await house.ada.ask("POST", "/tokens", {**body, "user_id": "none"}))[0] == 404
    assert (await house.ada.ask("POST", "/tokens", {**body, "expires_at": "0001-01-01T00:00:00+14:00"}))[0] == 422


async def test_a_token_never_gives_more_than_its_users_roles(house: House) -> None:
    everything = await house.token(house.amy.user, SCOPES)
    for method, path in (("GET", "/users"), ("GET", "/audit"), ("GET", "/campaigns"), ("POST", "/lists")):
        assert (await everything.ask(method, path))[0] == 403, path


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer hub_wrong", "Basic YTpi", "Bearer \u00e9"])
async def test_who_has_no_valid_token(house: House, header: str) -> None:
    headers = {"Authorization": header} if header else {}
    async with house.http.get(f"{house.url}/api/v1/contacts", headers=headers) as answer:
        assert answer.status == 401
        assert answer.content_type == "application/problem+json"


async def test_the_audit_log_is_paged_and_newest_first(either_house: House) -> None:
    house = either_house
    for number in range(5):
        await house.ada.post("/users", {**NEW, "login": f"user{number}"}, expect=201)
        house.runtime.clock.tick(1)  # type: ignore[attr-defined]
    seen, before = [], ""
    while True:
        page = await house.ada.get("/audit", limit="3", before=before)
        seen += page["items"]
        if page["next"] is None:
            break
        before = page["next"]
    ids = [row["id"] for row in seen]
    assert len(ids) == len(set(ids))
    assert ids == sorted(ids, reverse=True)
    assert sum(row["action"] == "user.created" for row in seen) >= 5
    assert seen[0]["actor_id"] == house.ada.user.id


def test_every_scope_is_known_everywhere() -> None:
    used = {route.scope for route in ROUTES if route.scope}
    assert used == set(SCOPES)
    assert set(admin_more.SCOPES) == set(SCOPES)
