"""Mounts of volumes with options: on the volume's directory, for as long as somebody uses it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from pathlib import Path

import structlog

from shoal.errors import FailedPrecondition, ShoalError
from shoald.host.blocking import in_thread
from shoald.host.mounts import bind, make_private, mount, unmount
from shoald.volumes.options import VolumeMount

log = structlog.get_logger(__name__)


async def mount_volume(name: str, wanted: VolumeMount, data: Path) -> None:
    """Mount it. Raises FailedPrecondition (VOLUME_MOUNT_FAILED) with the kernel's word; then nothing is mounted."""
    try:
        options = wanted.data
        if wanted.address:
            address = await _resolved(wanted.address)
            options = ",".join(filter(None, (options, f"addr={address}")))
        await in_thread(lambda: _mount(wanted, data, options))
    except (ShoalError, OSError) as error:
        server = f" from {wanted.address}" if wanted.address else ""
        raise FailedPrecondition(
            f"can't mount volume {name}{server}: {error}",
            reason="VOLUME_MOUNT_FAILED",
            hint=_hint(wanted, error),
            metadata={"volume": name},
        ) from error


_NFS_HINTS = {
    errno.ENODEV: "this host's kernel has no NFS client: modprobe nfs, or install a kernel that has it",
    errno.ENOENT: "the server has no such export",
    errno.EACCES: "the server does not export it to this host",
    errno.EPERM: "the server does not export it to this host",
    errno.ECONNREFUSED: "no NFS server answers there",
    errno.ETIMEDOUT: "no NFS server answers there",
    errno.EHOSTUNREACH: "no NFS server answers there",
    errno.EPROTONOSUPPORT: "the server has not this version: choose another with o=vers=",
}


def _hint(wanted: VolumeMount, error: BaseException) -> str:
    """What to do; the error of the kernel is the cause of ours."""
    if wanted.address and isinstance(error, socket.gaierror):
        return f"this host finds no address of {wanted.address}"
    cause = error if isinstance(error, OSError) else error.__cause__
    if wanted.address and isinstance(cause, OSError) and cause.errno in _NFS_HINTS:
        return _NFS_HINTS[cause.errno]
    return "see its options with `shoal volume inspect`"


def _mount(wanted: VolumeMount, data: Path, options: str) -> None:
    if wanted.fstype == "bind":
        bind(wanted.source, data, flags=wanted.flags, recursive=wanted.recursive)
        return
    mount(wanted.source, data, wanted.fstype, wanted.flags, options)
    make_private(data)


async def unmount_volume(data: Path) -> None:
    """Unmount all that is mounted there. Idempotent."""

    def work() -> None:
        while True:
            try:
                mounted = unmount(data)
            except FailedPrecondition:
                # Somebody still looks at it: hidden now, ended by the kernel with its last user.
                mounted = unmount(data, detach=True)
            if not mounted:
                return

    await in_thread(work)


async def _resolved(server: str) -> str:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(server.strip("[]")))
    found = await asyncio.get_running_loop().getaddrinfo(server, None, type=socket.SOCK_STREAM)
    return str(found[0][4][0])
