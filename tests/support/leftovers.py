"""What containers and daemons can leave on a machine, as sets of lines to compare before and after."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = {"conmon", "crun", "runc", "shoald", "catatonit", "docker-registry", "prometheus", "dockerd", "containerd"}
DIRECTORIES = ("/run", "/tmp", "/var/tmp", "/var/lib")
# Directories of this machine's own daemon, of the demo's cache and of an unpacked source tree are nobody's leftovers.
_NAME = re.compile(r"shoal(-|$)")


def snapshot() -> set[str]:
    """All that is there now; each line says what and where."""
    return {
        *(f"mount {line}" for line in mounts()),
        *(f"network namespace {inode}" for inode in network_namespaces()),
        *(f"interface {name}" for name in os.listdir("/sys/class/net")),
        *(f"nft {line}" for line in nft_tables()),
        *(f"process {line}" for line in processes()),
        *(f"cgroup {path}" for path in cgroups()),
        *(f"directory {path}" for path in directories()),
    }


def mounts() -> Iterator[str]:
    """Mount points with their file systems."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        yield f"{fields[4]} ({line.partition(' - ')[2].split()[0]})"


def network_namespaces() -> set[str]:
    """Those that a process is in."""
    found = set()
    for pid in _pids():
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            continue
    return found


def nft_tables() -> list[str]:
    """As `nft list tables` names them."""
    if shutil.which("nft") is None:
        return []
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout.splitlines()


def processes() -> Iterator[str]:
    """Daemons, monitors, runtimes and their relatives."""
    for pid in _pids():
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        words = [os.path.basename(os.fsdecode(word)) for word in arguments[:4]]
        if PROGRAMS & set(words[:2]) or any(word.startswith("shoald.") for word in words):
            yield f"{pid} {b' '.join(arguments).decode(errors='replace').strip()[:200]}"


def cgroups() -> Iterator[str]:
    """Groups of shoal, in every hierarchy."""
    for path, names, _ in os.walk("/sys/fs/cgroup"):
        for name in list(names):
            if name.startswith("shoal"):
                yield f"{path}/{name}"
                names.remove(name)


def directories() -> Iterator[str]:
    """Directories that daemons, sandboxes and tests make."""
    for parent in DIRECTORIES:
        yield from (f"{parent}/{name}" for name in os.listdir(parent) if _NAME.match(name))


def _pids() -> Iterator[str]:
    return (name for name in os.listdir("/proc") if name.isdigit())
