"""One run of a health check: a process in the container, ended when it takes too long."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime

from shoal.errors import ShoalError
from shoald.containers.health_check import SHELL
from shoald.model.container import Container, HealthCheck, HealthProbe
from shoald.runtime.exec import ExecProcess, ExecRunner
from shoald.runtime.execspec import ExecRequest
from shoald.runtime.ports import ContainerRuntime

KEPT_OUTPUT = 4096
_FAILED = -1


class HealthProber:
    """Runs checks through the OCI runtime."""

    def __init__(self, runner: ExecRunner, runtime: ContainerRuntime) -> None:
        self._runner = runner
        self._runtime = runtime

    async def __call__(self, container: Container, check: HealthCheck) -> HealthProbe | None:
        """See health.Probe. Exit code -1: it could not be run, or took longer than the check's timeout."""
        if self._runtime.paused(container.id):
            return None
        start = datetime.now(UTC)
        output = bytearray()
        code = _FAILED
        try:
            async with (
                asyncio.timeout(check.timeout_s),
                self._runner.run(container.id, container.pid, ExecRequest(command_of(container, check))) as process,
            ):
                code = await _finished(process, output)
        except TimeoutError:
            said = f"Health check exceeded timeout ({check.timeout_s:g}s)"
            output[:0] = f"{said}: ".encode() if output else said.encode()
        except ShoalError as error:
            if error.reason == "NOT_RUNNING":
                return None
            output[:] = str(error).encode()
        if self._runtime.running_pid(container.id) is None:
            # It ended meanwhile, and its processes with it: that says nothing of its health.
            return None
        text = bytes(output[:KEPT_OUTPUT]).decode(errors="replace")
        return HealthProbe(start, datetime.now(UTC), code, text)


async def _finished(process: ExecProcess, output: bytearray) -> int:
    async with aclosing(process.output.read("")) as pieces:
        async for piece in pieces:
            output += piece.data[: KEPT_OUTPUT - len(output)]
    return await process.wait()


def command_of(container: Container, check: HealthCheck) -> tuple[str, ...]:
    """The arguments of the process; a line goes to the image's shell (SHELL), else to /bin/sh."""
    kind, *words = check.test
    return (*(container.shell or ("/bin/sh", "-c")), *words) if kind == SHELL else tuple(words)
