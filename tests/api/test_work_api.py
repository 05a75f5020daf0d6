"""An agent's work over the API: activity, offers, conversations, replies, calls, wrap-up."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.api.conftest import ANA, House


async def offered(house: House, words: str = "Where is my order?", number: int = 1) -> dict[str, Any]:
    """A text comes in and is offered to amy."""
    await house.text(words, number=number)
    await house.route()
    [offer] = (await house.amy.get("/me/offers"))["items"]
    return dict(offer)


async def conversation_of(house: House) -> str:
    """A conversation that amy has accepted."""
    offer = await offered(house)
    await house.amy.post(f"/offers/{offer['id']}/accept")
    [conversation] = (await house.amy.get("/conversations"))["items"]
    return str(conversation["id"])


async def test_my_session(either_house: House) -> None:
    house = either_house
    me = await house.amy.get("/me")
    assert (me["activity"], me["live_load"], me["text_load"]) == ("available", 0, 0)
    status, paused = await house.amy.ask("PUT", "/me/activity", {"activity": "paused", "reason": "lunch"})
    assert (status, paused["activity"], paused["reason"]) == (200, "paused", "lunch")
    assert (await house.amy.ask("PUT", "/me/activity", {"activity": "dancing"}))[0] == 422
    assert (await house.sam.ask("GET", "/me"))[0] == 403
    newcomer = await house.ada.post(
        "/users", {"login": "new", "name": "New", "roles": ["agent"], "password": "long enough"}, expect=201
    )
    from crm_core import users

    async with house.runtime.db.reading() as tx:
        person = await users.get(tx, newcomer["id"])
    assert (await (await house.token(person, ["work:read"])).ask("GET", "/me"))[0] == 404


async def test_an_offer_is_accepted_once_and_explained(either_house: House) -> None:
    house = either_house
    offer = await offered(house)
    why = await house.amy.get(f"/offers/{offer['id']}/why")
    assert why["offer"] == offer["id"]
    assert why["trace"]
    assert (await house.ben.ask("GET", f"/offers/{offer['id']}/why"))[0] == 404
    assert (await house.sam.get(f"/offers/{offer['id']}/why")) == why
    assert (await house.ben.ask("POST", f"/offers/{offer['id']}/accept"))[0] in (403, 404)
    won = await house.amy.post(f"/offers/{offer['id']}/accept")
    assert (won["state"], won["nonce"]) == ("won", "")
    assert await house.amy.post(f"/offers/{offer['id']}/accept") == won, "accepting twice is once"
    assert (await house.amy.get("/me"))["text_load"] > 0
    assert (await house.amy.ask("POST", f"/offers/{offer['id']}/refuse"))[0] == 409
    assert (await house.amy.ask("POST", "/offers/none/accept"))[0] == 404


async def test_a_refused_offer_waits_again(either_house: House) -> None:
    house = either_house
    offer = await offered(house)
    assert (await house.amy.ask("POST", f"/offers/{offer['id']}/refuse")) == (204, None)
    assert (await house.amy.get("/me/offers"))["items"] == []
    assert (await house.amy.ask("POST", f"/offers/{offer['id']}/accept"))[0] == 409


async def test_ten_tabs_accept_one_offer(either_house: House) -> None:
    house = either_house
    offer = await offered(house)
    answers = await asyncio.gather(*(house.amy.ask("POST", f"/offers/{offer['id']}/accept") for _ in range(10)))
    assert {status for status, _ in answers} <= {200, 409}
    assert any(status == 200 for status, _ in answers)
    assert len((await house.amy.get("/conversations"))["items"]) == 1
    load = (await house.amy.get("/me"))["text_load"]
    await house.text("Another", sender="+12025550102", number=2)
    await house.route()
    [second] = (await house.amy.get("/me/offers"))["items"]
    await house.amy.post(f"/offers/{second['id']}/accept")
    assert (await house.amy.get("/me"))["text_load"] == 2 * load, "counted once, not ten times"


async def test_a_conversation_from_reply_to_close(either_house: House) -> None:
    house = either_house
    key = await conversation_of(house)
    path = f"/conversations/{key}"
    shown = await house.amy.get(path)
    assert (shown["channel"], shown["peer"], shown["contact_id"]) == ("sms", ANA, house.ana_id)
    sent = await house.amy.post(f"{path}/replies", {"body": "On its way."}, expect=201)
    assert (sent["direction"], sent["body"], sent["to_address"]) == ("outbound", "On its way.", ANA)
    assert (await house.amy.get(f"/interactions/{sent['id']}"))["id"] == sent["id"]
    note = await house.amy.post(f"{path}/notes", {"body": "Called the depot."}, expect=201)
    assert note["body"] == "Called the depot."
    said = await house.amy.get(f"{path}/interactions")
    assert [item["body"] for item in said["items"]] == ["On its way.", "Where is my order?"]
    first = await house.amy.get(f"{path}/interactions", limit="1")
    assert first["next"]
    second = await house.amy.get(f"{path}/interactions", limit="1", before=first["next"])
    assert [item["body"] for item in second["items"]] == ["Where is my order?"]
    until = (house.runtime.clock.now() + timedelta(hours=2)).isoformat()
    assert (await house.amy.ask("POST", f"{path}/snooze", {"until": until}))[0] == 204
    assert (await house.amy.get(path))["state"] == "snoozed"
    for wrong in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon", ""):
        assert (await house.amy.ask("POST", f"{path}/snooze", {"until": wrong}))[0] == 422, wrong
    assert (await house.amy.ask("POST", f"{path}/close"))[0] == 204
    assert (await house.amy.get(path))["state"] == "closed"


async def test_a_reply_after_stop_is_refused_by_its_rule(either_house: House) -> None:
    house = either_house
    key = await conversation_of(house)
    await house.text("STOP", number=2)
    status, problem = await house.amy.ask("POST", f"/conversations/{key}/replies", {"body": "Just one thing"})
    assert status == 409
    assert problem["rule"] == "sender_stop"
    assert problem["type"] == "urn:hub:Refused"
    said = await house.amy.get(f"/conversations/{key}/interactions")
    assert "Just one thing" not in [item["body"] for item in said["items"]]


async def test_what_belongs_to_others_does_not_exist(house: House) -> None:
    key = await conversation_of(house)
    for method, path, body in (
        ("GET", f"/conversations/{key}", None),
        ("GET", f"/conversations/{key}/interactions", None),
        ("POST", f"/conversations/{key}/replies", {"body": "x"}),
        ("POST", f"/conversations/{key}/notes", {"body": "x"}),
        ("POST", f"/conversations/{key}/close", None),
        ("POST", f"/conversations/{key}/snooze", {"until": "2026-11-20T10:00:00Z"}),
    ):
        status, _ = await house.ben.ask(method, path, body)
        assert status == 404, path
        assert (await house.mara.ask(method, path, body))[0] == 403
    assert (await house.sam.get(f"/conversations/{key}"))["id"] == key
    assert (await house.amy.ask("POST", f"/conversations/{key}/replies", {"body": ""}))[0] == 422


async def test_written_work_ends_with_a_disposition(either_house: House) -> None:
    house = either_house
    offer = await offered(house)
    await house.amy.post(f"/offers/{offer['id']}/accept")
    entry = f"/entries/{offer['entry_id']}/finish"
    assert (await house.ben.ask("POST", entry, {"disposition": "done"}))[0] in (403, 404, 409)
    assert (await house.amy.ask("POST", entry, {"disposition": "no such key"}))[0] in (404, 409, 422)
    assert (await house.amy.ask("POST", entry, {"disposition": "done", "notes": "sent again"}))[0] == 204
    assert (await house.amy.get("/me"))["text_load"] == 0
    assert (await house.amy.ask("POST", entry, {"disposition": "done"}))[0] in (204, 409), "ended once"


async def test_a_call_out_is_started_and_hung_up(either_house: House) -> None:
    house = either_house
    body = {"number": ANA, "account_id": "acc-voice", "purpose": "service", "contact_id": house.ana_id}
    started = await house.amy.post("/calls", body, expect=201)
    assert started["nonce"]
    assert (await house.amy.ask("POST", "/calls", body))[0] == 409, "one call at a time"
    call = await house.amy.get(f"/interactions/{started['call']}")
    assert (call["channel"], call["direction"], call["to_address"]) == ("voice", "outbound", ANA)
    assert (await house.ben.ask("POST", f"/calls/{started['call']}/hang-up"))[0] in (403, 404, 409)
    assert (await house.amy.ask("POST", f"/calls/{started['call']}/hold", {"on": True}))[0] == 409, (
        "nobody is there yet"
    )
    assert (await house.amy.ask("POST", f"/calls/{started['call']}/hang-up"))[0] == 204
    assert (await house.amy.ask("GET", f"/calls/{started['call']}/record"))[0] in (200, 404)
    assert (await house.amy.ask("GET", "/calls/none/record"))[0] == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"number": "12"}, 422),
        ({"number": "112"}, 422),
        ({"account_id": "none"}, 404),
        ({"account_id": "acc-sms"}, 422),
        ({"purpose": "fun"}, 422),
        ({"purpose": "telemarketing"}, 409),
        ({"purpose": "system"}, 422),
        ({"purpose": "requested_callback"}, 422),
        ({"purpose": "reply"}, 422),
        ({"contact_id": "none"}, 404),
        ({"callback_id": "none"}, 404),
    ],
)
async def test_a_call_that_cannot_be(house: House, change: dict[str, str], status: int) -> None:
    body = {"number": ANA, "account_id": "acc-voice", "purpose": "service", **change}
    found, problem = await house.amy.ask("POST", "/calls", body)
    assert found == status, problem
    assert (await house.amy.get("/me"))["live_load"] == 0


async def test_a_promise_opens_the_gate_for_its_own_number_only(either_house: House) -> None:
    house = either_house
    stop = {"kind": "phone", "value": ANA, "said": "stop"}
    assert (await house.amy.ask("POST", f"/contacts/{house.ana_id}/opt-outs", stop))[0] == 204
    body = {"number": ANA, "account_id": "acc-voice"}
    status, refused = await house.amy.ask("POST", "/calls", body)
    assert (status, refused["rule"]) == (409, "opt_out")
    due = (house.runtime.clock.now() - timedelta(minutes=1)).isoformat()
    promises = [
        await house.amy.post("/callbacks", {"number": number, "queue_id": "q", "due_at": due, "mine": True}, expect=201)
        for number in ("+12025550150", ANA)
    ]
    status, problem = await house.amy.ask("POST", "/calls", {**body, "callback_id": promises[0]["id"]})
    assert status == 422, "somebody else's promise is no key to Ana"
    assert "another number" in problem["detail"]
    await house.amy.post("/calls", {**body, "callback_id": promises[1]["id"]}, expect=201)


async def test_queues_are_listed_for_those_who_work(house: House) -> None:
    assert [queue["id"] for queue in (await house.amy.get("/queues"))["items"]] == ["q"]
    assert (await house.mara.ask("GET", "/queues"))[0] == 403
