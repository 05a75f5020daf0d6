"""Call flows: what a caller meets before a queue, as versioned rows of plain data, and the pure walk through them.

A flow's version never changes once stored; a call keeps the version that it began with. Steps as data:

    {"do": "say", "text": …}                       {"do": "play", "url": …}
    {"do": "menu", "text": …, "keys": {"1": [steps], …}, "otherwise": [steps]}   (asked twice, then `otherwise`)
    {"do": "enqueue", "queue": id}                 {"do": "hangup"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, update
from sqlmodel import Field, col, func, select

from channels.steps import Gather, Hangup, Play, Redirect, Say, Step
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, docs, key, ref, text
from routing import prompts
from routing.rooms import step_path

MENU_TRIES = 2


class Flow(Table, table=True):
    """A named call flow; `version` is the one that new calls take."""

    __tablename__ = "flows"

    id: str = key()
    name: str = text(unique=True)
    language: str = text(default="en-GB")
    version: int = 1
    created_at: datetime = at()


class FlowVersion(Table, table=True):
    """One version's steps; never changed."""

    __tablename__ = "flow_versions"

    flow_id: str = ref("flows.id", primary_key=True)
    number: int = Field(primary_key=True)
    steps: list[dict[str, Any]] = docs()
    created_by: str = text()
    created_at: datetime = at()


@dataclass(frozen=True, slots=True)
class Walked:
    """What the caller hears now, and where it leads: into a queue, to a key press (`queue_id` None), or to the end."""

    steps: list[Step] = field(default_factory=list)
    queue_id: str | None = None
    ended: bool = False


DEFAULT: list[dict[str, Any]] = [{"do": "welcome"}, {"do": "enqueue", "queue": ""}]


async def create(
    tx: Tx, *, name: str, steps: Sequence[dict[str, Any]], language: str, actor: str, now: datetime
) -> Flow:
    """A new flow with its first version."""
    check(steps)
    flow = Flow(id=new_id(now), name=name.strip(), language=language, created_at=now)
    await tx.add(flow)
    await tx.add(FlowVersion(flow_id=flow.id, number=1, steps=list(steps), created_by=actor, created_at=now))
    return flow


async def save_version(tx: Tx, flow_id: str, *, steps: Sequence[dict[str, Any]], actor: str, now: datetime) -> int:
    """A new version, which new calls take from now on; running calls keep theirs."""
    check(steps)
    last = await tx.one(select(func.max(FlowVersion.number)).where(FlowVersion.flow_id == flow_id)) or 0
    await tx.add(FlowVersion(flow_id=flow_id, number=last + 1, steps=list(steps), created_by=actor, created_at=now))
    await tx.run(update(Flow).where(col(Flow.id) == flow_id).values(version=last + 1))
    return last + 1


_FLOW = fixed(select(Flow).where(Flow.id == bindparam("id")))
_VERSION = fixed(
    select(FlowVersion).where(FlowVersion.flow_id == bindparam("flow_id"), FlowVersion.number == bindparam("number"))
)


async def load(tx: Tx, flow_id: str | None, number: int | None = None) -> tuple[list[dict[str, Any]], int, str]:
    """Steps, version and language of a flow; the default flow when there is none."""
    flow = await tx.one(_FLOW, id=flow_id) if flow_id else None
    if flow is None:
        return DEFAULT, 0, ""
    version = await tx.one(_VERSION, flow_id=flow.id, number=number or flow.version)
    return (version.steps, version.number, flow.language) if version else (DEFAULT, 0, "")


def check(steps: Sequence[Mapping[str, Any]], path: str = "") -> None:
    """Invalid, naming the step, when a flow could leave a caller in silence."""
    if not steps:
        raise Invalid("Step %(step)s: there must be something to do.", step=path or "1")
    for number, step in enumerate(steps, 1):
        here = f"{path}{number}"
        kind = step.get("do")
        if kind not in ("welcome", "say", "play", "menu", "enqueue", "hangup"):
            raise Invalid("Step %(step)s: “%(kind)s” is not something a flow can do.", step=here, kind=kind)
        needs = {"say": "text", "play": "url", "menu": "keys"}.get(kind)
        if needs and not step.get(needs):
            raise Invalid("Step %(step)s: %(kind)s needs %(needs)s.", step=here, kind=kind, needs=needs)
        if kind == "menu":
            for pressed, inner in step["keys"].items():
                if pressed not in "0123456789" or len(pressed) != 1:
                    raise Invalid("Step %(step)s: “%(pressed)s” is not a key.", step=here, pressed=pressed)
                check(inner, f"{here}.{pressed}.")
            check(step.get("otherwise") or [], f"{here}.otherwise.")
        last = number == len(steps)
        if last and kind not in ("menu", "enqueue", "hangup"):
            raise Invalid("Step %(step)s: a flow must end in a queue, a menu or a hang-up.", step=here)
        if not last and kind in ("menu", "enqueue", "hangup"):
            raise Invalid("Step %(step)s: nothing can follow a %(kind)s.", step=here, kind=kind)


def walk(
    steps: Sequence[Mapping[str, Any]], *, at: str, interaction_id: str, language: str, number: int, pressed: str = ""
) -> Walked:
    """Go on from the menu at `at` (empty = the beginning) with the key `pressed`, until a key, a queue or the end. Pure.

    `at` is a path of indexes and keys joined by dashes, the part of the step's name behind `menu`.
    """
    said: list[Step] = []
    if at:
        path = at.split("-")
        tries = int(path.pop())
        menu, spot = _menu(steps, path)
        chosen = menu["keys"].get(pressed) if pressed else None
        if chosen is None and tries + 1 < MENU_TRIES:
            heard = [prompts.say("again", language)] if pressed else []
            return Walked(
                [*heard, *_ask(menu, "-".join((*path, str(tries + 1))), interaction_id, language, number + 1)]
            )
        branch = ["o"] if chosen is None else [pressed]
        steps = menu.get("otherwise", []) if chosen is None else chosen
        prefix = [*spot, *branch]
    else:
        prefix = []
    for index, step in enumerate(steps):
        kind = step["do"]
        if kind == "welcome":
            said.append(prompts.say("welcome", language))
        elif kind == "say":
            said.append(Say(step["text"], language))
        elif kind == "play":
            said.append(Play(step["url"]))
        elif kind == "menu":
            spot_name = "-".join((*prefix, str(index), "0"))
            said.extend(_ask(step, spot_name, interaction_id, language, number + 1))
            return Walked(said)
        elif kind == "enqueue":
            return Walked(said, queue_id=step.get("queue", ""))
        else:
            break
    return Walked([*said, Hangup()], ended=True)


def _ask(menu: Mapping[str, Any], spot: str, interaction_id: str, language: str, number: int) -> list[Step]:
    """Gather one key; silence goes on to the same step without a key."""
    action = step_path(interaction_id, f"menu-{spot}", number)
    prompt = [Say(menu["text"], language)] if menu.get("text") else []
    return [Gather(action, prompt, digits=1, timeout_s=5, language=language), Redirect(action)]


def _menu(steps: Sequence[Mapping[str, Any]], path: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """The menu at a path such as 0 or 0-1-2 (index, key, index …)."""
    here: Mapping[str, Any] = steps[int(path[0])]
    for key_, index in zip(path[1::2], path[2::2], strict=True):
        branch = here["otherwise"] if key_ == "o" else here["keys"][key_]
        here = branch[int(index)]
    return here, list(path)
