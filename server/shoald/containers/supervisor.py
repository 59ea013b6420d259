"""The life of every container: creates, starts, stops and removes them, follows their exits, applies restart policies.

One lock a container orders its transitions; whoever waits for a change holds no lock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog
from msgspec.structs import replace

from shoal.errors import FailedPrecondition, Internal, ShoalError
from shoald.containers.changing import Changing
from shoald.containers.creating import Creating, UsernsRange
from shoald.containers.freezing import Freezing
from shoald.containers.ghosts import Ghosts
from shoald.containers.health import Probe
from shoald.containers.launcher import Launcher
from shoald.containers.lifecycle import Lifecycle, Publish
from shoald.containers.places import Placed, mount_number
from shoald.containers.plan import (
    parse_signal,
)
from shoald.containers.recovery import recover
from shoald.containers.waiting import SETTLED, Waiting
from shoald.containers.watch import Locks, RunEnd
from shoald.host.blocking import to_end
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerSpec, ContainerState, MountKind
from shoald.model.image import Image
from shoald.runtime.ports import ContainerRuntime, Exit
from shoald.runtime.resources import HostLimits
from shoald.runtime.rotation import LogRotator
from shoald.snapshots.ports import Snapshotter
from shoald.volumes.ports import VolumeDriver

log = structlog.get_logger(__name__)

KILL_WAIT_S = 30.0
WATCH_AGAIN_S = 1.0
ALIVE = (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING)
STARTABLE = (ContainerState.CREATED, ContainerState.EXITED, ContainerState.RESTARTING)


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
        admit: Callable[[ContainerSpec], None],
        probe: Probe,
        limits: HostLimits,
    ) -> None:
        """`admit` refuses what this host can't do; `probe` runs a health check once."""
        self._md = md
        self._launcher = launcher
        self._runtime = runtime
        self.ghosts = ghosts
        self._life = Lifecycle(md, launcher, runtime, snapshots, volumes, ghosts, publish, probe)
        self.freezing = Freezing(md, self._life, runtime)
        self.changing = Changing(md, self._life, runtime, admit, limits)
        self.waiting = Waiting(md, self._life, ghosts)
        self._creating = Creating(md, self._life, launcher, snapshots, userns, admit)
        self._exit_watch: asyncio.Task[None] | None = None

    @property
    def locks(self) -> Locks:
        """One a container; they order all that happens to it."""
        return self._life.locks

    # --- create and start -------------------------------------------------------------------------------------------

    async def create(
        self, request_id: str, spec: ContainerSpec, image: Image, *, made_to_wait: bool = False
    ) -> Container:
        """See Creating.create."""
        return await self._creating.create(request_id, spec, image, made_to_wait=made_to_wait)

    async def start(self, container_id: str) -> Container:
        """Run a container that does not run; one that runs stays as it is. Raises FailedPrecondition
        (CONTAINER_NOT_STARTABLE) and what a launch raises."""
        async with self._life.locks.get(container_id):
            container = self._md.containers.find(container_id)
            if container.state is ContainerState.RUNNING:
                return container
            if container.state is ContainerState.PAUSED:
                raise FailedPrecondition(
                    f"container {container.name} is paused",
                    reason="CONTAINER_PAUSED",
                    hint=f"shoal unpause {container.name}",
                )
            if container.state not in STARTABLE:
                raise FailedPrecondition(
                    f"container {container.name} is {container.state.value} and can't be started",
                    reason="CONTAINER_NOT_STARTABLE",
                    hint="remove it and run a new one",
                )
            self._life.drop_timer(container_id)
            before = container.state
            if before is not ContainerState.CREATED:
                container = self._md.containers.update(
                    container_id,
                    stopped_by_user=False,
                    restart_count=0,
                    restart_delay_s=0.0,
                    log_cursor=self._launcher.log_end(container_id),
                )
            failed = ContainerState.CREATED if before is ContainerState.CREATED else ContainerState.EXITED
            return await self._life.launch(container, failed=failed)

    async def replace_files(self, container_id: str, target: str, digest: str) -> None:
        """Another tree at a CONTENT mount, now and for later runs. Idempotent. Raises InvalidArgument (NOT_CONTENT),
        FailedPrecondition (TREE_MISSING, NOT_MOUNTED)."""
        async with self._life.locks.get(container_id):
            container = self._md.containers.find(container_id)
            number = mount_number(container, target, MountKind.CONTENT)
            self._launcher.places.check_tree(digest)
            if container.spec.mounts[number].content_digest == digest:
                return
            if container.pid:
                await to_end(self._launcher.places.switch(container, number, digest))
            mounts = list(container.spec.mounts)
            mounts[number] = replace(mounts[number], content_digest=digest)
            self._md.containers.update(container.id, spec=replace(container.spec, mounts=tuple(mounts)))

    async def give_secret(self, container_id: str, target: str, value: bytes, mode: int) -> None:
        """Give a container a secret that it has lost. Raises InvalidArgument (NOT_SECRET)."""
        async with self._life.locks.get(container_id):
            await self._launcher.places.give_secret(self._md.containers.find(container_id), target, value, mode)

    async def restart(self, container_id: str, timeout_s: float | None, signal: str) -> Container:
        """Stop it if it runs, and start it; one with --rm stays. Raises what `stop` and `start` raise."""
        self._life.kept[container_id] += 1
        try:
            await self.stop(container_id, timeout_s, signal)
            container = await self.start(container_id)
        except ShoalError:
            current = self._md.containers.get(container_id)
            if current is not None and current.spec.auto_remove and current.state is ContainerState.EXITED:
                await self.remove(container_id, force=False, volumes=True)
            raise
        finally:
            self._life.kept[container_id] -= 1
            if not self._life.kept[container_id]:
                del self._life.kept[container_id]
        self._life.event(container, "restart")
        return container

    # --- stop, kill, remove -----------------------------------------------------------------------------------------

    async def stop(self, container_id: str, timeout_s: float | None, signal: str) -> Container:
        """Signal, wait, kill; an exited container is a success. Negative timeout: wait without end.

        When it returns, its ports are free."""
        container = self._md.containers.find(container_id)
        number = parse_signal(signal) if signal else container.stop_signal
        grace = container.stop_timeout_s if timeout_s is None else timeout_s
        async with self._life.locks.get(container_id):
            container = self._md.containers.find(container_id)
            if container.state is ContainerState.RESTARTING:
                return self._stop_restarting(container)
            if container.state not in ALIVE:
                return container
            container = self._life.stopped(container)
            run = self._life.watch.exits(container_id)
        if grace != 0:
            await self._runtime.kill(container_id, number)
            self._life.event(container, "kill", signal=str(number))
            await self.freezing.signalled(container_id)
        try:
            async with asyncio.timeout(None if grace < 0 else grace):
                ended = await self._until_ended(container, run)
        except TimeoutError:
            ended = await self._killed(container, run)
        self._life.event(ended, "stop")
        return ended

    def _stop_restarting(self, container: Container) -> Container:
        container = self._md.containers.update(container.id, state=ContainerState.EXITED, stopped_by_user=True)
        self._life.drop_timer(container.id)
        self._life.watch.changed(container.id)
        self._life.event(container, "stop")
        return container

    async def _killed(self, container: Container, run: int) -> Container:
        async with self._life.locks.get(container.id):
            # Not when it ended at this moment and somebody started it again.
            if self._life.watch.exits(container.id) == run:
                await self._runtime.kill_all(container.id)
                self._life.event(container, "kill", signal="9")
        try:
            async with asyncio.timeout(KILL_WAIT_S):
                return await self._until_ended(container, run)
        except TimeoutError:
            raise Internal(
                f"container {container.name} did not end {KILL_WAIT_S:g} s after SIGKILL",
                reason="CONTAINER_UNKILLABLE",
                hint="a process may hang in the kernel (a dead network file system?); try again later",
            ) from None

    async def _until_ended(self, container: Container, run: int) -> Container:
        """Wait until the run after `run` exits is over; the last record, also when it was removed."""
        while True:
            event = self._life.watch.event(container.id)
            current = self._md.containers.get(container.id)
            if current is None:
                end = self._life.watch.last_end(container.id)
                code = end.exit_code if end else container.exit_code
                return replace(container, state=ContainerState.EXITED, exit_code=code, pid=0, ip_address="", ports=())
            over = current.state in SETTLED or self._life.watch.exits(container.id) > run
            if over and current.state is not ContainerState.REMOVING:
                return current
            container = current
            await event.wait()

    async def kill(self, container_id: str, signal: str) -> None:
        """Signal the first process; one that waits for its next start does not start again. Raises FailedPrecondition
        (NOT_RUNNING)."""
        container = self._md.containers.find(container_id)
        number = parse_signal(signal or "SIGKILL")
        if container.state is ContainerState.RESTARTING and number in (9, container.stop_signal):
            async with self._life.locks.get(container_id):
                container = self._md.containers.find(container_id)
                if container.state is ContainerState.RESTARTING:
                    self._stop_restarting(container)
                    return
        running = container.state in (ContainerState.RUNNING, ContainerState.PAUSED)
        if running and number in (9, container.stop_signal):
            container = self._life.stopped(container)
        if not running or not await self._runtime.kill(container_id, number):
            raise FailedPrecondition(f"container {container.name} is not running", reason="NOT_RUNNING")
        self._life.event(container, "kill", signal=str(number))
        # As Docker: a signal that may be its end thaws a paused container.
        if number in (9, container.stop_signal) or not container.spec.stop_signal:
            await self.freezing.signalled(container_id)

    async def remove(self, container_id: str, *, force: bool, volumes: bool) -> None:
        """Delete it; with `force` kill it first. Missing is fine once it was found. Raises FailedPrecondition
        (CONTAINER_RUNNING)."""
        while True:
            container = self._md.containers.get(container_id)
            if force and container is not None and container.state in ALIVE:
                await self.stop(container_id, 0, "")
            async with self._life.locks.get(container_id):
                container = self._md.containers.get(container_id)
                if container is None:
                    return
                if container.state in ALIVE:
                    if force:
                        continue  # somebody started it meanwhile
                    raise FailedPrecondition(
                        f"container {container.name} is {container.state.value}",
                        reason="CONTAINER_RUNNING",
                        hint="stop it first, or force the removal (rm -f)",
                    )
                container = self._md.containers.update(
                    container_id, state=ContainerState.REMOVING, remove_volumes=volumes
                )
                await to_end(self._life.remove(container, volumes=volumes))
                return

    # --- what others need --------------------------------------------------------------------------------------------

    async def wait(self, container_id: str, condition: str) -> RunEnd:
        """See Waiting.wait."""
        return await self.waiting.wait(container_id, condition)

    @property
    def logs(self) -> LogRotator:
        """What keeps the logs of running containers within their size."""
        return self._launcher.logs

    @contextlib.asynccontextmanager
    async def still(self, container_id: str) -> AsyncIterator[tuple[Path, list[Placed]]]:
        """The files of a container that does not run, mounted for the time of the block, in which it can't be started:
        root file system and mounts. Raises FailedPrecondition (CONTAINER_BUSY)."""
        async with self._life.locks.get(container_id):
            container = self._md.containers.find(container_id)
            if container.state not in (*STARTABLE, ContainerState.DEAD):
                raise FailedPrecondition(
                    f"container {container.name} is {container.state.value}", reason="CONTAINER_BUSY", hint="try again"
                )
            async with self._launcher.still(container) as found:
                yield found

    def change(self, container_id: str) -> asyncio.Event:
        """Set at the container's next change: take it before looking at the record."""
        return self._life.watch.event(container_id)

    # --- start and end of the daemon --------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Begin to follow exits, then take over what an earlier daemon left. Call once, before any other method."""
        exits = self._runtime.exits()  # watching begins here: before recover() looks at exit files
        self._exit_watch = asyncio.create_task(self._follow_exits(exits), name="exits")
        try:
            await recover(self._md, self._life)
            for container in self._md.containers.list():
                if container.state in (ContainerState.RUNNING, ContainerState.PAUSED):
                    self._launcher.keep_log(container)
        except BaseException:
            await to_end(self.close())
            raise

    async def _follow_exits(self, exits: AsyncIterator[Exit]) -> None:
        while True:
            try:
                async for ended in exits:
                    if not self._launcher.step_ended(ended):
                        self._life.spawn(self._life.settle_exit(ended.container_id))
            except Exception:
                log.exception("exit_watch_failed")
            finally:
                await _closed(exits)
            await asyncio.sleep(WATCH_AGAIN_S)
            exits = self._runtime.exits()
            for container in self._md.containers.list():
                if container.state in (ContainerState.RUNNING, ContainerState.PAUSED):
                    self._life.spawn(self._life.settle_exit(container.id))

    async def close(self) -> None:
        """Stop following. Containers go on."""
        if self._exit_watch is not None:
            self._exit_watch.cancel()
            await asyncio.wait([self._exit_watch])
        await self._life.close()
        await self._launcher.logs.close()


async def _closed(exits: AsyncIterator[Exit]) -> None:
    close = getattr(exits, "aclose", None)
    if close is not None:
        await close()
