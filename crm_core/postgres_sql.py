"""SQL that does several things at once: inserts into many tables as one statement, and one look-up for many askers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from crm_core.statements import InsertPlan
from crm_core.tx import Part

PLACE = re.compile(r"\$(\d+)")


# Values that a whole column may have, as most do that were not given: written into the SQL, they cost nothing to send and read.
PLAIN = {
    (type(None), None): "NULL", (str, ""): "''", (str, "{}"): "'{}'", (str, "[]"): "'[]'", (int, 0): "0",
    (bool, False): "false", (bool, True): "true",
}  # fmt: skip
# A part's SQL, or its plan with what each column is: a value for one row, an array for any number, or written into the SQL.
Shape = tuple[InsertPlan | str, tuple[str | None, ...] | None]


class Merged:
    """Several inserts and updates as one statement, and so one round trip; made once for each combination of parts."""

    def __init__(self) -> None:
        self._known: dict[tuple[Shape, ...], str] = {}

    def merge(self, parts: Sequence[Part], *, any_number: bool = False) -> tuple[str, list[Any]]:
        """SQL and its arguments. Their order of execution is PostgreSQL's own; references are checked at the end.

        `any_number`: the same SQL however many rows there are of each table.
        """
        shape: list[Shape] = []
        arguments: list[Any] = []
        for what, given in parts:
            if isinstance(what, str):
                shape.append((what, None))
                arguments.extend(given)
            elif len(given) == 1 and not any_number:
                shape.append((what, None))
                arguments.extend(given[0])
            else:
                columns = list(zip(*given, strict=True))
                written = tuple(_written(column) for column in columns)
                shape.append((what, written))
                arguments.extend(column for column, text in zip(columns, written, strict=True) if text is None)
        key = tuple(shape)
        sql = self._known.get(key)
        if sql is None:
            if len(self._known) > 1000:
                self._known.clear()
            sql = self._known[key] = self._write(key)
        return sql, arguments

    def _write(self, shape: tuple[Shape, ...]) -> str:
        parts: list[str] = []
        used = 0
        for what, written in shape:
            sql = what if isinstance(what, str) else what.sql if written is None else _insert_many(what, written)
            parts.append(PLACE.sub(lambda found, used=used: f"${int(found[1]) + used}", sql))  # type: ignore[misc]
            used += max((int(number) for number in PLACE.findall(sql)), default=0)
        *first, last = parts
        named = ", ".join(f"part_{number} AS ({sql})" for number, sql in enumerate(first))
        return f"WITH {named} {last}" if named else last


def _written(column: Sequence[Any]) -> str | None:
    """The SQL of the one plain value that all of a column have; None where they are to be sent."""
    first = column[0]
    text = PLAIN.get((type(first), first))
    return text if text is not None and column.count(first) == len(column) else None


def _insert_many(plan: InsertPlan, written: Sequence[str | None]) -> str:
    """INSERT of any number of rows: one array per column, so that the statement is the same for all numbers."""
    columns = [f'"{name}"' for name, _ in plan.arguments]
    sent = [(column, kind) for column, kind, text in zip(columns, plan.types, written, strict=True) if text is None]
    arrays = ", ".join(f"${number}::{kind}[]" for number, (_, kind) in enumerate(sent, 1))
    chosen = ", ".join(
        column if text is None else f"{text}::{kind}"
        for column, kind, text in zip(columns, plan.types, written, strict=True)
    )
    rows = f"unnest({arrays}) AS given ({', '.join(column for column, _ in sent)})"
    return f'INSERT INTO "{plan.table}" ({", ".join(columns)}) SELECT {chosen} FROM {rows} {plan.tail}'.strip()  # noqa: S608 - our own names


@lru_cache(100)
def for_many(sql: str, types: tuple[str, ...]) -> str:
    """The SELECT for any number of askers: one array for each of its arguments; rows begin with the asker's number, from 1."""
    names = [f"given_{number}" for number in range(1, len(types) + 1)]
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))
    asked = PLACE.sub(lambda found: f"given.{names[int(found[1]) - 1]}", sql)
    return (
        f"SELECT given.place, found.* FROM unnest({arrays}) WITH ORDINALITY AS given ({', '.join(names)}, place) "  # noqa: S608 - our own names
        f"CROSS JOIN LATERAL ({asked}) AS found"
    )
