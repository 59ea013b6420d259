"""The one way from a message to what a container is to be: nothing that makes containers may take another.

What only an administrator may have is refused here for everybody else, for Run as for Create and for whatever brings a
container from elsewhere; and so is a way into a container that has it, which is as good.
"""

from __future__ import annotations

from shoal.pki import Role
from shoal.v1 import container_pb2 as pb
from shoald.api.call import caller, require
from shoald.api.codec_spec import spec_of
from shoald.containers.isolation import needs_admin
from shoald.engine.ports import Engine
from shoald.engine.volume_ports import VolumeFilter
from shoald.model.container import ContainerSpec, MountKind
from shoald.runtime.namespaces import joins, with_joins
from shoald.volumes.options import is_host_path

_ENTERING = frozenset({"pid", "ipc"})
"""Namespaces through which one container gets at what another has."""


async def requested_spec(engine: Engine, message: pb.ContainerSpec) -> ContainerSpec:
    """The request as a record, with ids for the containers that it joins: who they are is what the role was checked
    for. Raises PermissionDenied (ROLE_REQUIRED), NotFound and what `spec_of` raises."""
    spec = spec_of(message)
    what = needs_admin(spec) or _host_path_volume(engine, spec)
    if what is not None:
        require(Role.ADMIN, what)
    ids = {}
    for kind, name in joins(spec).items():
        found = (await engine.inspect_container(name)).container
        if not found.userns_base:
            # Whoever joins lives in the other's user namespace, which here is the host's.
            require(Role.ADMIN, f"joining {found.name}, which has no user namespace of its own,")
        if kind == "network" and found.spec.network == "host":
            require(Role.ADMIN, f"joining {found.name}, which has the host's network,")
        beyond = _beyond(engine, found.spec) if kind in _ENTERING else None
        if beyond is not None:
            # /proc/PID/root of its processes is its file system, and /proc/PID/environ its secrets.
            require(Role.ADMIN, f"joining {found.name}, which has {beyond},")
        ids[kind] = found.id
    return with_joins(spec, ids)


async def entered(engine: Engine, name: str, what: str) -> str:
    """What to call a container that the caller gets into, by a process or by files; `what`: that way, for the message.

    A container with what only an administrator may give is entered only by one, or an operator would have it all the
    same. Who is no administrator gets the id, so that what was looked at is what is entered.
    Raises PermissionDenied (ROLE_REQUIRED), NotFound.
    """
    if caller().role is Role.ADMIN:
        return name
    found = (await engine.inspect_container(name)).container
    beyond = _beyond(engine, found.spec)
    if beyond is None and not found.userns_base:
        beyond = "no user namespace of its own"
    if beyond is not None:
        require(Role.ADMIN, f"{what} {found.name}, which has {beyond},")
    return found.id


def volume_checked(engine: Engine, name: str) -> str:
    """The volume, if its content may be read and written by the caller: one that is a path of the host only by an
    administrator. Raises PermissionDenied (ROLE_REQUIRED)."""
    if caller().role is not Role.ADMIN and name in _host_paths(engine):
        require(Role.ADMIN, f"volume {name}, which is a path of the host,")
    return name


def _beyond(engine: Engine, spec: ContainerSpec) -> str | None:
    return needs_admin(spec) or _host_path_volume(engine, spec)


def _host_path_volume(engine: Engine, spec: ContainerSpec) -> str | None:
    """A volume among the mounts that is a path of the host; for people."""
    names = [mount.source for mount in spec.mounts if mount.kind is MountKind.VOLUME and mount.source]
    found = sorted(set(names) & _host_paths(engine)) if names else []
    return f"a volume that is a path of the host ({', '.join(found)})" if found else None


def _host_paths(engine: Engine) -> set[str]:
    """Names of the volumes that are bind mounts."""
    return {volume.name for volume in engine.volumes.list(VolumeFilter()) if is_host_path(volume.options)}
