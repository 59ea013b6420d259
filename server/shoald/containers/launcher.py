"""Brings one container to life and clears up after it: root file system, files under /etc, mounts, network, processes.

The one choke point that starts containers: `run`, restarts and the RUN steps of a build all come through `launch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import FailedPrecondition, ShoalError
from shoald.containers.etc import EtcFiles, write_etc
from shoald.containers.places import Placed, bind_source, place_mounts
from shoald.host.trees import remove_tree
from shoald.host.mounts import unmount
from shoald.host.userns import UserNamespaces
from shoald.model.container import Container, Mount, MountKind, PortMapping
from shoald.network.ports import Endpoint, NetworkDriver
from shoald.runtime.ports import Bundle, ContainerRuntime, Exit
from shoald.runtime.spec import ResolvedUser
from shoald.runtime.user import resolve_user
from shoald.snapshots.ports import Snapshotter
from shoald.volumes.ports import VolumeDriver

IN_BUNDLE_ROOTFS = "rootfs"
IN_BUNDLE_MOUNTS = "mounts"


@dataclass(frozen=True)
class Launched:
    """A container that runs."""

    pid: int
    pid_start_time: int
    ip_address: str
    ports: tuple[PortMapping, ...]
    log_start: int


@dataclass(frozen=True)
class Prepared:
    """What the OCI configuration is made from, once everything it names exists."""

    container: Container
    rootfs: Path
    user: ResolvedUser
    places: Sequence[Placed]
    etc: EtcFiles
    endpoint: Endpoint | None


class Launcher:
    """Launches containers; keeps nothing in memory but the exits that build steps wait for."""

    def __init__(
        self,
        *,
        runtime: ContainerRuntime,
        snapshots: Snapshotter,
        network: NetworkDriver,
        volumes: VolumeDriver,
        userns: UserNamespaces,
        userns_size: int,
        state_dir: Path,
        run_dir: Path,
        configure: Callable[[Prepared], dict[str, Any]],
        populate: Callable[[str, str, Path], Awaitable[None]],
    ) -> None:
        """`configure` makes the OCI configuration (pure); `populate(snapshot id, path in image, directory)` fills a fresh
        volume with what the image has at that path."""
        self._runtime = runtime
        self._snapshots = snapshots
        self._network = network
        self._volumes = volumes
        self._userns = userns
        self._userns_size = userns_size
        self._state_dir = state_dir
        self._run_dir = run_dir
        self._configure = configure
        self._populate = populate
        self._steps: dict[str, asyncio.Future[Exit]] = {}

    # --- places -----------------------------------------------------------------------------------------------------

    def state_path(self, container_id: str) -> Path:
        """`<root>/containers/<id>`: log and the files under /etc."""
        return self._state_dir / container_id

    def log_path(self, container_id: str) -> Path:
        """The container's log (conmon's k8s-file format)."""
        return self.state_path(container_id) / "log"

    def bundles(self) -> list[str]:
        """Ids of all containers that have a directory in the run directory."""
        with contextlib.suppress(FileNotFoundError):
            return [e.name for e in os.scandir(self._run_dir) if len(e.name) == 64 and e.is_dir(follow_symlinks=False)]
        return []

    async def check_bind(self, mount: Mount) -> None:
        """Raises InvalidArgument (BIND_SOURCE_MISSING): a missing path is never made silently."""
        bind_source(mount)

    # --- launch -----------------------------------------------------------------------------------------------------

    async def launch(self, container: Container) -> Launched:
        """Start it. On failure and on cancellation nothing is left but its writable layer and its log."""
        try:
            return await self._launch(container)
        except BaseException as error:
            cleanup = asyncio.ensure_future(self.clear(container.id))
            with contextlib.suppress(ShoalError):
                await _to_end(cleanup)
            if isinstance(error, OSError):
                raise FailedPrecondition(f"can't start the container: {error}", reason="START_FAILED") from error
            raise

    async def _launch(self, container: Container) -> Launched:
        bundle_dir = self._runtime.bundle_dir(container.id)
        rootfs = bundle_dir / IN_BUNDLE_ROOTFS
        rootfs.mkdir(mode=0o755, exist_ok=True)
        endpoint: Endpoint | None = None
        ports: tuple[PortMapping, ...] = ()
        if container.spec.network == "bridge":
            endpoint, ports = await self._network.allocate(container.id, container.spec.ports)
        await self._snapshots.mount(container.snapshot_id, rootfs, uid_base=container.userns_base)
        user = resolve_user(container.process.user, rootfs)
        places = await self._place(container, bundle_dir / IN_BUNDLE_MOUNTS)
        resolv = self._network.resolv_conf() if container.spec.network == "bridge" else None
        etc = write_etc(self.state_path(container.id), container, endpoint, resolv)
        config = self._configure(Prepared(container, rootfs, user, places, etc, endpoint))
        log_path = self.log_path(container.id)
        log_start = log_path.stat().st_size if log_path.exists() else 0
        created = await self._runtime.create(
            Bundle(
                container_id=container.id,
                config=config,
                rootfs=rootfs,
                log_path=log_path,
                tty=container.spec.tty,
                stdin_open=container.spec.stdin_open,
            )
        )
        if endpoint is not None:
            await self._network.connect(container.id, created.pid)
        await self._runtime.start(container.id)
        address = endpoint.ip_address if endpoint else ""
        return Launched(created.pid, created.pid_start_time, address, ports, log_start)

    async def _place(self, container: Container, directory: Path) -> Sequence[Placed]:
        if not container.spec.mounts:
            return ()
        sources: dict[str, Path] = {}
        for mount in container.spec.mounts:
            if mount.kind is MountKind.VOLUME:
                _, fresh = await self._volumes.ensure(mount.source, anonymous=mount.anonymous)
                sources[mount.source] = self._volumes.path(mount.source)
                if fresh:
                    parent = self._snapshots.chain(container.snapshot_id)[0].parent_id
                    if parent is not None:
                        await self._populate(parent, mount.target, sources[mount.source])
        return await place_mounts(
            container.spec.mounts,
            sources,
            directory,
            userns=self._userns,
            base=container.userns_base,
            size=self._userns_size,
        )

    async def started(self, container_id: str) -> bool:
        """For one that an earlier daemon created: whether its process was started too (else it waits for ever)."""
        return await self._runtime.is_started(container_id)

    def endpoint_fields(self, container: Container) -> dict[str, Any]:
        """Address and ports as reserved: columns of a row whose writing was cut short."""
        endpoint, ports = self._network.reserved(container.id)
        return {"ip_address": endpoint.ip_address if endpoint else "", "ports": ports}

    # --- clear ------------------------------------------------------------------------------------------------------

    async def clear(self, container_id: str) -> None:
        """Undo a launch: processes, network, mounts, bundle. Idempotent; goes through all of it and then raises the first
        error. The writable layer, the log and the record stay."""
        errors: list[ShoalError] = []
        for undo in (self._unmount, self._runtime.delete, self._network.release, self._remove_bundle):
            try:
                await undo(container_id)
            except ShoalError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    async def _unmount(self, container_id: str) -> None:
        bundle = self._run_dir / container_id
        if not bundle.exists():
            return
        mounts = bundle / IN_BUNDLE_MOUNTS
        with contextlib.suppress(FileNotFoundError):
            for place in sorted(os.listdir(mounts)):
                unmount(mounts / place, detach=True)
        await self._snapshots.unmount(bundle / IN_BUNDLE_ROOTFS)

    async def _remove_bundle(self, container_id: str) -> None:
        bundle = self._run_dir / container_id
        if bundle.exists():
            # Never enters a mount: what could not be unmounted is not deleted.
            await asyncio.to_thread(remove_tree, bundle)

    async def forget(self, container_id: str) -> None:
        """Delete the container's log and files."""
        path = self.state_path(container_id)
        if path.exists():
            await asyncio.to_thread(remove_tree, path)

    # --- build steps ------------------------------------------------------------------------------------------------

    def expect_step(self, container_id: str) -> asyncio.Future[Exit]:
        """The exit of a container that has no record; ask before it is launched."""
        return self._steps.setdefault(container_id, asyncio.get_running_loop().create_future())

    def step_ended(self, ended: Exit) -> bool:
        """Hand an exit to the step that waits for it; False when none does."""
        future = self._steps.pop(ended.container_id, None)
        if future is None:
            return False
        if not future.done():
            future.set_result(ended)
        return True

    def drop_step(self, container_id: str) -> None:
        """Nobody waits any more."""
        self._steps.pop(container_id, None)


async def _to_end(task: asyncio.Future[None]) -> None:
    """Await to the end, however often the caller is cancelled; the caller's own error goes on afterwards."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
