"""Row 3: links in an image where the runtime mounts and masks (CVE-2025-31133, -52565, -52881, CVE-2026-47766)."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from shoald.runtime.masked import MASKED_PATHS, READONLY_PATHS
from tests.e2e.security.building import Builder
from tests.e2e.security.lab import REFUSED, Lab, refusal
from tests.support.layers import Entry, File, Symlink

UP = "../" * 12

Attack = Callable[[str], Mapping[str, Entry]]
"""From the canary's path to the layer."""

ATTACKS: dict[str, Attack] = {
    "dev-root": lambda c: {"dev": Symlink("/")},
    "dev-etc": lambda c: {"dev": Symlink("/etc")},
    "dev-up": lambda c: {"dev": Symlink(UP + c.lstrip("/"))},
    "dev-absolute": lambda c: {"dev": Symlink(c)},
    "dev-proc": lambda c: {"dev": Symlink("proc")},
    "dev-self": lambda c: {"dev": Symlink("/proc/self/fd/7")},
    "dev-file": lambda c: {"dev": File(b"no directory")},
    "dev-missing": lambda c: {".wh.dev": File()},
    "null-passwd": lambda c: {"dev/null": Symlink("/etc/passwd")},
    "null-kernel": lambda c: {"dev/null": Symlink("/proc/sys/kernel/core_pattern")},
    "null-up": lambda c: {"dev/null": Symlink(f"{UP}{c.lstrip('/')}/file")},
    "null-file": lambda c: {"dev/null": File(b"readable")},
    "pts-root": lambda c: {"dev/pts": Symlink("/")},
    "pts-up": lambda c: {"dev/pts": Symlink(UP + c.lstrip("/"))},
    "ptmx-up": lambda c: {"dev/ptmx": Symlink(f"{UP}{c.lstrip('/')}/file"), "dev/pts/ptmx": Symlink(f"{c}/file")},
    "console-up": lambda c: {"dev/console": Symlink(f"{UP}{c.lstrip('/')}/file")},
    "console-kernel": lambda c: {"dev/console": Symlink("/proc/sysrq-trigger")},
    "shm-up": lambda c: {"dev/shm": Symlink(UP + c.lstrip("/"))},
    "init-up": lambda c: {"dev/init": Symlink(f"{UP}{c.lstrip('/')}/file")},
    "proc-root": lambda c: {"proc": Symlink("/")},
    "proc-sys": lambda c: {"proc": Symlink("sys")},
    "proc-up": lambda c: {"proc": Symlink(UP + c.lstrip("/"))},
    "proc-tmp": lambda c: {"proc": Symlink("/tmp")},
    "proc-file": lambda c: {"proc": File(b"no directory")},
    "proc-filled": lambda c: {"proc/sys/kernel/x": File(), "proc/kcore": Symlink(f"{c}/file")},
    "sys-proc": lambda c: {"sys": Symlink("proc")},
    "sys-root": lambda c: {"sys": Symlink("/")},
    "sys-up": lambda c: {"sys": Symlink(UP + c.lstrip("/"))},
    "cgroup-up": lambda c: {"sys/fs/cgroup": Symlink(UP + c.lstrip("/"))},
    "both-crossed": lambda c: {"sys": Symlink("proc"), "proc": Symlink("sys")},
    "etc-root": lambda c: {"etc": Symlink("/")},
    "etc-up": lambda c: {"etc": Symlink(UP + c.lstrip("/"))},
    "etc-proc": lambda c: {"etc": Symlink("/proc/self")},
    "etc-file": lambda c: {"etc": File(b"no directory")},
    "resolv-up": lambda c: {"etc/resolv.conf": Symlink(f"{UP}{c.lstrip('/')}/file")},
    "resolv-dangling": lambda c: {"etc/resolv.conf": Symlink(f"{UP}{c.lstrip('/')}/new")},
    "resolv-kernel": lambda c: {"etc/resolv.conf": Symlink("/proc/sys/kernel/core_pattern")},
    "resolv-environ": lambda c: {"etc/resolv.conf": Symlink("/proc/self/environ")},
    "resolv-directory": lambda c: {"etc/resolv.conf": None},
    "hosts-loop": lambda c: {"etc/hosts": Symlink("hosts")},
    "hosts-absolute": lambda c: {"etc/hosts": Symlink(f"{c}/file")},
    "hosts-through": lambda c: {"etc/hosts": Symlink("/proc/1/root/etc/hosts")},
    "hostname-descriptor": lambda c: {"etc/hostname": Symlink("/proc/self/fd/6")},
}

CHECK = f"""
for p in {" ".join(MASKED_PATHS)}; do
  if [ -d $p ]; then [ -z "$(ls -A $p)" ] || echo READABLE $p; else [ -z "$(head -c1 $p 2>&-)" ] || echo READABLE $p; fi
  (: > $p/new) 2>&- && echo WRITABLE $p
done
for p in {" ".join(READONLY_PATHS)} /proc/sys/kernel /proc/sys/kernel/domainname /proc/sys/kernel/core_pattern \\
  /proc/sys/vm/drop_caches /proc/sys/net/ipv4/ip_forward /sys /sys/kernel /sys/fs /sys/fs/cgroup/*; do
  if [ -d $p ]; then mkdir $p/new 2>&- && echo WRITABLE $p
  elif [ -e $p ]; then (: >> $p) 2>&- && echo WRITABLE $p; fi
done
for f in $(find /sys/fs/cgroup -name '*.procs' -o -name '*max' -o -name '*limit*' -o -name 'release_agent'); do
  (: >> $f) 2>&- && echo WRITABLE $f
done
umount /proc/kcore 2>&- && echo UNMOUNTED; umount -l /proc/sys 2>&- && echo UNMOUNTED
mount -o remount,rw /proc/sys 2>&- && echo REMOUNTED; mount -t proc proc /tmp 2>&- && echo MOUNTED
grep -q ' /proc proc ' /proc/mounts && ls /proc/self/status && echo CHECKED
"""


def _confined(output: str) -> None:
    assert not re.findall(r"^(?:READABLE|WRITABLE|UNMOUNTED|REMOUNTED|MOUNTED).*", output, re.MULTILINE), output
    assert "CHECKED" in output, output


def _mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def test_masked_and_read_only_paths(lab: Lab, userns: tuple[str, ...], busybox: str) -> None:
    _confined(lab.sh(busybox, CHECK, *userns))


@pytest.mark.parametrize("network", ["host", "none"])
def test_masked_and_read_only_paths_of_other_networks(
    lab: Lab, userns: tuple[str, ...], network: str, busybox: str
) -> None:
    _confined(lab.sh(busybox, CHECK, "--network", network, *userns))


def test_masked_and_read_only_paths_in_a_build(builder: Builder, busybox: str) -> None:
    image = builder.lab.image({"check": File(CHECK.encode(), 0o755)})
    _confined(builder.step(image, "sh /check"))


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("where", ["crun", "runc-userns-host"])
def test_links_lead_nowhere(make_lab: Callable[[str], Lab], where: str, name: str, canary: Path) -> None:
    """Refused with a reason, or confined: then all masks hold. The canary fixture sees every change of the host."""
    runtime, _, userns = where.partition("-")
    lab = make_lab(runtime)
    image, mounts, etc = lab.image(ATTACKS[name](str(canary))), _mounts(), _etc()
    files = "/dev/null /dev/ptmx /dev/init /dev/file /proc/file /sys/file /etc/file /etc/hosts /etc/resolv.conf"
    script = f"{CHECK}\nfor f in {files}; do timeout 1 head -c 4096 $f < /dev/null; done 2>&-"
    options = ["--userns", "host"] if userns else []
    if name.startswith(("dev", "null", "pts", "ptmx", "console")):
        # With a terminal there is more to mount.
        done = _with_terminal(lab, image, script, options)
    else:
        done = lab.run(image, "sh", "-c", script, options=options)
    if done.returncode == REFUSED:
        refusal(done)
    else:
        assert "sings" not in done.stdout
        _confined(done.stdout)
    assert _etc() == etc
    assert not {mount for mount in _mounts() - mounts if str(canary) in mount}


def _etc() -> list[tuple[int, int, int, int]]:
    found = [os.lstat(path) for path in ("/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")]
    return [(info.st_ino, info.st_mode, info.st_uid, info.st_mtime_ns) for info in found]


def _with_terminal(lab: Lab, image: str, script: str, options: list[str]) -> subprocess.CompletedProcess[str]:
    started = lab.fleet.shoal("run", "-q", "-d", "-t", *options, image, "sh", "-c", script, code=None)
    if started.returncode != 0:
        return started
    name = started.stdout.strip()
    try:
        lab.fleet.shoal("wait", name)
        done = lab.fleet.shoal("logs", name)
        done.stdout = done.stdout.replace("\r", "")
        return done
    finally:
        lab.fleet.shoal("rm", "-f", name)
