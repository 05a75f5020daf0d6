"""How calls are treated, by API: rules of queues, screening, sounds, recordings and their deletion, by hand and by term."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

from sqlmodel import select

from crm_core import conversations, interactions
from crm_core.audit import AuditEntry
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.outbox import OutboxTask
from crm_core.recordings import Recording, RecordingState
from crm_core.touches import Direction
from hub.runtime import Runtime
from routing import flows, recordings
from tests.api.conftest import ANA, House

WAV = b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 24
SID = "RE" + "1" * 32


async def a_tape(runtime: Runtime, *, kind: str = "call", sid: str = SID, days_ago: int = 0) -> Recording:
    """A finished call of queue q with its recording in the store."""
    now = runtime.clock.now() - timedelta(days=days_ago)
    key = await runtime.files.put(WAV, folder="recordings", now=now)

    async def unit(tx: Any) -> Recording:
        thread, _ = await conversations.open_thread(
            tx,
            channel="voice",
            account_id="acc-voice",
            thread_key=ANA,
            peer=ANA,
            now=now,
            contact_id=None,
            queue_id="q",
        )
        call = Interaction(
            id=new_id(now), conversation_id=thread.id, channel="voice", direction=Direction.INBOUND,
            account_id="acc-voice", external_id=sid.replace("RE", "CA"), from_address=ANA, to_address="+442079460000",
            state=InteractionState.ENDED, outcome=Outcome.HANDLED, ended_at=now, queue_id="q", first_arrival_at=now,
            created_at=now,
        )  # fmt: skip
        await interactions.create(tx, call, now=now)
        return await tx.add(
            Recording(
                id=new_id(now), interaction_id=call.id, external_id=sid, kind=kind, state=RecordingState.KEPT,
                consent="announced", duration_s=9, file_key=key, content_type="audio/x-wav", size=len(WAV),
                started_at=now, ended_at=now,
            )
        )  # fmt: skip

    return await runtime.db.write(unit)


async def test_rules_of_a_queue_and_screening_of_a_number(either_house: House) -> None:
    ada, sam = either_house.ada, either_house.sam
    (row,) = (await sam.get("/call-rules"))["items"]
    assert (row["queue_id"], row["record"], row["keep_days"]) == ("q", "off", 0)
    change = {"version": row["version"], "record": "announce", "keep_days": 90}
    assert (await sam.ask("PATCH", "/call-rules/q", change))[0] == 403
    status, told = await ada.ask("PATCH", "/call-rules/q", change)
    assert (status, told["record"], told["keep_days"], told["pause_s"]) == (200, "announce", 90, 60)
    assert (await ada.ask("PATCH", "/call-rules/q", change))[0] == 409
    assert (await ada.ask("PATCH", "/call-rules/q", {"version": told["version"], "record": "always"}))[0] == 422
    assert (await ada.ask("PATCH", "/call-rules/none", change))[0] == 404

    (number,) = (await sam.get("/screening"))["items"]
    body = {"version": number["version"], "withheld": "refuse", "foreign": "press", "countries": ["us"]}
    status, told = await ada.ask("PUT", "/screening/acc-voice", body)
    assert (status, told["withheld"], told["foreign"], told["countries"]) == (200, "refuse", "press", ["US"])
    assert (await ada.ask("PUT", "/screening/acc-voice", body))[0] == 409
    assert (await ada.ask("PUT", "/screening/acc-sms", {**body, "version": 1}))[0] == 404
    wrong = {**body, "version": told["version"], "countries": ["Spain"]}
    assert (await ada.ask("PUT", "/screening/acc-voice", wrong))[0] == 422


async def test_sounds(house: House) -> None:
    ada = house.ada
    sound = {"name": "Music", "content": base64.b64encode(WAV).decode()}
    made = await ada.post("/sounds", sound, expect=201)
    async with house.http.get(house.url + made["url"]) as answer:
        assert (answer.status, await answer.read()) == (200, WAV)
    assert (await ada.ask("POST", "/sounds", {"name": "x", "content": "not base64!"}))[0] == 422
    html = base64.b64encode(b"<script>alert(1)</script>").decode()
    assert (await ada.ask("POST", "/sounds", {"name": "x", "content": html}))[0] == 422
    (rules,) = (await ada.get("/call-rules"))["items"]
    change = {"version": rules["version"], "music": made["music"]}
    status, rules = await ada.ask("PATCH", "/call-rules/q", change)
    assert (status, rules["music"]) == (200, made["music"])
    assert (await ada.ask("DELETE", f"/sounds/{made['id']}"))[0] == 409, "a queue plays it"
    await ada.ask("PATCH", "/call-rules/q", {"version": rules["version"], "music": ""})
    assert (await ada.ask("DELETE", f"/sounds/{made['id']}"))[0] == 204
    assert (await ada.get("/sounds"))["items"] == []


async def test_a_recording_is_seen_by_those_who_may_and_deleted_by_an_administrator(either_house: House) -> None:
    house = either_house
    tape = await a_tape(house.runtime)
    listed = await house.sam.get("/recordings", kind="call")
    assert [(row["id"], row["queue_id"], row["state"]) for row in listed["items"]] == [(tape.id, "q", "kept")]
    assert (await house.amy.ask("GET", "/recordings"))[0] == 403
    assert (await house.amy.get(f"/recordings/{tape.id}"))["media"] == f"/desk/recordings/{tape.id}"
    assert (await house.ben.ask("GET", f"/recordings/{tape.id}"))[0] == 404, "of a queue that he does not serve"
    assert (await house.sam.ask("POST", f"/recordings/{tape.id}/delete", {}))[0] == 403
    gone = await house.ada.post(f"/recordings/{tape.id}/delete", {"reason": "asked for"})
    assert (gone["state"], gone["media"]) == ("deleted", "")
    await house.ada.post(f"/recordings/{tape.id}/delete", {})  # twice is once
    async with house.runtime.db.reading() as tx:
        tasks = await tx.all(select(OutboxTask).where(OutboxTask.kind == "recording.remove"))
        said = await tx.all(select(AuditEntry).where(AuditEntry.action == "recording.deleted"))
    assert [(task.payload["external_id"], task.payload["file_key"]) for task in tasks] == [(SID, tape.file_key)]
    assert [(entry.actor_id, entry.detail["reason"]) for entry in said] == [(house.ada.user.id, "asked for")]


async def test_recordings_are_kept_as_long_as_their_queue_says(either_house: House) -> None:
    house = either_house
    old = await a_tape(house.runtime, days_ago=31)
    fresh = await a_tape(house.runtime, sid="RE" + "2" * 32, days_ago=29)
    message = await a_tape(house.runtime, kind="voicemail", sid="RE" + "3" * 32, days_ago=400)
    now = house.runtime.clock.now()
    assert await house.runtime.db.write(lambda tx: recordings.expire(tx, now=now)) == 0, "nobody has set a term"
    (rules,) = (await house.ada.get("/call-rules"))["items"]
    await house.ada.ask("PATCH", "/call-rules/q", {"version": rules["version"], "keep_days": 30})
    assert await house.runtime.db.write(lambda tx: recordings.expire(tx, now=now)) == 1
    assert await house.runtime.db.write(lambda tx: recordings.expire(tx, now=now)) == 0
    states = {row["id"]: row["state"] for row in (await house.sam.get("/recordings"))["items"]}
    assert states == {old.id: "deleted", fresh.id: "kept", message.id: "kept"}
    async with house.runtime.db.reading() as tx:
        (said,) = await tx.all(select(AuditEntry).where(AuditEntry.action == "recording.deleted"))
    assert (said.actor_id, said.detail["reason"]) == ("system", "kept for 30 days")


async def test_call_flows_are_made_and_listed(either_house: House) -> None:
    ada = either_house.ada
    given = {"name": "Night", "language": "de-DE", "steps": [{"do": "voicemail"}]}
    status, made = await ada.ask("POST", "/call-flows", given)
    assert (status, made["name"], made["language"], made["version"]) == (201, "Night", "de-DE", 1)
    assert made["steps"] == given["steps"]
    assert await ada.get(f"/call-flows/{made['id']}") == made
    voice = next(one for one in (await ada.get("/accounts"))["items"] if one["id"] == "acc-voice")
    use = {"version": voice["version"], "flow_id": made["id"]}
    assert (await ada.ask("PATCH", "/accounts/acc-voice", use))[0] == 200
    row = next(one for one in (await ada.get("/call-flows"))["items"] if one["id"] == made["id"])
    assert (row["name"], row["numbers"]) == ("Night", [voice["address"]])
    for wrong in ({"name": "Night"}, {"name": "Day", "language": "not a language"}, {"name": "Day", "steps": [{"do": "dance"}]},
                  {"name": "Day", "steps": [{}]}, {"name": "Day", "steps": []}):  # fmt: skip
        assert (await ada.ask("POST", "/call-flows", given | wrong))[0] == 422, wrong
    assert [one["name"] for one in (await ada.get("/call-flows"))["items"]].count("Day") == 0


async def test_a_call_flow_is_renamed_and_retired(either_house: House) -> None:
    ada, runtime = either_house.ada, either_house.runtime
    now = runtime.clock.now()

    async def make(tx: Any) -> list[flows.Flow]:
        steps = [{"do": "hangup"}]
        return [
            await flows.create(tx, name=name, steps=steps, language="en-GB", actor="test", now=now)
            for name in ("Main", "Spare")
        ]

    main, spare = await runtime.db.write(make)
    path = f"/call-flows/{spare.id}"
    assert (await ada.ask("PUT", f"{path}/name", {"name": "Main"}))[0] == 422
    status, told = await ada.ask("PUT", f"{path}/name", {"name": "Night"})
    assert (status, told["name"], told["version"]) == (200, "Night", 1)
    numbers = (await ada.get("/accounts"))["items"]
    voice = next(one for one in numbers if one["id"] == "acc-voice")
    use = {"version": voice["version"], "flow_id": spare.id}
    assert (await ada.ask("PATCH", "/accounts/acc-voice", use))[0] == 200
    status, told = await ada.ask("DELETE", path)
    assert (status, voice["address"] in told["detail"]) == (409, True)
    use = {"version": voice["version"] + 1, "flow_id": main.id}
    assert (await ada.ask("PATCH", "/accounts/acc-voice", use))[0] == 200
    assert (await ada.ask("DELETE", path))[0] == 204
    assert (await ada.ask("GET", path))[0] == 404
    use = {"version": voice["version"] + 2, "flow_id": spare.id}
    assert (await ada.ask("PATCH", "/accounts/acc-voice", use))[0] == 404
