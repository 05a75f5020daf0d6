"""A sentence for people that carries names or figures, and can still be told in the reader's language.

A `Text` is its English sentence, so it can be stored, logged and compared like any other; it also keeps the `source` with
its `%(name)s` placeholders and the `params` that filled them. Whoever shows it translates the source and fills it again
(`hub.i18n`). How a parameter is written follows from its name: one that ends in `_text` is a sentence or word of ours and
is translated too; `_at` is an instant and stands in the reader's zone; all others (names, addresses, figures) stay as they
are. A stored sentence comes back as a plain string: `hub.i18n` knows it again by the source that it was made from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any

PLACEHOLDER = re.compile(r"%\((\w+)\)s")


class Text(str):
    """The English sentence, with its `source` and the `params` that the source names."""

    source: str
    params: Mapping[str, Any]

    def __new__(cls, source: str, **params: Any) -> Text:
        """`source` filled with `params`; a placeholder without its parameter stays as it is."""
        made = super().__new__(cls, fill(source, params))
        made.source = source
        made.params = {name: params[name] for name in PLACEHOLDER.findall(source) if name in params}
        return made


def fill(source: str, params: Mapping[str, Any], write: Callable[[str, Any], str] | None = None) -> str:
    """`source` with its placeholders filled; `write` says how a named value is written (in English when absent)."""
    as_written = write or (lambda _, value: plain(value))
    return PLACEHOLDER.sub(lambda m: as_written(m[1], params[m[1]]) if m[1] in params else m[0], source)


def plain(value: object) -> str:
    """A value as English sentences hold it: instants in ISO form to the minute, several values with commas."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="minutes")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(plain(one) for one in value)
    return str(value)
