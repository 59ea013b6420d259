"""Paragraphs of `Field: value` lines, as Debian's control files and Python's metadata have them."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator

from shoald.attest.plain import decoded, plain

MAX_VALUES = 100
"""Of one field in one paragraph; those after them are left out."""
MAX_LINE = 4096
"""Bytes of a line that count."""

Stanza = dict[str, list[str]]
"""Values by the field's name in lower case, in their order."""


def stanzas(body: bytes, wanted: Collection[str]) -> Iterator[Stanza]:
    """The fields `wanted` (lower case) of each paragraph that has any, each value as one plain line.

    Of a value with continuation lines only the first line counts (deb822(5)); a line without a colon is left out.
    """
    found: Stanza = {}
    names = {name.encode(): name for name in wanted}
    # A line at a time: a file of nothing but newlines must not become a list of them.
    for raw in io.BytesIO(body):
        line = raw[:MAX_LINE]
        if not line.strip():
            if found:
                yield found
            found = {}
        elif line[:1] not in b" \t":
            name, colon, value = line.partition(b":")
            key = names.get(name.strip().lower())
            if colon and key is not None:
                values = found.setdefault(key, [])
                if len(values) < MAX_VALUES:
                    values.append(plain(decoded(value)))
    if found:
        yield found


def first(stanza: Stanza, name: str) -> str:
    """The first value of a field, or ""."""
    values = stanza.get(name)
    return values[0] if values else ""
