"""What no container or name holds, and several references: filters that the requests carry only in part."""

from __future__ import annotations

import pytest

from shoal.v1 import volume_pb2
from shoalctl.fleet import volumes
from tests.support.cli import Shoal
from tests.support.fake_daemon import FakeDaemon, image

pytestmark = pytest.mark.usefixtures("config")

NAMES = ("--format", "{{.Repository}}:{{.Tag}}")


@pytest.fixture
def images(h1: FakeDaemon) -> None:
    both = ["docker.io/library/redis:7", "docker.io/library/redis:6"]
    h1.images += [image("docker.io/library/busybox:1"), image("", "2", tags=both), image("", "3", tags=[])]


@pytest.mark.usefixtures("images")
def test_dangling_images(shoal: Shoal, h1: FakeDaemon) -> None:
    for value in ("true", "1"):
        assert shoal("images", "-q", "-f", f"dangling={value}")[1] == "3" * 12 + "\n"
        assert h1.requests("ListImages")[-1].dangling
    for value in ("false", "0"):
        assert shoal("images", "-q", "-f", f"dangling={value}")[1].split() == ["1" * 12, "2" * 12]
        assert not h1.requests("ListImages")[-1].dangling
    asked = len(h1.requests("ListImages"))
    for wrong in (["dangling=yes"], ["dangling=true", "dangling=0"]):
        assert shoal("images", *(word for each in wrong for word in ("-f", each)))[0] == 2
    assert len(h1.requests("ListImages")) == asked


@pytest.mark.usefixtures("images")
def test_several_references(shoal: Shoal, h1: FakeDaemon) -> None:
    shown = shoal("images", *NAMES, "-f", "reference=busybox", "-f", "reference=redis:6")[1]
    assert shown.split() == ["busybox:1", "redis:6"]
    assert h1.requests("ListImages")[-1].reference == ""
    assert shoal("images", *NAMES, "-f", "reference=redis:7", "busybox")[1].split() == ["busybox:1", "redis:7"]
    assert shoal("images", *NAMES, "redis")[1].split() == ["redis:7", "redis:6"]
    assert h1.requests("ListImages")[-1].reference == "redis"
    assert shoal("images", "-f", "reference=A")[0] == 2


def test_patterns_of_references(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.images += [
        image("docker.io/library/busybox:1.36"),
        image("", "2", tags=["docker.io/me/app:1.2", "docker.io/me/app:1.10", "registry.example:5000/a/b:1.2"]),
    ]
    for pattern, shown in (
        ("busy*", "busybox:1.36"),
        ("busybox:1.*", "busybox:1.36"),
        ("*", "busybox:1.36"),
        ("*/*:1.?", "me/app:1.2"),
        ("*/*", "me/app:1.2 me/app:1.10"),
        ("me/app:1.[0-9][0-9]", "me/app:1.10"),
        ("*/*/*", "registry.example:5000/a/b:1.2"),
        ("docker.io/*", ""),
        ("Busy*", ""),
    ):
        assert shoal("images", *NAMES, "-f", f"reference={pattern}")[1].split() == shown.split(), pattern
        assert shoal("images", *NAMES, pattern)[1].split() == shown.split(), pattern
        assert h1.requests("ListImages")[-1].reference == ""
    asked = len(h1.requests("ListImages"))
    code, _, said = shoal("images", "-f", "reference=busy[")
    assert code == 2
    assert "syntax error in pattern" in said
    assert len(h1.requests("ListImages")) == asked


def test_volumes_in_use(shoal: Shoal, monkeypatch: pytest.MonkeyPatch) -> None:
    async def listed(host: object, request: volume_pb2.VolumeServiceListRequest) -> list[volume_pb2.Volume]:
        return [volume_pb2.Volume(name=name) for name in (("free",) if request.dangling else ("free", "used"))]

    monkeypatch.setattr(volumes, "list_volumes", listed)
    assert shoal("volume", "ls", "-q", "-f", "dangling=false")[1] == "used\n"
    assert shoal("volume", "ls", "-q", "-f", "dangling=true")[1] == "free\n"
    assert shoal("volume", "ls", "-q")[1] == "free\nused\n"
    assert shoal("volume", "ls", "-f", "dangling=maybe")[0] == 2
