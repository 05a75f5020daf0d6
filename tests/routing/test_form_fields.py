"""What a form's definition must keep to, which fields show, and what an answer means."""

from __future__ import annotations

from typing import Any

import pytest

from crm_core.errors import Invalid
from routing import form_fields

MAIL = {"name": "email", "label": "E-mail", "kind": "email", "required": True}


def field(name: str, kind: str = "text", **more: Any) -> dict[str, Any]:
    return {"name": name, "label": name.title(), "kind": kind, **more}


def wrong(*fields: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(Invalid) as told:
        form_fields.check_definition([MAIL, *fields])
    return told.value.fields


@pytest.mark.parametrize(
    ("given", "at"),
    [
        (field("Name"), "fields.1.name"),
        (field("email"), "fields.1.name"),
        (field("consent"), "fields.1.name"),
        (field("x", "colour"), "fields.1.kind"),
        ({"name": "x", "kind": "text"}, "fields.1.label"),
        (field("x", "select"), "fields.1.options"),
        (field("x", "select", options=[str(n) for n in range(201)]), "fields.1.options"),
        (field("x", maps="contact.vip"), "fields.1.maps"),
        (field("x", "number", least="few"), "fields.1.least"),
        (field("x", "date", most="2026-13-01"), "fields.1.most"),
        (field("x", show_if={"field": "later"}), "fields.1.show_if"),
        (field("x", show_if={"field": "x"}), "fields.1.show_if"),
    ],
)
def test_a_definition_is_refused_at_the_field(given: dict[str, Any], at: str) -> None:
    assert at in wrong(given)


def test_a_form_can_be_answered() -> None:
    with pytest.raises(Invalid) as told:
        form_fields.check_definition([field("name")])
    assert "phone number or an e-mail address" in told.value.fields["fields"]
    with pytest.raises(Invalid):
        form_fields.check_definition([MAIL, *(field(f"f{n}") for n in range(60))])


def test_a_condition_must_name_a_choice_that_there_is() -> None:
    topic = field("topic", "select", options=["sales", "support"])
    made = form_fields.check_definition([MAIL, topic, field("order", show_if={"field": "topic", "is": "sales"})])
    assert made[2]["show_if"] == {"field": "topic", "is": "sales"}
    assert "fields.2.show_if" in wrong(topic, field("order", show_if={"field": "topic", "is": "sale"}))


TOPIC = field("topic", "select", options=["sales", "support"])
ORDER = field("order", required=True, show_if={"field": "topic", "is": "sales"})
SIZE = field("size", "number", least="1", most="9,5", show_if={"field": "order"})
NEWS = field("news", "checkbox")
OFTEN = field("often", required=True, show_if={"field": "news", "is": "yes"})
FIELDS = [MAIL, TOPIC, ORDER, SIZE, NEWS, OFTEN]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, ["email", "topic", "news"]),
        ({"topic": "sales"}, ["email", "topic", "order", "news"]),
        ({"topic": "sales", "order": "4711"}, ["email", "topic", "order", "size", "news"]),
        ({"order": "4711"}, ["email", "topic", "news"]),  # what hangs on a field that is not shown is not shown
        ({"news": "on"}, ["email", "topic", "news", "often"]),
    ],
)
def test_which_fields_show(values: dict[str, str], names: list[str]) -> None:
    assert [one["name"] for one in form_fields.shown(FIELDS, values)] == names


@pytest.mark.parametrize(
    ("values", "wrong_fields"),
    [
        ({"email": "a@example.com"}, set()),
        ({}, {"email"}),
        ({"email": "a@b@c"}, {"email"}),
        ({"email": "a@example.com", "topic": "sales"}, {"order"}),
        ({"email": "a@example.com", "topic": "other"}, {"topic"}),
        ({"email": "a@example.com", "topic": "sales", "order": "1", "size": "0.5"}, {"size"}),
        ({"email": "a@example.com", "topic": "sales", "order": "1", "size": "9,5"}, set()),
        ({"email": "a@example.com", "topic": "sales", "order": "1", "size": "NaN"}, {"size"}),
        ({"email": "a@example.com", "topic": "sales", "order": "1", "size": "1e999999999"}, {"size"}),
        ({"email": "a@example.com", "size": "a lot"}, set()),  # not shown, so not asked
    ],
)
def test_answers_are_checked_where_they_show(values: dict[str, str], wrong_fields: set[str]) -> None:
    assert set(form_fields.check_values(FIELDS, values)) == wrong_fields


@pytest.mark.parametrize(
    ("text", "good"), [("2026-11-30", True), ("2026-02-30", False), ("30.11.2026", False), ("20261130", False)]
)
def test_dates(text: str, good: bool) -> None:
    fields = [MAIL, field("day", "date", least="2026-01-01")]
    assert ("day" not in form_fields.check_values(fields, {"email": "a@example.com", "day": text})) is good
    assert "day" in form_fields.check_values(fields, {"email": "a@example.com", "day": "2025-12-31"})


def test_what_is_hidden_does_not_count_and_hidden_fields_have_their_value() -> None:
    fields = [*FIELDS, field("source", "hidden", value="autumn")]
    values = {"email": "a@example.com", "order": "typed before the topic was changed", "extra": "kept"}
    assert form_fields.kept(fields, values) == {"email": "a@example.com", "extra": "kept", "source": "autumn"}


def test_mapping() -> None:
    fields = [
        MAIL, field("given", maps="contact.first_name"), field("family", maps="contact.last_name"),
        field("job", maps="contact.job_title"), field("about", maps="subject"),
    ]  # fmt: skip
    values = {"given": " Dana ", "family": "Demo", "job": "Buyer", "about": "A new  bicycle"}
    assert form_fields.mapped(fields, values) == {
        "contact.name": "Dana Demo", "contact.job_title": "Buyer", "subject": "A new bicycle",
    }  # fmt: skip
    usual = [MAIL, field("first_name"), field("last_name")]
    assert form_fields.mapped(usual, {"first_name": "Dana", "last_name": "Demo"}) == {"contact.name": "Dana Demo"}
    lines = form_fields.preview(fields)
    assert ("E-mail", "dana@example.com", "address") in lines
    assert ("About", "Dana", "subject") in lines
