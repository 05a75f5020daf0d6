"""A form's fields: which kinds there are, what a definition must keep to, which fields show, and what an answer means.

Pure. Used when an administrator builds a form, when somebody fills it in, and when the answer becomes a contact and a lead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from crm_core.addresses import find_email, find_phone
from crm_core.errors import Invalid
from crm_core.texts import Text

Field = Mapping[str, Any]

KINDS = ("text", "email", "phone", "select", "checkbox", "number", "date", "textarea", "hidden", "file", "slot")
MAX_FIELDS, MAX_OPTIONS, MAX_ALSO = 60, 200, 10
HOME = "GB"  # where numbers are from that name no country, when the form's account does not say
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
CONDITIONS = ("show_if", "require_if")
RESERVED = frozenset({"consent"})
TICKED = frozenset({"on", "true", "yes", "1"})
# Where a value goes beside the lead, on which every field is kept under its own name.
TARGETS = ("", "contact.name", "contact.first_name", "contact.last_name", "contact.job_title", "contact.language",
           "contact.country", "contact.notes", "subject")  # fmt: skip


def check_definition(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """The fields, tidied; Invalid with a sentence at `fields.<index>.<part>` for each that cannot stay as it is."""
    wrong: dict[str, str] = {}
    made: list[dict[str, Any]] = []
    seen: dict[str, dict[str, Any]] = {}
    for at, raw in enumerate(fields[:MAX_FIELDS]):
        field = _tidied(raw)
        _check_field(field, at, seen, wrong)
        made.append(field)
        seen.setdefault(field["name"], field)
    if len(fields) > MAX_FIELDS:
        wrong["fields"] = Text("At most %(number)s fields.", number=MAX_FIELDS)
    if not any(field["kind"] in ("email", "phone") for field in made):
        wrong["fields"] = Text("A form needs a field for a phone number or an e-mail address, so that we can answer.")
    if wrong:
        raise Invalid("This form cannot be used so.", fields=wrong)
    return made


def _tidied(raw: Field) -> dict[str, Any]:
    field: dict[str, Any] = {
        "name": str(raw.get("name", "")).strip()[:100],
        "label": str(raw.get("label", "")).strip()[:200],
        "kind": str(raw.get("kind", "text")),
    }
    if raw.get("required"):
        field["required"] = True
    given = raw.get("options")
    listed = given if isinstance(given, list | tuple) else []
    options = [str(option).strip()[:200] for option in listed if str(option).strip()]
    if options:
        field["options"] = options
    given = raw.get("also")
    listed = given if isinstance(given, list | tuple) else str(given or "").splitlines()
    also = list(dict.fromkeys(str(name).strip()[:100] for name in listed if str(name).strip()))
    if also:
        field["also"] = also
    for part in ("hint", "value", "maps", "least", "most"):
        typed = str(raw.get(part) or "").strip()[:500]
        if typed:
            field[part] = typed
    for part in CONDITIONS:
        condition = raw.get(part)
        if isinstance(condition, Mapping) and condition.get("field"):
            field[part] = {"field": str(condition["field"]), "is": str(condition.get("is", "")).strip()[:200]}
    return field


def _check_field(field: dict[str, Any], at: int, seen: Mapping[str, Field], wrong: dict[str, str]) -> None:
    def say(part: str, sentence: str) -> None:
        wrong.setdefault(f"fields.{at}.{part}", sentence)

    name, kind = field["name"], field["kind"]
    if not NAME.fullmatch(name):
        say("name", Text("A name is small letters, digits and underscores, and begins with a letter."))
    elif name in seen or name in RESERVED:
        say("name", Text("This name is taken."))
    if kind not in KINDS:
        say("kind", Text("Choose one of the list."))
    if not field["label"] and kind != "hidden":
        say("label", Text("Give a label."))
    if kind == "select" and not field.get("options"):
        say("options", Text("Give at least one choice."))
    if len(field.get("options", [])) > MAX_OPTIONS:
        say("options", Text("At most %(number)s choices.", number=MAX_OPTIONS))
    if field.get("maps", "") not in TARGETS:
        say("maps", Text("Choose one of the list."))
    for part in ("least", "most"):
        if part in field and (_bound(kind, field[part]) is None):
            say(part, Text("This is no value of such a field."))
    if len(field.get("also", [])) > MAX_ALSO:
        say("also", Text("At most %(number)s names.", number=MAX_ALSO))
    for part in CONDITIONS:
        if (condition := field.get(part)) is None:
            continue
        asked = seen.get(condition["field"])
        if asked is None:
            say(part, Text("The condition must name a field further up."))
        elif asked["kind"] == "select" and condition["is"] and condition["is"] not in asked.get("options", []):
            say(part, Text("The field that the condition names has no such choice."))
    if kind == "hidden":
        field.pop("required", None)  # nobody could fill it in
        field.pop("require_if", None)


def _bound(kind: str, value: str) -> Decimal | date | None:
    return number_of(value) if kind == "number" else date_of(value) if kind == "date" else None


def number_of(text: str) -> Decimal | None:
    """A number as typed; a comma may stand for the point."""
    try:
        found = Decimal(text.strip().replace(",", ".")) if len(text) <= 40 else None
    except InvalidOperation:
        return None
    return found if found is not None and found.is_finite() else None


def date_of(text: str) -> date | None:
    """A date as browsers send it: 2026-11-30."""
    try:
        return date.fromisoformat(text.strip()) if len(text.strip()) == 10 else None
    except ValueError:
        return None


def instant_of(text: str) -> datetime | None:
    """The instant that somebody chose to be called at, as ISO 8601 with its zone; None when it is none."""
    try:
        found = datetime.fromisoformat(text.strip()) if len(text) <= 40 else None
    except ValueError:
        return None
    return found.astimezone(UTC) if found is not None and found.tzinfo is not None else None


def renamed(fields: Sequence[Field], values: Mapping[str, str]) -> dict[str, str]:
    """The values under the fields' own names: what came under one of a field's other names moves to the field.

    A field that has a value under its own name keeps that, and the other name stays as it came.
    """
    found = dict(values)
    known = {field["name"] for field in fields}
    for field in fields:
        for other in field.get("also", ()):
            if found.get(field["name"], "").strip():
                break
            if other not in known and found.get(other, "").strip():
                found[field["name"]] = found.pop(other)
    return found


def holds(condition: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    """True when the field that the condition names has the value that it wants; wanting nothing: filled in or ticked."""
    value, wanted = values.get(condition["field"], "").strip().casefold(), str(condition.get("is", "")).casefold()
    if not wanted:
        return value not in ("", "no", "0")
    return value == wanted or (wanted in TICKED and value in TICKED)


def shown(fields: Sequence[Field], values: Mapping[str, str]) -> list[Field]:
    """The fields whose condition is met, in order; one that hangs on a field that is not shown is not shown either."""
    found: list[Field] = []
    names: set[str] = set()
    for field in fields:
        condition = field.get("show_if")
        if condition and (condition["field"] not in names or not holds(condition, values)):
            continue
        found.append(field)
        names.add(field["name"])
    return found


def required(field: Field, values: Mapping[str, str]) -> bool:
    """True when this field, being shown, must be filled in: always, or because another has a certain value."""
    condition = field.get("require_if")
    return bool(field.get("required")) or (condition is not None and holds(condition, values))


def kept(fields: Sequence[Field], values: Mapping[str, str]) -> dict[str, str]:
    """The values that count: what is typed in a field that its condition hides does not; hidden fields get their value."""
    visible = {field["name"] for field in shown(fields, values)}
    hidden = {field["name"] for field in fields} - visible
    found = {name: value for name, value in values.items() if name not in hidden}
    for field in fields:
        if (
            field.get("kind") == "hidden"
            and field["name"] in visible
            and not found.get(field["name"])
            and field.get("value")
        ):
            found[field["name"]] = str(field["value"])
    return found


def check_values(fields: Sequence[Field], values: Mapping[str, str], *, country: str = "GB") -> dict[str, str]:
    """A sentence for every field that cannot stay as it is. What a hidden field would have asked for does not count."""
    errors: dict[str, str] = {}
    values = kept(fields, values)
    for field in shown(fields, values):
        name, kind = field.get("name", ""), field.get("kind", "text")
        value = values.get(name, "").strip()
        if not value:
            if required(field, values) and kind not in ("hidden", "file"):
                errors[name] = Text("Please fill this in.")
        elif (told := _wrong_value(field, kind, value, country)) is not None:
            errors[name] = told
    return errors


def _wrong_value(field: Field, kind: str, value: str, country: str) -> str | None:
    if kind == "email":
        return None if find_email(value) is not None else Text("This is not an e-mail address.")
    if kind == "phone":
        number = find_phone(value, country=str(field.get("country") or country or "GB"))
        return None if number is not None else Text("This is not a phone number; begin with + and the country code.")
    if kind == "select":
        known = [str(option) for option in field.get("options", [])]
        return None if value in known else Text("Please choose one of the list.")
    if kind == "slot":
        return None if instant_of(value) is not None else Text("Please choose one of the list.")
    if kind in ("number", "date"):
        found = number_of(value) if kind == "number" else date_of(value)
        if found is None:
            return Text("This is not a number.") if kind == "number" else Text("Write the date as 2026-11-30.")
        least, most = _bound(kind, field.get("least", "")), _bound(kind, field.get("most", ""))
        if least is not None and found < least:  # type: ignore[operator]
            return Text("At least %(least)s.", least=field["least"])
        if most is not None and found > most:  # type: ignore[operator]
            return Text("At most %(most)s.", most=field["most"])
    return None


def mapped(fields: Sequence[Field], values: Mapping[str, str]) -> dict[str, str]:
    """Target → value, for what the fields' mapping and the usual names say: what a new contact and the lead begin with."""
    found: dict[str, str] = {}
    for field in shown(fields, values):
        target, value = field.get("maps", ""), " ".join(values.get(field["name"], "").split())
        if target and value:
            found[target] = f"{found[target]} {value}" if target in found else value
    if not any(target in found for target in ("contact.name", "contact.first_name", "contact.last_name")):
        for name in ("name", "full_name", "first_name"):
            if values.get(name, "").strip():
                last = values.get("last_name", "") if name == "first_name" else ""
                found["contact.name"] = " ".join(f"{values[name]} {last}".split())
                break
    whole = " ".join(filter(None, (found.pop("contact.first_name", ""), found.pop("contact.last_name", ""))))
    if whole and "contact.name" not in found:
        found["contact.name"] = whole
    return {target: value[:2000] for target, value in found.items()}


def preview(fields: Sequence[Field]) -> list[tuple[str, str, str]]:
    """(field's label, an example, where it goes) for each field, as the builder shows it."""
    examples = {
        "email": "dana@example.com", "phone": "+1 202 555 0142", "checkbox": "yes", "number": "3", "date": "2026-11-30",
        "textarea": "Please call me back.", "file": "offer.pdf", "slot": "2026-11-30T09:00Z",
    }  # fmt: skip
    lines = []
    named = any(str(field.get("maps", "")).endswith("name") for field in fields)
    for field in fields:
        kind = field.get("kind", "text")
        example = (
            (field.get("options") or [""])[0] if kind == "select" else field.get("value") or examples.get(kind, "Dana")
        )
        goes = "address" if kind in ("email", "phone") else field.get("maps", "")
        if not goes and not named and field.get("name") in ("name", "full_name", "first_name", "last_name"):
            goes = "contact.name"  # as `mapped` takes the usual names
        lines.append((field.get("label") or field["name"], str(example), goes))
    return lines
