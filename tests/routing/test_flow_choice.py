"""Call flows renamed and retired, what a caller chose in them, and who ended the call."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from channels.steps import Hangup
from crm_core.accounts import ChannelAccount
from crm_core.audit import AuditEntry
from crm_core.errors import Conflict, Invalid, NotFound
from hub.desktop import timeline
from routing import flows
from tests.routing.floor import NUMBER, Floor, kinds

INNER: dict[str, Any] = {
    "do": "menu", "text": "Old or new?", "keys": {"1": [{"do": "enqueue", "queue": ""}], "5": [{"do": "hangup"}]},
    "otherwise": [{"do": "hangup"}],
}  # fmt: skip
STEPS: list[dict[str, Any]] = [
    {
        "do": "menu", "text": "1 or 2?", "keys": {"1": [{"do": "enqueue", "queue": ""}], "2": [INNER]},
        "words": {"2": ["Billing", "invoice"]}, "otherwise": [{"do": "hangup"}],
    }
]  # fmt: skip


async def with_flow(floor: Floor) -> str:
    await floor.open("kim")
    flow = await floor.do(
        lambda tx: flows.create(tx, name="Main", steps=STEPS, language="en-GB", actor="ada", now=floor.now)
    )
    await use(floor, flow.id)
    return flow.id


async def use(floor: Floor, flow_id: str | None) -> None:
    voice = col(ChannelAccount.id) == "acc-voice"
    await floor.do(lambda tx: tx.run(update(ChannelAccount).where(voice).values(flow_id=flow_id)))


async def test_a_retired_flow_frees_its_name_and_calls_that_run_keep_it(floor: Floor) -> None:
    flow_id = await with_flow(floor)
    now = floor.now

    async def make(name: str) -> flows.Flow:
        return await floor.do(
            lambda tx: flows.create(tx, name=name, steps=STEPS, language="en-GB", actor="ada", now=now)
        )

    with pytest.raises(Invalid, match="of this name already"):
        await make(" Main ")
    other = await make("Other")
    with pytest.raises(Invalid, match="of this name already"):
        await floor.do(lambda tx: flows.rename(tx, other.id, "Main", actor="ada", now=now))
    renamed = await floor.do(lambda tx: flows.rename(tx, flow_id, " Front door ", actor="ada", now=now))
    assert renamed.name == "Front door"
    await floor.do(lambda tx: flows.rename(tx, flow_id, "Front door", actor="ada", now=now))

    await floor.call()
    call = await floor.interaction()
    with pytest.raises(Conflict, match=rf"still used: \{NUMBER}"):
        await floor.do(lambda tx: flows.retire(tx, flow_id, actor="ada", now=now))
    await use(floor, other.id)
    await floor.do(lambda tx: flows.save_version(tx, other.id, steps=[{"do": "hangup"}], actor="ada", now=now))
    await floor.do(lambda tx: flows.retire(tx, flow_id, actor="ada", now=now))
    assert [flow.name for flow in await floor.do(flows.list_all)] == ["Other"]
    for gone in (
        lambda tx: flows.retire(tx, flow_id, actor="ada", now=now),
        lambda tx: flows.rename(tx, flow_id, "Again", actor="ada", now=now),
        lambda tx: flows.save_version(tx, flow_id, steps=STEPS, actor="ada", now=now),
    ):
        with pytest.raises(NotFound):
            await floor.do(gone)
    await make("Front door")

    # The number has another flow, which has no menu at all: whoever is in the old one's goes on there.
    assert "Gather" in kinds(await floor.step(call.id, "menu-0-0", Digits="2"))
    assert kinds(await floor.step(call.id, "menu-0-2-0-0", 2, Digits="1"))[-1] == "Enqueue"
    told = await floor.do(
        lambda tx: tx.all(select(AuditEntry.action).where(col(AuditEntry.subject) == f"flow:{flow_id}"))
    )
    assert sorted(told) == ["flow.renamed", "flow.retired"]
    await floor.check()


async def test_the_agent_sees_what_the_caller_chose(floor: Floor) -> None:
    await with_flow(floor)
    await floor.call()
    call = await floor.interaction()
    await floor.step(call.id, "menu-0-0", Digits="9")
    assert "menu" not in (await floor.interaction()).data
    await floor.step(call.id, "menu-0-1", 2, SpeechResult="My invoice, please")
    await floor.step(call.id, "menu-0-2-0-0", 3, Digits="1")
    found = await floor.interaction()
    assert (found.state, found.data["menu"]) == (
        "waiting", [{"key": "2", "words": "Billing"}, {"key": "1", "words": "", "queue": "q"}],
    )  # fmt: skip
    assert await floor.do(lambda tx: timeline.menus_of(tx, [found])) == {call.id: "2 Billing › 1 Support"}
    await floor.check()


async def test_the_hub_is_who_ends_a_call_at_the_end_of_its_flow(floor: Floor) -> None:
    await with_flow(floor)
    call_id, _ = await floor.call()
    call = await floor.interaction()
    await floor.step(call.id, "menu-0-0", Digits="2")
    assert await floor.step(call.id, "menu-0-2-0-0", 2, Digits="5") == [Hangup()]
    await floor.status(call_id, "completed")
    record = await floor.record(call.id)
    assert (record.hung_up_by, record.end_reason) == ("system", "completed")

    # Who leaves within a menu hangs up.
    left_id, _ = await floor.call()
    left = await floor.interaction_of(left_id)
    await floor.status(left_id, "completed")
    record = await floor.record(left.id)
    assert (record.hung_up_by, record.end_reason) == ("customer", "abandoned")
    await floor.check()
