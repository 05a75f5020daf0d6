"""Templates are data: what is possible, what is refused at save with a sentence, and what nobody gets through."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns import content
from campaigns.content import Source, Template
from crm_core.addresses import PointKind
from crm_core.errors import Invalid

FIELDS = {"name": "Ana Rivera", "first_name": "Ana", "last_name": "Rivera", "address": "a@example.test", "plan": ""}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Hello {{ first_name }}!", "Hello Ana!"),
        ("{{ first_name|upper }} {{ plan|default('none', true) }}", "ANA none"),
        ("{% if plan %}Plan {{ plan }}{% else %}No plan{% endif %}", "No plan"),
        ("{% if first_name == 'Ana' and not plan %}yes{% elif plan %}no{% endif %}", "yes"),
        ("100 % {# a remark #}done", "100 % done"),
        ("{{ name|truncate(7, true, '…', 0) }}", "Ana Ri…"),
    ],
)
def test_what_is_possible(source: str, expected: str) -> None:
    assert Template(Source("", source, "")).render(FIELDS).body == expected


INJECTIONS = [
    "{{ ''.__class__ }}",
    "{{ name.__class__.__mro__ }}",
    "{{ name['__class__'] }}",
    "{{ name|attr('__class__') }}",
    "{{ self }}{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__ }}",
    "{{ range(10**9) }}",
    "{% for x in range(10) %}{{ x }}{% endfor %}",
    "{% for c in name %}{% for d in name %}x{% endfor %}{% endfor %}",
    "{% set x = 1 %}",
    "{% macro m() %}{% endmacro %}{{ m() }}",
    "{% include 'secret' %}",
    "{% import 'os' as os %}",
    "{% extends 'base' %}",
    "{% block b %}{% endblock %}",
    "{% call name() %}{% endcall %}",
    "{% filter upper %}x{% endfilter %}",
    "{% with x = 1 %}{{ x }}{% endwith %}",
    "{% raw %}{{ x }}{% endraw %}{{ name() }}",
    "{{ 'x' * 1000000000 }}",
    "{{ 9 ** 9999999 }}",
    "{{ 'x' ~ 'y' }}",
    "{{ [1, 2, 3] }}",
    "{{ {'a': 1} }}",
    "{{ name[0:1] }}",
    "{{ name.upper() }}",
    "{{ name.format(name) }}",
    "{{ '%s' % name }}",
    "{{ name|map('upper') }}",
    "{{ name|format(1) }}",
    "{{ name|center(1000000000) }}",
    "{{ name|replace('a', 'aaaaaaaaaa') }}",
    "{{ name|safe }}",
    "{{ name|pprint }}",
    "{{ name|tojson }}",
    "{{ name is callable }}",
    "{{ 1.5 }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ " + "not " * 3000 + "name }}",
    "{% if name %}" * 200 + "{% endif %}" * 200,
    "{{ name" + "|upper" * 200 + " }}",
    "{{ name }}" * 5000,
    "x" * (content.MAX_SOURCE + 1),
    "{{ name",
    "{% if name %}",
    "{{ name|upper(*name) }}",
    "{{ name|truncate(**name) }}",
    "{% debug %}",
    "{% trans %}x{% endtrans %}",
]


@pytest.mark.parametrize("source", INJECTIONS, ids=range(len(INJECTIONS)))
def test_nothing_else_is(source: str) -> None:
    began = time.perf_counter()
    with pytest.raises(Invalid) as refused:
        content.check(Source("Subject", source, ""), kind=PointKind.PHONE, marketing=False, fields=frozenset())
    assert refused.value.fields["body"]
    with pytest.raises(Invalid):
        Template(Source("", source, ""))
    assert time.perf_counter() - began < 5


def test_an_unknown_field_is_told_when_saving() -> None:
    with pytest.raises(Invalid) as refused:
        content.check(
            Source("", "Hi {{ frist_name }}", ""), kind=PointKind.PHONE, marketing=False, fields=frozenset({"plan"})
        )
    assert "no field frist_name" in refused.value.fields["body"]
    assert "plan" in refused.value.fields["body"]


def test_a_missing_field_stops_that_recipient_only_with_a_sentence() -> None:
    template = Template(Source("", "Hi {{ plan }}", ""))
    with pytest.raises(content.ContentError):
        template.render({"name": "Ana"})
    assert template.render({"plan": "gold"}).body == "Hi gold"


def test_html_is_escaped_and_the_subject_keeps_to_one_line() -> None:
    template = Template(Source("Hi {{ name }}", "Hi {{ name }}", "<p>{{ name }}</p>"))
    made = template.render({"name": "<script>alert(1)</script>\r\nBcc: all@example.test"})
    assert "<script>" not in made.html
    assert "&lt;script&gt;" in made.html
    assert "\n" not in made.subject
    assert "\r" not in made.subject


def test_values_are_never_templates() -> None:
    made = Template(Source("", "Hi {{ name }}", "")).render({"name": "{{ 7*7 }}{% for x in y %}"})
    assert made.body == "Hi {{ 7*7 }}{% for x in y %}"


def test_what_a_purpose_needs() -> None:
    with pytest.raises(Invalid) as refused:
        content.check(Source("News", "Buy!", "<p>Buy!</p>"), kind=PointKind.EMAIL, marketing=True, fields=frozenset())
    assert set(refused.value.fields) == {"body", "html"}
    assert "unsubscribe_url" in refused.value.fields["body"]
    with pytest.raises(Invalid) as refused:
        content.check(Source("", "", ""), kind=PointKind.EMAIL, marketing=False, fields=frozenset())
    assert set(refused.value.fields) == {"subject", "body"}
    warnings = content.check(Source("", "Buy!", ""), kind=PointKind.PHONE, marketing=True, fields=frozenset())
    assert any("stop" in one for one in warnings)


def test_a_text_that_grows_too_long_is_refused_for_that_recipient() -> None:
    made = Template(Source("", "{{ name }}", "")).render({"name": "x" * 1700})
    with pytest.raises(content.ContentError):
        content.check_length(made, kind=PointKind.PHONE)
    content.check_length(made, kind=PointKind.EMAIL)
    big = Template(Source("", "{{ name }}" * 1000, ""))
    with pytest.raises(content.ContentError):
        big.render({"name": "x" * content.MAX_FIELD})


@settings(max_examples=150)
@given(st.text(alphabet=st.sampled_from(list("{}%# \n'\"|.()[]_abcnamefirs*+~-=<>01")), max_size=80))
def test_any_source_is_saved_or_refused_with_a_sentence_never_worse(source: str) -> None:
    try:
        content.check(Source("", source, ""), kind=PointKind.PHONE, marketing=False, fields=frozenset())
        made = Template(Source("", source, ""))
    except Invalid:
        return
    try:
        assert isinstance(made.render(FIELDS).body, str)
    except content.ContentError:
        return
