"""Rows of a table in an SQLite file, read without SQLite (https://www.sqlite.org/fileformat2.html).

The file is an image's, so that nothing in it may be believed: every page is looked at once, and each size has a limit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from shoald.attest.package import Damaged

ReadAt = Callable[[int, int], bytes]
"""At most so many bytes (second) from an offset (first) of the file."""

MAX_ROW = 16 << 20
MAX_PAGES = 1 << 18
"""Of the tables and of overflowing rows together."""

_MAGIC = b"SQLite format 3\0"
_LEAF, _INTERIOR = 13, 5
_INTEGERS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}
"""Bytes of a value by its serial type."""


def table_rows(read_at: ReadAt, table: str) -> Iterator[list[Any]]:
    """The rows of a table in the order of their keys: numbers (None for NULL and floats), and bytes for text and blobs.

    Raises Damaged, also between rows.
    """
    file = _File(read_at)
    for row in file.rows(1):
        if len(row) >= 4 and row[0] == b"table" and row[1] == table.encode() and isinstance(row[3], int):
            yield from file.rows(row[3])
            return
    raise Damaged(f"it has no table {table}")


class _File:
    def __init__(self, read_at: ReadAt) -> None:
        self._read_at = read_at
        self._seen: set[int] = set()
        header = read_at(0, 100)
        if len(header) < 100 or not header.startswith(_MAGIC):
            raise Damaged("it is no SQLite file")
        size = int.from_bytes(header[16:18], "big")
        self._size = 65536 if size == 1 else size
        self._usable = self._size - header[20]
        if self._size < 512 or self._size & (self._size - 1) or self._usable < 480:
            raise Damaged("its pages have no valid size")

    def _page(self, number: int) -> bytes:
        if number < 1 or number in self._seen:
            raise Damaged(f"page {number} is used twice")
        if len(self._seen) >= MAX_PAGES:
            raise Damaged(f"it has more than {MAX_PAGES} pages")
        self._seen.add(number)
        page = self._read_at((number - 1) * self._size, self._size)
        if len(page) != self._size:
            raise Damaged(f"page {number} is not there")
        return page

    def rows(self, root: int) -> Iterator[list[Any]]:
        """All rows of the B-tree of a table, depth first without recursion."""
        pending = [root]
        while pending:
            number = pending.pop()
            page = self._page(number)
            start = 100 if number == 1 else 0
            kind, count = page[start], int.from_bytes(page[start + 3 : start + 5], "big")
            first = start + (12 if kind == _INTERIOR else 8)
            if kind not in (_LEAF, _INTERIOR) or first + 2 * count > self._size:
                raise Damaged(f"page {number} is not of a table")
            cells = struct.unpack_from(f">{count}H", page, first)
            if kind == _INTERIOR:
                children = [*(_number(page, cell) for cell in cells), _number(page, start + 8)]
                pending += reversed(children)
            else:
                for cell in cells:
                    yield _values(self._payload(page, cell))

    def _payload(self, page: bytes, cell: int) -> bytes:
        """The record of a cell, with what overflows to other pages."""
        size, at = _varint(page, cell)
        _, at = _varint(page, at)
        if size > MAX_ROW:
            raise Damaged(f"a row has more than {MAX_ROW} bytes")
        most, least = self._usable - 35, (self._usable - 12) * 32 // 255 - 23
        local = size
        if size > most:
            local = least + (size - least) % (self._usable - 4)
            local = local if local <= most else least
        parts, left = [page[at : at + local]], size - local
        following = _number(page, at + local) if left else 0
        while left:
            more = self._page(following)
            taken = min(left, self._usable - 4)
            parts.append(more[4 : 4 + taken])
            following, left = _number(more, 0), left - taken
        record = b"".join(parts)
        if len(record) != size:
            raise Damaged("a row leaves its page")
        return record


def _number(page: bytes, at: int) -> int:
    if at + 4 > len(page):
        raise Damaged("a number leaves its page")
    return int.from_bytes(page[at : at + 4], "big")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, and where it ends."""
    value = 0
    for count in range(9):
        if at >= len(data):
            raise Damaged("a number leaves its page")
        byte = data[at]
        at += 1
        if count == 8:
            return value << 8 | byte, at
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, at


def _values(record: bytes) -> list[Any]:
    """The columns of a record."""
    end, at = _varint(record, 0)
    body, values = end, []
    while at < end:
        kind, at = _varint(record, at)
        size = (kind - 12) // 2 if kind >= 12 else _INTEGERS.get(kind, 0)
        data = record[body : body + size]
        if len(data) != size or at > end:
            raise Damaged("a row is cut off")
        body += size
        values.append(data if kind >= 12 else _integer(kind, data))
    return values


def _integer(kind: int, data: bytes) -> int | None:
    if kind in (8, 9):
        return kind - 8
    return int.from_bytes(data, "big", signed=True) if 1 <= kind <= 6 else None
