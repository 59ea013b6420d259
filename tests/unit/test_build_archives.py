"""What ADD takes for an archive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from shoald.build.archives import is_archive

NOISE = random.Random(1).randbytes(3_000_000)
SKIPPABLE = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"what"
COMPRESSIONS: list[Callable[[bytes], bytes]] = [
    bytes,
    gzip.compress,
    bz2.compress,
    lzma.compress,
    zstd.compress,
    lambda data: SKIPPABLE + zstd.compress(data),
    lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
]


def tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:") as archive:
        member = tarfile.TarInfo("noise")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("compress", COMPRESSIONS)
@pytest.mark.parametrize("content", [b"", b"short", NOISE])
def test_archives(compress: Callable[[bytes], bytes], content: bytes, tmp_path: Path) -> None:
    """A block that can't be compressed comes out only when all of it is there: with bzip2 900 kB."""
    (tmp_path / "file").write_bytes(compress(tar(content)))
    assert is_archive(tmp_path, "/file")


@pytest.mark.parametrize("compress", COMPRESSIONS)
@pytest.mark.parametrize("content", [b"", b"text", bytes(10_000), NOISE])
def test_other_files(compress: Callable[[bytes], bytes], content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(compress(content))
    assert not is_archive(tmp_path, "/file")


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"BZh", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", SKIPPABLE])
@pytest.mark.parametrize("rest", [b"", b"garbage", NOISE])
def test_broken_files(magic: bytes, rest: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(magic + rest)
    assert not is_archive(tmp_path, "/file")


def test_what_is_no_file(tmp_path: Path) -> None:
    assert not is_archive(tmp_path, "/nothing")


def test_empty_members_without_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(SKIPPABLE * 500_000)
    assert not is_archive(tmp_path, "/file")
