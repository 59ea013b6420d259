"""Which OCI runtime this host can use, found by really asking it."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from shoal.errors import FailedPrecondition, ShoalError
from shoald.host.process import run
from shoald.runtime.mounts import KernelMounts, kernel_mounts

AUTO = "auto"
_PROBE_SECONDS = 20.0
_VERSION = re.compile(r"version:?\s+(\S+)")


class OciRuntime(Struct, frozen=True):
    """An OCI runtime program. `arguments`: global options that it needs besides --root."""

    name: str
    path: str
    version: str
    arguments: tuple[str, ...] = ()


class Probe(Struct, frozen=True):
    """What was chosen, and why others were not: (name, reason)."""

    runtime: OciRuntime
    rejected: tuple[tuple[str, str], ...] = ()


async def program_version(path: str) -> str:
    """The version that `PATH --version` tells ("conmon version 2.1.6" gives "2.1.6"); "" when it tells none."""
    completed = await run([path, "--version"], check=False, timeout=_PROBE_SECONDS, cwd="/")
    found = _VERSION.search(completed.stdout.decode(errors="replace"))
    return found.group(1) if found else ""


async def choose_runtime(name: str, *, prepare_crun: Callable[[], Awaitable[None]] | None = None) -> Probe:
    """The OCI runtime for a configuration's `runtime.name`: "auto" (crun where it works, else runc), a name, or a path.

    `prepare_crun` is for a caller that will mount the cgroup controllers on which crun insists: awaited when crun is
    there but does not work, before it is asked again. Nothing on the host is changed otherwise. Raises
    FailedPrecondition (NO_RUNTIME) telling what was tried.
    """
    candidates = ["crun", "runc"] if name in (AUTO, "") else [name]
    rejected: list[tuple[str, str]] = []
    for candidate in candidates:
        try:
            return Probe(await _probe_prepared(candidate, prepare_crun), tuple(rejected))
        except ShoalError as error:
            rejected.append((candidate, str(error)))
    tried = "; ".join(f"{candidate}: {why}" for candidate, why in rejected)
    raise FailedPrecondition(
        f"no usable OCI runtime ({tried})",
        reason="NO_RUNTIME",
        hint="apt-get install crun or runc; where one is installed, the message tells why it does not work",
    )


async def _probe_prepared(candidate: str, prepare_crun: Callable[[], Awaitable[None]] | None) -> OciRuntime:
    try:
        return await probe_runtime(candidate)
    except FailedPrecondition as error:
        if prepare_crun is None or error.reason != "RUNTIME_UNUSABLE" or os.path.basename(candidate) != "crun":
            raise
    await prepare_crun()
    return await probe_runtime(candidate)


async def probe_runtime(name_or_path: str) -> OciRuntime:
    """Find a runtime and let it create and delete a container (of an empty root; nothing runs in it).

    Raises FailedPrecondition (PROGRAM_MISSING, RUNTIME_UNUSABLE).
    """
    path = name_or_path if "/" in name_or_path else shutil.which(name_or_path)
    if path is None or not os.access(path, os.X_OK):
        raise FailedPrecondition(f"{name_or_path} is not installed", reason="PROGRAM_MISSING")
    version_text = (await run([path, "--version"], check=False, timeout=_PROBE_SECONDS, cwd="/")).stdout.decode()
    name = version_text.split(maxsplit=1)[0] if version_text else os.path.basename(path)
    found = _VERSION.search(version_text)
    # Without systemd's help: the daemon is the one that manages the cgroups below its own.
    arguments = ("--cgroup-manager=cgroupfs",) if name == "crun" else ()
    runtime = OciRuntime(name, path, found.group(1) if found else "", arguments)
    with tempfile.TemporaryDirectory(prefix="shoal-probe-") as directory:
        await _try(runtime, Path(directory))
    return runtime


async def _try(runtime: OciRuntime, directory: Path) -> None:
    """`RUNTIME run` of a program that does not exist: a working runtime complains of just that."""
    container_id = f"shoal-probe-{secrets.token_hex(8)}"
    (directory / "rootfs").mkdir()
    (directory / "config.json").write_bytes(msgspec.json.encode(_probe_config(container_id)))
    options = [f"--root={directory / 'state'}", *runtime.arguments]
    argv = [runtime.path, *options, "run", "--bundle", str(directory), container_id]
    try:
        completed = await run(argv, check=False, timeout=_PROBE_SECONDS, cwd="/")
    finally:
        cleanup = run([runtime.path, *options, "delete", "--force", container_id], check=False, cwd="/")
        await asyncio.shield(asyncio.ensure_future(cleanup))
    said = completed.stderr.decode(errors="replace").strip()
    if "shoal-probe" not in said or ("found" not in said and "no such file" not in said):
        message = f"{runtime.name} can't create containers here: {said or 'it gives no reason'}"
        raise FailedPrecondition(message, reason="RUNTIME_UNUSABLE")


def _probe_config(container_id: str) -> dict[str, object]:
    everything = ["pid", "mount", "ipc", "uts", "network", "cgroup"]
    return {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/shoal-probe"], "cwd": "/", "noNewPrivileges": True},
        "root": {"path": "rootfs", "readonly": False},
        "mounts": kernel_mounts(KernelMounts(user_namespace=False, host_network=False)),
        "linux": {"namespaces": [{"type": kind} for kind in everything], "cgroupsPath": f"/{container_id}"},
    }
