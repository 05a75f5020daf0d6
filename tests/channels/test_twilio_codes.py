"""The table of error codes: every code has a sentence, and what it teaches us about the number follows from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from channels.errors import (
    ChannelError,
    ContentRejected,
    Misconfigured,
    RecipientInvalid,
    RecipientOptedOut,
    Throttled,
    Unavailable,
)
from channels.twilio_codes import CODES, explained, is_dead, meaning_of
from channels.twilio_errors import HttpFailed, error_class, meaning


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_is_told_in_a_sentence(code: int) -> None:
    told = CODES[code]
    assert told.sentence.endswith(".")
    assert "%" not in told.sentence
    assert error_class(str(code))
    if told.dead:
        assert told.kind is RecipientInvalid
    assert explained(str(code)) == f"{told.sentence} (error {code})"


@pytest.mark.parametrize(
    ("code", "kind", "dead", "again"),
    [
        (21211, RecipientInvalid, True, False),  # no such number
        (21612, RecipientInvalid, False, False),  # no route from this sender says nothing about the number
        (21614, RecipientInvalid, True, False),
        (21635, RecipientInvalid, True, False),  # landline
        (30003, Unavailable, False, True),  # switched off: tomorrow it may be on
        (30005, RecipientInvalid, True, False),
        (30006, RecipientInvalid, True, False),
        (30008, Unavailable, False, True),
        (21610, RecipientOptedOut, False, False),
        (30004, RecipientOptedOut, False, False),
        (30007, ContentRejected, False, False),
        (30022, Throttled, False, True),
        (30034, Misconfigured, False, False),
        (30450, RecipientInvalid, False, False),  # fraud protection errs
        (12300, ContentRejected, False, False),
    ],
)
def test_what_a_code_teaches(code: int, kind: type[ChannelError], dead: bool, again: bool) -> None:
    told = meaning_of(str(code))
    assert told is not None
    assert (told.kind, told.dead, told.kind.retryable, is_dead(str(code))) == (kind, dead, again, dead)
    raised = meaning(HttpFailed(status=400, code=code), creates=True)
    assert isinstance(raised, kind)
    assert (raised.code, raised.message, raised.dead) == (str(code), told.sentence, dead)


def test_what_is_not_listed_is_told_by_its_number() -> None:
    assert explained("99999") == "The provider reports error 99999."
    assert explained("") == ""
    assert not is_dead("99999")
    assert meaning_of("x") is None
    assert error_class("99999") == "unavailable"


def test_the_page_lists_every_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "channels" / "sms.md").read_text("utf-8")
    listed: dict[int, tuple[str, bool]] = {}
    for row in re.findall(r"^\| (\w+) \| [^|]+ \| ([0-9†, ]+) \|$", page, re.MULTILINE):
        for one in row[1].split(", "):
            listed[int(one.rstrip("†"))] = (row[0], one.endswith("†"))
    assert listed == {code: (told.kind.__name__, told.dead) for code, told in CODES.items()}
