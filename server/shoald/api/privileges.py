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
from shoald.model.container import ContainerSpec
from shoald.runtime.namespaces import joins, with_joins


async def requested_spec(engine: Engine, message: pb.ContainerSpec) -> ContainerSpec:
    """The request as a record, with ids for the containers that it joins: who they are is what the role was checked
    for. Raises PermissionDenied (ROLE_REQUIRED), NotFound and what `spec_of` raises."""
    spec = spec_of(message)
    what = needs_admin(spec)
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
    beyond = needs_admin(found.spec)
    if beyond is None and not found.userns_base:
        beyond = "no user namespace of its own"
    if beyond is not None:
        require(Role.ADMIN, f"{what} {found.name}, which has {beyond},")
    return found.id
