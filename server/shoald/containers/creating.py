"""Makes a container: its record, ids, layer and what it mounts; a creation that fails undoes itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from msgspec.structs import replace

from shoal.errors import DataLoss
from shoald.containers.exposed import published
from shoald.containers.health_check import effective_health_check
from shoald.containers.launcher import Launcher
from shoald.containers.lifecycle import Lifecycle
from shoald.containers.names import random_name
from shoald.containers.plan import DEFAULT_STOP_TIMEOUT_S, check_spec, process_of, stop_signal_of, with_image_volumes
from shoald.host.blocking import to_end
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerSpec, ContainerState, Membership, Mount, MountKind
from shoald.model.image import Image
from shoald.runtime.namespaces import without_user_namespace
from shoald.snapshots.ports import Snapshotter


class UsernsRange(Protocol):
    """Where the ids of containers' user namespaces come from: `slots` ranges of `size` ids from `base` on."""

    @property
    def base(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def slots(self) -> int: ...


class Creating:
    """The one way to a new container."""

    def __init__(
        self,
        md: Metadata,
        life: Lifecycle,
        launcher: Launcher,
        snapshots: Snapshotter,
        userns: UsernsRange,
        admit: Callable[[ContainerSpec], None],
    ) -> None:
        """`admit` refuses what this host can't do."""
        self._md = md
        self._life = life
        self._launcher = launcher
        self._snapshots = snapshots
        self._userns = userns
        self._admit = admit

    async def create(
        self, request_id: str, spec: ContainerSpec, image: Image, *, made_to_wait: bool = False
    ) -> Container:
        """Make a container in state CREATED. Raises InvalidArgument, AlreadyExists (NAME_IN_USE), ResourceExhausted.

        A create that fails or is cancelled undoes itself.
        """
        check_spec(spec)
        spec = self._launcher.neighbours.resolve(spec)
        self._admit(spec)
        self._launcher.check_log(spec.log)
        memberships = self._launcher.network.memberships(spec)
        container = self._insert(
            replace(self._planned(request_id, spec, image), made_to_wait=made_to_wait), memberships
        )
        async with self._life.locks.get(container.id):
            try:
                self._launcher.places.check(container)
                self._launcher.prepare(container.id)
                container = await self._with_layer(container, image)
                await self._launcher.places.claim(container)
            except BaseException:
                current = self._md.containers.get(container.id) or container
                await to_end(self._life.remove(current, volumes=True, quiet=True))
                raise
        self._life.event(container, "create")
        return container

    def _planned(self, request_id: str, spec: ContainerSpec, image: Image) -> Container:
        container_id = secrets.token_hex(32)
        name = spec.name or random_name(self._md.containers.names())
        mounts = tuple(_named(mount) for mount in with_image_volumes(spec, image.config))
        return Container(
            id=container_id,
            name=name,
            request_id=request_id or secrets.token_hex(16),
            spec=replace(spec, mounts=mounts, name=name, ports=published(spec, image.config)),
            image_id=image.id,
            process=process_of(spec, image.config),
            state=ContainerState.CREATING,
            created_at=datetime.now(UTC),
            userns_base=0,
            snapshot_id="",
            hostname=spec.hostname or self._launcher.neighbours.host_name(spec) or container_id[:12],
            stop_signal=stop_signal_of(spec, image.config),
            stop_timeout_s=DEFAULT_STOP_TIMEOUT_S if spec.stop_timeout_s is None else spec.stop_timeout_s,
            health_check=effective_health_check(spec.health_check, image.config.defaults.healthcheck),
            shell=tuple(image.config.defaults.shell or ()),
        )

    def _insert(self, container: Container, memberships: Sequence[Membership]) -> Container:
        with self._md.transaction():
            if not without_user_namespace(container.spec):
                base = self._launcher.neighbours.userns_base(container.spec)
                if base is None:
                    base = self._md.containers.allocate_userns(self._userns.base, self._userns.size, self._userns.slots)
                container = replace(container, userns_base=base)
            self._md.containers.insert(container)
            for membership in memberships:
                self._md.memberships.put(container.id, membership)
        return container

    async def _with_layer(self, container: Container, image: Image) -> Container:
        parent = self._md.snapshots.by_chain(image.chain_id) if image.chain_id else None
        if image.chain_id and parent is None:
            raise DataLoss(
                f"the layers of image {container.spec.image} are gone",
                reason="SNAPSHOT_LOST",
                hint="remove the image and pull it again",
            )
        with self._md.leases.lease("run") as lease:
            snapshot = await self._snapshots.create_writable(
                parent.id if parent else None, uid_base=container.userns_base, lease=lease
            )
            return self._md.containers.update(container.id, snapshot_id=snapshot.id, state=ContainerState.CREATED)


def _named(mount: Mount) -> Mount:
    if mount.kind is MountKind.VOLUME and not mount.source:
        return replace(mount, source=secrets.token_hex(32), anonymous=True)
    return mount
