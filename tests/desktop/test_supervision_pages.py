"""The router's screens over HTTP: why work waits, moving it, an agent's day, missed calls, a queue's rules, reasons to pause."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import select

from channels.contract import CallArrived, CallProgress
from crm_core.accounts import ChannelAccount
from crm_core.users import Role, User
from hub.runtime import Runtime
from routing import desk, engine, queue_settings, queues, router
from routing.agents import Agent
from routing.missed import MissedCall
from routing.queues import Queue, QueueEntry
from tests.apps import Visitor, add_user

NUMBER, ANA = "+442079460000", "+12025550101"


@pytest.fixture
async def floor(runtime: Runtime) -> dict[str, str]:
    """Two queues, a number, an agent who serves the first and pauses, and a caller who waits there; their ids."""
    now = runtime.clock.now()
    amy: User = await add_user(runtime, "amy", [Role.AGENT])
    await add_user(runtime, "ben", [Role.AGENT])
    await add_user(runtime, "sam", [Role.SUPERVISOR])
    await add_user(runtime, "ada", [Role.ADMIN])

    async def make(tx: Any) -> dict[str, str]:
        first = await queue_settings.create(tx, name="Support", actor="test", now=now)
        other = await queue_settings.create(tx, name="Sales", actor="test", now=now)
        await tx.add(
            ChannelAccount(
                id="acc", channel="voice", name="v", address=NUMBER, country="GB", queue_id=first.id, created_at=now
            )
        )
        await queues.put_member(tx, first.id, amy.id)
        await desk.heartbeat(tx, amy.id, voice_ready=True, now=now)
        await desk.set_activity(tx, amy.id, "paused", reason="lunch", now=now)
        await router.call_arrived(tx, CallArrived("CA1", ANA, NUMBER, "CA1", {}, {}), now=now)
        return {"first": first.id, "other": other.id, "amy": amy.id}

    ids = await runtime.db.write(make)
    await engine.tick(runtime.db, clock=runtime.clock, holder="test")
    ids["entry"] = (await row(runtime, QueueEntry)).id
    return ids


async def row(runtime: Runtime, table: Any) -> Any:
    async with runtime.db.reading() as tx:
        return await tx.one(select(table))


async def test_a_supervisor_reads_why_moves_it_and_changes_an_activity(
    runtime: Runtime, visitor: Visitor, floor: dict[str, str]
) -> None:
    await visitor.log_in("sam")
    page = f"/desk/queues/{floor['first']}"
    _, text = await visitor.ask("GET", page)
    assert "nobody is free for it" in text
    assert "Amy: paused" in text
    status, text = await visitor.ask("POST", f"{page}/move/{floor['entry']}", data={"to": f"agent:{floor['amy']}"})
    assert status == 409
    assert "This colleague cannot have it now: paused." in text
    status, text = await visitor.ask("POST", f"{page}/move/{floor['entry']}", data={"to": ""})
    assert (status, "Choose where it goes." in text) == (409, True)
    status, _ = await visitor.ask("POST", f"{page}/move/{floor['entry']}", data={"to": f"queue:{floor['other']}"})
    assert status == 303
    assert (await row(runtime, QueueEntry)).queue_id == floor["other"]
    _, text = await visitor.ask("GET", f"/desk/queues/{floor['other']}")
    assert "Support → Sales: moved by a supervisor (Sam)" in text
    day = f"/desk/agents/{floor['amy']}"
    assert (await visitor.ask("POST", f"{day}/activity", data={"activity": "paused:meeting"}))[0] == 303
    agent = await row(runtime, Agent)
    assert (agent.activity, agent.reason, agent.cause) == ("paused", "meeting", "supervisor")
    _, text = await visitor.ask("GET", day)
    assert "set by a supervisor" in text
    assert "paused · Meeting" in (await visitor.ask("GET", "/desk/wallboard"))[1]
    assert (await visitor.ask("GET", f"{day}?day=tomorrow"))[0] == 422
    assert (await visitor.ask("GET", f"{day}?day=2026-01-01"))[0] == 200


async def test_an_agent_sees_their_queue_and_day_and_nobody_elses(visitor: Visitor, floor: dict[str, str]) -> None:
    await visitor.log_in("amy")
    status, text = await visitor.ask("GET", f"/desk/queues/{floor['first']}")
    assert (status, "move-work" in text) == (200, False)
    assert (await visitor.ask("GET", f"/desk/queues/{floor['other']}"))[0] == 404
    status, text = await visitor.ask("GET", "/desk/time")
    assert (status, "Paused · Lunch" in text) == (200, True)
    assert (await visitor.ask("GET", f"/desk/agents/{floor['amy']}"))[0] == 403
    await visitor.log_in("ben")
    assert (await visitor.ask("GET", f"/desk/queues/{floor['first']}"))[0] == 404


async def test_a_missed_call_is_closed_with_a_reason(runtime: Runtime, visitor: Visitor, floor: dict[str, str]) -> None:
    now = runtime.clock.now()
    gone = CallProgress("CA1", "completed", 9, 1, now, "CA1:completed", None, {})
    await runtime.db.write(lambda tx: router.call_progressed(tx, gone, now=now))
    await visitor.log_in("ben")
    _, text = await visitor.ask("GET", "/desk/callbacks/missed")
    assert "No missed calls" in text, "of a queue that they do not serve"
    missed = await row(runtime, MissedCall)
    dismiss = f"/desk/callbacks/missed/{missed.id}/dismiss"
    assert (await visitor.ask("POST", dismiss, data={"reason": "no"}))[0] == 404
    await visitor.log_in("amy")
    _, text = await visitor.ask("GET", "/desk/callbacks/missed")
    assert "+1 202-555-0101" in text
    assert (await visitor.ask("POST", dismiss, data={"reason": "a wrong number"}))[0] == 303
    assert (await visitor.ask("POST", dismiss, data={"reason": "again"}))[0] == 409
    _, text = await visitor.ask("GET", "/desk/callbacks/missed?which=ended")
    assert "a wrong number" in text


async def test_an_administrator_sets_overflow_rings_and_reasons(
    runtime: Runtime, visitor: Visitor, floor: dict[str, str]
) -> None:
    await visitor.log_in("ada")
    async with runtime.db.reading() as tx:
        first = await queues.get(tx, floor["first"])
    form = {name: str(getattr(first, name)) for name in queue_settings.BOUNDS}
    form |= {
        "name": "Support",
        "language": "en-GB",
        "version": str(first.version),
        "ring_count": "3",
        "preferred": "owner",
    }
    form |= {
        "overflow_queue_id": floor["other"],
        "overflow_after_s": "60",
        "overflow_nobody": "1",
        "members": floor["amy"],
    }
    path = f"/desk/admin/queues/{floor['first']}"
    status, text = await visitor.ask("POST", path, data=form)
    assert (status, "Saved." in text) == (200, True)
    async with runtime.db.reading() as tx:
        saved: Queue = await queues.get(tx, floor["first"])
    assert (saved.ring_count, saved.preferred) == (3, "owner")
    assert saved.overflow == {
        "queue_id": floor["other"], "after_s": 60, "waiting": 0, "nobody": True, "written": False,
    }  # fmt: skip
    wrong = {**form, "version": str(saved.version), "overflow_queue_id": floor["first"]}
    status, text = await visitor.ask("POST", path, data=wrong)
    assert (status, "Work would go round in a circle: Support → Support." in text) == (422, True)
    assert (await visitor.ask("POST", "/desk/admin/pauses", data={"reasons": "prayer\nlunch"}))[0] == 303
    await visitor.log_in("amy")
    _, text = await visitor.ask("GET", "/desk/frame/activity")
    assert "prayer" in text
    assert "Meeting" not in text
