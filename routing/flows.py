"""Call flows: what a caller meets before a queue, as versioned rows of plain data, and the pure walk through them.

A flow's version never changes once stored; a call keeps the version that it began with, after the flow is retired too.
Steps as data:

    {"do": "say", "text": …}  or "texts": {language: text}, "sounds": {language: "id.wav"}, "sound": "id.wav"
    {"do": "play", "url": … or "sound": "id.wav"}  {"do": "language", "language": …}  {"do": "welcome"}
    {"do": "menu", (as say), "keys": {"1": [steps], …}, "words": {"1": ["sales"]}, "speech": true, "tries": 2, "timeout_s": 5,
     "otherwise": [steps]}                         (said `tries` times, then `otherwise`)
    {"do": "enqueue", "queue": id}                 {"do": "voicemail", "queue": id}   {"do": "callback", "queue": id}
    {"do": "number", "number": "+44…"}             {"do": "hangup"}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, update
from sqlmodel import Field, col, func, select

from channels.steps import Gather, Hangup, Play, Redirect, Say, Step
from crm_core import audit, sounds
from crm_core.accounts import ChannelAccount
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, docs, key, ref, text
from crm_core.texts import Text
from routing import dialling, prompts
from routing.rooms import step_path

MENU_TRIES = 2
RETIRED = 0  # the version of a flow that no new call takes


class Flow(Table, table=True):
    """A named call flow; `version` is the one that new calls take, RETIRED when none does."""

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
    language: str = ""  # from here on
    then: str = ""  # voicemail, callback or number, with its `target`
    target: str = ""


DEFAULT: list[dict[str, Any]] = [{"do": "welcome"}, {"do": "enqueue", "queue": ""}]


async def create(
    tx: Tx, *, name: str, steps: Sequence[dict[str, Any]], language: str, actor: str, now: datetime
) -> Flow:
    """A new flow with its first version."""
    prompts.check_language(language)
    check(steps)
    await _check_numbers(tx, steps)
    flow = Flow(id=new_id(now), name=await _free_name(tx, name), language=language, created_at=now)
    await tx.add(flow)
    await tx.add(FlowVersion(flow_id=flow.id, number=1, steps=list(steps), created_by=actor, created_at=now))
    return flow


async def save_version(
    tx: Tx, flow_id: str, *, steps: Sequence[dict[str, Any]], actor: str, now: datetime, seen: int | None = None
) -> int:
    """A new version, which new calls take from now on; running calls keep theirs. Conflict when the newest is not `seen`."""
    check(steps)
    await _check_numbers(tx, steps)
    await get(tx, flow_id)
    last = await tx.one(select(func.max(FlowVersion.number)).where(FlowVersion.flow_id == flow_id)) or 0
    if seen is not None and seen != last:
        raise Conflict("Somebody saved this call flow meanwhile. Saving again puts yours in place of theirs.")
    await tx.add(FlowVersion(flow_id=flow_id, number=last + 1, steps=list(steps), created_by=actor, created_at=now))
    await tx.run(update(Flow).where(col(Flow.id) == flow_id).values(version=last + 1))
    return last + 1


async def get(tx: Tx, flow_id: str) -> Flow:
    """The flow, or NotFound; a retired one is not found."""
    flow: Flow | None = await tx.one(_FLOW, id=flow_id)
    if flow is None or flow.version == RETIRED:
        raise NotFound("There is no such call flow.")
    return flow


async def list_all(tx: Tx) -> list[Flow]:
    """The flows that a number may have, by name."""
    return await tx.all(select(Flow).where(col(Flow.version) != RETIRED).order_by(col(Flow.name)).limit(200))


async def numbers_of(tx: Tx, flow_id: str) -> list[str]:
    """Our numbers whose callers meet this flow."""
    used = col(ChannelAccount.flow_id) == flow_id
    return await tx.all(
        select(ChannelAccount.address)
        .where(used, col(ChannelAccount.deleted_at).is_(None))
        .order_by(col(ChannelAccount.address))
    )


async def rename(tx: Tx, flow_id: str, name: str, *, actor: str, now: datetime) -> Flow:
    """Give a flow another name."""
    flow = await get(tx, flow_id)
    given = await _free_name(tx, name, flow_id)
    if given != flow.name:
        await tx.change(Flow, {"name": given}, id=flow_id)
        subject = f"flow:{flow_id}"
        await audit.record(
            tx, actor=actor, action="flow.renamed", subject=subject, now=now, before=flow.name, name=given
        )
    return await get(tx, flow_id)


async def retire(tx: Tx, flow_id: str, *, actor: str, now: datetime) -> None:
    """Take a flow out of use; its name is free again. Its versions stay: calls that run keep theirs. Conflict while a number
    uses it."""
    flow = await get(tx, flow_id)
    numbers = await numbers_of(tx, flow_id)
    if numbers:
        told = Text("This call flow is still used: %(numbers)s. Choose another one there first.", numbers=numbers)
        raise Conflict(told)
    await tx.change(Flow, {"version": RETIRED, "name": f"{flow.name} ({flow_id})"}, id=flow_id)
    await audit.record(tx, actor=actor, action="flow.retired", subject=f"flow:{flow_id}", now=now, name=flow.name)


async def _free_name(tx: Tx, name: str, flow_id: str = "") -> str:
    """The name as it is stored. Invalid when there is none, or another flow than `flow_id` has it."""
    given = name.strip()[:100]
    if not given:
        raise Invalid("Give a name.", fields={"name": "Give a name."})
    if await tx.one(select(Flow.id).where(Flow.name == given, Flow.id != flow_id)) is not None:
        taken = Text("There is a call flow of this name already.")
        raise Invalid(taken, fields={"name": taken})
    return given


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


FINALS = ("menu", "enqueue", "voicemail", "callback", "number", "hangup")
PROMPTS = ("welcome", "say", "play", "language")
DEEPEST = 6  # levels of menus: deeper ones nobody can remember


def check(steps: Sequence[Mapping[str, Any]], path: str = "", *, depth: int = 1) -> None:
    """Invalid, naming the step, when a flow could leave a caller in silence."""
    if not steps:
        raise Invalid(Text("Step %(step)s: there must be something to do.", step=path or "1"))
    if depth > DEEPEST:
        raise Invalid(Text("Step %(step)s: menus may be nested %(most)s deep.", step=path, most=DEEPEST))
    for number, step in enumerate(steps, 1):
        here = f"{path}{number}"
        kind = step.get("do")
        if kind not in (*PROMPTS, *FINALS):
            raise Invalid(Text("Step %(step)s: “%(kind)s” is not something a flow can do.", step=here, kind=kind))
        _check_needs(step, here)
        if kind == "menu":
            _check_menu(step, here, depth)
        elif kind == "language":
            prompts.check_language(str(step["language"]))
        last = number == len(steps)
        if last and kind not in FINALS:
            raise Invalid(Text("Step %(step)s: a flow must end in a queue, a menu or a hang-up.", step=here))
        if not last and kind in FINALS:
            raise Invalid(Text("Step %(step)s: nothing can follow a %(kind)s.", step=here, kind=kind))


def _check_needs(step: Mapping[str, Any], here: str) -> None:
    kind = str(step["do"])
    said = step.get("text") or step.get("sound") or any((step.get("texts") or {}).values()) or step.get("sounds")
    if kind == "say" and not said:
        raise Invalid(Text("Step %(step)s: %(kind)s needs %(needs)s.", step=here, kind=kind, needs="text"))
    needs = {"play": ("url", "sound"), "number": ("number",), "language": ("language",), "menu": ("keys",)}.get(kind)
    if needs and not any(step.get(name) for name in needs):
        raise Invalid(Text("Step %(step)s: %(kind)s needs %(needs)s.", step=here, kind=kind, needs=needs[0]))


def _check_menu(step: Mapping[str, Any], here: str, depth: int) -> None:
    if not 1 <= int(step.get("tries", MENU_TRIES)) <= 5:
        raise Invalid(Text("Step %(step)s: a menu is said one to five times.", step=here))
    for pressed, inner in step["keys"].items():
        if pressed not in "0123456789" or len(pressed) != 1:
            raise Invalid(Text("Step %(step)s: “%(key)s” is not a key.", step=here, key=pressed))
        check(inner, f"{here}.{pressed}.", depth=depth + 1)
    for pressed in step.get("words") or {}:
        if pressed not in step["keys"]:
            raise Invalid(Text("Step %(step)s: words lead to a key that is not there.", step=here))
    check(step.get("otherwise") or [], f"{here}.otherwise.", depth=depth + 1)


async def _check_numbers(tx: Tx, steps: Sequence[Mapping[str, Any]]) -> None:
    for step in steps:
        if step["do"] == "number":
            await dialling.refuse_ours(tx, str(step["number"]))
        for inner in (*step.get("keys", {}).values(), step.get("otherwise", [])):
            await _check_numbers(tx, inner)


def walk(
    steps: Sequence[Mapping[str, Any]], *, at: str, interaction_id: str, language: str, number: int, pressed: str = "",
    said: str = "",
) -> Walked:  # fmt: skip
    """Go on from the menu at `at` (empty = the beginning) with a key or with words, until the next choice or the end. Pure.

    `at` is a path of indexes and keys joined by dashes, the part of the step's name behind `menu`; its last part counts how
    often the menu was said.
    """
    spoken: list[Step] = []
    prefix: list[str] = []
    if at:
        path = at.split("-")
        tries = int(path.pop())
        menu, spot = _menu(steps, path)
        key_ = chosen(menu, pressed, said)
        if key_ is None and tries + 1 < int(menu.get("tries", MENU_TRIES)):
            heard = [prompts.say("again", language)] if pressed or said else []
            asked = _ask(menu, "-".join((*path, str(tries + 1))), interaction_id, language, number + 1)
            return Walked([*heard, *asked], language=language)
        steps = menu.get("otherwise", []) if key_ is None else menu["keys"][key_]
        prefix = [*spot, "o" if key_ is None else key_]
    for index, step in enumerate(steps):
        kind = step["do"]
        if kind == "welcome":
            spoken.append(prompts.say("welcome", language))
        elif kind == "language":
            language = str(step["language"])
        elif kind == "say":
            spoken.extend(_heard(step, language))
        elif kind == "play":
            spoken.append(Play(_sound(str(step["sound"])) if step.get("sound") else step["url"]))
        elif kind == "menu":
            spot_name = "-".join((*prefix, str(index), "0"))
            spoken.extend(_ask(step, spot_name, interaction_id, language, number + 1))
            return Walked(spoken, language=language)
        elif kind == "enqueue":
            return Walked(spoken, queue_id=step.get("queue", ""), language=language)
        elif kind in ("voicemail", "callback", "number"):
            target = str(step.get("number" if kind == "number" else "queue", ""))
            return Walked(spoken, language=language, then=str(kind), target=target)
        else:
            break
    return Walked([*spoken, Hangup()], ended=True, language=language)


def choice(steps: Sequence[Mapping[str, Any]], *, at: str, pressed: str, said: str) -> dict[str, str] | None:
    """What a caller chooses by a key or by words in the menu at `at`: its key, the first of its words, and the queue that it
    leads to: "" is the number's own, and no `queue` is another place. None when it is none of the options."""
    menu, _ = _menu(steps, at.split("-")[:-1])
    key_ = chosen(menu, pressed, said)
    if key_ is None:
        return None
    words = (menu.get("words") or {}).get(key_) or [""]
    last = menu["keys"][key_][-1]
    led = {"queue": str(last.get("queue", ""))} if last["do"] in ("enqueue", "voicemail", "callback") else {}
    return {"key": key_, "words": str(words[0]), **led}


def chosen(menu: Mapping[str, Any], pressed: str, said: str) -> str | None:
    """The key that was pressed, or the one whose words were said; None when it was neither."""
    keys: Mapping[str, Any] = menu["keys"]
    if pressed in keys:
        return pressed
    heard = _words(said)
    if heard in keys:
        return heard
    for key_, words in (menu.get("words") or {}).items():
        for word in words:
            wanted = _words(str(word))
            # Chinese is written without spaces between words.
            if wanted and (f" {wanted} " in f" {heard} " or (not wanted.isascii() and wanted in heard)):
                return str(key_)
    return None


def _words(text_: str) -> str:
    """Lower case, single spaces, no punctuation."""
    return re.sub(r"[^\w]+", " ", text_.casefold()).strip()


def _heard(step: Mapping[str, Any], language: str) -> list[Step]:
    """A prompt in this language, or the nearest there is: an uploaded sound before a spoken text."""
    sound = nearest(step.get("sounds") or {}, language) or step.get("sound")
    if sound:
        return [Play(_sound(str(sound)))]
    texts: Mapping[str, str] = step.get("texts") or {}
    found = nearest(texts, language)
    if found:
        return [Say(found, language)]
    if step.get("text"):
        return [Say(step["text"], language)]
    other, text_ = next(((code, said) for code, said in texts.items() if said), ("", ""))
    return [Say(text_, other)] if text_ else []


def nearest(by_language: Mapping[str, str], language: str) -> str:
    """What is there for this language, or for another of the same tongue; empty for neither."""
    if by_language.get(language):
        return by_language[language]
    tongue = language.partition("-")[0].lower()
    return next((said for code, said in by_language.items() if said and code.partition("-")[0].lower() == tongue), "")


def _sound(name: str) -> str:
    sound_id, _, ending = name.partition(".")
    return sounds.path_of(sound_id, ending or "wav")


def _ask(menu: Mapping[str, Any], spot: str, interaction_id: str, language: str, number: int) -> list[Step]:
    """Gather one key, or words; silence goes on to the same step without either."""
    action = step_path(interaction_id, f"menu-{spot}", number)
    prompt = [each for each in _heard(menu, language) if isinstance(each, Say | Play)]
    timeout_s, speech = int(menu.get("timeout_s", 5)), bool(menu.get("speech"))
    gather = Gather(action, prompt, digits=1, timeout_s=timeout_s, speech=speech, language=language)
    return [gather, Redirect(action)]


def _menu(steps: Sequence[Mapping[str, Any]], path: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """The menu at a path such as 0 or 0-1-2 (index, key, index …)."""
    here: Mapping[str, Any] = steps[int(path[0])]
    for key_, index in zip(path[1::2], path[2::2], strict=True):
        branch = here["otherwise"] if key_ == "o" else here["keys"][key_]
        here = branch[int(index)]
    return here, list(path)
