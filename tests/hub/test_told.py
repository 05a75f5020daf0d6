"""A sentence of the domain keeps its source and parameters, so that each reader reads it in their own language."""

from __future__ import annotations

import ast
import copy
import pickle
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from crm_core.errors import Conflict, Invalid
from crm_core.texts import PLACEHOLDER, Text, plain
from hub.i18n import LOCALES, Reader
from hub.i18n_check import extract
from hub.i18n_known import patterns, recognised

NOW = datetime(2026, 11, 18, 10, 0, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
ERRORS = {
    "HubError", "Conflict", "IllegalTransition", "Invalid", "NotAllowed", "NotFound", "Refused", "ContentError", "Text",
    "Rejected", "ContentRejected", "Misconfigured", "Unavailable", "RecipientInvalid", "OutcomeUnknown", "Throttled",
}  # fmt: skip


def test_a_text_is_its_english_sentence() -> None:
    text = Text("The login “%(login)s” is taken.", login="amy", unused=1)
    assert text == "The login “amy” is taken."
    assert text.source == "The login “%(login)s” is taken."
    assert text.params == {"login": "amy"}
    assert copy.deepcopy(text).params == pickle.loads(pickle.dumps(text)).params == {"login": "amy"}
    assert Text("100 % of %(what)s %(absent)s", what="it") == "100 % of it %(absent)s"


def test_an_error_fills_its_message_with_its_data() -> None:
    assert Conflict("The login “%(login)s” is taken.", login="amy").message == "The login “amy” is taken."
    assert Conflict().message == "Somebody else changed this first; look again."
    assert Conflict(Text("Between %(low)s and %(high)s.", low=1, high=2)).message.params == {"low": 1, "high": 2}
    assert isinstance(Invalid("100 % wrong").message, Text)


def test_a_reader_is_told_in_their_language_and_zone() -> None:
    german = Reader("de", "Europe/Berlin", NOW)
    waits = Text("Waits until %(due_at)s: %(why_text)s", due_at=NOW, why_text=Text("The promised time has not come."))
    assert german.tell(waits) == "Wartet bis 18. Nov., 11:00: Die versprochene Zeit ist noch nicht da."
    # The same after it was stored as plain English.
    assert german.tell(str(waits)) == german.tell(waits)
    stopped = Text(
        "They opted out on %(since_on)s (%(source_text)s).", since_on=date(2026, 11, 17), source_text="sms_keyword"
    )
    assert german.tell(stopped) == "Sie haben abbestellt: 17.11.2026 (SMS-Stichwort)."
    assert german.tell(str(stopped)) == german.tell(stopped)
    assert Reader("en", "UTC", NOW).tell(stopped) == "They opted out on Nov 17, 2026 (sms keyword)."
    assert german.tell(Text("Tried %(tried)s times.", tried=1234)) == "1.234-mal versucht."
    assert (
        Reader("en", "Europe/Berlin", NOW).tell(waits)
        == "Waits until Nov 18, 11:00\u202fAM: The promised time has not come."
    )


@pytest.mark.parametrize("locale", list(LOCALES))
def test_what_somebody_typed_stays_as_it_is(locale: str) -> None:
    typed = "He said the paused list is <b>mine</b> 100 %(login)s %"
    assert Reader(locale, "UTC", NOW).tell(typed) == typed
    named = Text("The login “%(login)s” is taken.", login="offline")
    assert "offline" in Reader(locale, "UTC", NOW).tell(named)  # a name is no word of ours


def test_every_source_is_known_again_when_it_comes_back_filled() -> None:
    for _, source in patterns():
        names = PLACEHOLDER.findall(source)
        params = {
            name: NOW if name.endswith("_at") else date(2026, 11, 18) if name.endswith("_on") else f"x{number}y"
            for number, name in enumerate(names)
        }
        found = recognised(str(Text(source, **params)))
        assert found is not None, source
        assert str(found) == str(Text(source, **params)), source
        if found.source != source:  # two sentences of one shape: the more particular one is taken
            assert len(PLACEHOLDER.sub("", found.source)) >= len(PLACEHOLDER.sub("", source)), source
    assert len(patterns()) > 100
    assert recognised("") is None
    assert recognised("x" * 5000) is None


def test_values_are_written_plainly_in_english() -> None:
    assert plain(["a", "b"]) == "a, b"
    assert plain(NOW) == "2026-11-18T10:00+00:00"


@pytest.mark.parametrize("package", ["crm_core", "channels", "routing", "campaigns", "webhooks", "hub"])
def test_no_sentence_for_people_is_glued_together(package: str) -> None:
    """An f-string or a sum can be found in no catalogue: give the source and its parameters."""
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        if {"sandbox", "migrations"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in ERRORS and any(isinstance(arg, ast.JoinedStr | ast.BinOp) for arg in node.args):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def test_every_literal_sentence_of_an_error_is_in_the_catalogue() -> None:
    """Whoever raises `Conflict("…")` need do nothing more: the extraction finds it."""
    known = {message.id for message in extract() if isinstance(message.id, str)}
    absent = []
    for package in ("crm_core", "routing", "campaigns"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in ERRORS - {"Rejected"}
                ):
                    first = node.args[0] if node.args else None
                    if isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value not in known:
                        absent.append(f"{path.name}:{node.lineno}: {first.value}")
    assert not absent
