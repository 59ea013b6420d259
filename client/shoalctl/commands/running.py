"""The course of `shoal run`: pull where needed, start on all hosts, then print ids or follow the containers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from shoal.errors import NotFound, ShoalError
from shoalctl import exits
from shoalctl.commands.id_file import IdFile
from shoalctl.commands.run_options import RunOptions
from shoalctl.commands.signals import SignalForwarder
from shoalctl.commands.supplies import Supplies
from shoalctl.flags.fault import UsageFault
from shoalctl.fleet.attach import Attachment
from shoalctl.fleet.fleet import Fleet
from shoalctl.fleet.host import HostClient, new_request_id
from shoalctl.fleet.result import HostResult
from shoalctl.render import console
from shoalctl.render.errors import show_error, show_warning
from shoalctl.render.marks import MarkedLines
from shoalctl.render.progress import ProgressBoard

if TYPE_CHECKING:
    from shoal.v1 import container_pb2, types_pb2

_CLEANUP = 15.0  # s for taking back what an interrupted start has made


class Running:
    """One `shoal run` on the hosts of a fleet."""

    def __init__(self, fleet: Fleet, options: RunOptions) -> None:
        self._fleet = fleet
        self._options = options
        self._several = len(fleet.names) > 1
        self._starting: dict[str, Any] = {}
        self._signals: SignalForwarder | None = None
        self._pull_id = new_request_id()
        self._pulling: set[str] = set()
        self._board = ProgressBoard(fleet.names, options.quiet)
        self._marks = MarkedLines(fleet.names)
        self._credentials: types_pb2.RegistryCredentials | None = None
        self._supplies = Supplies(options.mounts, options.secrets)
        self._cidfile = IdFile("--cidfile", options.cidfile, new=True)

    async def run(self) -> int:
        """The exit code. On one host: the container's, or what docker gives for an error."""
        if self._several and (self._options.interactive and not self._options.detach):
            raise UsageFault("-i needs a single host: input can't go to several", hint="choose one with -H")
        if self._several and self._options.cidfile:
            raise UsageFault("--cidfile needs a single host")
        if self._several and not self._options.sig_proxy:
            raise UsageFault("--no-sig-proxy needs a single host")
        with self._cidfile:
            return await self._run()

    async def _run(self) -> int:
        try:
            async with self._in_step():
                return await (self._on_several() if self._several else self._on_one())
        except asyncio.CancelledError:
            await self._take_back()
            raise

    @asynccontextmanager
    async def _in_step(self) -> AsyncIterator[None]:
        """With --follow: the containers get what changes in the files that they mount."""
        if not self._options.follow:
            yield
            return
        watching = asyncio.create_task(self._supplies.keep_in_step())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _on_one(self) -> int:
        host = self._fleet.host(self._fleet.names[0])
        try:
            container = await self._started(host)
            if self._options.detach:
                console.out(container.id)
                return exits.OK
            from shoalctl.commands.foreground import Foreground

            options = self._options
            return await Foreground(
                host,
                container.id,
                stdin=options.interactive and "stdin" in options.attach,
                tty=options.tty,
                keys=options.detach_keys,
                sig_proxy=options.sig_proxy,
                shown=options.attach,
            ).run()
        except ShoalError as error:
            if isinstance(error, UsageFault):
                raise
            show_error(error, host.name)
            return self.exit_code(error)

    async def _on_several(self) -> int:
        if self._options.detach:
            return await self._results()
        with SignalForwarder() as self._signals:
            following = asyncio.create_task(self._results())
            giving_up = asyncio.create_task(self._signals.gave_up.wait())
            try:
                await asyncio.wait({following, giving_up}, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    return await following
            finally:
                for task in (following, giving_up):
                    task.cancel()
                await asyncio.gather(following, giving_up, return_exceptions=True)
        await self._take_back()
        return exits.INTERRUPTED

    async def _results(self) -> int:
        results: list[HostResult[int]] = []
        async for result in self._fleet.each(self._whole):
            results.append(result)
            if result.error is not None:
                show_error(result.error, result.host)
            elif result.value:
                self._marks.close()
                console.err(f"{result.host}: the container exited with code {result.value}")
        self._marks.close()
        return exits.combined(bool(result.error or result.value) for result in results)

    async def _whole(self, host: HostClient) -> int:
        """Everything on one of several hosts."""
        container = await self._started(host)
        if self._options.detach:
            self._marks.line(host.name, container.id)
            return exits.OK
        if self._signals is not None:
            self._signals.add(host, container.id)
        attachment = Attachment(host, container.id)
        async for error, data in attachment.pieces():
            if ("stderr" if error else "stdout") not in self._options.attach:
                continue
            self._marks.update(host.name, data, error=error)
        return attachment.exit_code or exits.OK

    async def _started(self, host: HostClient) -> container_pb2.Container:
        """Run the container there, after a pull with progress where the policy and the host ask for one."""
        if self._options.pull == "always":
            await self._pull(host)
        try:
            response = await self._create(host)
        except NotFound as error:
            if self._options.pull != "missing" or error.reason != "IMAGE_NOT_FOUND":
                raise
            await self._pull(host)
            response = await self._create(host)
        self._supplies.follow(host, response.container.id)
        for warning in response.warnings:
            show_warning(warning, host.name if self._several else None)
        await asyncio.to_thread(self._cidfile.write, response.container.id)
        return response.container  # type: ignore[no-any-return]

    def exit_code(self, error: ShoalError) -> int:
        """What the command ends with when the container could not be had."""
        return exits.for_run(error.reason)

    def request(self, spec: container_pb2.ContainerSpec) -> Any:
        """What asks for the container; the image was pulled before, or is here."""
        from shoal.v1 import container_pb2

        return container_pb2.ContainerServiceRunRequest(
            request_id=new_request_id(), spec=spec, pull_policy=container_pb2.PULL_POLICY_NEVER
        )

    async def made(self, host: HostClient, request: Any) -> Any:
        """The host's answer: container and warnings. The same request again gets the same container."""
        return await host.run(request)

    async def _create(self, host: HostClient) -> Any:
        spec = self._options.spec()
        await self._supplies.fill(host, spec)
        request = self.request(spec)
        self._starting[host.name] = request
        try:
            response = await self.made(host, request)
        except ShoalError:
            del self._starting[host.name]
            raise
        del self._starting[host.name]
        return response

    async def _pull(self, host: HostClient) -> None:
        from shoal.v1 import image_pb2
        from shoalctl.commands.credentials import credentials
        from shoalctl.commands.messages import platform_message

        reference = self._options.image
        request = image_pb2.ImageServicePullRequest(
            request_id=self._pull_id,
            reference=reference,
            platform=platform_message(self._options.platform),
            credentials=await credentials(self._options.creds, reference),
        )

        def progress(record: Any) -> None:
            self._board.update(host.name, record.id, record.phase, record.done_bytes, record.total_bytes)

        self._pulling.add(host.name)
        try:
            await host.pull(request, progress)
            self._pulling.discard(host.name)
        finally:
            if not self._pulling:
                self._board.close()

    async def _take_back(self) -> None:
        """The command was interrupted: end the pulls, and remove what was just being started."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLEANUP):
                async for _ in self._fleet.cancel(self._pull_id, list(self._pulling)):
                    pass
                async for _ in self._fleet.each(self._undone, list(self._starting)):
                    pass

    async def _undone(self, host: HostClient) -> None:
        # The same request again joins the start that was left: only so is the container's id to be had.
        response = await self.made(host, self._starting[host.name])
        await host.remove(response.container.id, force=True, volumes=True)
