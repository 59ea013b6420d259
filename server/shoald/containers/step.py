"""A RUN step of a build: a container without a record, run by the same path as any other, its writable layer kept."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from shoal.errors import ShoalError
from shoald.containers.launcher import Launcher
from shoald.model.container import Container, ContainerSpec, ContainerState, Mount, Process, Resources
from shoald.model.log import LogQuery
from shoald.runtime.log import read_log

Output = Callable[[bool, bytes], None]
"""Called with (is standard error, bytes) as the step writes."""


@dataclass(frozen=True)
class StepProcess:
    """What to run. `snapshot_id` is an active snapshot; `userns_base` 0 stands for the host's user namespace."""

    snapshot_id: str
    userns_base: int
    args: Sequence[str]
    env: Mapping[str, str]
    user: str
    working_dir: str
    network: str = "bridge"
    mounts: Sequence[Mount] = ()


async def run_step(launcher: Launcher, step: StepProcess, output: Output) -> int:
    """Run it to its end and return the exit code. Nothing is left but what it wrote into its layer, also when cancelled."""
    container = _record(step)
    ended = launcher.expect_step(container.id)
    try:
        await launcher.launch(container)
        finished = asyncio.Event()
        ended.add_done_callback(lambda _: finished.set())
        async for batch in read_log(launcher.log_path(container.id), LogQuery(follow=True), finished=finished):
            for stderr, data in _joined(batch.records):
                output(stderr, data)
        return (await ended).exit_code
    finally:
        launcher.drop_step(container.id)
        await _cleared(launcher, container.id)


def _record(step: StepProcess) -> Container:
    container_id = secrets.token_hex(32)
    return Container(
        id=container_id,
        name=f"build-{container_id[:12]}",
        request_id="",
        spec=ContainerSpec(
            image="",
            network=step.network,
            mounts=tuple(step.mounts),
            resources=Resources(),
            userns="" if step.userns_base else "host",
        ),
        image_id="",
        process=Process(tuple(step.args), tuple(f"{k}={v}" for k, v in step.env.items()), step.working_dir, step.user),
        state=ContainerState.CREATED,
        created_at=datetime.now(UTC),
        userns_base=step.userns_base,
        snapshot_id=step.snapshot_id,
        hostname="buildkitsandbox",
        stop_signal=15,
        stop_timeout_s=0.0,
    )


def _joined(records: Sequence[object]) -> list[tuple[bool, bytes]]:
    """Neighbouring records of one stream as one piece."""
    pieces: list[tuple[bool, bytearray]] = []
    for record in records:
        stderr, data = record.stderr, record.data  # type: ignore[attr-defined]
        if pieces and pieces[-1][0] == stderr:
            pieces[-1][1].extend(data)
        else:
            pieces.append((stderr, bytearray(data)))
    return [(stderr, bytes(data)) for stderr, data in pieces]


async def _cleared(launcher: Launcher, container_id: str) -> None:
    async def clear() -> None:
        await launcher.clear(container_id)
        await launcher.forget(container_id)

    task = asyncio.ensure_future(clear())
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
        except ShoalError:
            break
    if cancelled:
        raise asyncio.CancelledError
    task.result()
