"""Which files ADD unpacks: tar archives, plain or compressed, by their first block and not by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from shoald.host.tarsource import ARCHIVE_FORMATS, MAGIC
from shoald.host.treescan import open_inside

BLOCK = 512
MAX_INPUT = 1280 << 10
"""Compressed bytes that may come before the first output: a block of bzip2 is of 900,000 bytes, and compressed a little
larger when they are noise."""
_PIECE = 64 << 10


def is_archive(root: Path, path: str) -> bool:
    """Whether a regular file is a tar archive, plain or compressed in a way that ADD unpacks. Reads its beginning."""
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_inside(directory, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    finally:
        os.close(directory)
    try:
        return is_tar_header(first_block(_pieces(fd)))
    finally:
        os.close(fd)


def _pieces(fd: int) -> Iterator[bytes]:
    for _ in range(MAX_INPUT // _PIECE):
        if not (piece := os.read(fd, _PIECE)):
            return
        yield piece


def first_block(pieces: Iterator[bytes]) -> bytes:
    """The first 512 bytes of what the beginning of a file stands for after decompression; b"" when that fails."""
    data = next(pieces, b"")
    makers = [make for magics, make in map(MAGIC.__getitem__, ARCHIVE_FORMATS) if data.startswith(magics)]
    if not makers:
        return data[:BLOCK]
    out, decoder = b"", makers[0]()
    try:
        while len(out) < BLOCK:
            out += decoder.decompress(data, BLOCK - len(out))
            data = b""
            if decoder.eof:  # a member may be short, and zstd has frames that hold nothing: the next one goes on
                data, decoder = decoder.unused_data, makers[0]()
            if not data and decoder.needs_input and not (data := next(pieces, b"")):
                break
    except Exception:  # noqa: BLE001 -- each library has its own class for it
        return b""
    return out


def is_tar_header(block: bytes) -> bool:
    """Whether 512 bytes are a tar header: the checksum fits (POSIX ustar interchange format), its bytes summed up as
    unsigned numbers or, as old programs did, as signed ones."""
    if len(block) < BLOCK or not block.rstrip(b"\0"):
        return False
    match = re.fullmatch(rb"[ \0]*([0-7]+)[ \0]*", block[148:156])
    if match is None:
        return False
    summed = block[:148] + b" " * 8 + block[156:512]
    total = sum(summed)
    return int(match[1], 8) in (total, total - 256 * sum(byte > 127 for byte in summed))
