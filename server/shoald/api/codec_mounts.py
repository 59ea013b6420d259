"""Proto <-> domain for mounts, with all checks that need no more than the request itself and its caller."""

from __future__ import annotations

import re

from shoal.pki import Role
from shoal.v1 import container_pb2 as pb
from shoald.api.call import require
from shoald.api.checks import invalid
from shoald.model.container import Mount, MountKind

_KINDS = {
    pb.Mount.KIND_BIND: MountKind.BIND,
    pb.Mount.KIND_VOLUME: MountKind.VOLUME,
    pb.Mount.KIND_TMPFS: MountKind.TMPFS,
    pb.Mount.KIND_CONTENT: MountKind.CONTENT,
    pb.Mount.KIND_SECRET: MountKind.SECRET,
}
KIND_NUMBERS = {kind: number for number, kind in _KINDS.items()}

_MAX_MODE = 0o7777
_PROPAGATIONS = ("", "rprivate", "private", "rslave", "slave")
_TREE = re.compile(r"sha256:[0-9a-f]{64}")
_HANDLE = re.compile(r"[0-9a-f]{1,128}")
_ONLY_OF = {
    "tmpfs_size_bytes": MountKind.TMPFS,
    "tmpfs_mode": MountKind.TMPFS,
    "tmpfs_options": MountKind.TMPFS,
    "propagation": MountKind.BIND,
    "no_copy": MountKind.VOLUME,
    "subpath": MountKind.VOLUME,
    "volume_labels": MountKind.VOLUME,
    "volume_options": MountKind.VOLUME,
}


def mounts_of(message: pb.ContainerSpec) -> tuple[Mount, ...]:
    """Raises InvalidArgument (INVALID_FIELD), PermissionDenied (ROLE_REQUIRED) for driver options of a non-admin."""
    mounts = tuple(mount_of(mount) for mount in message.mounts)
    targets = [mount.target.rstrip("/") for mount in mounts]
    for target in targets:
        if targets.count(target) > 1:
            raise invalid("spec.mounts.target", f"{target!r} is mounted twice")
    return mounts


def mount_of(message: pb.Mount) -> Mount:
    """See `mounts_of`."""
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise invalid("spec.mounts.kind", "is missing")
    if not message.target.startswith("/") or not message.target.strip("/"):
        raise invalid("spec.mounts.target", f"{message.target[:80]!r} is not an absolute path below /")
    for field, of in _ONLY_OF.items():
        if getattr(message, field) and kind is not of:
            raise invalid(f"spec.mounts.{field}", f"goes with {of.value} only")
    if message.tmpfs_size_bytes < 0 or message.tmpfs_mode > _MAX_MODE:
        raise invalid("spec.mounts", "size must be 0 or more, and mode at most 7777")
    _check_source(message, kind)
    _check_content(message, kind)
    if message.volume_options:
        require(Role.ADMIN, "a volume with driver options")
    return Mount(
        kind=kind,
        target=message.target,
        source=message.source,
        read_only=message.read_only or kind in (MountKind.CONTENT, MountKind.SECRET),
        tmpfs_size_bytes=message.tmpfs_size_bytes,
        tmpfs_mode=message.tmpfs_mode,
        propagation=message.propagation,
        tmpfs_options=tuple(message.tmpfs_options),
        no_copy=message.no_copy,
        subpath=message.subpath,
        volume_labels=dict(message.volume_labels),
        volume_options=dict(message.volume_options),
        content_digest=message.content_digest,
    )


def _check_source(message: pb.Mount, kind: MountKind) -> None:
    if kind is MountKind.BIND and not message.source.startswith("/"):
        raise invalid("spec.mounts.source", f"{message.source[:80]!r} is not an absolute path on the host")
    if kind not in (MountKind.BIND, MountKind.VOLUME) and message.source:
        raise invalid("spec.mounts.source", f"a {kind.value} mount has none")
    if message.propagation not in _PROPAGATIONS:
        raise invalid(
            "spec.mounts.propagation",
            f"{message.propagation[:80]!r} is not allowed",
            hint="rprivate, private, rslave or slave: a container never mounts into the host",
        )
    if message.subpath and (message.subpath.startswith("/") or ".." in message.subpath.split("/")):
        raise invalid("spec.mounts.subpath", f"{message.subpath[:80]!r} is not a relative path inside the volume")
    if "" in message.volume_labels:
        raise invalid("spec.mounts.volume_labels", "a label has no key")


def _check_content(message: pb.Mount, kind: MountKind) -> None:
    wanted = {MountKind.CONTENT: _TREE, MountKind.SECRET: _HANDLE}.get(kind)
    if wanted is None:
        if message.content_digest:
            raise invalid("spec.mounts.content_digest", "goes with content and secret only")
    elif not wanted.fullmatch(message.content_digest):
        raise invalid("spec.mounts.content_digest", "is not what Assemble or PutSecret has returned")
