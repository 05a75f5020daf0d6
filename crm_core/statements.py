"""Turns SQLAlchemy statements into plain SQL plus arguments, compiled once per dialect, and raw rows back into objects.

A statement built at module level and wrapped in `fixed()` costs one dictionary look-up per use; one built per call goes
through SQLAlchemy's own cache key, about ten times dearer and still far cheaper than compiling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, Dialect, Executable, bindparam, insert, update
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import Mapper
from sqlalchemy.util import LRUCache

from crm_core.tables import Table, metadata

R = TypeVar("R")
T = TypeVar("T", bound=Table)
Processor = Callable[[Any], Any]
RowMaker = Callable[[Sequence[Any]], Any]
Row = list[Any]  # the arguments of one row, in the order of its plan


class Fixed(Generic[R]):
    """A statement that never changes: the same object is compiled once per dialect."""

    __slots__ = ("statement", "together")

    def __init__(self, statement: Any, *, together: bool) -> None:
        self.statement = statement
        self.together = together


def fixed(statement: Any, *, together: bool = False) -> Fixed[Any]:
    """Mark a module-level statement (with `bindparam`s) as compiled once.

    `together`: a look-up that many make at the same moment; PostgreSQL is asked once for all of them (look_ups.py). Its LIMIT
    is written, not bound.
    """
    return Fixed(statement, together=together)


class Plan:
    """One compiled statement: SQL, the order of its arguments, and how to read its rows."""

    __slots__ = ("_get", "_process", "arguments", "make_row", "returns_rows", "sql")

    def __init__(self, sql: str, arguments: Sequence[tuple[str, Processor | None]], make_row: RowMaker | None) -> None:
        self.sql = sql
        self.arguments = arguments
        self.make_row = make_row
        self.returns_rows = make_row is not None
        names = [name for name, _ in arguments]
        # All at once and then those few that are not as the driver wants them: half of what asking for each by itself costs.
        self._get = itemgetter(*names) if len(names) > 1 else lambda params: [params[name] for name in names]
        self._process = [(place, process) for place, (_, process) in enumerate(arguments) if process is not None]

    def bind(self, params: Mapping[str, Any]) -> list[Any]:
        """Positional arguments for the driver."""
        values = list(self._get(params))
        for place, process in self._process:
            values[place] = process(values[place])
        return values


class InsertPlan(Plan):
    """An INSERT of whole rows of one table. On the same `unique` columns nothing happens, or `update` and `add` do."""

    __slots__ = ("_added", "_key", "_updated", "rank", "refers", "table", "tail", "types")

    def __init__(
        self, table: Any, sql: str, arguments: Sequence[tuple[str, Processor | None]], types: list[str], *,
        rank: tuple[int, int], unique: Sequence[str], update: Sequence[str], add: Sequence[str],
    ) -> None:  # fmt: skip
        self.table = str(table.name)
        self.tail = _on_conflict(self.table, unique, update, add) if unique else ""
        super().__init__(f"{sql} {self.tail}".strip(), arguments, None)
        self.types = types  # of the columns, as the engine calls them
        self.refers = bool(table.foreign_keys)
        self.rank = rank  # tables that others refer to before those; always the same
        names = [name for name, _ in arguments]
        self._key = [names.index(name) for name in unique]
        self._added = [names.index(name) for name in add]
        self._updated = [names.index(name) for name in update]

    def added_up(self, rows: list[Row]) -> list[Row]:
        """What is added up under one key as one row, sorted by key; rows of every other kind as they are."""
        if not self._added:
            return rows
        sums: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            key = tuple(row[place] for place in self._key)
            known = sums.setdefault(key, row)
            if known is not row:
                sums[key] = [
                    a + b if place in self._added else b if place in self._updated else a
                    for place, (a, b) in enumerate(zip(known, row, strict=True))
                ]
        return [sums[key] for key in sorted(sums)]


def _on_conflict(name: str, unique: Iterable[str], update: Iterable[str], add: Iterable[str]) -> str:
    changes = [f"{c} = excluded.{c}" for c in update] + [f"{c} = {name}.{c} + excluded.{c}" for c in add]
    return f"ON CONFLICT ({', '.join(unique)}) DO {'UPDATE SET ' + ', '.join(changes) if changes else 'NOTHING'}"


WORD = re.compile(r"\w+")
LOCKS = re.compile(r"\bFOR (NO KEY UPDATE|UPDATE|KEY SHARE|SHARE)\b|\bpg_|\bnextval\b")


def _depth(table: Any, above: frozenset[str] = frozenset()) -> int:
    """How many tables stand above this one, each referring to the next; as far as they are known to this process."""
    names = {key.target_fullname.partition(".")[0] for key in table.foreign_keys} - above - {table.name}
    parents = [metadata.tables[name] for name in names if name in metadata.tables]
    return max((_depth(parent, above | {table.name}) + 1 for parent in parents), default=0)


@lru_cache(2000)
def only_reads(sql: str) -> bool:
    """True for a SELECT that neither locks nor counts anything up.

    It may stand before its transaction: at READ COMMITTED each statement sees its own snapshot anyway.
    """
    return sql.startswith("SELECT") and LOCKS.search(sql) is None


class Compiler:
    """Compiles for one dialect and remembers the result."""

    def __init__(self, dialect: DefaultDialect) -> None:
        self.dialect = dialect
        self._fixed: dict[int, tuple[Any, Any, Plan | None]] = {}
        self._cache: LRUCache[Any, Any] = LRUCache(1000)
        self._inserts: dict[Any, InsertPlan] = {}
        self._tables: LRUCache[str, frozenset[str]] = LRUCache(2000)
        # Look-ups to be asked for many at once: SQL and the types of its arguments.
        self.together: dict[str, tuple[str, ...]] = {}
        self._referred: frozenset[str] = frozenset()
        self._referred_of = 0
        self._makers: dict[Any, RowMaker | None] = {}
        self._changes: dict[tuple[Any, ...], Plan] = {}

    @property
    def referred_to(self) -> frozenset[str]:
        """Tables whose rows other tables refer to, of those known so far."""
        if self._referred_of != len(metadata.tables):
            self._referred_of = len(metadata.tables)
            keys = [key for table in metadata.tables.values() for key in table.foreign_keys]
            self._referred = frozenset(key.target_fullname.partition(".")[0] for key in keys)
        return self._referred

    def tables_in(self, sql: str) -> frozenset[str]:
        """Every table that `sql` names; one too many where a column is called like a table."""
        found = self._tables.get(sql)
        if found is None:
            found = self._tables[sql] = frozenset(WORD.findall(sql)) & metadata.tables.keys()
        return found

    def prepare_change(
        self, table: type[Table], values: Mapping[str, Any], where: Mapping[str, Any]
    ) -> tuple[str, list[Any], RowMaker | None]:
        """SQL and arguments of an UPDATE of these columns under these equalities (None: IS NULL)."""
        key = (table, tuple(values), tuple((name, value is None) for name, value in where.items()))
        plan = self._changes.get(key)
        if plan is None:
            columns = table.__table__.c  # type: ignore[attr-defined]
            statement = update(table).values(
                {name: bindparam(f"v_{name}", type_=columns[name].type) for name in values}
            )
            for name, value in where.items():
                condition = columns[name].is_(None) if value is None else columns[name] == bindparam(f"w_{name}")
                statement = statement.where(condition)
            _, _, plan = self._compile_fixed(Fixed(statement, together=False))
            if plan is None:
                raise TypeError("a change takes plain values only")
            self._changes[key] = plan
        params = {f"v_{name}": value for name, value in values.items()}
        params.update((f"w_{name}", value) for name, value in where.items() if value is not None)
        return plan.sql, plan.bind(params), None

    def prepare(self, statement: Any, params: Mapping[str, Any]) -> tuple[str, list[Any], RowMaker | None]:
        """SQL, arguments and row maker (None when the statement returns no rows) for one execution."""
        if isinstance(statement, Fixed):
            known = self._fixed.get(id(statement))
            if known is None:
                known = self._compile_fixed(statement)
            _, compiled, plan = known
            if plan is not None:
                return plan.sql, plan.bind(params), plan.make_row
            return self._expand(compiled, compiled.construct_params(dict(params), escape_names=False))
        compiled, extracted = self._compile_cached(statement)
        values = compiled.construct_params(dict(params), extracted_parameters=extracted, escape_names=False)
        return self._expand(compiled, values)

    def _compile_cached(self, statement: Any) -> tuple[Any, Any]:
        cache_key = statement._generate_cache_key()
        if cache_key is None:
            return statement.compile(dialect=self.dialect), None
        compiled = self._cache.get(cache_key.key)
        if compiled is None:
            compiled = statement._compiler(self.dialect, cache_key=cache_key)
            self._cache[cache_key.key] = compiled
        return compiled, cache_key.bindparams

    def _compile_fixed(self, statement: Fixed[Any]) -> tuple[Any, Any, Plan | None]:
        compiled = statement.statement.compile(dialect=self.dialect)
        plan = None
        if not compiled.post_compile_params and not compiled.literal_execute_params:
            defaults = {name: bind.effective_value for bind, name in compiled.bind_names.items() if not bind.required}
            processors = compiled._bind_processors
            order = [(name, processors.get(name)) for name in _positions(compiled)]
            plan = Plan(compiled.string, order, self._row_maker(compiled))
            if defaults:
                plan = _PlanWithDefaults(plan, defaults)
            if statement.together:
                kinds = [compiled.binds[name].type for name, _ in order]
                self.together[plan.sql] = tuple(self.dialect.type_compiler_instance.process(kind) for kind in kinds)
        known = (statement, compiled, plan)
        self._fixed[id(statement)] = known
        return known

    def _expand(self, compiled: Any, values: dict[str, Any]) -> tuple[str, list[Any], RowMaker | None]:
        processors = dict(compiled._bind_processors)
        sql = compiled.string
        names = _positions(compiled)
        if compiled.post_compile_params or compiled.literal_execute_params:
            state = compiled._process_parameters_for_postcompile(values)
            values = {**values, **state.additional_parameters}
            processors.update(state.processors)
            sql, names = state.statement, list(state.positiontup or ())
        arguments = [processors[n](values[n]) if n in processors else values[n] for n in names]
        return sql, arguments, self._row_maker(compiled)

    def insert_plan(
        self, table: type[Table], unique: Sequence[str] = (), update: Sequence[str] = (), add: Sequence[str] = ()
    ) -> InsertPlan:
        """INSERT of one whole row of `table`; on the same `unique` columns nothing, or `update` set and `add` added up."""
        key = (table, tuple(unique), tuple(update), tuple(add))
        known = self._inserts.get(key)
        if known is None:
            described: Any = table.__table__  # type: ignore[attr-defined]
            compiled: Any = insert(described).compile(dialect=self.dialect)
            processors = compiled._bind_processors
            order = [(name, processors.get(name)) for name in _positions(compiled)]
            types = [self.dialect.type_compiler_instance.process(described.c[name].type) for name, _ in order]
            known = self._inserts[key] = InsertPlan(
                described, compiled.string, order, types, rank=(_depth(described), len(self._inserts)),
                unique=unique, update=update, add=add,
            )  # fmt: skip
        return known

    def _row_maker(self, compiled: Any) -> RowMaker | None:
        if not compiled._result_columns:
            return None
        cached = self._makers.get(compiled)
        if cached is None:
            cached = _make_row_maker(compiled, self.dialect)
            self._makers[compiled] = cached
        return cached


class _PlanWithDefaults(Plan):
    """A plan whose statement carries literal values of its own."""

    __slots__ = ("defaults",)

    def __init__(self, plan: Plan, defaults: dict[str, Any]) -> None:
        super().__init__(plan.sql, plan.arguments, plan.make_row)
        self.defaults = defaults

    def bind(self, params: Mapping[str, Any]) -> list[Any]:
        """Arguments, the statement's own values filled in."""
        return super().bind({**self.defaults, **params})


def _positions(compiled: Any) -> list[str]:
    return list(compiled.positiontup or ())


def _make_row_maker(compiled: Any, dialect: Dialect) -> RowMaker:
    """How to read one raw row: whole entities become objects, single columns values, several of them a tuple."""
    columns = compiled._result_columns
    processors = [entry.type._cached_result_processor(dialect, None) for entry in columns]
    parts: list[RowMaker] = []
    start = 0
    for entity in _entities(compiled.statement):
        if entity is not None:
            mapper: Mapper[Any] = entity.__mapper__  # type: ignore[attr-defined]
            width = len(mapper.column_attrs)
            names = [_column_name(columns[i]) for i in range(start, start + width)]
            parts.append(_entity_maker(entity, names, processors[start : start + width], start))
            start += width
        else:
            parts.append(_value_maker(processors[start], start))
            start += 1
    if start != len(columns):
        raise TypeError(f"cannot tell the columns of {compiled.string!r} apart")
    if len(parts) == 1:
        return parts[0]
    if len(parts) == len(columns):
        return _values_maker(processors)
    return lambda row: tuple(part(row) for part in parts)


def _column_name(entry: Any) -> str:
    # Where two tables share a name the first object is a label; the column itself is always among them.
    return next(str(thing.key) for thing in entry.objects if isinstance(thing, Column))


def _entities(statement: Any) -> list[type[Table] | None]:
    """One item per thing asked for: the table class, or None for a single column."""
    described = getattr(statement, "column_descriptions", None)
    if described is not None:
        owners = [d.get("entity") for d in described]
        return [o if o is not None and d["expr"] is o else None for o, d in zip(owners, described, strict=True)]
    owners = [getattr(item, "_annotations", {}).get("parententity") for item in statement._returning]
    whole = [hasattr(item, "columns") for item in statement._returning]
    return [owner.class_ if owner and is_whole else None for owner, is_whole in zip(owners, whole, strict=True)]


def _value_maker(process: Processor | None, index: int) -> RowMaker:
    if process is None:
        return lambda row: row[index]
    return lambda row: process(row[index])


def _values_maker(processors: list[Processor | None]) -> RowMaker:
    processed = [(place, process) for place, process in enumerate(processors) if process is not None]

    def make(row: Sequence[Any]) -> tuple[Any, ...]:
        values = list(row)
        for place, process in processed:
            values[place] = process(values[place])
        return tuple(values)

    return make


def _entity_maker(
    entity: type[Table], names: list[str], processors: list[Processor | None], start: int
) -> Callable[[Sequence[Any]], Any]:
    end = start + len(names)
    # All at once and then those few that are not as the driver gives them: half of what looking at each by itself costs.
    processed = [(name, process) for name, process in zip(names, processors, strict=True) if process is not None]
    fields = frozenset(names)
    # A whole row of nothing is what an outer join gives when it found none; every table has a key.
    key_at = start + names.index(entity.__mapper__.primary_key[0].key)  # type: ignore[attr-defined]
    new = object.__new__
    put = object.__setattr__

    def make(row: Sequence[Any]) -> Any:
        # Built past SQLAlchemy's and pydantic's constructors: a row read is a fact, there is nothing to validate or track.
        if row[key_at] is None:
            return None
        values = dict(zip(names, row[start:end], strict=True))
        for name, process in processed:
            values[name] = process(values[name])
        thing = new(entity)
        put(thing, "__dict__", values)
        put(thing, "__pydantic_fields_set__", fields)
        put(thing, "__pydantic_extra__", None)
        put(thing, "__pydantic_private__", None)
        return thing

    return make


class _SqliteWords(SQLiteCompiler):
    def for_update_clause(self, select: Any, **_: Any) -> str:
        """A remark: SQLite has no locks of rows, but whoever asks for one may not run ahead of the writing lock."""
        return " /* FOR UPDATE */"


def sqlite_compiler() -> Compiler:
    """Compiler for the standard library's sqlite3: question marks."""
    dialect = SQLiteDialect_pysqlite(paramstyle="qmark")
    dialect.statement_compiler = _SqliteWords
    return Compiler(dialect)


def postgres_compiler() -> Compiler:
    """Compiler for asyncpg: dollar numbers."""
    return Compiler(PGDialect_asyncpg(paramstyle="numeric_dollar"))  # type: ignore[no-untyped-call]


def is_executable(statement: object) -> bool:
    """True for what `Tx` can run."""
    return isinstance(statement, Fixed | Executable)
