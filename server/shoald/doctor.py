"""What this host has and lacks, what follows from it, and what to do: `shoald doctor`. Changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

from shoal.errors import ShoalError
from shoald import lock
from shoald.api.listeners import check_address
from shoald.config import Config
from shoald.configure import INIT_PROGRAMS
from shoald.host import kernel
from shoald.host.controllers import MountedControllers, unmount_unused
from shoald.host.files import disk_space
from shoald.host.seccomp import DEFAULT_PROFILE
from shoald.network import firewalld, forwarding
from shoald.network.dns import find_program
from shoald.network.forwarding import Passage
from shoald.runtime.probe import choose_runtime, program_version

_LOW_DISK_BYTES = 2 << 30
_LOW_INODES = 50_000


class Status(StrEnum):
    """How well one thing is."""

    OK = "ok"
    WARN = "warn"
    """shoald runs, without something."""
    FAIL = "fail"
    """shoald, or every container, can't run."""


class Finding(Struct, frozen=True, omit_defaults=True):
    """One row of the report; `consequence` and `remedy` are empty when all is well."""

    name: str
    status: Status
    value: str
    consequence: str = ""
    remedy: str = ""


# Kernel probes by name: is it vital, and what helps.
_KERNEL: dict[str, tuple[bool, str]] = {
    "kernel": (True, "install a newer kernel: apt-get install linux-image-amd64"),
    "overlay": (True, "put `root` on ext4, xfs (ftype=1) or btrfs; modprobe overlay"),
    "idmapped mounts": (False, "Linux 5.19 or newer, and a file system that maps ids (ext4, xfs, btrfs, tmpfs)"),
    "user namespaces": (False, "sysctl user.max_user_namespaces=15000"),
    "cgroups": (False, "boot with systemd.unified_cgroup_hierarchy=1, or mount the missing controllers"),
    "seccomp": (True, "apt-get install golang-github-containers-common"),
    "nftables": (False, "apt-get install nftables"),
}


async def examine(config: Config) -> list[Finding]:
    """All findings, the vital ones first. A running daemon with this configuration is taken into account."""
    findings = [_user(), await _runtime(config), await _conmon(config)]
    findings += await _kernel(config)
    findings.append(_init(config))
    findings.append(_name_server(config))
    findings += await _firewalld(config)
    findings.append(_disk(config.root))
    findings += _ports(config)
    return findings


def fatal(findings: Sequence[Finding]) -> bool:
    """Whether something vital is missing."""
    return any(each.status is Status.FAIL for each in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """One JSON document: a list of objects."""
    return msgspec.json.format(msgspec.json.encode(list(findings))).decode()


def as_table(findings: Sequence[Finding]) -> str:
    """For people: one line each, and under what is not well what follows and what helps."""
    width = max(len(each.name) for each in findings)
    lines = []
    for each in findings:
        lines.append(f"{each.status.value:<4}  {each.name:<{width}}  {each.value}")
        indent = " " * (width + 8)
        lines += [f"{indent}{text}" for text in (each.consequence, each.remedy and f"-> {each.remedy}") if text]
    worst = "shoald can't run here" if fatal(findings) else "shoald can run here"
    without = sum(each.status is Status.WARN for each in findings)
    lines.append(f"\n{worst}{f', with {without} limitations' if without and not fatal(findings) else ''}.")
    return "\n".join(lines)


def _user() -> Finding:
    if os.geteuid() == 0:
        return Finding("user", Status.OK, f"root, Python {sys.version.split()[0]}")
    return Finding("user", Status.FAIL, f"uid {os.geteuid()}", "mounts and namespaces need root", "run it as root")


async def _runtime(config: Config) -> Finding:
    controllers = MountedControllers()
    try:
        # As the daemon does, or the answer would be another one; afterwards the host is as it was.
        if config.runtime.mount_controllers and config.runtime.name in ("auto", "", "crun") and shutil.which("crun"):
            await asyncio.to_thread(controllers.mount)
        chosen = await choose_runtime(config.runtime.name)
    except ShoalError as error:
        return Finding("runtime", Status.FAIL, error.message, "containers can't run", error.hint or "")
    finally:
        controllers.close()
        await asyncio.to_thread(unmount_unused)
    runtime = chosen.runtime
    others = "".join(f"; not {name}: {reason}" for name, reason in chosen.rejected)
    return Finding("runtime", Status.OK, f"{runtime.name} {runtime.version} ({runtime.path}){others}")


async def _conmon(config: Config) -> Finding:
    path = config.runtime.conmon or shutil.which("conmon")
    consequence, remedy = "containers can't run", "apt-get install conmon"
    if path is None:
        return Finding("conmon", Status.FAIL, "not installed", consequence, remedy)
    try:
        version = await program_version(path)
    except ShoalError as error:
        return Finding("conmon", Status.FAIL, error.message, consequence, error.hint or remedy)
    return Finding("conmon", Status.OK, f"{version} ({path})")


async def _kernel(config: Config) -> list[Finding]:
    wanted = config.runtime.seccomp_profile
    profile = Path(wanted) if wanted and wanted != "unconfined" else DEFAULT_PROFILE
    findings = []
    for probe in await kernel.probe_all(_existing(config.root), profile):
        vital, remedy = _KERNEL.get(probe.name, (False, ""))
        if probe.name == "seccomp" and wanted == "unconfined":
            consequence, undo = "containers may use every system call", "remove runtime.seccomp_profile"
            findings.append(Finding(probe.name, Status.WARN, "off in the configuration", consequence, undo))
        elif probe.ok:
            findings.append(Finding(probe.name, Status.OK, probe.value))
        else:
            status = Status.FAIL if vital else Status.WARN
            findings.append(Finding(probe.name, status, probe.value, probe.consequence, remedy))
    return findings


def _init(config: Config) -> Finding:
    configured = config.runtime.init_path
    path = configured or next(filter(None, map(shutil.which, INIT_PROGRAMS)), None)
    if path and os.access(path, os.X_OK):
        return Finding("init program", Status.OK, path)
    value = f"{configured} can't be executed" if configured else "none"
    return Finding("init program", Status.WARN, value, "`run --init` does not work", "apt-get install catatonit")


def _name_server(config: Config) -> Finding:
    path = find_program(config.network.dns)
    if path:
        return Finding("name server", Status.OK, path)
    consequence = "containers in networks of users do not find each other by name"
    return Finding("name server", Status.WARN, "aardvark-dns: none", consequence, "apt-get install aardvark-dns")


async def _firewalld(config: Config) -> list[Finding]:
    """Nothing where it does not run."""
    name, bridge = "firewalld", config.network.bridge
    try:
        passage = await forwarding.passage(bridge)
    except ShoalError:  # without nft: told already
        return []
    if passage is None:
        return []
    with contextlib.suppress(OSError):
        if firewalld.strict(firewalld.CONFIGURATION.read_text()):
            value, remedy = "runs with StrictForwardPorts=yes", f"StrictForwardPorts=no in {firewalld.CONFIGURATION}"
            return [Finding(name, Status.WARN, value, "published ports are shut, wholly or for this host", remedy)]
    if passage is Passage.RULES:
        return [Finding(name, Status.OK, "runs; rules in its chains let containers pass")]
    if passage is Passage.ZONE:
        return [Finding(name, Status.OK, f"runs; its zone {bridge} lets containers pass")]
    if lock.holder(config.run_dir) is None:
        return [Finding(name, Status.OK, "runs; shoald will have it let containers pass")]
    consequence = "containers reach nothing outside, and published ports may not be reached"
    return [Finding(name, Status.WARN, "runs, and does not let containers pass", consequence, "see shoald's log")]


def _disk(root: Path) -> Finding:
    try:
        space = disk_space(_existing(root))
    except ShoalError as error:
        return Finding("disk", Status.FAIL, error.message, "there is no place for images")
    value = f"{space.free >> 20} MiB of {space.total >> 20} MiB free at {root}"
    if space.free < _LOW_DISK_BYTES:
        return Finding("disk", Status.WARN, value, "large images do not fit", "free some space, or move `root`")
    if space.inodes_total and space.inodes_free < _LOW_INODES:
        value = f"{space.inodes_free} inodes free at {root}"
        return Finding("disk", Status.WARN, value, "images of many files do not fit", "move `root`")
    return Finding("disk", Status.OK, value)


def _ports(config: Config) -> list[Finding]:
    running = lock.holder(config.run_dir)
    findings = []
    addresses = [*config.listen, *filter(None, [config.metrics_listen])]
    for address in addresses:
        name = f"port {address}"
        if running is not None:
            findings.append(Finding(name, Status.OK, f"in use by the daemon (pid {running})"))
            continue
        try:
            check_address(address)
        except ShoalError as error:
            findings.append(Finding(name, Status.FAIL, error.message, "shoald does not start", error.hint or ""))
        else:
            findings.append(Finding(name, Status.OK, "free"))
    return findings


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that there is."""
    return next(each for each in (path, *path.parents) if each.is_dir())
