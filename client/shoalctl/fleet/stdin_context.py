"""A build from standard input: a Dockerfile alone, or a tar archive (also with gzip) that is the whole context."""

from __future__ import annotations

import gzip
import shutil
import sys
import tarfile
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shoalctl.flags.dockerfile import MAX_DOCKERFILE, Source
from shoalctl.flags.fault import UsageFault
from shoalctl.fleet.context import CHUNK
from shoalctl.fleet.spool import pieces

_IN_MEMORY = 8 * 1024 * 1024
_EMPTY = bytes(2 * tarfile.BLOCKSIZE)


class StdinContext:
    """What was on standard input. The archive is kept in a temporary file, so that several hosts can be sent it."""

    def __init__(self, source: Source, archive: IO[bytes] | None) -> None:
        self.source = source
        self._archive = archive
        self._reading = threading.Lock()
        if archive is not None:
            weakref.finalize(self, archive.close)

    @classmethod
    def dockerfile(cls) -> bytes:
        """The Dockerfile on standard input. Raises UsageFault."""
        text = sys.stdin.buffer.read(MAX_DOCKERFILE + 1)
        if len(text) > MAX_DOCKERFILE:
            raise UsageFault(f"the Dockerfile on standard input has more than {MAX_DOCKERFILE} bytes")
        return text

    @classmethod
    def read(cls, file: str) -> StdinContext:
        """Read standard input; `file` names the Dockerfile in an archive. Raises UsageFault."""
        stream = sys.stdin.buffer
        head = stream.read(tarfile.BLOCKSIZE)
        if head[257:262] != b"ustar" and head[:2] != b"\x1f\x8b":
            if file:
                raise UsageFault("standard input is not an archive, so that -f has no use")
            text = head + stream.read(MAX_DOCKERFILE)
            return cls(Source(text, "Dockerfile", None), None)
        spool: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - lives as long as the object
        spool.write(head)
        shutil.copyfileobj(stream, spool, CHUNK)
        spool.seek(0)
        if head[:2] == b"\x1f\x8b":
            spool = _unzipped(spool)
        return cls(_dockerfile_of(spool, file or "Dockerfile"), spool)

    def chunks(self) -> Iterator[bytes]:
        """The tar stream in pieces; several readers, in several threads, each get the whole."""
        if self._archive is None:
            yield _EMPTY
            return
        yield from pieces(self._archive, self._reading)


def _unzipped(packed: IO[bytes]) -> IO[bytes]:
    plain: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    try:
        with packed, gzip.GzipFile(fileobj=packed, mode="rb") as stream:
            shutil.copyfileobj(stream, plain, CHUNK)
    except (OSError, EOFError) as error:
        raise UsageFault(f"the archive on standard input is broken: {error}") from error
    plain.seek(0)
    return plain


def _dockerfile_of(archive: IO[bytes], name: str) -> Source:
    wanted = Path(name).as_posix().removeprefix("./")
    try:
        with tarfile.open(fileobj=archive, mode="r:") as members:
            for member in members:
                if member.isreg() and member.name.removeprefix("./") == wanted:
                    content = members.extractfile(member)
                    text = content.read(MAX_DOCKERFILE + 1) if content else b""
                    if len(text) > MAX_DOCKERFILE:
                        raise UsageFault(f"{name} in the archive has more than {MAX_DOCKERFILE} bytes")
                    return Source(text, name, None)
    except tarfile.TarError as error:
        raise UsageFault(f"the archive on standard input is broken: {error}") from error
    raise UsageFault(f"the archive on standard input has no {name}", hint="name the Dockerfile in it with -f")
