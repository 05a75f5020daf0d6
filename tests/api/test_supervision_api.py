"""The router by API: why work waits, moving and giving it, agents and their days, missed calls, rules, hours, reasons."""

from __future__ import annotations

from typing import Any

from channels.contract import CallArrived, CallProgress
from crm_core.clock import FixedClock
from routing import desk, router
from tests.api.conftest import ANA, NUMBER, House


async def ring(house: House, *, number: int = 1, sender: str = ANA) -> str:
    """Somebody phones."""
    call_id = f"CA{number:032x}"
    event = CallArrived(call_id, sender, NUMBER, call_id, {}, {})
    await house.runtime.db.write(lambda tx: router.call_arrived(tx, event, now=house.runtime.clock.now()))
    return call_id


async def hang_up(house: House, call_id: str) -> None:
    now = house.runtime.clock.now()
    event = CallProgress(call_id, "completed", 9, 1, now, f"{call_id}:completed", None, {})
    await house.runtime.db.write(lambda tx: router.call_progressed(tx, event, now=now))


async def rules_of(house: House, queue_id: str) -> dict[str, Any]:
    told = await house.ada.get(f"/queues/{queue_id}/rules")
    told.pop("id")
    return dict(told)


async def test_why_it_waits_and_moving_it(either_house: House) -> None:
    house = either_house
    made = await house.ada.post("/queues", {"name": "Backup"}, expect=201)
    assert (await house.ada.ask("POST", "/queues", {"name": "Backup"}))[0] == 409
    status, _ = await house.sam.ask(
        "PUT", f"/agents/{house.amy.user.id}/activity", {"activity": "paused", "reason": "lunch"}
    )
    assert status == 204
    assert (await house.amy.get("/me"))["activity"] == "paused"
    [paused] = [one for one in (await house.sam.get("/agents"))["items"] if one["user_id"] == house.amy.user.id]
    assert (paused["state"], paused["reason"]) == ("paused", "lunch")
    assert (await house.amy.ask("GET", "/agents"))[0] == 403
    await ring(house)
    await house.route()
    [waiting] = (await house.amy.get("/queues/q/waiting"))["items"]
    assert (await house.ben.ask("GET", "/queues/q/waiting"))[0] == 404, "who does not serve it sees nothing"
    why = await house.amy.get(f"/entries/{waiting['id']}/why")
    assert (why["state"], why["trace"]["why"], why["trace"]["position"]) == ("waiting", "nobody is free for it", 1)
    assert why["trace"]["agents"]["by_agent"] == {house.amy.user.id: "paused"}
    assert (await house.ben.ask("GET", f"/entries/{waiting['id']}/why"))[0] == 404
    move = f"/entries/{waiting['id']}/move"
    assert (await house.amy.ask("POST", move, {"queue_id": made["id"]}))[0] == 403
    assert (await house.sam.ask("POST", move, {}))[0] == 422
    assert (await house.sam.ask("POST", move, {"agent_id": house.amy.user.id}))[0] == 409
    assert (await house.sam.ask("POST", move, {"queue_id": made["id"], "reason": "their language"}))[0] == 204
    assert (await house.amy.get("/queues/q/waiting"))["items"] == []
    [moved] = (await house.sam.get(f"/queues/{made['id']}/waiting"))["items"]
    assert (moved["id"], moved["order_at"]) == (waiting["id"], waiting["order_at"])
    [told] = (await house.sam.get(f"/entries/{waiting['id']}/why"))["trace"]["moves"]
    assert (told["from"], told["to"], told["why"], told["by"]) == (
        "Support",
        "Backup",
        "their language",
        house.sam.user.id,
    )
    assert (await house.sam.ask("POST", move, {"agent_id": house.ben.user.id}))[0] == 204, (
        "given to a colleague at once"
    )
    [offer] = (await house.ben.get("/me/offers"))["items"]
    assert (await house.ben.get(f"/offers/{offer['id']}/why"))["trace"]["why"] == "Sam gives this to them"


async def test_a_queues_rules_whole_and_a_circle_is_refused(either_house: House) -> None:
    house = either_house
    made = await house.ada.post("/queues", {"name": "Backup"}, expect=201)
    rules = await rules_of(house, "q")
    rules |= {
        "ring_count": 3,
        "preferred": "last",
        "preferred_wait_s": 30,
        "skills": "spanish 4",
        "relax": "60: spanish 2",
    }
    rules["overflow"] = {"queue_id": made["id"], "after_s": 60, "waiting": 5, "nobody": True, "written": False}
    status, saved = await house.ada.ask("PUT", "/queues/q/rules", rules)
    assert status == 200, saved
    assert {name: saved[name] for name in rules if name != "version"} == {
        name: value for name, value in rules.items() if name != "version"
    }
    assert (await house.ada.ask("PUT", "/queues/q/rules", rules))[0] == 409, "an old version"
    circle = await rules_of(house, made["id"])
    circle["overflow"] = {"queue_id": "q", "after_s": 60}
    status, told = await house.ada.ask("PUT", f"/queues/{made['id']}/rules", circle)
    assert (status, told["fields"]) == (
        422, {"overflow_queue_id": "Work would go round in a circle: Backup → Support → Backup."}
    )  # fmt: skip
    assert (await rules_of(house, made["id"]))["overflow"]["queue_id"] == ""
    assert (await house.sam.ask("GET", "/queues/q/rules"))[0] == 403


async def test_hours_with_several_blocks_and_a_day_that_differs(either_house: House) -> None:
    house = either_house
    hours = {
        "name": "Office", "zone": "Europe/Madrid", "week": {"0": "09:00-13:00, 15:00-18:00"},
        "days": "2026-12-25\n2026-12-24 09:00-12:00",
    }  # fmt: skip
    made = await house.ada.post("/hours", hours, expect=201)
    assert made["week"]["0"] == "09:00-13:00, 15:00-18:00"
    assert sorted(made["days"].splitlines()) == ["2026-12-24 09:00-12:00", "2026-12-25"]
    status, told = await house.ada.ask("POST", "/hours", {**hours, "name": "Other", "week": {"1": "25:00-26:00"}})
    assert (status, list(told["fields"])) == (422, ["day-1"])
    changed = {**hours, "week": {"0": "10:00-12:00"}, "version": made["version"]}
    status, after = await house.ada.ask("PUT", f"/hours/{made['id']}", changed)
    assert (status, after["week"]["0"]) == (200, "10:00-12:00")
    assert (await house.ada.ask("PUT", f"/hours/{made['id']}", changed))[0] == 409
    rules = await rules_of(house, "q") | {"hours_id": made["id"]}
    assert (await house.ada.ask("PUT", "/queues/q/rules", rules))[0] == 200
    assert (await house.ada.ask("DELETE", f"/hours/{made['id']}"))[0] == 409
    assert [one["name"] for one in (await house.ada.get("/hours"))["items"]] == ["Office"]


async def test_missed_calls_are_listed_and_closed(either_house: House) -> None:
    house = either_house
    await house.runtime.db.write(
        lambda tx: desk.set_activity(tx, house.amy.user.id, "paused", now=house.runtime.clock.now())
    )
    await hang_up(house, await ring(house))
    [line] = (await house.amy.get("/missed-calls"))["items"]
    assert (line["number_e164"], line["times"], line["state"], line["contact_id"]) == (ANA, 1, "open", house.ana_id)
    assert (await house.ben.get("/missed-calls"))["items"] == []
    dismiss = f"/missed-calls/{line['id']}/dismiss"
    assert (await house.ben.ask("POST", dismiss, {"reason": "no"}))[0] == 404
    assert (await house.amy.ask("POST", dismiss, {"reason": ""}))[0] == 422
    assert (await house.amy.post(dismiss, {"reason": "a wrong number"}))["state"] == "dismissed"
    assert (await house.amy.ask("POST", dismiss, {"reason": "again"}))[0] == 409
    assert (await house.amy.get("/missed-calls"))["items"] == []
    assert len((await house.amy.get("/missed-calls", state="closed"))["items"]) == 1


async def test_an_agents_day_and_the_reasons_to_pause(either_house: House) -> None:
    house = either_house
    assert isinstance(house.runtime.clock, FixedClock)
    assert (await house.amy.get("/pause-reasons"))["items"][0] == "break"
    assert (await house.amy.ask("PUT", "/pause-reasons", {"items": []}))[0] == 403
    status, told = await house.ada.ask("PUT", "/pause-reasons", {"items": ["school run", "lunch"]})
    assert (status, told["items"]) == (200, ["school run", "lunch"])
    house.runtime.clock.tick(600)
    path = f"/agents/{house.amy.user.id}/activity"
    assert (await house.sam.ask("PUT", path, {"activity": "paused", "reason": "golf"}))[0] == 422
    assert (await house.sam.ask("PUT", path, {"activity": "paused", "reason": "school run"}))[0] == 204
    house.runtime.clock.tick(300)
    day = await house.amy.get(f"/agents/{house.amy.user.id}/day")
    totals = {(one["state"], one["reason"]): one["seconds"] for one in day["totals"] if one["state"] != "offline"}
    assert totals == {("available", ""): 600.0, ("paused", "school run"): 300.0}
    assert (day["logged_in_s"], day["occupancy"]) == (900.0, 0.0)
    assert day["periods"][-1]["cause"] == "supervisor"
    assert (await house.ben.ask("GET", f"/agents/{house.amy.user.id}/day"))[0] == 404
    assert (await house.sam.get(f"/agents/{house.amy.user.id}/day")) == day
    assert (await house.sam.ask("PUT", path, {"activity": "available"}))[0] == 409, "their tab is gone"
