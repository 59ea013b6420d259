"""What only an administrator may ask for."""

from __future__ import annotations

import pytest

from shoald.containers.isolation import needs_admin
from shoald.model.container import ContainerSpec, Mount, MountKind


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"userns": "host"}, "userns=host"),
        ({"network": "host"}, "network=host"),
        ({"mounts": (Mount(MountKind.BIND, "/x", "/etc"),)}, "/etc"),
        ({"mounts": (Mount(MountKind.VOLUME, "/v", "v"), Mount(MountKind.BIND, "/x", "/", read_only=True))}, "host"),
    ],
)
def test_a_hold_on_the_host_needs_an_admin(changes: dict[str, object], word: str) -> None:
    asked = needs_admin(ContainerSpec(image="busybox", **changes))  # type: ignore[arg-type]
    assert asked is not None
    assert word in asked


def test_volumes_tmpfs_and_the_bridge_do_not() -> None:
    mounts = (Mount(MountKind.VOLUME, "/v", "v"), Mount(MountKind.TMPFS, "/t"))
    assert needs_admin(ContainerSpec(image="busybox", mounts=mounts, network="bridge")) is None
    assert needs_admin(ContainerSpec(image="busybox", network="none")) is None
