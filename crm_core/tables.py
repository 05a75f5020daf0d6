"""What every table is made of: the one MetaData, the base class, and the column types both engines agree on.

Left to others: the tables themselves, each of which lives with its noun.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from operator import eq, ne
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined, from_json, to_json
from sqlalchemy import CheckConstraint, DateTime, Dialect, LargeBinary, MetaData, Text, literal_column
from sqlalchemy.orm import InstrumentedAttribute, configure_mappers
from sqlalchemy.sql.operators import in_op, not_in_op
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType
from sqlmodel import Field, SQLModel

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class _Plan:
    """How rows of one table are made: its columns' plain defaults, and what is to be made for those that were not given."""

    def __init__(self, table: Any) -> None:
        configure_mappers()  # else the first row made in a process could not be read by attribute
        self.plain: dict[str, Any] = {}
        self.made: dict[str, Any] = {}  # by a factory; None where a value must be given
        for name, one in table.model_fields.items():
            if one.default_factory is not None:
                self.made[name] = one.default_factory
            elif one.is_required() or one.default is PydanticUndefined:
                self.made[name] = None
            else:
                self.plain[name] = one.default
        self.names = frozenset(table.model_fields)
        self.known: dict[tuple[str, ...], list[tuple[str, Callable[[], Any]]]] = {}

    def missing(self, table: Any, given: tuple[str, ...]) -> list[tuple[str, Callable[[], Any]]]:
        """What has to be made when these columns are given; TypeError for a column that is not there, or that must be given."""
        wrong = set(given) - self.names
        if wrong:
            raise TypeError(f"{table.__name__} has no column {', '.join(sorted(wrong))}")
        factories = [(name, make) for name, make in self.made.items() if name not in given]
        for name, make in factories:
            if make is None:
                raise TypeError(f"{table.__name__} needs {name}")
        self.known[given] = factories
        return factories


if TYPE_CHECKING:

    class Table(SQLModel):
        """Base of every table; see below."""

        metadata = metadata

else:

    class _Column:
        """A column of a table class: SQLAlchemy's attribute for the class, nothing for its rows, which hold plain values.

        Theirs would be asked for every value of a row, to load or to track it; a row here is a fact, and reads as a dictionary.
        """

        __slots__ = ("_attribute",)

        def __init__(self, attribute: Any) -> None:
            self._attribute = attribute

        def __get__(self, row: Any, owner: type) -> Any:
            if row is None:
                return self._attribute
            raise AttributeError(f"this {owner.__name__} was not read with {self._attribute.key}")

    class _TableMeta(type(SQLModel)):
        """Makes rows past pydantic's and SQLAlchemy's constructors, which validate nothing here and cost 0.2 ms a row."""

        def __init__(cls, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            for name, attribute in list(cls.__dict__.items()):
                if isinstance(attribute, InstrumentedAttribute):
                    type.__setattr__(cls, name, _Column(attribute))

        def __call__(cls, **values: Any) -> Any:
            plan = cls.__dict__.get("__plan__")
            if plan is None:
                plan = _Plan(cls)
                type.__setattr__(cls, "__plan__", plan)
            given = tuple(values)
            factories = plan.known.get(given)
            if factories is None:
                factories = plan.missing(cls, given)
            row = object.__new__(cls)
            kept = plan.plain | values
            for name, make in factories:
                kept[name] = make()
            put = object.__setattr__
            put(row, "__dict__", kept)
            put(row, "__pydantic_fields_set__", plan.names)
            put(row, "__pydantic_extra__", None)
            put(row, "__pydantic_private__", None)
            return row

    class Table(SQLModel, metaclass=_TableMeta):
        """Base of every table. Rows are facts of one instant: change them with a guarded UPDATE, not by attribute."""

        metadata = metadata

        def __setattr__(self, name: str, value: Any) -> None:
            # A plain object: no state of SQLAlchemy's hangs on it, whether it was read or made.
            self.__dict__[name] = value


Process = Callable[[Any], Any]


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes: timestamptz on PostgreSQL, fixed-width ISO text on SQLite, so that text order is time order."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text on SQLite, because its own date type drops the zone."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Refuse naive datetimes: a missing zone is a bug at the place that made the value."""
        return (_utc_text if dialect.name == "sqlite" else _aware)(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Aware UTC, whichever engine stored it."""
        return _utc_read(value)

    def bind_processor(self, dialect: Dialect) -> Process:
        """The function itself: SQLAlchemy's way to it is three calls long, some forty times for each arriving call."""
        return _utc_text if dialect.name == "sqlite" else _aware

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        """As `bind_processor`."""
        return _utc_read


def _aware(value: datetime | None) -> datetime | None:
    if value is not None and value.tzinfo is None:
        raise ValueError(f"naive datetime {value!r}: give an aware one")
    return value


@lru_cache(maxsize=256)
def _as_text(value: datetime) -> str:
    _aware(value)
    return value.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")


def _utc_text(value: datetime | None) -> str | None:
    # Remembered, because one instant is written into a dozen columns; equal instants have equal text.
    return None if value is None else _as_text(value)


def _utc_read(value: Any) -> datetime | None:
    if value is None:
        return None
    return datetime.fromisoformat(value) if isinstance(value, str) else value.astimezone(UTC)


class _Jsonb(UserDefinedType[Any]):
    """JSONB that travels as text, which is what asyncpg gives and takes when no codec is set."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSONB"


class Json(TypeDecorator[Any]):
    """A JSON document: JSONB on PostgreSQL, text on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The engine's own JSON column."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else _Jsonb())

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Compact JSON text; None is SQL NULL, never the JSON word null."""
        return _json_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """The document, parsed."""
        return _json_read(value)

    def bind_processor(self, dialect: Dialect) -> Process:
        """The function itself, see `UtcDateTime`."""
        return _json_text

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        """As `bind_processor`."""
        return _json_read


def _json_text(value: Any) -> str | None:
    if value is None:
        return None
    return "{}" if value == {} else to_json(value).decode()  # a third of the time that the standard library takes


def _json_read(value: str | None) -> Any:
    if value is None:
        return None
    # Most documents are empty.
    return {} if value == "{}" else [] if value == "[]" else from_json(value)


class Word(TypeDecorator[StrEnum]):
    """A StrEnum stored as its text, with a CHECK on the table (see `one_of`), so that both engines refuse a bad word."""

    impl = Text
    cache_ok = True

    class Comparator(TypeDecorator.Comparator[Any]):
        """Words compared with are written into the SQL, not bound: only so may the engines use a partial index."""

        def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
            """As every column's, with our own words as constants."""
            if op in (eq, ne) and isinstance(other[0], StrEnum):
                other = (_constant(self.type, other[0]),)
            elif op in (in_op, not_in_op) and isinstance(other[0], Collection) and _are_words(other[0]):
                kind: type[StrEnum] = type(next(iter(other[0])))
                words = list(kind)  # in the order of the enum, as the indexes name them
                other = ([_constant(self.type, word) for word in words if word in other[0]],)
            return super().operate(op, *other, **kwargs)

    comparator_factory = Comparator

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind
        self._texts: dict[Any, str | None] = {None: None, **{member.value: member.value for member in kind}}
        self._members: dict[Any, StrEnum | None] = {None: None, **{member.value: member for member in kind}}

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:
        """Only words of the enum get in; anything else raises ValueError here, not in the database."""
        return self._text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:
        """The enum member."""
        return self._member(value)

    def bind_processor(self, dialect: Dialect) -> Process:
        """The function itself, see `UtcDateTime`."""
        return self._text

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        """As `bind_processor`."""
        return self._member

    def _text(self, value: StrEnum | str | None) -> str | None:
        try:
            return self._texts[value]
        except KeyError:
            return str(self.kind(str(value)))  # raises ValueError and says which word

    def _member(self, value: str | None) -> StrEnum | None:
        return self._members[value]


def _constant(kind: Any, word: StrEnum) -> Any:
    return literal_column(f"'{kind.kind(word.value).value}'", kind)  # a word of our own enum, never a stranger's


def _are_words(given: Collection[Any]) -> bool:
    return bool(given) and all(isinstance(word, StrEnum) for word in given)


def one_of(column: str, kind: type[StrEnum]) -> CheckConstraint:
    """CHECK that `column` holds a word of `kind`; named after the column."""
    words = ", ".join(f"'{word.value}'" for word in kind)
    return CheckConstraint(f"{column} IN ({words})", name=column)


def key() -> Any:
    """Primary key: an opaque, sortable text id from `ids.new_id`."""
    return Field(primary_key=True, sa_type=Text)


def ref(target: str, *, nullable: bool = False, index: bool = True, primary_key: bool = False) -> Any:
    """Reference to another row's text id, such as `ref("contacts.id")`."""
    if nullable:
        return Field(default=None, foreign_key=target, sa_type=Text, nullable=True, index=index)
    return Field(foreign_key=target, sa_type=Text, index=index and not primary_key, primary_key=primary_key)


def at(*, nullable: bool = False, index: bool = False) -> Any:
    """An instant: aware UTC."""
    if nullable:
        return Field(default=None, sa_type=UtcDateTime, nullable=True, index=index)
    return Field(sa_type=UtcDateTime, index=index)


def word(kind: type[StrEnum], *, default: StrEnum | None = None, index: bool = False) -> Any:
    """A column holding one word of `kind`. Add `one_of` to the table's arguments too."""
    if default is None:
        return Field(sa_type=Word(kind), index=index)
    return Field(default=default, sa_type=Word(kind), index=index)


def text(*, default: str | None = "", unique: bool = False, index: bool = False) -> Any:
    """Free text, never NULL unless `default` is None."""
    return Field(default=default, sa_type=Text, unique=unique, index=index, nullable=default is None)


def doc(*, nullable: bool = False) -> Any:
    """A JSON document; an empty object by default."""
    if nullable:
        return Field(default=None, sa_type=Json, nullable=True)
    return Field(default_factory=dict, sa_type=Json)


def docs() -> Any:
    """A JSON list; empty by default."""
    return Field(default_factory=list, sa_type=Json)


def blob(*, nullable: bool = False) -> Any:
    """Raw bytes."""
    if nullable:
        return Field(default=None, sa_type=LargeBinary, nullable=True)
    return Field(sa_type=LargeBinary)
