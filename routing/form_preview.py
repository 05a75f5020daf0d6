"""What would become of a post: a sample payload read with a form's fields, before anything is sent for real. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from crm_core.addresses import find_email, find_phone
from crm_core.texts import Text
from routing import form_fields
from routing.form_fields import TICKED, Field

CONTACT_LIMITS = {
    "contact.name": 200,
    "contact.job_title": 100,
    "contact.language": 35,
    "contact.notes": 2000,
    "subject": 200,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One value of the sample: the name it came under, the field that takes it (empty: none), and where it goes."""

    sent: str
    value: str
    field: str = ""
    goes: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the sample fills, and what is wrong with it. `errors` would refuse the post; `warnings` would not."""

    lines: list[Line] = field(default_factory=list)
    contact: dict[str, str] = field(default_factory=dict)  # target → value, addresses as phone and email
    lead: dict[str, str] = field(default_factory=dict)  # label → value
    errors: dict[str, str] = field(default_factory=dict)  # field's label → sentence
    warnings: list[str] = field(default_factory=list)


def read_sample(
    fields: Sequence[Field], sent: Mapping[str, str], *, country: str = "GB", consent_text: str = ""
) -> Sample:
    """The sample, read as a post of this form would be."""
    values = {name: value for name, value in sent.items() if not name.startswith("_")}
    renamed = form_fields.renamed(fields, values)
    kept = form_fields.kept(fields, renamed)
    by_name = {str(one["name"]): one for one in fields}
    labels = {name: str(one.get("label") or name) for name, one in by_name.items()}
    taken = {
        other: name for name, one in by_name.items() for other in one.get("also", ())
        if other in values and other not in renamed
    }  # fmt: skip
    warnings: list[str] = []
    lines = []
    for name, value in values.items():
        at = taken.get(name, name if name in by_name else "")
        lines.append(Line(name, value[:300], labels.get(at, ""), _goes(by_name.get(at), name)))
        if at and at not in kept:
            warnings.append(Text("%(field)s is left out: its condition is not met.", field=labels[at]))
        elif not at and name != "consent":
            warnings.append(Text("No field takes %(name)s: it is kept on the lead under this name only.", name=name))
    mapped = form_fields.mapped(fields, kept)
    contact = {**mapped}
    contact.pop("subject", None)
    for one in form_fields.shown(fields, kept):
        value = kept.get(one["name"], "").strip()
        point = (
            find_phone(value, country=country) if one.get("kind") == "phone"
            else find_email(value) if one.get("kind") == "email" else None
        )  # fmt: skip
        if point is not None:
            contact.setdefault(str(point.kind), point.value)
    errors = form_fields.check_values(fields, kept, country=country)
    if not any(kind in contact for kind in ("phone", "email")):
        warnings.append(Text("Give a phone number or an e-mail address, so that we can answer."))
    if "contact.name" not in contact:
        warnings.append(Text("Nothing gives a name: a new contact would be called by its address."))
    for target, limit in CONTACT_LIMITS.items():
        if len(mapped.get(target, "")) > limit:
            warnings.append(Text("A value is cut after %(number)s characters.", number=limit))
    country_told = mapped.get("contact.country", "")
    if country_told and not (len(country_told) == 2 and country_told.isalpha()):
        warnings.append(Text("%(value)s is no country code of two letters; it is not written onto the contact.",
                             value=country_told[:40]))  # fmt: skip
    if "consent" in values and not consent_text:
        warnings.append(Text("A consent is sent, but this form has no consent text: nothing is kept as proof."))
    elif consent_text and values.get("consent", "").strip().casefold() not in TICKED:
        warnings.append(Text("No consent is given: nobody may be written to for marketing because of this post."))
    lead = {labels.get(name, name): value for name, value in kept.items() if value}
    return Sample(lines, contact, lead, {labels.get(name, name): told for name, told in errors.items()}, warnings)


def _goes(one: Field | None, name: str) -> str:
    if one is None:
        return "consent" if name == "consent" else ""
    return "address" if one.get("kind") in ("email", "phone") else str(one.get("maps", ""))
