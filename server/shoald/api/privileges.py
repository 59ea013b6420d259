"""What only an administrator may ask for: whatever gives a container a hold on its host."""

from __future__ import annotations

from shoald.model.container import ContainerSpec, MountKind


def needs_admin(spec: ContainerSpec) -> str | None:
    """Of what a request asks for the first thing that only an administrator may have, for people; None for none.

    A host path, written to as root, is as good as the host; so is its network, where services trust who is local.
    """
    if spec.userns == "host":
        return "a container without a user namespace of its own (userns=host)"
    if spec.network == "host":
        return "the host's network (network=host)"
    for mount in spec.mounts:
        if mount.kind is MountKind.BIND:
            return f"a path of the host ({mount.source})"
    return None
