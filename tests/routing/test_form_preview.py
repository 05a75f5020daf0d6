"""A sample payload: which field takes what, what contact and lead would hold, and what there is to look at."""

from __future__ import annotations

from routing.form_fields import renamed
from routing.form_preview import read_sample

FIELDS = [
    {"name": "who", "label": "Your name", "kind": "text", "required": True, "maps": "contact.name", "also": ["full_name"]},
    {"name": "email", "label": "E-mail", "kind": "email", "also": ["lead.email", "Email Address"]},
    {"name": "country", "label": "Country", "kind": "text", "maps": "contact.country"},
    {"name": "topic", "label": "Topic", "kind": "select", "options": ["sales", "support"], "maps": "subject"},
    {"name": "order", "label": "Order", "kind": "text", "show_if": {"field": "topic", "is": "support"}},
]  # fmt: skip


def test_names_of_other_programs_find_their_field() -> None:
    sent = {"full_name": "Dana", "Email Address": "dana@example.com", "topic": "sales"}
    assert renamed(FIELDS, sent) == {"who": "Dana", "email": "dana@example.com", "topic": "sales"}
    assert renamed(FIELDS, {"who": "Own", "full_name": "Other"}) == {"who": "Own", "full_name": "Other"}
    assert renamed(FIELDS, {"who": " ", "full_name": "Other"}) == {"who": "Other"}
    both = {"lead.email": "a@example.com", "Email Address": "b@example.com"}
    assert renamed(FIELDS, both) == {"email": "a@example.com", "Email Address": "b@example.com"}


def test_a_sample_is_read_as_a_post_would_be() -> None:
    sent = {
        "full_name": "Dana Demo", "lead.email": "Dana@Example.com", "country": "England", "topic": "sales", "order": "7",
        "shoe": "44", "consent": "yes", "_key": "x",
    }  # fmt: skip
    read = read_sample(FIELDS, sent)
    assert [(one.sent, one.field, one.goes) for one in read.lines] == [
        ("full_name", "Your name", "contact.name"), ("lead.email", "E-mail", "address"),
        ("country", "Country", "contact.country"), ("topic", "Topic", "subject"), ("order", "Order", ""),
        ("shoe", "", ""), ("consent", "", "consent"),
    ]  # fmt: skip
    assert read.contact == {"contact.name": "Dana Demo", "contact.country": "England", "email": "Dana@example.com"} or (
        read.contact["email"].lower() == "dana@example.com"
    )
    assert read.lead["Your name"] == "Dana Demo"
    assert "Order" not in read.lead
    assert read.errors == {}
    told = " ".join(read.warnings)
    for part in ("Order is left out", "No field takes shoe", "England is no country code", "no consent text"):
        assert part in told, part


def test_a_sample_that_would_be_refused_says_why() -> None:
    read = read_sample(FIELDS, {"email": "dana@", "topic": "weather"}, consent_text="You may write.")
    assert set(read.errors) == {"Your name", "E-mail", "Topic"}
    told = " ".join(read.warnings)
    for part in ("Give a phone number or an e-mail address", "Nothing gives a name", "No consent is given"):
        assert part in told, part
