"""The input of an unpacker: a compressed tar on a descriptor, decompressed and hashed by a thread, within limits.

Imported by programs that must start quickly and that confine themselves: only the standard library, isal and zstd.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

CHUNK = 1 << 20
_AHEAD = 4
_F_SETPIPE_SZ = 1031
_RATIO_FLOOR = 1 << 30
_LZMA_MEMORY = 512 << 20


class Refused(Exception):
    """The archive is not acceptable. `reason` is stable: BAD_ARCHIVE, TRUNCATED, ARCHIVE_TOO_LARGE."""

    def __init__(self, message: str, reason: str = "BAD_ARCHIVE") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one archive. Sizes in bytes; `ratio` (of output to input) counts only beyond 1 GiB of output."""

    total: int = 1 << 40
    entries: int = 10_000_000
    ratio: int = 20_000


class Decoder(Protocol):
    """What the decompressors of the standard library, isal and zstd have in common."""

    @property
    def eof(self) -> bool:
        """Whether this member or frame is complete."""

    @property
    def needs_input(self) -> bool:
        """Whether there is no output without more input."""

    @property
    def unused_data(self) -> bytes:
        """What came after the end."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """At most `max_length` bytes of output."""


def _gzip() -> Decoder:
    from isal import igzip_lib

    decoder: Decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return decoder


def _zstd() -> Decoder:
    from backports import zstd

    decoder: Decoder = zstd.ZstdDecompressor()
    return decoder


def _bzip2() -> Decoder:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Decoder:
    import lzma

    return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)


MAGIC: dict[str, tuple[tuple[bytes, ...], Callable[[], Decoder]]] = {
    "gzip": ((b"\x1f\x8b",), _gzip),
    "zstd": ((b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))), _zstd),
    "bzip2": ((b"BZh",), _bzip2),
    "xz": ((b"\xfd7zXZ\0",), _xz),
}
LAYER_FORMATS = ("gzip", "zstd")
ARCHIVE_FORMATS = ("gzip", "zstd", "bzip2", "xz")
_MAGIC_LENGTH = 6


def preload(formats: tuple[str, ...]) -> None:
    """Load all decoders now: later, in the archive's own root, nothing may be (OpenSSL's configuration neither)."""
    hashlib.sha256(b"").hexdigest()
    for name in formats:
        MAGIC[name][1]()


@dataclass(slots=True)
class _End:
    """The last thing in the queue: why the stream ended (None: as it should)."""

    error: BaseException | None


class TarSource:
    """The uncompressed bytes, in order. `take`, `copy` and `skip` are for one thread."""

    def __init__(self, fd: int, limits: Limits, formats: tuple[str, ...]) -> None:
        self._fd = fd
        self._limits = limits
        self._formats = formats
        self._hash = hashlib.sha256()
        self._size = 0
        self._read = 0
        self._chunk = b""
        self._at = 0
        self._ended = False
        self._queue: queue.Queue[bytes | _End] = queue.Queue(_AHEAD)
        try:
            fcntl.fcntl(fd, _F_SETPIPE_SZ, CHUNK)
        except OSError:
            pass  # a file, or beyond the user's limit for pipes
        threading.Thread(target=self._produce, daemon=True).start()

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes; fewer only at the end of the stream."""
        end = self._at + size
        if end <= len(self._chunk):
            piece = self._chunk[self._at : end]
            self._at = end
            return piece
        parts = bytearray()
        for view in self._views(size):
            parts += view
        return bytes(parts)

    def copy(self, fd: int, size: int) -> None:
        """Write the next `size` bytes at the file's position. Raises Refused (TRUNCATED), OSError of the write."""
        done = 0
        for view in self._views(size):
            done += len(view)
            while view:
                view = view[os.write(fd, view) :]
        _whole(done, size)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes. Raises Refused (TRUNCATED)."""
        _whole(sum(len(view) for view in self._views(size)), size)

    def finish(self) -> tuple[str, int]:
        """Read what is left; the digest ("sha256:<hex>") and the size of the whole uncompressed stream."""
        while self._next():
            pass
        return f"sha256:{self._hash.hexdigest()}", self._size

    def _views(self, size: int) -> Iterator[memoryview]:
        while size:
            left = len(self._chunk) - self._at
            if not left:
                if not self._next():
                    return
                continue
            step = min(left, size)
            yield memoryview(self._chunk)[self._at : self._at + step]
            self._at += step
            size -= step

    def _next(self) -> bool:
        if self._ended:
            return False
        item = self._queue.get()
        self._at = 0
        if isinstance(item, _End):
            self._ended, self._chunk = True, b""
            if item.error is not None:
                raise item.error
            return False
        self._chunk = item
        return True

    def _produce(self) -> None:
        error: BaseException | None = None
        try:
            for chunk in self._decompressed():
                self._size += len(chunk)
                self._check()
                self._hash.update(chunk)
                self._queue.put(chunk)
        except BaseException as caught:  # noqa: BLE001 -- handed to the reading thread, which raises it
            error = caught
        self._queue.put(_End(error))

    def _check(self) -> None:
        limits = self._limits
        if self._size > limits.total:
            raise Refused(f"archive has more than {limits.total} bytes", "ARCHIVE_TOO_LARGE")
        if self._size > _RATIO_FLOOR and self._size > limits.ratio * self._read:
            raise Refused(
                f"archive of {self._read} bytes grows to more than {limits.ratio} times of it", "ARCHIVE_TOO_LARGE"
            )

    def _input(self) -> bytes:
        data = os.read(self._fd, CHUNK)
        self._read += len(data)
        return data

    def _decompressed(self) -> Iterator[bytes]:
        head = self._input()
        while head and len(head) < _MAGIC_LENGTH and (more := self._input()):
            head += more
        for name in self._formats:
            magics, make = MAGIC[name]
            if head.startswith(magics):
                yield from self._decode(name, magics, make, head)
                return
        while head:
            yield head
            head = self._input()

    def _decode(
        self, name: str, magics: tuple[bytes, ...], make: Callable[[], Decoder], data: bytes
    ) -> Iterator[bytes]:
        """All members or frames, one after the other; zeros may follow the last."""
        longest = max(map(len, magics))
        while True:
            while data and len(data) < longest and (more := self._input()):
                data += more
            if not data:
                return
            if not data.startswith(magics):
                self._zeros(name, data)
                return
            decoder = make()
            while not decoder.eof:
                try:
                    out = decoder.decompress(data, CHUNK)
                except Exception as error:  # each library has its own class for it
                    raise Refused(f"invalid {name} data: {error}") from error
                if out:
                    yield out
                data = b""
                if not decoder.eof and decoder.needs_input:
                    data = self._input()
                    if not data:
                        raise Refused(f"{name} data ends too early", "TRUNCATED")
            data = decoder.unused_data or self._input()

    def _zeros(self, name: str, data: bytes) -> None:
        while data:
            if data.strip(b"\0"):
                raise Refused(f"garbage after the {name} data")
            data = self._input()


def _whole(done: int, size: int) -> None:
    if done != size:
        raise Refused("archive ends in the middle of a member", "TRUNCATED")
