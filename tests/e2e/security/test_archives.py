"""Row 7: archives that aim at the host, through every way in: layers of a pull, ADD, and the context of a build."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.e2e.security.building import Builder
from tests.e2e.security.lab import Lab
from tests.support.evil_tars import EvilTar, evil_tars

CASES = [evil.name for evil in evil_tars(Path("/canary"))]


def _evil(name: str, canary: Path) -> EvilTar:
    return next(evil for evil in evil_tars(canary) if evil.name == name)


def _leftovers(lab: Lab) -> set[str]:
    # Not content/ingest: what a failed pull has of its other layers is there for the next one to go on with.
    return set(os.listdir(lab.fleet.first.root / "tmp"))


@pytest.mark.parametrize("name", CASES)
def test_layer_of_a_pull(host: Lab, name: str, canary: Path) -> None:
    """Refused, or unpacked within the layer; the daemon keeps neither rubbish nor half an image."""
    evil = _evil(name, canary)
    image, before = host.image(evil.data), _leftovers(host)
    done = host.fleet.shoal("pull", "-q", image, code=None)
    assert (done.returncode != 0) == (evil.layer == "refused"), (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert _leftovers(host) <= before
    if done.returncode == 0:
        # What a container sees of it leads out neither.
        seen = host.run(
            image, "sh", "-c", "for f in out/file leaf h disk mem d/new; do head -c 64 /$f; done 2>&-"
        ).stdout
        assert "sings" not in seen
        host.fleet.shoal("rmi", "-f", image)
    else:
        assert image not in host.fleet.shoal("images", "--format", "json").stdout


@pytest.mark.parametrize("name", CASES)
def test_archive_of_add(host: Lab, tmp_path: Path, name: str, canary: Path, busybox: str) -> None:
    builder = Builder(host, tmp_path)
    for target in ("/", "/sub/"):
        dockerfile = f"FROM {busybox}\nADD evil.tar {target}\n"
        done = builder.build(dockerfile, {"evil.tar": _evil(name, canary).data}, code=None)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or "evil.tar" in done.stderr or "archive" in done.stderr, done.stderr


@pytest.mark.parametrize("name", CASES)
def test_context_of_a_build(host: Lab, tmp_path: Path, name: str, canary: Path, busybox: str) -> None:
    archive = _with_dockerfile(_evil(name, canary).data, f"FROM {busybox}\nCOPY . /all/\n")
    done = Builder(host, tmp_path).from_stdin(archive)
    assert b"Traceback" not in done.stderr
    assert b"sings" not in done.stdout + done.stderr


def _with_dockerfile(data: bytes, text: str) -> bytes:
    """The archive, and before its members a Dockerfile."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue().rstrip(b"\0").ljust(1024, b"\0") + data
