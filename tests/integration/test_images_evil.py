"""Archive security: SECURITY-CASES rows 6, 7 and 8."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd

from shoald.host import mounts
from shoald.host.trees import remove_tree
from tests.support.evil_tars import EvilTar, evil_tars
from tests.support.unpacked import pack, tree, unpack

pytestmark = [pytest.mark.root]

CASES = [evil.name for evil in evil_tars(Path("/canary"))]


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host beside the one that is unpacked into."""
    directory = tmp_path / "canary"
    (directory / "dir").mkdir(parents=True)
    (directory / "file").write_text("sings")
    (tmp_path / "root").mkdir()
    yield directory
    # pytest itself can't remove what is nested as deep as some archives are.
    remove_tree(tmp_path / "root")


def _evil(name: str, canary: Path) -> EvilTar:
    return next(evil for evil in evil_tars(canary) if evil.name == name)


@pytest.mark.parametrize("mode", ["layer", "context", "archive"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_outside_changes(name: str, mode: str, canary: Path) -> None:
    evil = _evil(name, canary)
    before, beside = tree(canary), sorted(os.listdir(canary.parent))
    result = unpack(canary.parent / "root", evil.data, mode)
    assert tree(canary) == before
    assert sorted(os.listdir(canary.parent)) == beside
    if mode == "layer":
        assert ("error" in result) == (evil.layer == "refused"), result
    assert result.get("error") in (None, "BAD_ARCHIVE", "PATH_ESCAPE"), result


@pytest.mark.parametrize("mode", ["layer", "context", "archive"])
def test_nothing_of_the_image_is_loaded(mode: str, canary: Path) -> None:
    """The second time, the traps are there from the beginning."""
    root, before = canary.parent / "root", tree(canary)
    for _ in range(2):
        assert "error" not in unpack(root, _evil("imported_code", canary).data, mode)
    _, packed = pack(root, "gzip")
    assert "error" not in packed
    assert tree(canary) == before


def test_many_replaced_directories_take_no_quadratic_time(canary: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(4000):
            directory = tarfile.TarInfo(f"d{number}")
            directory.type = tarfile.DIRTYPE
            tar.addfile(directory)
        for number in range(4000):
            tar.addfile(tarfile.TarInfo(f"d{number}"))
    result = unpack(canary.parent / "root", out.getvalue())
    assert result["entries"] == 8000
    assert (canary.parent / "root/d7").is_file()


def test_layer_keeps_nothing_that_overlayfs_would_obey(canary: Path) -> None:
    root = canary.parent / "root"
    unpack(root, _evil("overlay_xattrs", canary).data)
    assert os.listxattr(root / "d") == []
    assert os.listxattr(root / "f") == []


def test_context_takes_no_devices(canary: Path) -> None:
    result = unpack(canary.parent / "root", _evil("device", canary).data, "context")
    assert result["error"] == "BAD_ARCHIVE"
    assert os.listdir(canary.parent / "root") == []


def test_symlink_parents_are_resolved_inside(canary: Path) -> None:
    root = canary.parent / "root"
    unpack(root, _evil("symlink_parent_absolute", canary).data)
    assert (root / str(canary).lstrip("/") / "new").read_bytes() == b"evil"


def _zeros(size: int) -> bytes:
    info = tarfile.TarInfo("zeros")
    info.size = size
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(info.tobuf())]
    block = bytes(1 << 20)
    parts += [packer.compress(block) for _ in range(size >> 20)]
    return b"".join(parts) + packer.compress(bytes(1024)) + packer.flush()


def test_bomb_by_size(canary: Path) -> None:
    result = unpack(canary.parent / "root", _zeros(64 << 20), "layer", "--max-bytes", str(16 << 20))
    assert result["error"] == "ARCHIVE_TOO_LARGE"
    assert sum(path.stat().st_size for path in (canary.parent / "root").iterdir()) <= 32 << 20


def test_bomb_by_apparent_size(canary: Path) -> None:
    """A sparse file of an exabyte costs nothing to send."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("sparse")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 60)}
        body = b"1\n0\n0\n".ljust(512, b"\0")
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))
    result = unpack(canary.parent / "root", out.getvalue())
    assert result["error"] == "ARCHIVE_TOO_LARGE"


def test_bomb_by_members(canary: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(50):
            tar.addfile(tarfile.TarInfo(f"f{number}"))
    result = unpack(canary.parent / "root", out.getvalue(), "layer", "--max-entries", "20")
    assert result["error"] == "ARCHIVE_TOO_LARGE"
    assert len(os.listdir(canary.parent / "root")) == 20


def test_bomb_by_ratio(canary: Path) -> None:
    """2 GiB of zeros in a few hundred bytes of zstd, after a name that keeps them off the disk."""
    bomb = zstd.compress(bytes(1024) + bytes(1 << 20), 19)
    frames = bomb * 2100
    result = unpack(canary.parent / "root", frames, "layer", "--max-ratio", "500")
    assert result["error"] == "ARCHIVE_TOO_LARGE"


@pytest.mark.parametrize("cut", [1, 5, 300, 700])
def test_truncated(cut: int, canary: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("f")
        info.size = 4000
        tar.addfile(info, io.BytesIO(os.urandom(4000)))
    packed = gzip.compress(out.getvalue())
    assert unpack(canary.parent / "root", packed[:-cut])["error"] == "TRUNCATED"


@pytest.mark.parametrize(
    "junk", [b"no tar at all" * 100, b"\x1f\x8bnot gzip", b"\x28\xb5\x2f\xfdnot zstd", b"\xff" * 2048]
)
def test_junk(junk: bytes, canary: Path) -> None:
    result = unpack(canary.parent / "root", junk)
    assert result["error"] in ("BAD_ARCHIVE", "TRUNCATED")


def test_garbage_after_gzip(canary: Path) -> None:
    result = unpack(canary.parent / "root", gzip.compress(bytes(1024)) + b"garbage")
    assert result["error"] == "BAD_ARCHIVE"


def test_full_disk(canary: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts.mount("shoal-test", disk, "tmpfs", data="size=1m,mode=0755")
    try:
        assert unpack(disk, _zeros(4 << 20))["error"] == "DISK_FULL"
    finally:
        mounts.unmount_tree(disk, detach=True)


def test_it_sees_nothing_of_the_host(tmp_path: Path) -> None:
    """The confinement itself: capabilities, root, network, imports."""
    probe = (
        "import os, sys, json, socket\n"
        "from shoald.host.confine import *\n"
        "confine(keep=frozenset({CHOWN}), raised_later=frozenset({SYS_ADMIN}))\n"
        "found = {'root': sorted(os.listdir('/')), 'up': sorted(os.listdir('/../..'))}\n"
        "found['devices'] = [name for _, name in socket.if_nameindex()]\n"
        "try:\n    import wave\n    found['imported'] = True\nexcept ImportError:\n    found['imported'] = False\n"
        "try:\n    os.chroot('.')\n    found['chroot'] = True\nexcept PermissionError:\n    found['chroot'] = False\n"
        "try:\n    os.setxattr('/file', 'trusted.x', b'')\n    found['trusted'] = True\nexcept PermissionError:\n"
        "    found['trusted'] = False\n"
        "with Raised(SYS_ADMIN):\n    os.setxattr('/file', 'trusted.x', b'')\n"
        "print(json.dumps(found))\n"
    )
    (tmp_path / "file").touch()
    (tmp_path / "wave.py").write_text("raise SystemExit(9)")
    done = subprocess.run([sys.executable, "-I", "-c", probe], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        '{"root": ["file", "wave.py"], "up": ["file", "wave.py"], "devices": ["lo"], "imported": false, '
        '"chroot": false, "trusted": false}'
    )
