"""What an image in a registry holds: its files after all layers, and its config. Read by nothing of ours."""

from __future__ import annotations

import io
import json
import posixpath
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

IGNORED = ("dev", "proc", "sys", ".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab")
"""Docker's export shows these for every container."""

Files = dict[str, list[Any]]


def describe(member: tarfile.TarInfo) -> list[Any]:
    """Type, mode, owner, size, link target."""
    return [
        member.type.decode(),
        oct(member.mode & 0o7777),
        member.uid,
        member.gid,
        member.size if member.isfile() else 0,
        member.linkname,
    ]


def exported(archive: bytes) -> Files:
    """The files of `docker export`."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return _kept({member.name.rstrip("/"): describe(member) for member in tar})


def pulled(reference: str) -> tuple[Files, dict[str, Any]]:
    """Files and config of an image in a plain-http registry on loopback."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{reference}", f"dir:{directory}"],
            check=True,
            capture_output=True,
        )
        at = Path(directory)
        manifest = json.loads((at / "manifest.json").read_text())
        config = json.loads((at / manifest["config"]["digest"].partition(":")[2]).read_text())
        files: Files = {}
        for layer in manifest["layers"]:
            _apply(files, at / layer["digest"].partition(":")[2])
    return _kept(files), config


def _apply(files: Files, layer: Path) -> None:
    """One layer over the others (image-spec layer.md)."""
    with tarfile.open(layer) as tar:
        members = list(tar)
    for member in members:
        directory, name = posixpath.split(member.name.rstrip("/"))
        if name == ".wh..wh..opq":
            _remove_below(files, directory)
        elif name.startswith(".wh."):
            gone = posixpath.join(directory, name[4:])
            files.pop(gone, None)
            _remove_below(files, gone)
    for member in members:
        name = member.name.rstrip("/").removeprefix("./")
        if posixpath.basename(name).startswith(".wh.") or name in ("", "."):
            continue
        if not member.isdir():
            _remove_below(files, name)
        files[name] = describe(member)


def _remove_below(files: Files, directory: str) -> None:
    prefix = directory.rstrip("/") + "/" if directory else ""
    for name in [name for name in files if name.startswith(prefix)]:
        del files[name]


def _kept(files: Files) -> Files:
    kept = {name: found for name, found in files.items() if name not in IGNORED and not name.startswith("dev/")}
    if not any(name.startswith("etc/") for name in kept):
        kept.pop("etc", None)  # Docker makes it for the three files in it
    return kept
