"""The containers of an earlier daemon: those that run are taken over, the rest is finished or undone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

import structlog
from msgspec.structs import replace

from shoal.errors import ShoalError
from shoald.containers.launcher import Launched
from shoald.containers.lifecycle import Lifecycle, ended_at
from shoald.containers.transitions import starts_with_daemon
from shoald.host.blocking import to_end
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerState
from shoald.runtime.ports import Created, Exit

log = structlog.get_logger(__name__)

AT_ONCE = 8
LOST_EXIT_CODE = 255
"""As Docker has it for what ended while nobody looked."""


async def recover(md: Metadata, life: Lifecycle) -> None:
    """Bring rows and host into agreement. One container that can't be is logged; it keeps no other from it."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(container: Container) -> None:
        async with free, life.locks.get(container.id):
            try:
                await _recover_one(md, life, container)
            except Exception as error:
                log.exception("recover_failed", container=container.id)
                life.note(container.id, error=f"not recovered: {error}")

    await asyncio.gather(*(one(container) for container in md.containers.list()))
    await _remove_strays(md, life)


async def _remove_strays(md: Metadata, life: Lifecycle) -> None:
    """What a killed daemon left of containers whose rows went first, and of steps of builds, which have none."""
    known = {container.id for container in md.containers.list()}
    owners: Iterable[str] = [*md.addresses.all().values(), *md.addresses6.all().values(), *md.ports.all()]
    for stray in {*life.launcher.bundles(), *life.launcher.state_directories(), *owners} - known:
        log.info("removing_stray_container", container=stray)
        for undo in (life.launcher.clear, life.launcher.forget):
            try:
                await undo(stray)
            except ShoalError as error:
                log.error("stray_not_removed", container=stray, error=str(error))


async def _recover_one(md: Metadata, life: Lifecycle, container: Container) -> None:
    match container.state:
        case ContainerState.CREATING:
            await to_end(life.remove(container, volumes=True, quiet=True))
        case ContainerState.REMOVING | ContainerState.DEAD:
            await to_end(life.remove(container, volumes=container.remove_volumes))
        case ContainerState.RUNNING | ContainerState.PAUSED:
            await _recover_running(md, life, container)
        case _:
            await _recover_idle(md, life, container)


async def _recover_running(md: Metadata, life: Lifecycle, container: Container) -> None:
    ended = life.runtime.exit_of(container.id)
    running = life.runtime.running_pid(container.id)
    if ended is not None:
        await life.settle(container, ended)
    elif running is None:
        await _settle_lost(life, container)
    elif (running.pid, running.pid_start_time) != (container.pid, container.pid_start_time):
        _adopt(life, container, running, datetime.now(UTC))
    else:
        await _go_on(md, life, container)
    if ended is None and running is not None:
        await life.launcher.network.mend(container.id, running.pid)


async def _go_on(md: Metadata, life: Lifecycle, container: Container) -> None:
    """It runs as the row says. Frozen it is only where the row says so: else a daemon died that held it still."""
    frozen = life.runtime.paused(container.id)
    if frozen and container.state is ContainerState.RUNNING:
        await life.runtime.resume(container.id)
    elif not frozen and container.state is ContainerState.PAUSED:
        container = md.containers.update(container.id, state=ContainerState.RUNNING)
    life.health.follow(container)


async def _settle_lost(life: Lifecycle, container: Container) -> None:
    """Neither a process nor an exit file: the host was rebooted. `on-failure` does not start again then."""
    log.warning("container_lost", container=container.id)
    await life.runtime.kill_all(container.id)
    ended = Exit(container.id, LOST_EXIT_CODE, False, int(datetime.now(UTC).timestamp() * 1e9))
    again = starts_with_daemon(container)
    await life.settle(container if again else replace(container, stopped_by_user=True), ended)


async def _recover_idle(md: Metadata, life: Lifecycle, container: Container) -> None:
    """CREATED, EXITED or RESTARTING, unless it was launched and the daemon died before it wrote that down."""
    ended = life.runtime.exit_of(container.id)
    running = life.runtime.running_pid(container.id)
    if ended is not None and _is_news(container, ended):
        container = _adopt(life, container, running or Created(0, 0), ended_at(ended))
        await life.settle(container, ended)
        return
    if ended is None and running is not None and await life.launcher.started(container.id):
        _adopt(life, container, running, datetime.now(UTC))
        return
    await to_end(life.launcher.clear(container.id))
    if container.state is ContainerState.RESTARTING:
        life.restart_after(container.id, _rest_of_delay(container))
    elif container.spec.auto_remove and not (container.made_to_wait and container.state is ContainerState.CREATED):
        await to_end(life.remove(container, volumes=True, quiet=container.state is ContainerState.CREATED))
    elif container.state is ContainerState.EXITED and starts_with_daemon(container):
        md.containers.update(container.id, state=ContainerState.RESTARTING, stopped_by_user=False)
        life.restart_after(container.id, 0.0)


def _rest_of_delay(container: Container) -> float:
    """Seconds of its back-off that are left, however long no daemon ran and whatever the clock did."""
    waited = (datetime.now(UTC) - (container.finished_at or datetime.now(UTC))).total_seconds()
    return min(max(container.restart_delay_s - waited, 0.0), container.restart_delay_s)


def _is_news(container: Container, ended: Exit) -> bool:
    """Whether the row does not tell of this exit yet. A negative code: the runtime could not create it."""
    return ended.exit_code >= 0 and ended_at(ended) != container.finished_at


def _adopt(life: Lifecycle, container: Container, running: Created, started_at: datetime) -> Container:
    address, ports = life.launcher.reserved(container.id)
    launched = Launched(running.pid, running.pid_start_time, address, ports)
    return life.running(container, launched, started_at=started_at)
