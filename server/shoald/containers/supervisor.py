"""The life of every container: creates, starts, stops and removes them, follows their exits, applies restart policies.

One lock a container orders its transitions; whoever waits for a change holds no lock. Rows are written before and after each
step so that `recover()` can tell, after a kill -9 at any point, what is to be finished and what to be undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Coroutine
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import structlog

from shoal.errors import FailedPrecondition, Internal, NotFound, ShoalError
from shoald.containers.ghosts import Ghosts
from shoald.containers.launcher import Launcher
from shoald.containers.names import random_name
from shoald.containers.plan import (
    DEFAULT_STOP_TIMEOUT_S,
    check_spec,
    parse_signal,
    process_of,
    stop_signal_of,
    with_image_volumes,
)
from shoald.containers.transitions import Next, after_exit, starts_with_daemon
from shoald.containers.watch import Locks, RunEnd, Watch
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerSpec, ContainerState, Mount, MountKind
from shoald.model.image import Image
from shoald.runtime.ports import ContainerRuntime, Created, Exit
from shoald.snapshots.ports import Snapshotter
from shoald.volumes.ports import VolumeDriver

log = structlog.get_logger(__name__)
T = TypeVar("T")

KILL_WAIT_S = 30.0
ALIVE = (ContainerState.RUNNING, ContainerState.RESTARTING)


class Publish(Protocol):
    """Records an event."""

    def __call__(self, type_: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        """Store it and wake followers."""


class UsernsRange(Protocol):
    """Where the ids of containers' user namespaces come from."""

    @property
    def base(self) -> int:
        """The first host id."""

    @property
    def size(self) -> int:
        """Ids of one namespace."""

    @property
    def slots(self) -> int:
        """How many namespaces."""


class Supervisor:
    """Owns all containers of this host."""

    def __init__(
        self,
        md: Metadata,
        launcher: Launcher,
        runtime: ContainerRuntime,
        snapshots: Snapshotter,
        volumes: VolumeDriver,
        ghosts: Ghosts,
        publish: Publish,
        userns: UsernsRange,
    ) -> None:
        self._md = md
        self._launcher = launcher
        self._runtime = runtime
        self._snapshots = snapshots
        self._volumes = volumes
        self._publish = publish
        self._userns = userns
        self.ghosts = ghosts
        self._locks = Locks()
        self._watch = Watch()
        self._delays: dict[str, float] = {}
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._exit_watch: asyncio.Task[None] | None = None
        self._closing = False

    # --- create and start -------------------------------------------------------------------------------------------

    async def create(self, request_id: str, spec: ContainerSpec, image: Image) -> Container:
        """Make a container in state CREATED. Raises InvalidArgument, AlreadyExists (NAME_IN_USE), ResourceExhausted.

        Call under a task of its own: a cancelled create undoes itself.
        """
        check_spec(spec)
        container_id = secrets.token_hex(32)
        hostname = spec.hostname or container_id[:12]
        mounts = tuple(_named(mount) for mount in with_image_volumes(spec, image.config))
        name = spec.name or random_name(self._md.containers.names())
        container = Container(
            id=container_id,
            name=name,
            request_id=request_id or secrets.token_hex(16),
            spec=_with(spec, mounts=mounts, name=name),
            image_id=image.id,
            process=process_of(spec, image.config),
            state=ContainerState.CREATING,
            created_at=datetime.now(UTC),
            userns_base=0,
            snapshot_id="",
            hostname=hostname,
            stop_signal=stop_signal_of(spec, image.config),
            stop_timeout_s=DEFAULT_STOP_TIMEOUT_S if spec.stop_timeout_s is None else spec.stop_timeout_s,
        )
        with self._md.transaction():
            if not spec.userns:
                base = self._md.containers.allocate_userns(self._userns.base, self._userns.size, self._userns.slots)
                container = _with(container, userns_base=base)
            self._md.containers.insert(container)
        async with self._locks.get(container_id):
            try:
                await self._check_binds(mounts)
                parent = self._md.snapshots.by_chain(image.chain_id) if image.chain_id else None
                with self._md.leases.lease("run") as lease:
                    snapshot = await self._snapshots.create_writable(
                        parent.id if parent else None, uid_base=container.userns_base, lease=lease
                    )
                    container = self._md.containers.update(
                        container_id, snapshot_id=snapshot.id, state=ContainerState.CREATED
                    )
            except BaseException:
                await self._finish(self._remove_locked(container, volumes=True, quiet=True))
                raise
        self._event(container, "create")
        return container

    async def _check_binds(self, mounts: tuple[Mount, ...]) -> None:
        for mount in mounts:
            if mount.kind is MountKind.BIND:
                await self._launcher.check_bind(mount)

    async def start(self, container_id: str) -> Container:
        """Run a container that does not run; one that runs stays as it is."""
        async with self._locks.get(container_id):
            container = self._md.containers.find(container_id)
            if container.state is ContainerState.RUNNING:
                return container
            if container.state in (ContainerState.CREATING, ContainerState.REMOVING, ContainerState.DEAD):
                raise FailedPrecondition(
                    f"container {container.name} is {container.state.value} and can't be started",
                    reason="CONTAINER_NOT_STARTABLE",
                    hint="remove it and run a new one",
                )
            self._drop_timer(container_id)
            self._delays.pop(container_id, None)
            container = self._md.containers.update(container_id, stopped_by_user=False, restart_count=0)
            return await self._launch(container)

    async def _launch(self, container: Container) -> Container:
        """Start it and write the row. Holds: the container's lock. On failure it is as before, with `error` set."""
        before = container.state
        try:
            launched = await self._launcher.launch(container)
        except BaseException as error:
            state = before if before is ContainerState.CREATED else ContainerState.EXITED
            fields: dict[str, object] = {"state": state, "error": str(error), "pid": 0, "ip_address": "", "ports": ()}
            if isinstance(error, ShoalError) and state is ContainerState.EXITED:
                fields["exit_code"] = {"COMMAND_NOT_FOUND": 127, "COMMAND_NOT_EXECUTABLE": 126}.get(error.reason, 128)
            self._md.containers.update(container.id, **fields)
            self._watch.changed(container.id)
            raise
        container = self._md.containers.update(
            container.id,
            state=ContainerState.RUNNING,
            pid=launched.pid,
            pid_start_time=launched.pid_start_time,
            started_at=datetime.now(UTC),
            finished_at=None,
            exit_code=None,
            oom_killed=False,
            error="",
            ip_address=launched.ip_address,
            ports=launched.ports,
            log_start=launched.log_start,
        )
        self._event(container, "start")
        self._watch.changed(container.id)
        return container

    # --- exits ------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Begin to follow exits, then take over what an earlier daemon left. Call once, before any other method."""
        exits = self._runtime.exits()  # watching begins here: before recover() looks at exit files
        self._exit_watch = asyncio.create_task(self._follow_exits(exits), name="exits")
        await self.recover()

    async def _follow_exits(self, exits: AsyncIterator[Exit]) -> None:
        async for ended in exits:
            self._spawn(self._on_exit(ended))

    async def _on_exit(self, ended: Exit) -> None:
        if self._launcher.step_ended(ended):
            return
        async with self._locks.get(ended.container_id):
            container = self._md.containers.get(ended.container_id)
            if container is None or container.state is not ContainerState.RUNNING:
                return
            await self._settle(container, ended)

    async def _settle(self, container: Container, ended: Exit) -> None:
        """A running container has ended: write it down, clean up, restart or remove. Holds: the container's lock."""
        finished = datetime.fromtimestamp(ended.finished_at_ns / 1e9, UTC)
        ran_s = (finished - (container.started_at or finished)).total_seconds()
        decision = after_exit(container, ended.exit_code, ran_s, self._delays.get(container.id, 0.0))
        state = {
            Next.STAY: ContainerState.EXITED,
            Next.REMOVE: ContainerState.REMOVING,
            Next.RESTART: ContainerState.RESTARTING,
        }[decision.next]
        container = self._md.containers.update(
            container.id,
            state=state,
            exit_code=ended.exit_code,
            oom_killed=ended.oom_killed,
            finished_at=finished,
            pid=0,
            ip_address="",
            ports=(),
        )
        self._watch.ended(container.id, ended.exit_code, ended.oom_killed)
        if ended.oom_killed:
            self._event(container, "oom")
        self._event(container, "die", exitCode=str(ended.exit_code))
        if decision.next is Next.REMOVE:
            await self._finish(self._remove_locked(container, volumes=True))
            return
        self._watch.changed(container.id)
        try:
            await self._finish(self._launcher.clear(container.id))
        except ShoalError as error:
            log.error("container_cleanup_failed", container=container.id, error=str(error))
            self._md.containers.update(container.id, error=str(error))
        if decision.next is Next.RESTART:
            self._delays[container.id] = decision.delay_s
            self._set_timer(container.id, decision.delay_s)

    def _set_timer(self, container_id: str, delay_s: float) -> None:
        self._drop_timer(container_id)
        if not self._closing:
            self._timers[container_id] = asyncio.create_task(self._restart_later(container_id, delay_s))

    def _drop_timer(self, container_id: str) -> None:
        timer = self._timers.pop(container_id, None)
        if timer is not None and timer is not asyncio.current_task():
            timer.cancel()

    async def _restart_later(self, container_id: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await asyncio.shield(self._spawn(self._restart(container_id)))

    async def _restart(self, container_id: str) -> None:
        async with self._locks.get(container_id):
            self._timers.pop(container_id, None)
            container = self._md.containers.get(container_id)
            if container is None or container.state is not ContainerState.RESTARTING:
                return
            container = self._md.containers.update(container_id, restart_count=container.restart_count + 1)
            try:
                await self._launch(container)
            except ShoalError as error:
                log.warning("restart_failed", container=container_id, error=str(error))
                decision = after_exit(container, 128, 0.0, self._delays.get(container_id, 0.0))
                if decision.next is Next.RESTART:
                    self._md.containers.update(container_id, state=ContainerState.RESTARTING)
                    self._delays[container_id] = decision.delay_s
                    self._set_timer(container_id, decision.delay_s)

    # --- stop, kill, remove -----------------------------------------------------------------------------------------

    async def stop(self, container_id: str, timeout_s: float | None, signal: str) -> Container:
        """Signal, wait, kill; an exited container is a success. Negative timeout: wait without end."""
        container = self._md.containers.find(container_id)
        number = parse_signal(signal) if signal else container.stop_signal
        grace = container.stop_timeout_s if timeout_s is None else timeout_s
        async with self._locks.get(container_id):
            container = self._md.containers.find(container_id)
            if container.state is ContainerState.RESTARTING:
                self._drop_timer(container_id)
                container = self._md.containers.update(container_id, state=ContainerState.EXITED, stopped_by_user=True)
                self._watch.changed(container_id)
                self._event(container, "stop")
                return container
            if container.state is not ContainerState.RUNNING:
                return container
            container = self._md.containers.update(container_id, stopped_by_user=True)
        if grace != 0:
            await self._runtime.kill(container_id, number)
            self._event(container, "kill", signal=str(number))
        try:
            async with asyncio.timeout(None if grace < 0 else grace):
                ended = await self._until_ended(container)
        except TimeoutError:
            await self._runtime.kill_all(container_id)
            self._event(container, "kill", signal="9")
            ended = await self._killed(container)
        self._event(ended, "stop")
        return ended

    async def _killed(self, container: Container) -> Container:
        try:
            async with asyncio.timeout(KILL_WAIT_S):
                return await self._until_ended(container)
        except TimeoutError:
            raise Internal(
                f"container {container.name} did not end {KILL_WAIT_S:g} s after SIGKILL",
                reason="CONTAINER_UNKILLABLE",
                hint="a process may hang in the kernel (a dead network file system?); try again later",
            ) from None

    async def _until_ended(self, container: Container) -> Container:
        """Wait until it does not run; the last record, also when it was removed meanwhile."""
        while True:
            event = self._watch.event(container.id)
            current = self._md.containers.get(container.id)
            if current is None:
                end = self._watch.last_end(container.id)
                code = end.exit_code if end else container.exit_code
                return _with(container, state=ContainerState.EXITED, exit_code=code, pid=0)
            if current.state not in (*ALIVE, ContainerState.REMOVING):
                return current
            container = current
            await event.wait()

    async def kill(self, container_id: str, signal: str) -> None:
        """Signal the first process. Raises FailedPrecondition (NOT_RUNNING)."""
        container = self._md.containers.find(container_id)
        number = parse_signal(signal or "SIGKILL")
        if container.state is ContainerState.RUNNING and number in (9, container.stop_signal):
            self._md.containers.update(container_id, stopped_by_user=True)
        if container.state is not ContainerState.RUNNING or not await self._runtime.kill(container_id, number):
            raise FailedPrecondition(f"container {container.name} is not running", reason="NOT_RUNNING")
        self._event(container, "kill", signal=str(number))

    async def remove(self, container_id: str, *, force: bool, volumes: bool) -> None:
        """Delete it; with `force` kill it first. Missing is fine once it was found."""
        container = self._md.containers.get(container_id)
        if container is not None and container.state in ALIVE:
            if not force:
                raise FailedPrecondition(
                    f"container {container.name} is {container.state.value}",
                    reason="CONTAINER_RUNNING",
                    hint="stop it first, or force the removal (rm -f)",
                )
            await self.stop(container_id, 0, "")
        async with self._locks.get(container_id):
            container = self._md.containers.get(container_id)
            if container is None:
                return
            if container.state in ALIVE:
                raise FailedPrecondition(f"container {container.name} was started again", reason="CONTAINER_RUNNING")
            self._md.containers.update(container_id, state=ContainerState.REMOVING)
            await self._finish(self._remove_locked(container, volumes=volumes))

    async def _remove_locked(self, container: Container, *, volumes: bool, quiet: bool = False) -> None:
        """Undo everything; the row goes when nothing but the layer is left. Holds: the container's lock."""
        try:
            await self._launcher.clear(container.id)
            if not quiet:
                self.ghosts.remember(container, self._launcher.log_path(container.id))
            await self._launcher.forget(container.id)
            current = self._md.containers.get(container.id)
            self._md.containers.delete(container.id)
            if current is not None and current.snapshot_id:
                await self._snapshots.remove(current.snapshot_id)
            if volumes:
                await self._remove_anonymous(container)
        except ShoalError as error:
            log.error("container_removal_failed", container=container.id, error=str(error))
            if self._md.containers.get(container.id) is not None:
                self._md.containers.update(container.id, state=ContainerState.DEAD, error=str(error))
            raise
        finally:
            self._delays.pop(container.id, None)
            self._drop_timer(container.id)
            self._watch.changed(container.id)
        if not quiet:
            self._event(container, "destroy")

    async def _remove_anonymous(self, container: Container) -> None:
        for mount in container.spec.mounts:
            if mount.kind is MountKind.VOLUME and mount.anonymous:
                with contextlib.suppress(NotFound, FailedPrecondition):
                    await self._volumes.remove(mount.source)

    # --- wait -------------------------------------------------------------------------------------------------------

    async def wait(self, container_id: str, condition: str) -> RunEnd:
        """See shoal.v1.ContainerServiceWaitRequest.Condition; "not-running", "next-exit" or "removed"."""
        seen = self._watch.exits(container_id)
        known: Container | None = self._md.containers.get(container_id)
        while True:
            event = self._watch.event(container_id)
            current = self._md.containers.get(container_id)
            known = current or known
            last = self._watch.last_end(container_id)
            if current is None:
                return last or _end_of(known or self.ghosts.get(container_id))
            if condition == "next-exit" and last is not None and last.number > seen:
                return last
            if condition == "not-running" and current.state not in (
                *ALIVE,
                ContainerState.REMOVING,
                ContainerState.CREATING,
            ):
                return _end_of(current)
            await event.wait()

    def change(self, container_id: str) -> asyncio.Event:
        """Set at the container's next change: take it before looking at the record."""
        return self._watch.event(container_id)

    # --- start and end of the daemon --------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Take over the containers of an earlier daemon: adopt those that run, finish or undo what it was doing."""
        for container in self._md.containers.list():
            async with self._locks.get(container.id):
                try:
                    await self._recover_one(container)
                except ShoalError as error:
                    log.error("recover_failed", container=container.id, error=str(error))
                    self._md.containers.update(container.id, error=str(error))
        known = {container.id for container in self._md.containers.list()}
        for stray in self._launcher.bundles():
            if stray not in known:
                log.warning("removing_stray_container", container=stray)
                with contextlib.suppress(ShoalError):
                    await self._launcher.clear(stray)

    async def _recover_one(self, container: Container) -> None:
        running = self._runtime.running_pid(container.id)
        if container.state is ContainerState.CREATING:
            await self._remove_locked(container, volumes=True, quiet=True)
        elif container.state is ContainerState.REMOVING:
            await self._remove_locked(container, volumes=container.spec.auto_remove)
        elif running is not None:
            await self._adopt(container, running)
        elif container.state is ContainerState.RUNNING:
            await self._settle_lost(container)
        else:
            await self._launcher.clear(container.id)
            again = container.state is ContainerState.EXITED and starts_with_daemon(container)
            if again:
                self._md.containers.update(container.id, state=ContainerState.RESTARTING, stopped_by_user=False)
            if again or container.state is ContainerState.RESTARTING:
                self._set_timer(container.id, 0.0)

    async def _adopt(self, container: Container, running: Created) -> None:
        if container.state is not ContainerState.RUNNING or container.pid != running.pid:
            # It was launched, but the daemon died before it wrote that down.
            if not await self._launcher.started(container.id):
                await self._launcher.clear(container.id)
                return
            self._md.containers.update(
                container.id,
                state=ContainerState.RUNNING,
                pid=running.pid,
                pid_start_time=running.pid_start_time,
                started_at=container.started_at or datetime.now(UTC),
                **self._launcher.endpoint_fields(container),
            )
        ended = self._runtime.exit_of(container.id)
        if ended is not None:
            await self._settle(self._md.containers.find(container.id), ended)

    async def _settle_lost(self, container: Container) -> None:
        ended = self._runtime.exit_of(container.id)
        if ended is not None:
            await self._settle(container, ended)
            return
        # Neither a process nor an exit file: the host was rebooted, or the monitor was killed.
        now = datetime.now(UTC)
        log.warning("container_lost", container=container.id)
        await self._runtime.kill_all(container.id)
        await self._settle(
            container if starts_with_daemon(container) else _with(container, stopped_by_user=True),
            Exit(container.id, exit_code=255, oom_killed=False, finished_at_ns=int(now.timestamp() * 1e9)),
        )

    async def close(self) -> None:
        """Stop following. Containers go on."""
        self._closing = True
        for timer in self._timers.values():
            timer.cancel()
        if self._exit_watch is not None:
            self._exit_watch.cancel()
            await asyncio.wait([self._exit_watch])
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=KILL_WAIT_S)

    # --- small things -----------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(self._logged(work))
        self._tasks.add(task)  # type: ignore[arg-type]
        task.add_done_callback(self._tasks.discard)
        return task

    async def _logged(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except Exception:
            log.exception("supervisor_task_failed")
            raise

    async def _finish(self, work: Coroutine[object, object, T]) -> T:
        """Await clean-up to its end even when the caller is cancelled."""
        return await asyncio.shield(self._spawn(work))

    def _event(self, container: Container, action: str, **attributes: str) -> None:
        labels = dict(container.spec.labels)
        self._publish(
            "container",
            action,
            container.id,
            {**labels, "name": container.name, "image": container.spec.image, **attributes},
        )


def _named(mount: Mount) -> Mount:
    if mount.kind is MountKind.VOLUME and not mount.source:
        return _with(mount, source=secrets.token_hex(32), anonymous=True)
    return mount


def _end_of(container: Container | None) -> RunEnd:
    if container is None:
        raise NotFound("no such container", reason="CONTAINER_NOT_FOUND")
    return RunEnd(0, container.exit_code or 0, container.oom_killed, container.error)


def _with(record: T, **fields: object) -> T:
    from msgspec.structs import replace

    return replace(record, **fields)  # type: ignore[type-var]
