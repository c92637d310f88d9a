"""How a record becomes bytes: a `Layout` reads it from the annotations of the record's fields.

The fields of a fixed size come first, as one `struct`. A field of another size has its length there, and its bytes
follow. A list is a record's last field. Its length stands in the struct, and its rows or values come last.

No value says of itself what type it has, and none contains another one. So what is read always has the types of the
annotations, and takes a small multiple of the memory of its bytes. No length is believed: it is compared with the
bytes that are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_type_hints

from ...errors import WireError

Check = Callable[[Any], bool]


class Fixed(NamedTuple):
    """A field of a fixed size."""

    form: str  # of `struct`
    is_valid: Check | None = None


class Sized(NamedTuple):
    """A field of ``bytes``, or of ``str`` if ``is_text``."""

    most: int  # bytes
    is_valid: Check | None = None
    is_text: bool = False
    form: str = "I"  # of the length


class Rows(NamedTuple):
    """A list of values of one column, or of rows of several columns."""

    of: Sized | tuple[Fixed | Sized, ...]
    most: int  # values or rows


class _Row:
    """Columns side by side: first what has a fixed size, and the lengths of the others; then the others."""

    def __init__(self, columns: Sequence[Fixed | Sized]) -> None:
        self._struct = struct.Struct(">" + "".join(column.form for column in columns))
        self._sized = [(place, each.most, each.is_text) for place, each in enumerate(columns) if type(each) is Sized]
        self._checks = [(place, each.is_valid) for place, each in enumerate(columns) if each.is_valid is not None]

    def pack(self, values: Sequence[Any]) -> list[bytes]:
        """Return the bytes of a row, in parts."""
        head, parts = list(values), [b""]
        for place, _, is_text in self._sized:
            part = head[place].encode() if is_text else head[place]
            head[place] = len(part)
            parts.append(part)
        parts[0] = self._struct.pack(*head)
        return parts

    def unpack(self, data: bytes, at: int) -> tuple[list[Any], int]:
        """Return the values that begin at a place, and where they end. Raise ValueError or `struct.error`."""
        values: list[Any] = list(self._struct.unpack_from(data, at))
        at += self._struct.size
        for place, most, is_text in self._sized:
            end = at + values[place]
            if values[place] > most or end > len(data):
                raise ValueError("a value that is too long")
            values[place] = data[at:end].decode() if is_text else data[at:end]
            at = end
        for place, is_valid in self._checks:
            if not is_valid(values[place]):
                raise ValueError("a value out of its range")
        return values, at


class _Rows:
    """Rows of several columns, one after another. In the record each is a tuple."""

    def __init__(self, columns: Sequence[Fixed | Sized]) -> None:
        self._row = _Row(columns)

    def pack(self, rows: Sequence[Sequence[Any]]) -> list[bytes]:
        return [part for row in rows for part in self._row.pack(row)]

    def unpack(self, data: bytes, at: int, count: int) -> tuple[list[Any], int]:
        rows: list[Any] = []
        for _ in range(count):
            row, at = self._row.unpack(data, at)
            rows.append(tuple(row))
        return rows, at


class _Values:
    """Values of one column: first all lengths, then all values. This takes half the time of rows, one by one."""

    def __init__(self, column: Sized) -> None:
        self._most, self._is_valid, self._is_text, _ = column

    def pack(self, values: Sequence[Any]) -> list[bytes]:
        parts = [text.encode() for text in values] if self._is_text else values
        return [struct.pack(f">{len(parts)}I", *map(len, parts)), *parts]

    def unpack(self, data: bytes, at: int, count: int) -> tuple[list[Any], int]:
        sizes = struct.unpack_from(f">{count}I", data, at)
        at += 4 * count
        if max(sizes, default=0) > self._most or at + sum(sizes) > len(data):
            raise ValueError("a value that is too long")
        values: list[Any] = []
        for size in sizes:
            values.append(data[at : at + size])
            at += size
        if self._is_text:
            values = [value.decode() for value in values]
        if self._is_valid is not None and not all(map(self._is_valid, values)):
            raise ValueError("a value out of its range")
        return values, at


class Layout:
    """The form of one record type, a NamedTuple whose annotations are all `Annotated` with one of the above."""

    def __init__(self, record: Callable[..., Any]) -> None:
        """Read the annotations."""
        columns = [hint.__metadata__[0] for hint in get_type_hints(record, include_extras=True).values()]
        self._record = record
        self._list: _Rows | _Values | None = None
        if isinstance(columns[-1], Rows):
            of, most = columns.pop()
            self._list = _Values(of) if isinstance(of, Sized) else _Rows(of)
            columns.append(Fixed("I", most.__ge__))  # the number of rows
        self._fields = _Row(columns)

    def pack(self, record: tuple[Any, ...], head: bytes = b"") -> bytes:
        """Return the bytes of a record, after those of ``head``."""
        if self._list is None:
            return b"".join((head, *self._fields.pack(record)))
        *fields, rows = record
        return b"".join((head, *self._fields.pack((*fields, len(rows))), *self._list.pack(rows)))

    def unpack(self, data: bytes, at: int = 0) -> Any:
        """Return the record whose bytes begin at a place and reach to the end. Raise WireError for any other bytes."""
        try:
            fields, at = self._fields.unpack(data, at)
            if self._list is not None:
                rows, at = self._list.unpack(data, at, fields[-1])
                fields[-1] = tuple(rows)
            if at < len(data):
                raise ValueError("more bytes than it says")
        except (ValueError, struct.error) as error:
            reason = type(error).__name__ if isinstance(error, UnicodeError) else str(error)
            raise WireError(f"a {self._record.__name__} with {reason}") from None
        return self._record(*fields)
