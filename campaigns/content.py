"""What a campaign says: Jinja2 as data. Checked when saved, compiled once per version, rendered over a flat dict of strings.

Allowed are text, fields, if/else, comparisons and the filters below; no calls, attributes, loops, macros, arithmetic. So the
time is bounded by the size of the source, and the output is cut off at its limit. DESIGN.md 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from crm_core.addresses import PointKind
from crm_core.errors import Invalid
from crm_core.texts import Text

MAX_SOURCE = 64 * 1024
MAX_OUTPUT = 512 * 1024
MAX_FIELD = 2_000
MAX_NODES = 4_000
MAX_DEPTH = 24
MAX_TEXT_MESSAGE = 1_600  # characters; Twilio's limit for one message (docs "Message Resource", body, read 2026-11)
FILTERS = frozenset(
    {"upper", "lower", "title", "capitalize", "trim", "default", "truncate", "urlencode", "escape", "e"}
)
UNSUBSCRIBE_FIELD = "unsubscribe_url"
BASE_FIELDS = frozenset({"name", "first_name", "last_name", "address", UNSUBSCRIBE_FIELD})
_NODES: tuple[type[nodes.Node], ...] = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.If, nodes.Const, nodes.Filter, nodes.Compare,
    nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Keyword,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """The three parts as written. `html` is empty for text messages and plain mails."""

    subject: str
    body: str
    html: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """The three parts for one recipient."""

    subject: str
    body: str
    html: str


class ContentError(Invalid):
    """This text cannot be made for this recipient."""


def _environment(*, autoescape: bool) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        autoescape=autoescape, undefined=StrictUndefined, extensions=(), keep_trailing_newline=True, cache_size=0
    )
    environment.globals.clear()
    environment.tests.clear()
    for name in list(environment.filters):
        if name not in FILTERS:
            del environment.filters[name]
    return environment


_PLAIN = _environment(autoescape=False)
_HTML = _environment(autoescape=True)


def _parse(source: str, environment: ImmutableSandboxedEnvironment) -> nodes.Template:
    if len(source) > MAX_SOURCE:
        raise Invalid("This text is longer than %(most)s KB.", most=MAX_SOURCE // 1024)
    try:
        tree = environment.parse(source)
    except TemplateError as error:
        raise Invalid(
            "Line %(line)s cannot be read: %(detail)s.",
            line=getattr(error, "lineno", None) or 1,
            detail=error.message or "",
        ) from error
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        raise Invalid("This text is nested too deeply.") from error
    _walk(tree, 0, [0])
    return tree


def _walk(node: nodes.Node, depth: int, seen: list[int]) -> None:
    seen[0] += 1
    if depth > MAX_DEPTH:
        raise Invalid("This text is nested too deeply.")
    if seen[0] > MAX_NODES:
        raise Invalid("This text has too many fields and conditions.")
    line = getattr(node, "lineno", None) or 1
    if not isinstance(node, _NODES):
        raise Invalid(
            "Line %(line)s: only fields, if/else and simple filters are possible here, not %(what_text)s.", line=line,
            what_text=_word(node),
        )  # fmt: skip
    if isinstance(node, nodes.Name) and node.ctx != "load":
        raise Invalid("Line %(line)s: a field cannot be set here.", line=line)
    if isinstance(node, nodes.Filter):
        if node.name not in FILTERS:
            raise Invalid(
                "Line %(line)s: there is no filter “%(name)s”; there are %(known)s.", line=line, name=node.name,
                known=sorted(FILTERS),
            )  # fmt: skip
        if node.node is None or node.dyn_args is not None or node.dyn_kwargs is not None:
            raise Invalid("Line %(line)s: this use of a filter is not possible here.", line=line)
    if isinstance(node, nodes.Const) and not isinstance(node.value, str | bool | int | None):
        raise Invalid("Line %(line)s: only texts and whole numbers are possible here.", line=line)
    for child in node.iter_child_nodes():
        _walk(child, depth + 1, seen)


def _word(node: nodes.Node) -> str:
    words: dict[type[nodes.Node], str] = {
        nodes.Call: "calls", nodes.Getattr: "attributes", nodes.Getitem: "items", nodes.For: "loops",
        nodes.Macro: "macros", nodes.Assign: "assignments", nodes.Include: "includes", nodes.Import: "imports",
        nodes.Extends: "extends", nodes.Block: "blocks", nodes.FilterBlock: "filter blocks",
    }  # fmt: skip
    return words.get(type(node), type(node).__name__.lower())


def fields_used(source: str) -> set[str]:
    """Names of the fields in one part; Invalid when it cannot be used."""
    tree = _parse(source, _PLAIN)
    return {node.name for node in tree.find_all(nodes.Name)}


def check(source: Source, *, kind: PointKind, marketing: bool, fields: frozenset[str]) -> list[str]:
    """Look at everything when saving; Invalid with one sentence per part. Returns warnings that do not forbid."""
    wrong: dict[str, str] = {}
    used: set[str] = set()
    known = BASE_FIELDS | fields
    for part in ("subject", "body", "html"):
        try:
            names = fields_used(getattr(source, part))
        except Invalid as error:
            wrong[part] = error.message
            continue
        if unknown := sorted(names - known):
            wrong[part] = Text(
                "The audience has no field %(unknown)s; it has %(known)s.", unknown=unknown, known=sorted(known)
            )
        used |= names
    if kind == PointKind.EMAIL:
        if not source.subject.strip():
            wrong.setdefault("subject", Text("A mail needs a subject."))
        if not source.body.strip() and not source.html.strip():
            wrong.setdefault("body", Text("Write what to send."))
        if marketing and not wrong:
            for part in ("body", "html"):
                written = getattr(source, part)
                if written.strip() and UNSUBSCRIBE_FIELD not in fields_used(written):
                    wrong[part] = Text("A marketing mail needs a way out: put {{ unsubscribe_url }} into it.")
    elif not source.body.strip():
        wrong.setdefault("body", Text("Write what to send."))
    if wrong:
        raise Invalid("This content cannot be sent.", fields=wrong)
    warnings: list[str] = []
    if kind == PointKind.PHONE and marketing and "stop" not in source.body.casefold():
        warnings.append(Text("Say how to stop, such as: Reply STOP to end."))
    if kind == PointKind.EMAIL and not source.body.strip():
        warnings.append("There is no plain text part; some readers see nothing.")
    return warnings


class Template:
    """One content version, compiled once and rendered for many."""

    __slots__ = ("_body", "_html", "_subject", "fields", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.fields = fields_used(source.subject) | fields_used(source.body) | fields_used(source.html)
        self._subject = _compile(source.subject, _PLAIN)
        self._body = _compile(source.body, _PLAIN)
        self._html = _compile(source.html, _HTML)

    def render(self, fields: Mapping[str, str]) -> Rendered:
        """The message for one recipient; ContentError when a field is missing or the result is too long."""
        subject = " ".join(_render(self._subject, fields).split())
        return Rendered(subject, _render(self._body, fields), _render(self._html, fields))


def _compile(source: str, environment: ImmutableSandboxedEnvironment) -> Any:
    tree = _parse(source, environment)
    try:
        return environment.from_string(tree)
    except (TemplateError, SyntaxError, RecursionError, MemoryError) as error:
        raise Invalid("This text cannot be used as a template.") from error


def _render(template: Any, fields: Mapping[str, str]) -> str:
    parts: list[str] = []
    size = 0
    try:
        for part in template.generate(clean(fields)):
            size += len(part)
            if size > MAX_OUTPUT:
                raise ContentError("The text is longer than %(most)s KB for this recipient.", most=MAX_OUTPUT // 1024)
            parts.append(part)
    except TemplateError as error:
        raise ContentError(
            "The text cannot be made for this recipient: %(detail)s.", detail=error.message or ""
        ) from error
    except (TypeError, ValueError, RecursionError, MemoryError) as error:
        raise ContentError("The text cannot be made for this recipient.") from error
    return "".join(parts)


def clean(fields: Mapping[str, Any]) -> dict[str, str]:
    """Only plain strings of bounded length get into a template."""
    return {name: str(value)[:MAX_FIELD] for name, value in fields.items()}


def check_length(made: Rendered, *, kind: PointKind) -> None:
    """ContentError when nothing is left to send, or a text message is longer than providers take."""
    if not made.body.strip() and not made.html.strip():
        raise ContentError("Nothing is left of the text for this recipient.")
    if kind == PointKind.PHONE and len(made.body) > MAX_TEXT_MESSAGE:
        raise ContentError(
            "The text has %(has)s characters; %(most)s are possible.", has=len(made.body), most=MAX_TEXT_MESSAGE
        )
