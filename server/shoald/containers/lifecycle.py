"""The transitions of one container: launch, the end of a run, restart, removal. Whoever calls holds its lock.

Rows are written before and after each step so that `recover` can tell, after a kill -9 at any point, what is to be
finished and what to be undone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from msgspec.structs import replace

from shoal.errors import FailedPrecondition, NotFound, ShoalError
from shoald.containers.ghosts import Ghosts
from shoald.containers.health import HealthMonitor, Probe
from shoald.containers.launcher import Launched, Launcher
from shoald.containers.transitions import Decision, Next, after_exit
from shoald.containers.watch import Locks, Watch
from shoald.host.blocking import to_end
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerState, Health, HealthStatus, MountKind, RestartPolicyName
from shoald.runtime.ports import ContainerRuntime, Exit
from shoald.snapshots.ports import Snapshotter
from shoald.volumes.ports import VolumeDriver

log = structlog.get_logger(__name__)

CLOSE_WAIT_S = 30.0
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0
_EXIT_CODES = {"COMMAND_NOT_FOUND": 127, "COMMAND_NOT_EXECUTABLE": 126}
_FAILED = 128
ALIVE = (ContainerState.RUNNING, ContainerState.PAUSED)
"""It has processes."""


class Publish(Protocol):
    """Records an event."""

    def __call__(self, type_: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        """Store it and wake followers."""


class Lifecycle:
    """What happens to containers, with the locks that order it and the timers and tasks that do it."""

    def __init__(
        self,
        md: Metadata,
        launcher: Launcher,
        runtime: ContainerRuntime,
        snapshots: Snapshotter,
        volumes: VolumeDriver,
        ghosts: Ghosts,
        publish: Publish,
        probe: Probe,
    ) -> None:
        self.launcher = launcher
        self.runtime = runtime
        self.ghosts = ghosts
        self.locks = Locks()
        self.watch = Watch()
        self._md = md
        self._snapshots = snapshots
        self._volumes = volumes
        self._publish = publish
        self.health = HealthMonitor(md, probe, self.event, self.watch.changed)
        self.kept: Counter[str] = Counter()
        """Those that stay for the moment although they are to be removed when they end: somebody restarts them."""
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    # --- a run begins -----------------------------------------------------------------------------------------------

    async def launch(self, container: Container, *, failed: ContainerState) -> Container:
        """Start it and write the row. When that fails, nothing of the run is left; state `failed`, and `error` set."""
        try:
            launched = await self.launcher.launch(container)
        except BaseException as error:
            self._launch_failed(container, failed, error)
            raise
        try:
            return self.running(container, launched, started_at=datetime.now(UTC))
        except BaseException as error:
            # Not written down (a full disk): nobody would know of it.
            with contextlib.suppress(ShoalError):
                await to_end(self.launcher.clear(container.id))
            self._launch_failed(container, failed, error)
            raise

    def running(self, container: Container, launched: Launched, *, started_at: datetime) -> Container:
        """Write down that it runs, and tell."""
        container = self._md.containers.update(
            container.id,
            state=ContainerState.RUNNING,
            pid=launched.pid,
            pid_start_time=launched.pid_start_time,
            started_at=started_at,
            finished_at=None,
            exit_code=None,
            oom_killed=False,
            error="",
            ip_address=launched.ip_address,
            ports=launched.ports,
            health=Health(HealthStatus.STARTING) if container.health_check else None,
        )
        self.launcher.keep_log(container)
        self.event(container, "start")
        self.health.follow(container)
        self.watch.changed(container.id)
        return container

    def _launch_failed(self, container: Container, state: ContainerState, error: BaseException) -> None:
        code = _EXIT_CODES.get(error.reason, _FAILED) if isinstance(error, ShoalError) else None
        text = str(error) or type(error).__name__
        self.note(container.id, state=state, error=text, exit_code=code, pid=0, ip_address="", ports=())
        self.watch.changed(container.id)

    # --- a run ends -------------------------------------------------------------------------------------------------

    async def settle_exit(self, container_id: str) -> None:
        """Take in an exit that was noticed, if it is that of the present run. Takes the lock itself. Tried again until
        it is written down: a full disk must not leave a dead container running on paper."""
        delay_s = FIRST_RETRY_S
        while not self._closing.is_set():
            async with self.locks.get(container_id):
                container = self._md.containers.get(container_id)
                # Asked again under the lock: a notice that comes late or twice is no exit of the next run.
                ended = self.runtime.exit_of(container_id)
                if container is None or container.state not in ALIVE or ended is None:
                    return
                try:
                    await self.settle(container, ended)
                    return
                except ShoalError as error:
                    log.error("exit_not_settled", container=container_id, error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), delay_s)
            delay_s = min(delay_s * 2, LAST_RETRY_S)

    async def settle(self, container: Container, ended: Exit) -> None:
        """A run has ended: give back its ports, write it down, clean up, restart or remove."""
        self.health.drop(container.id)
        try:
            # First: who sees in the row that it has ended may use its ports. Unmounting, which may have to wait for the
            # disk, comes after.
            await to_end(self.launcher.release(container.id))
        except ShoalError as error:
            log.error("network_not_released", container=container.id, error=str(error))
        finished = ended_at(ended)
        ran_s = (finished - (container.started_at or finished)).total_seconds()
        decision = after_exit(container, ended.exit_code, ran_s, container.restart_delay_s)
        if decision.next is Next.REMOVE and container.id in self.kept:
            decision = Decision(Next.STAY)
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
            health=_ended(container.health),
            restart_delay_s=decision.delay_s,
            remove_volumes=decision.next is Next.REMOVE,
        )
        self.watch.ended(container.id, ended.exit_code, ended.oom_killed)
        self.watch.changed(container.id)
        if ended.oom_killed:
            self.event(container, "oom")
        self.event(container, "die", exitCode=str(ended.exit_code))
        if decision.next is Next.REMOVE:
            await to_end(self.remove_ended(container))
            return
        try:
            await to_end(self.launcher.clear(container.id))
        except ShoalError as error:
            log.error("container_cleanup_failed", container=container.id, error=str(error))
            self.note(container.id, error=str(error))
        if decision.next is Next.RESTART:
            self.restart_after(container.id, decision.delay_s)

    # --- restarts ---------------------------------------------------------------------------------------------------

    def restart_after(self, container_id: str, delay_s: float) -> None:
        """Start it again in a while, unless something else happens to it first."""
        self.drop_timer(container_id)
        if not self._closing.is_set():
            self._timers[container_id] = asyncio.create_task(self._restart_later(container_id, delay_s))

    def drop_timer(self, container_id: str) -> None:
        """No restart for now."""
        timer = self._timers.pop(container_id, None)
        if timer is not None:
            timer.cancel()

    async def _restart_later(self, container_id: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if self._timers.get(container_id) is asyncio.current_task():
            del self._timers[container_id]
            self.spawn(self._restart(container_id))

    async def _restart(self, container_id: str) -> None:
        async with self.locks.get(container_id):
            container = self._md.containers.get(container_id)
            if container is None or container.state is not ContainerState.RESTARTING or self._closing.is_set():
                return
            decision = after_exit(container, _FAILED, 0.0, container.restart_delay_s)
            again = decision.next is Next.RESTART
            try:
                container = self._md.containers.update(
                    container_id,
                    restart_count=container.restart_count + 1,
                    log_cursor=self.launcher.log_end(container_id),
                )
                decision = after_exit(container, _FAILED, 0.0, container.restart_delay_s)
                again = decision.next is Next.RESTART
                await self.launch(container, failed=ContainerState.RESTARTING if again else ContainerState.EXITED)
            except (ShoalError, OSError) as error:
                log.warning("restart_failed", container=container_id, error=str(error))
                if again:
                    self.note(container_id, restart_delay_s=decision.delay_s, finished_at=datetime.now(UTC))
                    self.restart_after(container_id, decision.delay_s)

    # --- removal ----------------------------------------------------------------------------------------------------

    async def remove(self, container: Container, *, volumes: bool, quiet: bool = False) -> None:
        """Undo everything; the row goes when nothing but the layer is left. `volumes`: its anonymous ones too. `quiet`:
        it never came to be. On failure it is DEAD, and can be removed again. Call through `to_end`."""
        self.health.drop(container.id)
        try:
            await self.launcher.clear(container.id)
            if not quiet:
                self.ghosts.remember(container, self.launcher.log_path(container.id))
            await self.launcher.forget(container.id)
            if volumes:
                await self._remove_volumes(container)
            self._delete_row(container, quiet=quiet)
        except Exception as error:
            log.error("container_removal_failed", container=container.id, error=str(error))
            self.note(container.id, state=ContainerState.DEAD, error=str(error))
            raise
        finally:
            self.drop_timer(container.id)
            self.watch.changed(container.id)
        await self._remove_layer(container)

    async def remove_ended(self, container: Container) -> None:
        """Remove one that has ended by itself and holds no ports. Its name is free at once, what takes longer comes
        after: directories and layers without a row are garbage that `recover` finds."""
        if any(mount.anonymous for mount in container.spec.mounts):
            await self.remove(container, volumes=True)
            return
        try:
            self.ghosts.remember(container, self.launcher.log_path(container.id))
            self._delete_row(container, quiet=False)
        except (ShoalError, OSError) as error:
            log.warning("container_removal_slow", container=container.id, error=str(error))
            await self.remove(container, volumes=True)
            return
        finally:
            self.drop_timer(container.id)
            self.watch.changed(container.id)
        for work in (self.launcher.clear(container.id), self.launcher.forget(container.id)):
            try:
                await work
            except ShoalError as error:
                log.error("container_cleanup_failed", container=container.id, error=str(error))
        await self._remove_layer(container)

    def _delete_row(self, container: Container, *, quiet: bool) -> None:
        self._md.containers.delete(container.id)
        if not quiet:
            self.event(container, "destroy")

    async def _remove_layer(self, container: Container) -> None:
        if not container.snapshot_id:
            return
        try:
            await self._snapshots.remove(container.snapshot_id)
        except ShoalError as error:
            # Without a row that needs it, it goes with the next collection of garbage.
            log.error("layer_not_removed", container=container.id, error=str(error))

    async def _remove_volumes(self, container: Container) -> None:
        """Before the row, which alone knows their names."""
        for mount in container.spec.mounts:
            if mount.kind is MountKind.VOLUME and mount.anonymous:
                try:
                    await self._volumes.remove(mount.source, besides=container.id)
                except NotFound:
                    continue
                except FailedPrecondition as error:
                    if error.reason != "VOLUME_IN_USE":
                        raise
                    log.info("volume_kept", volume=mount.source, container=container.id, reason=error.message)

    # --- small things -----------------------------------------------------------------------------------------------

    def note(self, container_id: str, **fields: Any) -> None:
        """Write down what went wrong, where that is possible: the row may be gone and the disk full."""
        try:
            self._md.containers.update(container_id, **fields)
        except NotFound:
            pass
        except ShoalError as error:
            log.error("container_not_updated", container=container_id, error=str(error))

    def event(self, container: Container, action: str, /, **attributes: str) -> None:
        """Publish an event of this container. One that can't be stored is logged: it must not stop what it tells of."""
        told = {**event_attributes(container), **attributes}
        try:
            self._publish("container", action, container.id, told)
        except ShoalError as error:
            log.error("event_not_stored", container=container.id, action=action, error=str(error))

    def stopped(self, container: Container) -> Container:
        """Note that a user stopped it, so that its restart policy does not apply. Without a policy there is nothing to
        note, and it can be stopped on a full disk."""
        if container.spec.restart_policy.name is RestartPolicyName.NO or container.stopped_by_user:
            return replace(container, stopped_by_user=True)
        return self._md.containers.update(container.id, stopped_by_user=True)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it in the background; `close` waits for it."""
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Begin nothing any more; wait for what is under way."""
        self._closing.set()
        await self.health.close()
        for container_id in list(self._timers):
            self.drop_timer(container_id)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_WAIT_S)


def event_attributes(container: Container) -> dict[str, str]:
    """What every event of a container tells."""
    return {**container.spec.labels, "name": container.name, "image": container.spec.image}


def _ended(health: Health | None) -> Health | None:
    """What does not run is not healthy; the last checks are kept."""
    return None if health is None else replace(health, status=HealthStatus.UNHEALTHY)


def ended_at(ended: Exit) -> datetime:
    """When it ended, as rows store it."""
    return datetime.fromtimestamp(ended.finished_at_ns / 1e9, UTC)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except ShoalError as error:
        log.error("container_work_failed", error=str(error))
    except Exception:
        log.exception("container_work_failed")
