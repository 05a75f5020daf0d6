"""The reader's language: which one, and how values are written in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hub.i18n import LOCALES, PSEUDO, Reader, clock, negotiate, translations

NOW = datetime(2026, 11, 18, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wanted", "accepted", "got"),
    [
        ("de", "es", "de"),
        ("", "fr;q=0.9, es-MX;q=0.8, en;q=0.1", "es"),
        ("", "zh-CN,zh;q=0.9", "zh"),
        ("", "fr", "en"),
        ("xx", "", "en"),
        ("", "de;q=rubbish, es", "es"),
        ("", "," * 5000, "en"),
    ],
)
def test_language_is_the_users_else_the_browsers_else_english(wanted: str, accepted: str, got: str) -> None:
    assert negotiate(wanted, accepted) == got


@pytest.mark.parametrize("locale", [locale for locale in LOCALES if locale != "en"])
def test_every_language_has_its_own_words(locale: str) -> None:
    assert translations(locale).gettext("Log in") != "Log in"
    reader = Reader(locale, "UTC", NOW)
    assert "5" in reader.ngettext("%(num)s contact", "%(num)s contacts", 5)
    assert reader.ngettext("%(num)s contact", "%(num)s contacts", 5) != "5 contacts"


def test_times_are_in_the_readers_zone() -> None:
    reader = Reader("de", "Asia/Tokyo", NOW)
    assert reader.time(NOW) == "19:00"
    assert reader.day(NOW) == "Heute"
    assert reader.day(NOW - timedelta(days=1)) == "Gestern"
    # 16:00 in London is the next day in Tokyo.
    assert reader.day(NOW + timedelta(hours=6)) != "Heute"


def test_an_unknown_zone_reads_as_utc() -> None:
    assert Reader("de", "Mars/Olympus", NOW).time(NOW) == "10:00"


def test_numbers_and_shares_follow_the_language() -> None:
    assert Reader("de", "UTC", NOW).number(12345) == "12.345"
    assert Reader("en", "UTC", NOW).number(12345) == "12,345"
    assert Reader("en", "UTC", NOW).percent(None) == "–"
    assert Reader("es", "UTC", NOW).percent(0.8).startswith("80")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3661, "1:01:01"), (-5, "0:00")]
)
def test_durations_read_the_same_everywhere(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_the_pseudo_language_marks_every_text() -> None:
    assert translations(PSEUDO).gettext("Log in") == "⟦Log in··⟧"
    assert translations(PSEUDO).gettext("") == ""
