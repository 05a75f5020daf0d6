"""The translation check finds what a reader would see in the wrong language, and --update keeps what was translated."""

from __future__ import annotations

from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

from hub.i18n_check import compare, extract, update

HEADER = r"""
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\n"
"""


@pytest.fixture
def template(tmp_path: Path) -> Catalog:
    package = tmp_path / "pkg"
    (package / "templates").mkdir(parents=True)
    (package / "screen.py").write_text('def show(_):\n    return _("Welcome, %(name)s")\n')
    (package / "templates" / "page.html").write_text(
        '<p>{{ _("Calls") }}</p>{% trans count=n %}one call{% pluralize %}{{ count }} calls{% endtrans %}'
        '{{ _("Read <b>this</b>") }}'
    )
    return extract(tmp_path, ["pkg"])


GOOD = """
msgid "Welcome, %(name)s"
msgstr "Hola, %(name)s"

msgid "Calls"
msgstr "Llamadas"

msgid "one call"
msgid_plural "%(count)s calls"
msgstr[0] "una llamada"
msgstr[1] "%(count)s llamadas"

msgid "Read <b>this</b>"
msgstr "Lee <b>esto</b>"
"""


def faults(tmp_path: Path, template: Catalog, text: str) -> list[str]:
    path = tmp_path / "messages.po"
    path.write_text(HEADER + text, encoding="utf-8")
    return list(compare(path, "es", template))


def test_code_and_templates_are_both_read(template: Catalog) -> None:
    assert {m.id for m in template if m.id} == {
        "Welcome, %(name)s",
        "Calls",
        ("one call", "%(count)s calls"),
        "Read <b>this</b>",
    }


def test_a_complete_catalogue_has_no_fault(tmp_path: Path, template: Catalog) -> None:
    assert faults(tmp_path, template, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "trouble"),
    [
        ('msgid "Calls"\nmsgstr "Llamadas"\n', "", "not translated: 'Calls'"),
        ('"Llamadas"', '""', "not translated: 'Calls'"),
        ('msgid "Calls"', '#, fuzzy\nmsgid "Calls"', "marked fuzzy: 'Calls'"),
        ('"Hola, %(name)s"', '"Hola, %(nombre)s"', "placeholders differ"),
        ('"%(count)s llamadas"', '""', "not every plural form is translated: 'one call'"),
        ('"Lee <b>esto</b>"', '"Lee <i>esto</i>"', "HTML tags differ"),
    ],
)
def test_each_trouble_is_told_with_its_place(
    tmp_path: Path, template: Catalog, old: str, new: str, trouble: str
) -> None:
    assert old in GOOD
    (found,) = faults(tmp_path, template, GOOD.replace(old, new))
    assert trouble in found
    assert found.startswith("es: pkg/")


def test_a_language_without_a_catalogue_is_a_fault(tmp_path: Path, template: Catalog) -> None:
    assert list(compare(tmp_path / "none.po", "de", template)) == ["de: there is no catalogue"]


def test_update_keeps_translations_adds_new_texts_and_names_nobody(tmp_path: Path, template: Catalog) -> None:
    path = tmp_path / "es" / "messages.po"
    path.parent.mkdir()
    path.write_text(HEADER + GOOD.replace('msgid "Calls"', 'msgid "Gone"'), encoding="utf-8")
    update(path, "es", template)
    once = path.read_bytes()
    update(path, "es", template)
    assert path.read_bytes() == once
    assert b"@" not in once
    assert b"http" not in once
    with path.open("rb") as handle:
        catalog = read_po(handle, locale="es")
    assert catalog["Welcome, %(name)s"].string == "Hola, %(name)s"
    assert catalog["Calls"].string == ""
    assert "Gone" not in catalog
