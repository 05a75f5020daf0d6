"""The editor of call flows: what callers hear, per language or as an uploaded sound, and where each key or word leads.

The form posts the whole tree each time; adding or removing an option draws it anew, only Save stores a version. Calls that run
keep the version that they began with. An option's fields are named by its place in the menu (r.1, r.2 …): two that have the
same key for a moment remain two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import phonenumbers
from aiohttp import web

from crm_core import accounts, addresses, sounds
from crm_core.errors import Conflict, HubError, Invalid
from crm_core.sounds import Sound
from hub.desktop.render import render
from hub.desktop.templating import part, told
from hub.desktop.work import ID
from hub.web import ADMINS, Route, now_of, runtime_of, user_of
from routing import flows, queues
from routing.flows import Flow
from routing.queues import Queue

LANGUAGES = (("en-GB", "English"), ("es-ES", "Español"), ("de-DE", "Deutsch"), ("zh-CN", "中文"))
THENS = ("enqueue", "menu", "voicemail", "callback", "number", "hangup")
LONGEST = 2000
KEYS = 10  # of a telephone
PROMPT_FIELDS = ("texts", "sound")


@dataclass(slots=True)
class Option:
    """One choice of a menu."""

    key: str
    words: str
    node: Node


@dataclass(slots=True)
class Node:
    """What is said, and what then."""

    welcome: bool = False
    language: str = ""
    say: dict[str, str] = field(default_factory=dict)
    sound: str = ""
    then: str = "enqueue"
    queue: str = ""
    number: str = ""
    ask: dict[str, str] = field(default_factory=dict)
    ask_sound: str = ""
    tries: int = 2
    timeout_s: int = 5
    speech: bool = False
    options: list[Option] = field(default_factory=list)
    otherwise: Node | None = None


@dataclass(frozen=True, slots=True)
class FlowPage:
    """The editor."""

    flow: Flow
    version: int  # that the form began with
    root: Node
    queues: list[Queue]
    sounds: list[Sound]
    languages: tuple[tuple[str, str], ...]
    numbers: list[str]  # of ours that use it
    name: str  # as typed, or as it is
    error: str
    fault: str  # what is wrong with the name
    saved: bool


# --- steps to form and back -------------------------------------------------------------------------------------------


def _texts(step: Mapping[str, Any], language: str) -> dict[str, str]:
    found = {str(code): str(said) for code, said in (step.get("texts") or {}).items() if said}
    if step.get("text"):
        found.setdefault(language, str(step["text"]))
    return found


def node_of(steps: list[dict[str, Any]], language: str) -> Node:
    """The steps as the form shows them. Several prompts in a row are shown as one."""
    node = Node()
    for step in steps:
        kind = step["do"]
        if kind == "welcome":
            node.welcome = True
        elif kind == "language":
            node.language = str(step["language"])
        elif kind in ("say", "play"):
            for code, said in _texts(step, node.language or language).items():
                node.say[code] = f"{node.say[code]} {said}" if code in node.say else said
            node.sound = str(step.get("sound") or node.sound)
        else:
            node.then = kind
            node.queue, node.number = str(step.get("queue", "")), str(step.get("number", ""))
            if kind == "menu":
                _menu_into(node, step, node.language or language)
    return node


def _menu_into(node: Node, step: Mapping[str, Any], language: str) -> None:
    node.ask, node.ask_sound = _texts(step, language), str(step.get("sound") or "")
    node.tries, node.timeout_s = int(step.get("tries", flows.MENU_TRIES)), int(step.get("timeout_s", 5))
    node.speech = bool(step.get("speech"))
    words = step.get("words") or {}
    node.options = [
        Option(key, ", ".join(words.get(key, ())), node_of(inner, language)) for key, inner in step["keys"].items()
    ]
    node.otherwise = node_of(step.get("otherwise") or [{"do": "hangup"}], language)


def steps_of(node: Node) -> list[dict[str, Any]]:
    """The steps that the form describes."""
    steps: list[dict[str, Any]] = []
    if node.language:
        steps.append({"do": "language", "language": node.language})
    if node.welcome:
        steps.append({"do": "welcome"})
    said = {code: text for code, text in node.say.items() if text}
    if said or node.sound:
        steps.append(
            {"do": "say", **({"texts": said} if said else {}), **({"sound": node.sound} if node.sound else {})}
        )
    last: dict[str, Any] = {"do": node.then}
    if node.then in ("enqueue", "voicemail", "callback"):
        last["queue"] = node.queue
    elif node.then == "number":
        last["number"] = node.number
    elif node.then == "menu":
        asked = {code: text for code, text in node.ask.items() if text}
        words = {one.key: [w.strip() for w in one.words.split(",") if w.strip()] for one in node.options}
        last |= {
            **({"texts": asked} if asked else {}),
            **({"sound": node.ask_sound} if node.ask_sound else {}),
            "tries": node.tries, "timeout_s": node.timeout_s, "speech": node.speech,
            "words": {key: found for key, found in words.items() if found},
            "keys": {one.key: steps_of(one.node) for one in node.options},
            "otherwise": steps_of(node.otherwise or Node(then="hangup")),
        }  # fmt: skip
    return [*steps, last]


def read_node(form: Mapping[str, str], at: str = "r", depth: int = 1) -> Node:
    """A node out of the posted fields; what is not there gets its usual value."""

    def given(name: str) -> str:
        return form.get(f"{at}.{name}", "").strip()

    def whole(name: str, usual: int, low: int, high: int) -> int:
        text = given(name)
        return max(low, min(int(text), high)) if text.isdigit() and len(text) < 5 else usual

    node = Node(
        welcome=bool(given("welcome")), language=given("language")[:20], sound=given("sound")[:60],
        then=given("then") if given("then") in THENS else "enqueue", queue=given("queue")[:40], number=given("number")[:40],
        say={code: given(f"say.{code}")[:LONGEST] for code, _ in LANGUAGES},
    )  # fmt: skip
    if node.then != "menu" or depth > flows.DEEPEST:
        return node
    node.ask = {code: given(f"ask.{code}")[:LONGEST] for code, _ in LANGUAGES}
    node.ask_sound, node.speech = given("asksound")[:60], bool(given("speech"))
    node.tries, node.timeout_s = whole("tries", 2, 1, 5), whole("timeout", 5, 1, 30)
    for place in given("places").split(",")[:KEYS]:
        if place.isdigit() and len(place) < 3:
            inner = read_node(form, f"{at}.{place}", depth + 1)
            node.options.append(Option(given(f"{place}.key")[:1], given(f"{place}.words")[:500], inner))
    # In a new menu, whoever presses nothing waits in the queue.
    node.otherwise = read_node(form, f"{at}.o", depth + 1)
    if not node.options:
        node.options.append(Option("1", "", Node()))
    return node


def act(root: Node, what: str, where: str) -> None:
    """Add an option to the menu at this path (r, r.1, r.o.2 …), or remove the option at it."""
    path = where.split(".")[1:]
    if what == "drop" and path:
        node = _at(root, path[:-1])
        if node is not None and len(node.options) > 1:
            node.options = [one for place, one in enumerate(node.options, 1) if str(place) != path[-1]]
    elif what == "add":
        node = _at(root, path)
        taken = {one.key for one in node.options} if node is not None else set()
        free = next((key for key in "1234567890" if key not in taken), None)
        if node is not None and free is not None and len(node.options) < KEYS:
            node.options.append(Option(free, "", Node()))


def _at(root: Node, path: list[str]) -> Node | None:
    node: Node | None = root
    for key in path:
        if node is None:
            return None
        options = {str(place): one.node for place, one in enumerate(node.options, 1)}
        node = node.otherwise if key == "o" else options.get(key)
    return node


def check_node(node: Node, country: str) -> None:
    """Two options on one key, or a number that is none: Invalid. Numbers become E.164; `country` reads national ones."""
    keys = [one.key for one in node.options]
    if len(keys) != len(set(keys)):
        raise Invalid("Two options of one menu have the same key.")
    if node.then == "number":
        found = addresses.phone(node.number, country=country)
        kind = phonenumbers.number_type(phonenumbers.parse(found.value))
        if kind in (phonenumbers.PhoneNumberType.PREMIUM_RATE, phonenumbers.PhoneNumberType.SHARED_COST):
            raise Invalid("Premium and shared-cost numbers are not dialled from the hub.")
        node.number = found.value
    for inner in [*(one.node for one in node.options), *filter(None, [node.otherwise])]:
        check_node(inner, country)


# --- pages ------------------------------------------------------------------------------------------------------------


async def _page(
    request: web.Request, *, root: Node | None = None, version: int | None = None, name: str | None = None,
    error: HubError | None = None, saved: bool = False,
) -> FlowPage:  # fmt: skip
    async with runtime_of(request).db.reading() as tx:
        flow = await flows.get(tx, request.match_info["flow"])
        if root is None:
            steps, _, _ = await flows.load(tx, flow.id)
            root = node_of(steps, flow.language)
        return FlowPage(
            flow, flow.version if version is None else version, root, await queues.list_all(tx),
            await sounds.list_all(tx), LANGUAGES, await flows.numbers_of(tx, flow.id), flow.name if name is None else name,
            told(request, error) if error else "", error.fields.get("name", "") if isinstance(error, Invalid) else "", saved,
        )  # fmt: skip


async def show(request: web.Request) -> web.StreamResponse:
    """The editor."""
    return await render(request, "admin/flow.html", await _page(request))


async def _given(request: web.Request) -> dict[str, str]:
    return {name: str(value) for name, value in (await request.post()).items()}


def _version(form: Mapping[str, str]) -> int:
    text = form.get("version", "")
    return int(text) if text.isdigit() and len(text) < 9 else 0


async def redraw(request: web.Request) -> web.StreamResponse:
    """The form anew after a choice, an added or a removed option; nothing is stored."""
    form = await _given(request)
    root = read_node(form)
    what, _, where = request.query.get("act", "").partition(":")
    act(root, what, where)
    return part(request, "admin/flow_form.html", await _page(request, root=root, version=_version(form)))


async def save(request: web.Request) -> web.StreamResponse:
    """A new version."""
    form = await _given(request)
    root, user, now = read_node(form), user_of(request), now_of(request)
    flow_id, db = request.match_info["flow"], runtime_of(request).db
    async with db.reading() as tx:
        country = await accounts.home_country(tx)
    try:
        check_node(root, country)
        steps = steps_of(root)
        await db.write(
            lambda tx: flows.save_version(tx, flow_id, steps=steps, actor=user.id, now=now, seen=_version(form))
        )
    except HubError as error:
        page = await _page(request, root=root, error=error)
        return await render(request, "admin/flow.html", page, status=422)
    return await render(request, "admin/flow.html", await _page(request, saved=True))


async def rename(request: web.Request) -> web.StreamResponse:
    """Another name. What was typed into the steps and is not saved yet comes along, and stays."""
    form, user, now = await _given(request), user_of(request), now_of(request)
    flow_id, name = request.match_info["flow"], form.get("name", "")
    typed: dict[str, Any] = {"root": read_node(form), "version": _version(form)} if "r.then" in form else {}
    try:
        await runtime_of(request).db.write(lambda tx: flows.rename(tx, flow_id, name, actor=user.id, now=now))
    except Invalid as error:
        page = await _page(request, name=name, error=error, **typed)
        return await render(request, "admin/flow.html", page, status=422)
    if typed:
        return await render(request, "admin/flow.html", await _page(request, **typed))
    raise web.HTTPSeeOther(f"{A}/{flow_id}")


async def retire(request: web.Request) -> web.StreamResponse:
    """Out of use; refused while a number uses it."""
    flow_id, user, now = request.match_info["flow"], user_of(request), now_of(request)
    try:
        await runtime_of(request).db.write(lambda tx: flows.retire(tx, flow_id, actor=user.id, now=now))
    except Conflict as error:
        return await render(request, "admin/flow.html", await _page(request, error=error), status=409)
    raise web.HTTPSeeOther(A)


A = "/desk/admin/flows"
routes = [
    Route("GET", f"{A}/{{flow:{ID}}}", show, roles=ADMINS),
    Route("POST", f"{A}/{{flow:{ID}}}", save, roles=ADMINS),
    Route("POST", f"{A}/{{flow:{ID}}}/form", redraw, roles=ADMINS),
    Route("POST", f"{A}/{{flow:{ID}}}/name", rename, roles=ADMINS),
    Route("POST", f"{A}/{{flow:{ID}}}/retire", retire, roles=ADMINS),
]
