"""What this host's kernel and programs can do: the probes behind `shoald doctor`. No probe raises or leaves a trace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import Internal, ShoalError
from shoald.host import cgroups, links, mounts, overlayfs, seccomp, trees, userns
from shoald.host.process import run

_CONTAINER_IDS = userns.IdMap(0, 0x20000, 0x10000)
_PROGRAM_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing a host has or lacks: what was found, and (when it is not ok) what follows from that."""

    name: str
    ok: bool
    value: str
    consequence: str = ""


def probe_kernel() -> Probe:
    """Is the kernel new enough (mount_setattr came with 5.12)?"""
    ok = kernel_version() >= (5, 12)
    return Probe(
        "kernel", ok, kernel_release(), "" if ok else "containers can't run: Linux 5.12 is the oldest that works"
    )


def kernel_release() -> str:
    """The kernel's release, for example "6.1.0-18-amd64"."""
    return os.uname().release


def kernel_version() -> tuple[int, int]:
    """(major, minor) of the kernel."""
    major, minor = kernel_release().split("-")[0].split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)


async def probe_all(directory: Path, profile: Path = seccomp.DEFAULT_PROFILE) -> list[Probe]:
    """All probes; `directory` is (below) the daemon's root, since overlay and id mapping depend on its file system."""
    return [
        probe_kernel(),
        await probe_overlay(directory),
        await probe_idmapped_mounts(directory),
        probe_user_namespaces(),
        probe_cgroups(),
        probe_seccomp(profile),
        await probe_nft(),
        probe_bridge_netfilter(),
        probe_ip_forward(),
    ]


async def probe_overlay(directory: Path) -> Probe:
    """Does an overlay with its upper directory below `directory` work?"""
    consequence = "containers can't run with this root directory: use ext4, xfs (ftype=1) or btrfs"
    try:
        await asyncio.to_thread(_try_overlay, directory, overlayfs.LowerLayer, {})
    except (ShoalError, OSError) as error:
        return Probe("overlay", False, str(error), consequence)
    return Probe("overlay", True, "works")


async def probe_idmapped_mounts(directory: Path) -> Probe:
    """Do overlays over idmapped layers below `directory` work? (Linux 5.19 and a file system that supports it.)"""
    consequence = "containers can't have user namespaces of their own: run them with --userns host"
    namespaces = userns.UserNamespaces()
    try:
        async with namespaces.hold([_CONTAINER_IDS]) as fds:
            await asyncio.to_thread(_try_overlay, directory, _mapped_layer, fds)
    except (ShoalError, OSError) as error:
        return Probe("idmapped mounts", False, str(error), consequence)
    finally:
        await namespaces.aclose()
    return Probe("idmapped mounts", True, "works")


async def supports_idmapped_overlay_lowers(directory: Path) -> bool:
    """True when overlays over idmapped layers below `directory` work."""
    return (await probe_idmapped_mounts(directory)).ok


def _mapped_layer(path: Path) -> overlayfs.LowerLayer:
    return overlayfs.LowerLayer(path, _CONTAINER_IDS)


def _try_overlay(
    directory: Path, layer: Callable[[Path], overlayfs.LowerLayer], fds: Mapping[userns.IdMap, int]
) -> None:
    with contextlib.ExitStack() as undo:
        scratch = Path(tempfile.mkdtemp(prefix=".probe-", dir=directory))
        undo.callback(trees.remove_tree, scratch)
        undo.callback(mounts.unmount_tree, scratch, detach=True)
        for name in ("low", "lower", "upper", "work", "merged"):
            (scratch / name).mkdir()
        (scratch / "low" / "file").touch()
        lowers = [layer(scratch / name) for name in ("low", "lower")]
        overlayfs.overlay(scratch / "merged", lowers, scratch / "upper", scratch / "work", userns=fds)
        (scratch / "merged" / "written").touch()
        found = (scratch / "merged" / "file").stat().st_uid
        if fds and found != _CONTAINER_IDS.outer:
            raise Internal(f"a mapped file belongs to {found}, not {_CONTAINER_IDS.outer}", reason="IDMAP_IGNORED")


def probe_user_namespaces() -> Probe:
    """May user namespaces be made?"""
    value = links.read_sysctl("user/max_user_namespaces")
    if value is None:
        return Probe("user namespaces", False, "not in this kernel", "run containers with --userns host")
    consequence = "no more user namespaces: raise user.max_user_namespaces, or run containers with --userns host"
    return Probe("user namespaces", int(value) > 0, f"max {value}", consequence if int(value) <= 0 else "")


def probe_cgroups() -> Probe:
    """Which cgroup version and which controllers are there, and are the ones for limits among them?"""
    try:
        found = cgroups.detect()
    except ShoalError as error:
        return Probe("cgroups", False, str(error), "containers can't run: mount the cgroup file systems")
    missing = [name for name in ("cpu", "memory", "pids") if name not in found.controllers]
    value = f"{found.mode}: {', '.join(sorted(found.controllers))}"
    return Probe("cgroups", not missing, value, f"no limits and figures for {', '.join(missing)}" if missing else "")


def probe_seccomp(profile: Path = seccomp.DEFAULT_PROFILE) -> Probe:
    """Does the kernel filter system calls, and is there a profile?"""
    actions = links.read_sysctl("kernel/seccomp/actions_avail")
    if actions is None:
        return Probe("seccomp", False, "not in this kernel", "containers may use every system call")
    warning = seccomp.load_profile(profile).warning
    return Probe(
        "seccomp", not warning, warning or str(profile), "containers may use every system call" if warning else ""
    )


async def probe_nft() -> Probe:
    """Is the nft program there, and does the kernel take its rules?"""
    consequence = "bridge networks and published ports don't work"
    try:
        version = (await run(["nft", "--version"], timeout=_PROGRAM_SECONDS)).stdout.decode(errors="replace").strip()
        # --check asks the kernel for every part of a real rule and commits nothing.
        script = (
            b"table ip shoal_probe {\n chain nat {\n  type nat hook postrouting priority 100;\n  masquerade\n }\n}\n"
        )
        await run(["nft", "--check", "-f", "-"], input=script, timeout=_PROGRAM_SECONDS)
    except ShoalError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Probe("nftables", False, f"{error}{hint}", consequence)
    return Probe("nftables", True, version)


def probe_bridge_netfilter() -> Probe:
    """Does traffic between containers of one bridge pass the IP rules? Either is fine, rules must know."""
    value = links.read_sysctl("net/bridge/bridge-nf-call-iptables")
    if value is None:
        return Probe("bridge netfilter", True, "module not loaded")
    return Probe("bridge netfilter", True, "on" if value == "1" else "off")


def probe_ip_forward() -> Probe:
    """Does the kernel forward IPv4? The daemon switches it on when it makes its first bridge network."""
    value = links.read_sysctl("net/ipv4/ip_forward")
    return Probe("ip forwarding", True, "on" if value == "1" else "off (switched on with the first bridge network)")
