"""Sentences of ours that come back from the database as plain English: found again in the catalogue.

A stored sentence has lost its source and parameters. The catalogue still has the source; a sentence that equals one, or that
fits one with its placeholders filled, is that source with those parameters. What fits none is somebody's own words.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from babel.messages.pofile import read_po

from crm_core.texts import PLACEHOLDER, Text

FOLDER = Path(__file__).parent / "locale"
CATALOGUE = "es"  # any complete one: `run.py check` keeps them all complete
LEAST = 7  # letters that a source must have beside its placeholders, so that it does not fit everything


@lru_cache(maxsize=1)
def sources() -> frozenset[str]:
    """Every text of the catalogue, singular."""
    with (FOLDER / CATALOGUE / "LC_MESSAGES" / "messages.po").open("rb") as source:
        catalogue = read_po(source, locale=CATALOGUE)
    return frozenset(
        str(message.id[0] if isinstance(message.id, tuple | list) else message.id)
        for message in catalogue
        if message.id
    )


@lru_cache(maxsize=1)
def patterns() -> list[tuple[re.Pattern[str], str]]:
    """Sources with placeholders as patterns, the most particular first."""
    found = []
    for source in sources():
        if not PLACEHOLDER.search(source) or "%(num)s" in source:
            continue
        literal = PLACEHOLDER.sub("", source)
        if sum(letter.isalpha() for letter in literal) < LEAST:
            continue
        made, last, seen = "", 0, set()
        for place in PLACEHOLDER.finditer(source):
            name = place[1]
            made += re.escape(source[last : place.start()])
            made += f"(?P={name})" if name in seen else f"(?P<{name}>.*?)"
            seen.add(name)
            last = place.end()
        made += re.escape(source[last:])
        found.append((len(literal), re.compile(made, re.DOTALL), source))
    return [(pattern, source) for _, pattern, source in sorted(found, key=lambda one: (-one[0], one[2]))]


@lru_cache(maxsize=4096)
def recognised(sentence: str) -> Text | None:
    """The text that a stored English sentence was made from; None when it is none of ours."""
    if not sentence or len(sentence) > 2000:
        return None
    if sentence in sources():
        return Text(sentence)
    for pattern, source in patterns():
        found = pattern.fullmatch(sentence)
        if found is not None:
            return Text(source, **{name: _value(name, value) for name, value in found.groupdict().items()})
    return None


def _value(name: str, written: str) -> Any:
    """A parameter read back: instants and days by their names' endings, all else as it was written."""
    try:
        if name.endswith("_at"):
            return datetime.fromisoformat(written)
        if name.endswith("_on"):
            return date.fromisoformat(written)
    except ValueError:
        return written
    return written
