"""The packages of an image that is layers on a disk: what an upper layer replaces and removes is not there."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoald.attest.inventory import packages_of_image
from shoald.host.blocking import in_thread
from shoald.host.userns import UserNamespaces
from shoald.metadata import Metadata
from shoald.snapshots.overlay import OverlaySnapshotter

pytestmark = pytest.mark.root


@pytest.fixture
async def snapshots(tmp_path: Path) -> AsyncIterator[OverlaySnapshotter]:
    namespaces = UserNamespaces()
    with Metadata.open(tmp_path / "meta.db") as md:
        yield OverlaySnapshotter(md, tmp_path / "snapshots", tmp_path / "mounts", namespaces)
    await namespaces.aclose()
    assert os.listdir(tmp_path / "mounts") == []


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


async def test_packages_of_layers(snapshots: OverlaySnapshotter) -> None:
    lower = await snapshots.create_layer(None)
    below = snapshots.fs_path(lower.id)
    put(below, "usr/lib/apk/db/installed", "P:musl\nV:1\nA:x86_64\n\n")
    put(below, "etc/os-release", "ID=alpine\nVERSION_ID=3.19.1\n")
    put(below, "app/node_modules/gone/package.json", '{"name":"gone","version":"1"}')
    put(below, "app/node_modules/stays/package.json", '{"name":"stays","version":"1"}')
    put(below, "app/node_modules/hidden/package.json", '{"name":"hidden","version":"1"}')
    await snapshots.commit(lower.id)
    upper = await snapshots.create_layer(lower.id)
    async with snapshots.mounted(upper.id, read_only=False) as root:
        put(root, "usr/lib/apk/db/installed", "P:musl\nV:2\nA:x86_64\n\nP:curl\nV:8\nA:x86_64\nL:curl\n\n")
        (root / "app/node_modules/gone/package.json").unlink()
        (root / "app/node_modules/gone").rmdir()
        (root / "app/node_modules/hidden/package.json").unlink()
        os.mkfifo(root / "app/node_modules/hidden/package.json")
    await snapshots.commit(upper.id)
    async with snapshots.mounted(upper.id) as root:
        found = await in_thread(lambda: packages_of_image(root))
    assert [package.purl for package in found.packages] == [
        "pkg:apk/alpine/curl@8?arch=x86_64&distro=alpine-3.19.1",
        "pkg:apk/alpine/musl@2?arch=x86_64&distro=alpine-3.19.1",
        "pkg:npm/stays@1",
    ]
    assert found.warnings == ("/app/node_modules/hidden/package.json: it is no regular file",)
