"""Segment counting and plain characters, by the table that the composer in the browser is held to as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from channels.segments import GSM7_BASIC, GSM7_EXTENSION, PLAIN, plain, segments

CORPUS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "fixtures" / "segments.json").read_text("utf-8"))


@pytest.mark.parametrize("row", CORPUS, ids=[row["name"] for row in CORPUS])
def test_counts(row: dict[str, Any]) -> None:
    found = segments(row["text"])
    assert (found.encoding, found.units, found.parts, found.per_part) == (
        row["encoding"], row["units"], row["parts"], row["per_part"],
    )  # fmt: skip


@pytest.mark.parametrize("row", CORPUS, ids=[row["name"] for row in CORPUS])
def test_plain_characters(row: dict[str, Any]) -> None:
    assert plain(row["text"]) == row["plain"]
    assert plain(plain(row["text"])) == row["plain"]


def test_what_replaces_is_cheap_and_what_is_cheap_is_left_alone() -> None:
    cheap = GSM7_BASIC | GSM7_EXTENSION
    assert all(set(shown) <= cheap for shown in PLAIN.values())
    assert not set(PLAIN) & cheap
