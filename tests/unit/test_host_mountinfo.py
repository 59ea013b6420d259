"""mountinfo lines, with all that the kernel escapes."""

from __future__ import annotations

from pathlib import Path

from shoald.host.cgroups import Mode, hierarchies_of
from shoald.host.mountinfo import parse_mountinfo

TEXT = (
    rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
90 22 0:40 /vol\040ume /srv/a\040b\011c\134d\012e rw,nosuid master:3 propagate_from:1 - tmpfs none\040such rw,size=4k
91 22 0:41 / /m rw - overlay overlay rw,lowerdir=/a\072b:/c,upperdir=/u
92 22 0:42 / /x """
    + "é".encode()
    + rb""" ro - proc  rw
"""
)


def test_fields_and_escapes() -> None:
    root, volume, overlay = parse_mountinfo(TEXT.split(b"92 22")[0])
    assert root.path == Path("/")
    assert root.fstype == "ext4"
    assert root.super_options == {"rw", "errors=remount-ro"}
    assert volume.path == Path("/srv/a b\tc\\d\ne")
    assert volume.root == "/vol ume"
    assert volume.source == "none such"
    assert (volume.mount_id, volume.parent_id) == (90, 22)
    assert volume.options == {"rw", "nosuid"}
    assert "lowerdir=/a:b:/c" in overlay.super_options


def test_no_optional_fields_and_an_empty_source() -> None:
    mounted = parse_mountinfo(b"92 22 0:42 / /x ro - proc  rw\n")[0]
    assert mounted.source == ""
    assert mounted.options == {"ro"}


V1 = b"""31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
50 31 0:32 /some/container /var/lib/x/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""
V2_BESIDE = b"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
V2 = b"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_cgroup_modes() -> None:
    assert hierarchies_of(parse_mountinfo(V1)).mode is Mode.LEGACY
    assert hierarchies_of(parse_mountinfo(V1 + V2_BESIDE)).mode is Mode.HYBRID
    assert hierarchies_of(parse_mountinfo(V2)).mode is Mode.UNIFIED


def test_cgroup_paths() -> None:
    legacy = hierarchies_of(parse_mountinfo(V1))
    assert legacy.controllers == {"cpu", "cpuacct", "memory"}
    assert legacy.path("/shoal/x", "cpuacct") == Path("/sys/fs/cgroup/cpu,cpuacct/shoal/x")
    assert legacy.path("/shoal/x", "memory") == Path("/sys/fs/cgroup/memory/shoal/x")
    assert legacy.path("/shoal/x", "pids") is None
    assert len(legacy.paths("/shoal/x")) == 3
    unified = hierarchies_of(parse_mountinfo(V2), frozenset({"cpu", "io"}))
    assert unified.path("shoal/x", "io") == Path("/sys/fs/cgroup/shoal/x")
