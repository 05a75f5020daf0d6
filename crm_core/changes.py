"""Rows that a unit of work holds (read FOR UPDATE), changed in fewer statements than one each.

One row is changed by the end of the unit, together with whatever else was put off; several rows of one table in one statement.
Either way the guard stays: a row moves on only from the version that was read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import bindparam, case, column, update, values
from sqlmodel import col

from crm_core.db import Tx
from crm_core.errors import Conflict
from crm_core.statements import Fixed, fixed
from crm_core.tables import Table

R = TypeVar("R")
Change = tuple[Table, Mapping[str, Any]]  # a row as it was read, and what becomes of it


async def change_held(tx: Tx, changed: Sequence[Change]) -> None:
    """Give each row of one table its new values and the next version, in the database and in the object.

    Conflict when one of several has another version by now. That cannot be for a row that is held; for a single one, whose
    change is put off, it would make the version null, which the table refuses: nothing is ever overwritten.
    """
    if len(changed) == 1:
        [(row, new)] = changed
        await tx.run_later(_one(type(row), tuple(new)), **new, held_key=_key_of(row), held_version=_version(row))
    else:
        alike: dict[tuple[str, ...], list[Change]] = defaultdict(list)
        for row, new in changed:
            alike[tuple(new)].append((row, new))
        for names, group in alike.items():
            await _change_alike(tx, names, group)
    for row, new in changed:
        row.__dict__.update(new, version=_version(row) + 1)


def among(of: Any, name: str, number: int) -> Any:
    """Condition: the column has one of `number` values, given by `named`. Unlike an expanding list it is compiled once."""
    return col(of).in_([bindparam(f"{name}_{place}") for place in range(_room(number))])


def named(name: str, given: Sequence[Any]) -> dict[str, Any]:
    """The values for `among`."""
    return {f"{name}_{place}": value for place, value in enumerate(_filled(given))}


def _room(number: int) -> int:
    """The next power of two: a few statements for all numbers, since each connection to PostgreSQL prepares each for itself."""
    return 1 << (number - 1).bit_length() if number else 0


def _filled(given: Sequence[R]) -> list[R]:
    """As many as there is room for: the last one again is the same condition, and the same change."""
    return [*given, *list(given[-1:]) * (_room(len(given)) - len(given))]


async def _change_alike(tx: Tx, names: tuple[str, ...], group: Sequence[Change]) -> None:
    given: dict[str, Any] = {}
    for number, (row, new) in enumerate(_filled(group)):
        given[f"held_key_{number}"], given[f"held_version_{number}"] = _key_of(row), _version(row)
        given.update((f"{name}_{number}", new[name]) for name in names)
    hit = await tx.all(_several(type(group[0][0]), names, len(group)), **given)
    if len(hit) != len(group):
        raise Conflict


def _version(row: Table) -> int:
    return int(row.__dict__["version"])


def _key_of(row: Table) -> Any:
    return row.__dict__[_key(type(row))]


@cache
def _key(table: type[Table]) -> str:
    [only] = table.__table__.primary_key.columns  # type: ignore[attr-defined]
    return str(only.name)


@cache
def _one(table: type[Table], names: tuple[str, ...]) -> Fixed[Any]:
    columns = table.__table__.c  # type: ignore[attr-defined]
    seen = bindparam("held_version", type_=columns.version.type)
    new: dict[str, Any] = {name: bindparam(name, type_=columns[name].type) for name in names}
    new["version"] = case((columns.version == seen, seen + 1))
    return fixed(update(table).where(columns[_key(table)] == bindparam("held_key")).values(new))


@cache
def _several(table: type[Table], names: tuple[str, ...], number: int) -> Fixed[Any]:
    """UPDATE from a list of values, which both engines read alike; gives the keys of the rows that it hit."""
    columns = table.__table__.c  # type: ignore[attr-defined]
    picked = {
        "held_key": columns[_key(table)],
        "held_version": columns.version,
        **{name: columns[name] for name in names},
    }
    rows = [
        tuple(bindparam(f"{name}_{place}", type_=of.type) for name, of in picked.items())
        for place in range(_room(number))
    ]
    fresh = values(*(column(name, of.type) for name, of in picked.items()), name="fresh").data(rows).cte("fresh")
    new: dict[str, Any] = {name: fresh.c[name] for name in names}
    new["version"] = columns.version + 1
    meant = (columns[_key(table)] == fresh.c.held_key) & (columns.version == fresh.c.held_version)
    return fixed(update(table).where(meant).values(new).returning(columns[_key(table)]))
