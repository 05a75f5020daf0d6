"""Saved views and changes of many rows by API: the same functions as the desktop's."""

from __future__ import annotations

from tests.api.conftest import House


async def test_views(either_house: House) -> None:
    house = either_house
    body = {"page": "contacts", "name": "Important", "query": {"tag": "vip", "after": "x"}, "shared": True}
    made = await house.amy.post("/views", body, expect=201)
    assert made["query"] == {"tag": "vip"}
    seen = await house.ben.get("/views", page="contacts")
    assert [(one["name"], one["mine"]) for one in seen["items"]] == [("Important", False)]
    status, told = await house.ben.ask("DELETE", f"/views/{made['id']}")
    assert (status, told["detail"]) == (403, "Only who made a view may delete it.")
    assert (await house.amy.ask("DELETE", f"/views/{made['id']}"))[0] == 204
    assert (await house.amy.get("/views", page="contacts"))["items"] == []


async def test_many_at_once_and_back(either_house: House) -> None:
    house = either_house
    change = {"noun": "contacts", "action": "tag", "value": "spring", "ids": [house.ana_id]}
    looked = await house.amy.post("/bulk", {**change, "dry_run": True})
    assert (looked["id"], len(looked["rows"])) == ("", 1)
    done = await house.amy.post("/bulk", change)
    assert done["rows"][0]["after"] == ["spring"]
    assert (await house.amy.get(f"/contacts/{house.ana_id}"))["tags"] == ["spring"]
    status, _ = await house.ben.ask("POST", f"/bulk/{done['id']}/undo")
    assert status == 404
    back = await house.amy.post(f"/bulk/{done['id']}/undo")
    assert (back["given_back"], back["left_alone"]) == (1, 0)
    assert (await house.amy.get(f"/contacts/{house.ana_id}"))["tags"] == []
