"""A RUN step of a build: a container without a record, run by the same path as any other, its writable layer kept."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shoald.containers.launcher import Launcher
from shoald.files.vault import SecretVault
from shoald.host.blocking import to_end
from shoald.model.container import Container, ContainerSpec, ContainerState, Mount, Process, Resources
from shoald.model.log import LogQuery, LogRecord
from shoald.runtime.log import read_log

Output = Callable[[bool, bytes], None]
"""Called with (is standard error, bytes) as the step writes."""


@dataclass(frozen=True)
class SecretFile:
    """The value for the mount of this number."""

    mount: int
    value: bytes = field(repr=False)
    mode: int


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
    extra_hosts: tuple[str, ...] = ()
    mounts: Sequence[Mount] = ()
    secrets: Sequence[SecretFile] = ()
    privileged: bool = False
    cdi_devices: tuple[str, ...] = ()
    hostname: str = ""


async def run_step(launcher: Launcher, vault: SecretVault, step: StepProcess, output: Output) -> int:
    """Run it to its end and return the exit code. Cancelled or not, only what it wrote into its layer is left."""
    container = _record(step)
    ended = launcher.expect_step(container.id)
    try:
        for secret in step.secrets:
            await vault.give(container.id, secret.mount, secret.value, secret.mode)
        launcher.network.admit(container.id, launcher.network.memberships(container.spec))
        await launcher.launch(container)
        finished = asyncio.Event()
        ended.add_done_callback(lambda _: finished.set())
        async for batch in read_log(launcher.log_path(container.id), LogQuery(follow=True), finished=finished):
            for stderr, data in _joined(batch.records):
                output(stderr, data)
        return (await ended).exit_code
    finally:
        launcher.drop_step(container.id)
        await to_end(_cleared(launcher, vault, container.id))


def _record(step: StepProcess) -> Container:
    container_id = secrets.token_hex(32)
    return Container(
        id=container_id,
        name=f"build-{container_id[:12]}",
        request_id="",
        spec=ContainerSpec(
            image="",
            network=step.network,
            extra_hosts=step.extra_hosts,
            mounts=tuple(step.mounts),
            resources=Resources(),
            auto_remove=True,
            privileged=step.privileged,
            cdi_devices=step.cdi_devices,
            userns="" if step.userns_base else "host",
        ),
        image_id="",
        process=Process(tuple(step.args), tuple(f"{k}={v}" for k, v in step.env.items()), step.working_dir, step.user),
        state=ContainerState.CREATED,
        created_at=datetime.now(UTC),
        userns_base=step.userns_base,
        snapshot_id=step.snapshot_id,
        hostname=step.hostname,
        stop_signal=15,
        stop_timeout_s=0.0,
    )


def _joined(records: Sequence[LogRecord]) -> list[tuple[bool, bytes]]:
    """Neighbouring records of one stream as one piece."""
    pieces: list[tuple[bool, bytearray]] = []
    for record in records:
        if pieces and pieces[-1][0] == record.stderr:
            pieces[-1][1].extend(record.data)
        else:
            pieces.append((record.stderr, bytearray(record.data)))
    return [(stderr, bytes(data)) for stderr, data in pieces]


async def _cleared(launcher: Launcher, vault: SecretVault, container_id: str) -> None:
    try:
        await launcher.clear(container_id)
    finally:
        await vault.forget(container_id)
        await launcher.forget(container_id)
