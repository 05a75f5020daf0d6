"""Callbacks, leads, campaigns and call lists over the API."""

from __future__ import annotations

from typing import Any

from campaigns import runner
from campaigns.sender import Sending
from channels.contract import FormArrived
from crm_core.accounts import Form
from routing import router
from tests.api.conftest import ANA, House
from tests.campaigns.cast import Line, Unlimited

NOBODY = "+12025550199"


# --- promises


async def test_a_promise_is_made_once_and_seen_by_those_it_concerns(either_house: House) -> None:
    house = either_house
    body = {
        "number": "(202) 555-0101",
        "country": "US",
        "queue_id": "q",
        "due_at": "2026-11-19T16:00:00+01:00",
        "mine": True,
    }
    made = await house.amy.post("/callbacks", {**body, "note": "about the bike"}, expect=201)
    assert (made["number_e164"], made["due_at"], made["owner_id"]) == (ANA, "2026-11-19T15:00:00Z", house.amy.user.id)
    again = await house.amy.post("/callbacks", body, expect=201)
    assert again["id"] == made["id"], "one open promise per number and queue"
    assert [row["id"] for row in (await house.amy.get("/callbacks"))["items"]] == [made["id"]]
    assert (await house.ben.get("/callbacks"))["items"] == []
    assert (await house.ben.ask("GET", f"/callbacks/{made['id']}"))[0] == 404
    assert (await house.sam.get(f"/callbacks/{made['id']}"))["note"] == "about the bike"
    for wrong in (
        {"number": "1"},
        {"due_at": "tomorrow"},
        {"due_at": "0001-01-01T00:00:00+14:00"},
        {"queue_id": "q" * 41},
    ):
        assert (await house.amy.ask("POST", "/callbacks", {**body, **wrong}))[0] == 422, wrong
    assert (await house.amy.ask("POST", "/callbacks", {**body, "number": NOBODY, "queue_id": "none"}))[0] == 404
    late = {**body, "number": NOBODY, "until_at": "2026-11-01T00:00:00Z"}
    assert (await house.amy.ask("POST", "/callbacks", late))[0] == 422, "a window that is over before it begins"


async def test_leads_page_by_page_and_by_stage(either_house: House) -> None:
    house = either_house
    now = house.runtime.clock.now()

    async def unit(tx: Any) -> None:
        form = Form(
            id="form", slug="website", account_id="acc-email", title="Write to us", created_at=now,
            fields=[{"name": "name", "kind": "text", "label": "Name"}, {"name": "email", "kind": "email", "label": "E-mail"}],
        )  # fmt: skip
        await tx.add(form)
        for number in range(7):
            fields = {"name": f"n{number}", "email": f"n{number}@example.com"}
            await router.form_arrived(
                tx, FormArrived("website", fields, f"form:{number}", "127.0.0.1"), form=form, now=now
            )

    await house.runtime.db.write(unit)
    first = await house.amy.get("/leads", limit="4")
    second = await house.amy.get("/leads", limit="4", after=first["next"])
    ids = [row["id"] for row in [*first["items"], *second["items"]]]
    assert len(set(ids)) == 7
    assert second["next"] is None
    lead = first["items"][0]
    path = f"/leads/{lead['id']}"
    assert await house.mara.get(path) == lead
    status, changed = await house.amy.ask(
        "PATCH", path, {"version": lead["version"], "stage": "contacted", "score": 80}
    )
    assert (status, changed["stage"], changed["score"]) == (200, "contacted", 80), changed
    assert (await house.amy.ask("PATCH", path, {"version": lead["version"], "score": 1}))[0] == 409
    assert (await house.amy.ask("PATCH", path, {"version": changed["version"], "stage": "dreaming"}))[0] == 422
    assert (await house.mara.ask("PATCH", path, {"version": 1}))[0] == 403
    assert [row["id"] for row in (await house.amy.get("/leads", stage="contacted"))["items"]] == [lead["id"]]
    assert (await house.amy.ask("GET", "/leads/none"))[0] == 404


# --- campaigns


async def add_tagged(house: House, count: int) -> None:
    for number in range(count):
        await house.amy.post(
            "/contacts",
            {
                "name": f"n{number}",
                "tags": ["spring"],
                "points": [{"kind": "phone", "value": f"+1202555{110 + number:04d}"}],
            },
            expect=201,
        )
        house.runtime.clock.tick(0.001)  # type: ignore[attr-defined]


async def work_off(house: House, campaign_id: str, line: Line) -> None:
    """What the background workers do."""

    async def prepare(campaign: Any) -> Sending:
        async with house.runtime.db.reading() as tx:
            from crm_core import accounts

            account = await accounts.get(tx, campaign.account_id)
        return Sending(
            channel=line, account=account, tokens=Unlimited(), clock=house.runtime.clock,
            public_url="https://hub.example.test", secret="s" * 40, worker="test",
        )  # fmt: skip

    for _ in range(60):
        again = await runner.step(house.runtime.db, campaign_id, prepare=prepare, clock=house.runtime.clock)
        if again is None:
            return
        wait_s = (again - house.runtime.clock.now()).total_seconds()
        if wait_s > 0:
            house.runtime.clock.tick(wait_s)  # type: ignore[attr-defined]


SPRING = {"name": "Spring", "account_id": "acc-sms", "purpose": "service", "tag": "spring", "body": "Hello {{ name }}"}


async def test_a_campaign_from_draft_to_its_last_delivery(either_house: House) -> None:
    house = either_house
    await add_tagged(house, 9)
    stop = {"kind": "phone", "value": "+12025550110", "said": "STOP"}
    someone = (await house.amy.get("/contacts", q="n0"))["items"][0]
    await house.amy.ask("POST", f"/contacts/{someone['id']}/opt-outs", stop)
    made = await house.mara.post("/campaigns", SPRING, expect=201)
    path = f"/campaigns/{made['id']}"
    assert (made["state"], sum(made["counts"].values())) == ("draft", 0)
    prepared = await house.mara.post(f"{path}/prepare")
    assert prepared["state"] == "materialising"
    assert (await house.mara.ask("POST", f"{path}/prepare"))[0] == 409, "once"
    line = Line()
    await work_off(house, made["id"], line)
    ready = await house.mara.get(path)
    assert ready["state"] == "ready", ready
    assert sum(ready["counts"].values()) == 9
    assert sum(ready["forecast"].values()) == 9
    assert line.sent == [], "prepared is not sent"
    started = await house.mara.post(f"{path}/start", {})
    assert started["state"] == "running"
    paused = await house.mara.post(f"{path}/pause", {"reason": "lunch"})
    assert (paused["state"], paused["reason"]) == ("paused", "lunch")
    await work_off(house, made["id"], line)
    assert line.sent == []
    assert (await house.mara.post(f"{path}/resume"))["state"] == "running"
    await work_off(house, made["id"], line)
    done = await house.mara.get(path)
    assert len(set(line.addresses)) == len(line.addresses) == 8, "each once, but not the one who said stop"
    assert sum(done["counts"].values()) == 9
    assert done["counts"]["suppressed"] == 1

    seen, after = [], ""
    while True:
        page = await house.mara.get(f"{path}/deliveries", limit="4", after=after)
        seen += [row["address"] for row in page["items"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert len(seen) == len(set(seen)) == 9
    [refused] = (await house.mara.get(f"{path}/deliveries", state="suppressed"))["items"]
    assert refused["rule"] == "opt_out"
    why = await house.mara.get(f"{path}/why", address="+12025550110")
    assert why["got_it"] is False
    assert any(not line["passed"] for line in why["lines"])
    assert (await house.mara.get(f"{path}/why", address="+12025550111"))["answer"]
    assert (await house.mara.ask("GET", f"{path}/why"))[0] == 422
    assert (await house.mara.ask("GET", f"{path}/why", params={"address": "x"}))[0] == 422
    assert (await house.mara.ask("POST", f"{path}/prepare"))[0] == 409
    assert [row["id"] for row in (await house.mara.get("/campaigns"))["items"]] == [made["id"]]


async def test_campaigns_that_cannot_be(house: House) -> None:
    for change, status in (
        ({"account_id": "none"}, 404), ({"account_id": "acc-voice"}, 422), ({"purpose": "fun"}, 422),
        ({"body": "{{ name "}, 422), ({"body": "{{ password }}"}, 422), ({"name": ""}, 422),
    ):  # fmt: skip
        assert (await house.mara.ask("POST", "/campaigns", {**SPRING, **change}))[0] == status, change
    assert (await house.mara.get("/campaigns"))["items"] == [], "what was refused left nothing behind"
    assert (await house.amy.ask("POST", "/campaigns", SPRING))[0] == 403
    made = await house.mara.post("/campaigns", SPRING, expect=201)
    path = f"/campaigns/{made['id']}"
    for step in ("pause", "resume"):
        assert (await house.mara.ask("POST", f"{path}/{step}", {} if step == "pause" else None))[0] == 409, step
    cannot_send = await house.token(house.mara.user, ["campaigns:read", "campaigns:write"])
    status, problem = await cannot_send.ask("POST", f"{path}/start", {})
    assert status == 403
    assert "campaigns:send" in problem["detail"]
    assert (await house.mara.post(f"{path}/cancel"))["state"] in ("cancelled", "cancelling")
    assert (await house.mara.ask("POST", f"{path}/start", {}))[0] == 409
    assert (await house.mara.ask("POST", "/campaigns/none/start", {}))[0] == 404


async def test_a_start_in_the_future(house: House) -> None:
    made = await house.mara.post("/campaigns", SPRING, expect=201)
    path = f"/campaigns/{made['id']}/start"
    for wrong in ("0001-01-01T00:00:00+14:00", "soon", 10**30):
        assert (await house.mara.ask("POST", path, {"start_at": wrong}))[0] == 422, wrong
    planned = await house.mara.post(path, {"start_at": "2026-11-20T10:00:00+01:00"})
    assert planned["start_at"] == "2026-11-20T09:00:00Z"


# --- call lists


async def test_a_list_is_worked_number_by_number(either_house: House) -> None:
    house = either_house
    await add_tagged(house, 3)
    for item in (await house.amy.get("/contacts", tag="spring"))["items"][:2]:
        person = await house.amy.get(f"/contacts/{item['id']}")
        agreed = {
            "kind": "phone", "value": person["points"][0]["value"], "channel": "voice", "purpose": "telemarketing",
            "evidence": {"text": "v1"},
        }  # fmt: skip
        assert (await house.amy.ask("POST", f"/contacts/{item['id']}/consents", agreed))[0] == 204
    listed = await house.sam.post(
        "/lists", {"name": "Spring", "account_id": "acc-voice", "tag": "spring", "max_attempts": 2}, expect=201
    )
    path = f"/lists/{listed['id']}"
    while not await runner.build_list(
        house.runtime.db, listed["id"], clock=house.runtime.clock, until=house.runtime.clock.now()
    ):
        pass
    [shown] = (await house.tina.get("/lists"))["items"]
    assert sum(shown["counts"].values()) == 3
    first = await house.tina.post(f"{path}/next")
    assert (await house.tina.post(f"{path}/next"))["id"] == first["id"], "the same one until it is disposed"
    why = await house.tina.get(f"/list-entries/{first['id']}/why")
    assert why["lines"]
    assert (await house.sam.get(f"/list-entries/{first['id']}/why"))["lines"]
    entry = f"/list-entries/{first['id']}"
    assert (await house.tina.ask("POST", f"{entry}/dispose", {"disposition": "no such key"}))[0] in (404, 422)
    assert (await house.tina.ask("POST", f"{entry}/dispose", {"disposition": "never"}))[0] == 204
    second = await house.tina.post(f"{path}/next")
    assert second["number"] != first["number"]
    assert (await house.tina.ask("POST", f"/list-entries/{second['id']}/release"))[0] == 204
    assert (await house.tina.ask("GET", f"/list-entries/{second['id']}/why"))[0] == 404, "no longer in her hand"
    third = await house.tina.post(f"{path}/next")
    assert third["id"] == second["id"], "the one who agreed to nothing is never offered"
    await house.tina.ask("POST", f"/list-entries/{third['id']}/dispose", {"disposition": "done"})
    assert (await house.tina.ask("POST", f"{path}/next"))[0] == 404
    assert (await house.amy.ask("POST", f"{path}/next"))[0] == 403
    assert (await house.tina.ask("POST", "/lists/none/next"))[0] == 404
    assert (await house.tina.ask("POST", "/list-entries/none/release"))[0] == 404


async def test_lists_that_cannot_be(house: House) -> None:
    good = {"name": "Spring", "account_id": "acc-voice", "tag": "spring"}
    for change, status in (
        ({"account_id": "none"}, 404), ({"account_id": "acc-sms"}, 422), ({"tag": ""}, 422), ({"max_attempts": 0}, 422)
    ):  # fmt: skip
        assert (await house.sam.ask("POST", "/lists", {**good, **change}))[0] == status, change
    assert (await house.tina.ask("POST", "/lists", good))[0] == 403
