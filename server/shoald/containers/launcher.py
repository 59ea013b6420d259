"""Brings one container to life and clears up after it: root file system, files under /etc, mounts, network, processes.

The one choke point that starts containers: `run`, restarts and the RUN steps of a build all come through `launch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from msgspec.structs import replace

from shoal.errors import FailedPrecondition, ResourceExhausted, ShoalError
from shoald.containers.equipment import equipment, place_nodes
from shoald.containers.etc import EtcFiles, rewrite_etc, shared_etc, write_etc
from shoald.containers.logging import journal_label, rotation_of
from shoald.containers.neighbours import Neighbours
from shoald.containers.places import Placed, Places
from shoald.host.blocking import in_thread, to_end
from shoald.host.mounts import unmount
from shoald.host.syscall import failure, translated
from shoald.host.trees import remove_tree
from shoald.model.container import Container, LogConfig, MountKind, PortMapping
from shoald.network.ports import Endpoint, NetworkDriver
from shoald.runtime import logchain
from shoald.runtime.devices import Equipment
from shoald.runtime.journal import check_journal
from shoald.runtime.namespaces import Joined, bridged
from shoald.runtime.ports import Bundle, ContainerRuntime, Exit
from shoald.runtime.rotation import LogRotator
from shoald.runtime.spec import ResolvedUser
from shoald.runtime.user import resolve_user
from shoald.snapshots.ports import Snapshotter

log = structlog.get_logger(__name__)

IN_BUNDLE_ROOTFS = "rootfs"
IN_BUNDLE_MOUNTS = "mounts"
DEVICES = "devices"


@dataclass(frozen=True)
class Launched:
    """A container that runs."""

    pid: int
    pid_start_time: int
    ip_address: str
    ports: tuple[PortMapping, ...]


@dataclass(frozen=True)
class Prepared:
    """What the OCI configuration is made from, once everything it names exists."""

    container: Container
    rootfs: Path
    user: ResolvedUser
    places: Sequence[Placed]
    etc: EtcFiles
    endpoint: Endpoint | None
    joined: Mapping[str, Joined] = field(default_factory=dict)
    equipment: Equipment = field(default_factory=Equipment)
    device_sources: Sequence[str] = ()
    shm_source: str = ""


class Launcher:
    """Launches containers; keeps nothing in memory but the exits that build steps wait for."""

    def __init__(
        self,
        *,
        runtime: ContainerRuntime,
        snapshots: Snapshotter,
        network: NetworkDriver,
        places: Places,
        state_dir: Path,
        run_dir: Path,
        configure: Callable[[Prepared], dict[str, Any]],
        neighbours: Neighbours,
        userns_size: int = 65536,
        cdi_directories: Sequence[Path] = (),
    ) -> None:
        """`configure` makes the OCI configuration (pure)."""
        self.cdi_directories = cdi_directories
        self.neighbours = neighbours
        self._userns_size = userns_size
        self._runtime = runtime
        self._snapshots = snapshots
        self.network = network
        self._state_dir = state_dir
        self._run_dir = run_dir
        self._configure = configure
        self._steps: dict[str, asyncio.Future[Exit]] = {}
        self.places = places
        self.logs = LogRotator(runtime.reopen_log)

    # --- places -----------------------------------------------------------------------------------------------------

    def state_path(self, container_id: str) -> Path:
        """`<root>/containers/<id>`: log and the files under /etc."""
        return self._state_dir / container_id

    def log_path(self, container_id: str) -> Path:
        """The container's log (conmon's k8s-file format)."""
        return self.state_path(container_id) / "log"

    def log_end(self, container_id: str) -> str:
        """The cursor of the log's end; "" when there is none."""
        return logchain.end_cursor(self.log_path(container_id))

    def check_log(self, config: LogConfig) -> None:
        """Whether this host can do it. Raises FailedPrecondition (NO_JOURNAL)."""
        if config.driver == "journald":
            check_journal()

    def keep_log(self, container: Container) -> None:
        """Keep the log of one that runs within its size, until it is cleared."""
        self.logs.watch(container.id, self.log_path(container.id), rotation_of(container.spec.log))

    def bundles(self) -> list[str]:
        """Ids of all containers that have a directory in the run directory."""
        return _identified(self._run_dir)

    def state_directories(self) -> list[str]:
        """Ids of all containers that have a directory in the data directory."""
        return _identified(self._state_dir)

    def prepare(self, container_id: str) -> None:
        """Make its directory, so that its log can be followed before it is written."""
        with translated("make container directory"):
            self.state_path(container_id).mkdir(mode=0o711, exist_ok=True)

    # --- launch -----------------------------------------------------------------------------------------------------

    async def launch(self, container: Container) -> Launched:
        """Start it. On failure and on cancellation nothing is left but its writable layer, its log and its volumes."""
        try:
            return await self._launch(container)
        except BaseException as error:
            try:
                await to_end(self.clear(container.id))
            except ShoalError as left:
                log.error("launch_not_undone", container=container.id, error=str(left))
            if isinstance(error, OSError):
                raise _start_failed(error) from error
            raise

    async def _launch(self, container: Container) -> Launched:
        bundle_dir = self._runtime.bundle_dir(container.id)
        # Its own root must pass through, and no user of the host: there are set-user-id programs in there.
        os.chown(bundle_dir, 0, container.userns_base)
        bundle_dir.chmod(0o710)
        rootfs = bundle_dir / IN_BUNDLE_ROOTFS
        endpoint: Endpoint | None = None
        ports: tuple[PortMapping, ...] = ()
        resolv = None
        endpoints: Sequence[Endpoint] = ()
        if bridged(container.spec):
            endpoint, ports = await self.network.allocate(container.id, container.spec.ports)
            endpoints = self.network.endpoints(container.id)
            resolv = self.network.resolv_conf(endpoints)
        # Unmounting syncs the whole file system below the layer: not for one that is thrown away, or committed later.
        throw_away = container.spec.auto_remove
        await self._snapshots.mount(container.snapshot_id, rootfs, uid_base=container.userns_base, volatile=throw_away)
        user = resolve_user(container.process.user, rootfs, container.spec.group_add)
        places = await self.places.place(container, user, bundle_dir / IN_BUNDLE_MOUNTS)
        joined = self.neighbours.joined(container)
        if "network" in joined:
            etc = shared_etc(self.state_path(joined["network"].container_id))
        else:
            etc = write_etc(self.state_path(container.id), container, endpoints, resolv)
        asked = await self._equipment(container)
        nodes = self._place_nodes(container, asked, bundle_dir / IN_BUNDLE_MOUNTS)
        shm = self.neighbours.share_shm(container)
        config = self._configure(
            Prepared(container, rootfs, user, places, etc, endpoint, joined, asked, nodes, shm_source=shm)
        )
        created = await self._runtime.create(
            Bundle(
                container_id=container.id,
                config=config,
                rootfs=rootfs,
                log_path=self.log_path(container.id),
                tty=container.spec.tty,
                stdin_open=container.spec.stdin_open,
                journal=journal_label(container),
            )
        )
        self.neighbours.still(joined)
        if endpoint is not None:
            await self.network.connect(container.id, created.pid)
        await self._runtime.start(container.id)
        address = endpoint.ip_address if endpoint else ""
        return Launched(created.pid, created.pid_start_time, address, ports)

    async def refresh_etc(self, container: Container) -> None:
        """Tell a running container of its networks as they are now. For one that shares another's files nothing is
        done."""
        endpoints = self.network.endpoints(container.id)
        resolv_conf = self.network.resolv_conf(endpoints)
        path = self.state_path(container.id)
        await in_thread(lambda: rewrite_etc(path, container, endpoints, resolv_conf))

    async def _equipment(self, container: Container) -> Equipment:
        if not container.spec.cdi_devices:
            return equipment(container.spec)
        # Files to read, and in YAML slow ones.
        return await in_thread(lambda: equipment(container.spec, self.cdi_directories))

    def _place_nodes(self, container: Container, asked: Equipment, directory: Path) -> Sequence[str]:
        if asked.nodes and container.userns_base:
            directory.mkdir(mode=0o711, exist_ok=True)
        return place_nodes(container, asked.nodes, directory / DEVICES, self._userns_size)

    async def started(self, container_id: str) -> bool:
        """For one that an earlier daemon created: whether its process was started too (else it waits for ever)."""
        return await self._runtime.is_started(container_id)

    def reserved(self, container_id: str) -> tuple[str, tuple[PortMapping, ...]]:
        """Address ("" without) and ports that it has."""
        endpoint, ports = self.network.reserved(container_id)
        return endpoint.ip_address if endpoint else "", tuple(ports)

    # --- while it does not run --------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def still(self, container: Container) -> AsyncIterator[tuple[Path, list[Placed]]]:
        """Mount the root file system, volumes and other files (no secrets) of a container that does not run; after a
        crash `clear` undoes it."""
        bundle = self._runtime.bundle_dir(container.id)
        kinds = (MountKind.TMPFS, MountKind.SECRET)
        kept = tuple(mount for mount in container.spec.mounts if mount.kind not in kinds)
        shown = replace(container, spec=replace(container.spec, mounts=kept))
        try:
            rootfs = bundle / IN_BUNDLE_ROOTFS
            await self._snapshots.mount(container.snapshot_id, rootfs, uid_base=container.userns_base)
            places = await self.places.place(shown, ResolvedUser(0, 0), bundle / IN_BUNDLE_MOUNTS)
            yield bundle / IN_BUNDLE_ROOTFS, places
        finally:
            await to_end(self._end_still(container.id))

    async def _end_still(self, container_id: str) -> None:
        await self._unmount(container_id)
        await self.places.release(container_id)
        await self._remove_bundle(container_id)

    # --- clear ------------------------------------------------------------------------------------------------------

    async def clear(self, container_id: str) -> None:
        """Undo a launch: processes, network, mounts, bundle. Idempotent; goes through all of it and then raises the
        first error. The writable layer, the log and the record stay. Call through `to_end`."""
        self.logs.forget(container_id)
        errors = await _attempts(self._unmount(container_id), self._runtime.delete(container_id))
        errors += await _attempts(self.places.release(container_id))
        # The address after the process that has it.
        errors += await _attempts(self.network.release(container_id))
        errors += await _attempts(self._remove_bundle(container_id))
        if errors:
            raise errors[0]

    async def release(self, container_id: str) -> None:
        """The part of `clear` that others wait for: give back ports and address of one that has ended."""
        await self.network.release(container_id)

    async def _unmount(self, container_id: str) -> None:
        bundle = self._run_dir / container_id
        if not bundle.exists():
            return
        mounts = bundle / IN_BUNDLE_MOUNTS
        with contextlib.suppress(FileNotFoundError):
            for place in sorted(os.listdir(mounts)):
                while unmount(mounts / place, detach=True):
                    pass
        await self._snapshots.unmount(bundle / IN_BUNDLE_ROOTFS)

    async def _remove_bundle(self, container_id: str) -> None:
        bundle = self._run_dir / container_id
        if bundle.exists():
            # Never enters a mount: what could not be unmounted is not deleted.
            await in_thread(lambda: remove_tree(bundle))

    async def forget(self, container_id: str) -> None:
        """Delete the container's log, files and secrets."""
        await self.places.forget(container_id)
        path = self.state_path(container_id)
        if path.exists():
            await in_thread(lambda: remove_tree(path))

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


def _identified(directory: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        return [entry.name for entry in entries if len(entry.name) == 64 and entry.is_dir(follow_symlinks=False)]
    return []


def _start_failed(error: OSError) -> ShoalError:
    known = failure("start the container", error.errno or 0, path=error.filename)
    if isinstance(known, ResourceExhausted):
        return known
    return FailedPrecondition(f"can't start the container: {error}", reason="START_FAILED")


async def _attempts(*undo: Coroutine[Any, Any, None]) -> list[ShoalError]:
    """Do all side by side; what went wrong."""
    errors: list[ShoalError] = []
    for result in await asyncio.gather(*undo, return_exceptions=True):
        if isinstance(result, OSError):
            errors.append(failure("clean up", result.errno or 0, path=result.filename))
        elif isinstance(result, ShoalError):
            errors.append(result)
        elif isinstance(result, BaseException):
            raise result
    return errors
