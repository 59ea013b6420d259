"""Bytes that several hosts are sent, in a temporary file without a name: nothing is left of it, whatever happens."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator
from typing import IO

CHUNK = 512 << 10


class Spool:
    """What was written, to be read by several threads. Closed with the object."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the object
        self._reading = threading.Lock()

    @classmethod
    def of(cls, chunks: Iterable[bytes]) -> Spool:
        """All of these (blocking). Raises OSError."""
        spool = cls()
        for chunk in chunks:
            spool.write(chunk)
        return spool

    def write(self, chunk: bytes) -> None:
        """Append (blocking). Raises OSError."""
        with self._reading:
            self._file.seek(0, 2)
            self._file.write(chunk)

    def chunks(self) -> Iterator[bytes]:
        """All of it, from the beginning, in pieces (blocking)."""
        return pieces(self._file, self._reading)


def pieces(file: IO[bytes], reading: threading.Lock) -> Iterator[bytes]:
    """All of a file that several threads read, each the whole; the lock is theirs together (blocking)."""
    at = 0
    while True:
        with reading:
            file.seek(at)
            data = file.read(CHUNK)
        if not data:
            return
        at += len(data)
        yield data
