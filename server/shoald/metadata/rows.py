"""Between records (msgspec structs) and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec

from shoal.errors import DataLoss
from shoald.metadata.database import Row, Value

T = TypeVar("T", bound=msgspec.Struct)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now() -> datetime:
    """This moment, UTC."""
    return datetime.now(UTC)


def to_ns(time: datetime) -> int:
    """An aware time as nanoseconds since the epoch."""
    return (time - _EPOCH) // _MICROSECOND * 1000


def from_ns(nanoseconds: int) -> datetime:
    """Nanoseconds since the epoch as a time in UTC, to the microsecond."""
    return _EPOCH + nanoseconds // 1000 * _MICROSECOND


class Codec(Generic[T]):
    """Writes the fields of one struct type to columns of the same names, and reads them back.

    Structs and mappings become JSON, datetimes nanoseconds, bools 0 and 1, enums their values; fields in `null` are
    NULL for "". JSON is read with unknown fields ignored and missing ones at their defaults, so that an older and a
    newer daemon understand each other's rows.
    """

    def __init__(
        self, record: type[T], *, null: frozenset[str] = frozenset(), skip: frozenset[str] = frozenset()
    ) -> None:
        fields = [field for field in msgspec.structs.fields(record) if field.name not in skip]
        self._record = record
        self._null = null
        self._readers: Mapping[str, Callable[[Any], Any]] = {field.name: _reader(field.type) for field in fields}
        self.columns: tuple[str, ...] = tuple(self._readers)
        self.names = ", ".join(self.columns)
        """For a SELECT or the column list of an INSERT."""
        self.marks = ", ".join("?" * len(self.columns))

    def value(self, column: str, value: object) -> Value:
        """A field's value as SQLite stores it."""
        if value is None or (column in self._null and value == ""):
            return None
        if isinstance(value, datetime):
            return to_ns(value)
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, Enum):
            return str(value.value)
        if isinstance(value, (str, int, float)):
            return value
        return msgspec.json.encode(value).decode()

    def values(self, record: T) -> list[Value]:
        """All columns of a record, in the order of `columns`."""
        return [self.value(column, getattr(record, column)) for column in self.columns]

    def record(self, row: Row, **extra: object) -> T:
        """The record of a row; `extra` gives the skipped fields. Raises DataLoss (METADATA_CORRUPT)."""
        try:
            fields = {column: self._field(column, row[column]) for column in self.columns}
        except (msgspec.MsgspecError, ValueError) as error:
            message = f"a stored {self._record.__name__} can't be read: {error}"
            raise DataLoss(message, reason="METADATA_CORRUPT") from error
        return self._record(**fields, **extra)

    def _field(self, column: str, value: Any) -> Any:
        if value is None:
            return "" if column in self._null else None
        return self._readers[column](value)


def _reader(kind: Any) -> Callable[[Any], Any]:
    """What makes a field of type `kind` of a column that is not NULL."""
    if get_origin(kind) in (Union, UnionType) and type(None) in get_args(kind):
        (kind,) = (each for each in get_args(kind) if each is not type(None))
    if kind in (str, int, float):
        return _as_it_is
    if kind is datetime:
        return from_ns
    if kind is bool or (isinstance(kind, type) and issubclass(kind, Enum)):
        return kind
    return msgspec.json.Decoder(kind).decode


def _as_it_is(value: Any) -> Any:
    return value
