"""API: call flows, what callers hear and where each key or word leads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from crm_core.db import Tx
from crm_core.errors import Invalid
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, operation
from hub.web import ADMINS
from routing import flows


class FlowShown(Shown):
    """A call flow and the steps that new calls take (docs/users/administrators.md says what steps there are)."""

    id: str
    name: str
    language: str
    version: int
    steps: list[dict[str, Any]]


class FlowIn(Strict):
    """The steps of a flow; calls that run keep the version they began with."""

    steps: list[dict[str, Any]] = Field(min_length=1, max_length=50)


class NewFlowIn(FlowIn):
    """A new flow. `language`: what is said where a step has no words in the caller's own, as in `en-GB`."""

    name: str = Field(min_length=1, max_length=100)
    language: str = Field("en-GB", max_length=10)


class FlowRow(Shown):
    """A flow in the list. `numbers`: ours whose callers meet it."""

    id: str
    name: str
    language: str
    version: int
    numbers: list[str]


class FlowList(Shown):
    """Call flows by name."""

    items: list[FlowRow]


@operation("GET", "/api/v1/call-flows", "Call flows", scope="admin:read", roles=ADMINS, answer=FlowList)
async def list_flows(call: Call[Nothing, Nothing]) -> FlowList:
    """Those in use, by name; at most 200."""
    async with call.runtime.db.reading() as tx:
        rows = [
            FlowRow(
                id=flow.id, name=flow.name, language=flow.language, version=flow.version,
                numbers=await flows.numbers_of(tx, flow.id),
            )
            for flow in await flows.list_all(tx)
        ]  # fmt: skip
    return FlowList(items=rows)


@operation(
    "POST", "/api/v1/call-flows", "Add a call flow", scope="admin:write", roles=ADMINS, body=NewFlowIn, answer=FlowShown,
    status=201,
)  # fmt: skip
async def create_flow(call: Call[Nothing, NewFlowIn]) -> FlowShown:
    """Its first version; no number has it yet. 422 for a taken name, and naming the step that leaves a caller in silence."""

    async def unit(tx: Tx) -> FlowShown:
        with _as_steps():
            made = await flows.create(
                tx, name=call.body.name, steps=call.body.steps, language=call.body.language, actor=call.user.id,
                now=call.now,
            )  # fmt: skip
        return await _flow(tx, made.id)

    return await call.runtime.db.write(unit)


@contextmanager
def _as_steps() -> Iterator[None]:
    """Invalid for what does not even look like steps."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid("These are not the steps of a call flow.") from error


async def _flow(tx: Tx, flow_id: str) -> FlowShown:
    flow = await flows.get(tx, flow_id)
    steps, _, _ = await flows.load(tx, flow.id)
    return FlowShown(id=flow.id, name=flow.name, language=flow.language, version=flow.version, steps=steps)


@operation("GET", "/api/v1/call-flows/{id}", "A call flow", scope="admin:read", roles=ADMINS, answer=FlowShown)
async def get_flow(call: Call[Nothing, Nothing]) -> FlowShown:
    """Its latest version."""
    async with call.runtime.db.reading() as tx:
        return await _flow(tx, call.path["id"])


@operation(
    "PUT",
    "/api/v1/call-flows/{id}",
    "Change a call flow",
    scope="admin:write",
    roles=ADMINS,
    body=FlowIn,
    answer=FlowShown,
)
async def put_flow(call: Call[Nothing, FlowIn]) -> FlowShown:
    """A new version; 422 naming the step that would leave a caller in silence."""

    async def unit(tx: Tx) -> FlowShown:
        await _flow(tx, call.path["id"])
        with _as_steps():
            await flows.save_version(tx, call.path["id"], steps=call.body.steps, actor=call.user.id, now=call.now)
        return await _flow(tx, call.path["id"])

    return await call.runtime.db.write(unit)


class FlowNameIn(Strict):
    """What a flow is called."""

    name: str = Field(min_length=1, max_length=100)


@operation(
    "PUT",
    "/api/v1/call-flows/{id}/name",
    "Rename a call flow",
    scope="admin:write",
    roles=ADMINS,
    body=FlowNameIn,
    answer=FlowShown,
)
async def rename_flow(call: Call[Nothing, FlowNameIn]) -> FlowShown:
    """422 when another flow has this name."""

    async def unit(tx: Tx) -> FlowShown:
        await flows.rename(tx, call.path["id"], call.body.name, actor=call.user.id, now=call.now)
        return await _flow(tx, call.path["id"])

    return await call.runtime.db.write(unit)


@operation("DELETE", "/api/v1/call-flows/{id}", "Retire a call flow", scope="admin:write", roles=ADMINS, answer=None)
async def retire_flow(call: Call[Nothing, Nothing]) -> None:
    """Calls that run keep it to their end; 409 while a number uses it."""
    await call.runtime.db.write(lambda tx: flows.retire(tx, call.path["id"], actor=call.user.id, now=call.now))


OPERATIONS: list[Operation] = [list_flows, create_flow, get_flow, put_flow, rename_flow, retire_flow]
