"""What is different on Windows: drives, bytes of files, and kinds of files that it does not have."""

from __future__ import annotations

import io
import os
import tarfile
from importlib import reload
from pathlib import Path

import pytest

from shoal.errors import InvalidArgument
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.mounts import MountFlag, parse_volume
from shoalctl.fleet import localtree
from shoalctl.fleet.unpacking import LocalTarget


@pytest.mark.parametrize("prefix", ["", "local:"])
@pytest.mark.parametrize("source", ["C:\\Users\\me\\conf", "c:/Users/me/conf", "C:\\"])
def test_a_drive_is_no_end_of_a_source(source: str, prefix: str) -> None:
    expected = MountFlag("content", "", "/etc/app", True, local=source)
    assert parse_volume(f"{prefix}{source}:/etc/app", windows=True) == expected
    assert parse_volume(f"{prefix}{source}:/etc/app:ro", windows=True) == expected


@pytest.mark.parametrize("text", ["C:\\Users\\me\\conf", "C:\\x:etc", "C:\\x:/etc:rw", "local:C:\\x"])
def test_bad_sources_with_a_drive(text: str) -> None:
    with pytest.raises(UsageFault):
        parse_volume(text, windows=True)


def test_only_a_drive_is_one() -> None:
    assert parse_volume("data:/x", windows=True) == MountFlag("volume", "data", "/x")
    assert parse_volume("/x:/y", windows=True) == MountFlag("bind", "/x", "/y")
    with pytest.raises(UsageFault):
        parse_volume("C:\\x:/etc", windows=False)


def test_files_are_read_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as windows:
        windows.setattr(os, "O_BINARY", 1 << 30, raising=False)
        reload(localtree)
        flags = localtree.READ
    reload(localtree)
    assert flags & 1 << 30
    assert not localtree.READ & 1 << 30


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_pipes_and_devices_are_refused_where_there_are_none(
    kind: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = tarfile.TarInfo("x/pipe")
    member.type = kind
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(member)
    stream.seek(0)
    monkeypatch.delattr(os, "mkfifo")
    with pytest.raises(InvalidArgument, match="a pipe or device") as caught:
        LocalTarget(str(tmp_path), "x").unpack(stream)
    assert caught.value.reason == "BAD_ARCHIVE"
