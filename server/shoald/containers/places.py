"""The mounts of a container, made ready on the host: volumes and host paths as idmapped bind mounts.

Ids: what a container's root writes into a volume or a host path is owned by root there, and what is owned by id N there
is N in the container, as Docker has it without user namespaces. The user namespace's own ids never reach the disk.
Where the file system can't be idmapped (some network file systems), the path is mounted as it is: its files then belong
to nobody.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from shoal.errors import InvalidArgument, ShoalError
from shoald.host.blocking import in_thread
from shoald.host.mounts import bind
from shoald.host.syscall import failure
from shoald.host.userns import IdMap, UserNamespaces
from shoald.model.container import Mount, MountKind

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Placed:
    """A mount and the path on the host that the OCI configuration names as its source ("" for tmpfs)."""

    mount: Mount
    source: str


def bind_source(mount: Mount) -> Path:
    """The host path of a bind mount. Raises InvalidArgument (BIND_SOURCE_MISSING)."""
    path = Path(mount.source)
    if not path.exists():
        raise InvalidArgument(
            f"bind source path does not exist on the host: {mount.source}",
            reason="BIND_SOURCE_MISSING",
            hint="make it on the host first, or use a named volume (-v NAME:/path)",
            metadata={"path": mount.source},
        )
    return path


async def place_mounts(
    mounts: Sequence[Mount],
    volumes: Mapping[str, Path],
    directory: Path,
    *,
    userns: UserNamespaces,
    base: int,
    size: int,
) -> Sequence[Placed]:
    """Make the bind mounts below `directory`, named by their number; whoever calls unmounts them, also on failure."""
    directory.mkdir(mode=0o711, exist_ok=True)
    placed = []
    for number, mount in enumerate(mounts):
        if mount.kind is MountKind.TMPFS:
            placed.append(Placed(mount, ""))
            continue
        source = volumes[mount.source] if mount.kind is MountKind.VOLUME else bind_source(mount)
        target = directory / f"{number:04d}"
        await _bind(source, target, mount, userns, IdMap(0, base, size) if base else None)
        placed.append(Placed(mount, str(target)))
    return placed


async def _bind(source: Path, target: Path, mount: Mount, userns: UserNamespaces, idmap: IdMap | None) -> None:
    # A descriptor, so that what was checked is what is mounted.
    try:
        fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise failure("open mount source", error.errno or 0, path=source) from error
    recursive = mount.kind is MountKind.BIND
    try:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        if idmap is not None:
            async with userns.hold([idmap]) as fds:
                mapped = fds[idmap]
                try:
                    # To the end: a cancelled caller must not close the descriptor under the call that uses it.
                    await in_thread(
                        lambda: bind(fd, target, read_only=mount.read_only, recursive=recursive, userns=mapped)
                    )
                    return
                except ShoalError as error:
                    log.warning("bind_not_idmapped", source=str(source), error=str(error))
        await in_thread(lambda: bind(fd, target, read_only=mount.read_only, recursive=recursive))
    finally:
        os.close(fd)
