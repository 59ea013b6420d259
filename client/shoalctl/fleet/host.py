"""One host as the fleet speaks to it: a typed method for each call of the API."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from shoal.errors import OutOfRange
from shoalctl.connect.failure import LinkLost
from shoalctl.connect.link import CALL_TIMEOUT, Link
from shoalctl.fleet.lines import Batch

if TYPE_CHECKING:
    from shoal.v1 import container_pb2, image_pb2, system_pb2, types_pb2, volume_pb2
    from shoalctl.inventory import Host

PING_TIMEOUT = 10.0
START_TIMEOUT = 120.0


def new_request_id() -> str:
    """An id for one intended operation; a retry with it never does the work twice."""
    return os.urandom(16).hex()  # as secrets.token_hex, which takes 2 ms to import


class HostClient:
    """The calls of one host. Messages are those of `shoal.v1`; every failure is a `shoal.errors.ShoalError`."""

    def __init__(self, host: Host, timeout: float) -> None:
        self.host = host
        self.link = Link(host, timeout)

    @property
    def name(self) -> str:
        """The host's name in the inventory."""
        return self.host.name

    async def close(self) -> None:
        """Close the connection."""
        await self.link.close()

    # -- system ------------------------------------------------------------------------------------------------------

    async def ping(self) -> datetime:
        """The daemon's time, once it answers."""
        from shoal.v1 import system_pb2

        answer = await self.link.unary(_system("Ping"), system_pb2.SystemServicePingRequest(), timeout=PING_TIMEOUT)
        moment: datetime = answer.time.ToDatetime()
        return moment

    async def version(self) -> system_pb2.SystemServiceVersionResponse:
        """What runs there."""
        from shoal.v1 import system_pb2

        return await self.link.unary(_system("Version"), system_pb2.SystemServiceVersionRequest())  # type: ignore[no-any-return]

    async def info(self) -> system_pb2.SystemServiceInfoResponse:
        """What the host has, and the role that it gives the caller."""
        from shoal.v1 import system_pb2

        return await self.link.unary(_system("Info"), system_pb2.SystemServiceInfoRequest())  # type: ignore[no-any-return]

    async def cancel(self, request_id: str) -> bool:
        """End the pull, push or build with this id; whether it was running."""
        from shoal.v1 import system_pb2

        request = system_pb2.SystemServiceCancelRequest(request_id=request_id)
        answer = await self.link.unary(_system("Cancel"), request, timeout=5, repeat=False)
        return bool(answer.cancelled)

    async def events(self, request: system_pb2.SystemServiceEventsRequest) -> AsyncIterator[system_pb2.Event]:
        """Events from `request.cursor` or `request.since` on; a lost link is taken up with no gap and no duplicate."""
        from shoal.v1 import system_pb2

        ask = system_pb2.SystemServiceEventsRequest()
        ask.CopyFrom(request)
        begin = None if ask.cursor or ask.HasField("since") else await self.ping()
        while True:
            try:
                async for message in self.link.stream(_system("Events"), ask):
                    ask.cursor = message.event.cursor
                    yield message.event
                return
            except LinkLost:
                if begin is not None and not ask.cursor:
                    ask.since.FromDatetime(begin)
                await self.link.reconnect()

    # -- images ------------------------------------------------------------------------------------------------------

    async def pull(
        self, request: image_pb2.ImageServicePullRequest, progress: Progressed | None = None
    ) -> image_pb2.Image:
        """Pull an image; `progress` gets each record. Lost links are taken up under the same request id."""
        return await self._operation(_images("Pull"), request, "image", progress)  # type: ignore[no-any-return]

    async def push(
        self, request: image_pb2.ImageServicePushRequest, progress: Progressed | None = None
    ) -> image_pb2.ImageServicePushResponse.Pushed:
        """Push an image; as `pull`."""
        return await self._operation(_images("Push"), request, "pushed", progress)  # type: ignore[no-any-return]

    async def images(self, request: image_pb2.ImageServiceListRequest | None = None) -> list[image_pb2.Image]:
        """The host's images, newest first."""
        from shoal.v1 import image_pb2

        return await self._list(_images("List"), request or image_pb2.ImageServiceListRequest(), "image")

    async def inspect_image(self, name: str) -> image_pb2.ImageServiceInspectResponse:
        """All that is known of an image."""
        from shoal.v1 import image_pb2

        return await self.link.unary(_images("Inspect"), image_pb2.ImageServiceInspectRequest(name=name))  # type: ignore[no-any-return]

    async def tag(self, source: str, target: str) -> None:
        """Give an image one more name."""
        from shoal.v1 import image_pb2

        await self.link.unary(_images("Tag"), image_pb2.ImageServiceTagRequest(source=source, target=target))

    async def remove_image(self, name: str, *, force: bool = False) -> image_pb2.ImageServiceRemoveResponse:
        """Take a name from an image, and delete it with its last one."""
        from shoal.v1 import image_pb2

        request = image_pb2.ImageServiceRemoveRequest(name=name, force=force)
        return await self.link.unary(_images("Remove"), request, timeout=START_TIMEOUT, repeat=False)  # type: ignore[no-any-return]

    async def prune_images(
        self, labels: Sequence[tuple[str, str]], until: datetime | None, *, unused: bool
    ) -> image_pb2.ImageServicePruneResponse:
        """Delete nameless images that no container uses, or (`unused`) all such."""
        from shoal.v1 import image_pb2

        request = image_pb2.ImageServicePruneRequest(all=unused)
        for key, value in labels:
            request.labels.add(key=key, value=value)
        if until is not None:
            request.until.FromDatetime(until)
        return await self.link.unary(_images("Prune"), request, timeout=START_TIMEOUT, repeat=False)  # type: ignore[no-any-return]

    # -- containers --------------------------------------------------------------------------------------------------

    async def run(self, request: container_pb2.ContainerServiceRunRequest) -> container_pb2.ContainerServiceRunResponse:
        """Create and start a container; `request.request_id` makes a repeat after a lost link safe."""
        if not request.request_id:
            request.request_id = new_request_id()
        # No deadline: the host may have to pull the image first.
        return await self.link.unary(_containers("Run"), request, timeout=None)  # type: ignore[no-any-return]

    async def containers(
        self, request: container_pb2.ContainerServiceListRequest | None = None
    ) -> list[container_pb2.Container]:
        """The host's containers, newest first."""
        from shoal.v1 import container_pb2

        return await self._list(
            _containers("List"), request or container_pb2.ContainerServiceListRequest(), "container"
        )

    async def inspect_container(self, name: str) -> container_pb2.ContainerServiceInspectResponse:
        """All that is known of a container."""
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceInspectRequest(name=name)
        return await self.link.unary(_containers("Inspect"), request)  # type: ignore[no-any-return]

    async def start(self, name: str) -> container_pb2.Container:
        """Start a stopped container."""
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceStartRequest(name=name, request_id=new_request_id())
        answer = await self.link.unary(_containers("Start"), request, timeout=START_TIMEOUT)
        return answer.container  # type: ignore[no-any-return]

    async def stop(self, name: str, *, timeout: timedelta | None = None, signal: str = "") -> container_pb2.Container:
        """Stop a container: signal, `timeout` (None: its own; negative: without end), kill."""
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceStopRequest(name=name, signal=signal, request_id=new_request_id())
        if timeout is not None:
            request.timeout.FromTimedelta(timeout)
        answer = await self.link.unary(_containers("Stop"), request, timeout=None)
        return answer.container  # type: ignore[no-any-return]

    async def kill(self, name: str, signal: str = "") -> None:
        """Send a signal (default SIGKILL) to a container's first process."""
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceKillRequest(name=name, signal=signal, request_id=new_request_id())
        await self.link.unary(_containers("Kill"), request)

    async def wait(self, name: str, condition: int = 0) -> container_pb2.ContainerServiceWaitResponse:
        """Wait until a container is not running (or for another condition); over lost links too."""
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceWaitRequest(name=name, condition=condition)  # type: ignore[arg-type]
        while True:
            try:
                return await self.link.unary(_containers("Wait"), request, timeout=None, repeat=False)  # type: ignore[no-any-return]
            except LinkLost:
                await self.link.reconnect()

    async def remove(self, name: str, *, force: bool = False, volumes: bool = False) -> str:
        """Remove a container; its id."""
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceRemoveRequest(
            name=name, force=force, volumes=volumes, request_id=new_request_id()
        )
        answer = await self.link.unary(_containers("Remove"), request, timeout=START_TIMEOUT)
        return str(answer.id)

    async def exec(
        self, request: container_pb2.ContainerServiceExecRequest
    ) -> container_pb2.ContainerServiceExecResponse:
        """Start one more process in a container; see `ExecStream` to follow it. A repeat never starts two."""
        if not request.request_id:
            request.request_id = new_request_id()
        return await self.link.unary(_containers("Exec"), request, timeout=START_TIMEOUT)  # type: ignore[no-any-return]

    async def logs(self, request: container_pb2.ContainerServiceLogsRequest) -> AsyncIterator[container_pb2.LogRecord]:
        """A container's output; a lost link is taken up with no gap and no duplicate."""
        async with aclosing(self._log_batches(request)) as batches:
            async for message in batches:
                for record in message.records:
                    yield record

    async def log_batches(
        self, request: container_pb2.ContainerServiceLogsRequest, gap: Callable[[], None] | None = None
    ) -> AsyncIterator[Batch]:
        """As `logs`, in batches, which is many times faster.

        `gap` is called where lines are missing because the host threw them away before they could be read; without it,
        OutOfRange (CURSOR_EXPIRED) is raised there.
        """
        from shoal.v1 import container_pb2

        ask = container_pb2.ContainerServiceLogsRequest()
        ask.CopyFrom(request)
        ask.accept_raw = True
        while True:
            try:
                async with aclosing(self._log_batches(ask)) as batches:
                    async for message in batches:
                        ask.cursor = message.cursor
                        yield Batch(message)
                return
            except OutOfRange as error:
                if gap is None or error.reason != "CURSOR_EXPIRED" or ask.cursor == request.cursor:
                    raise
                gap()
                ask.cursor = request.cursor
                ask.ClearField("tail")

    async def _log_batches(
        self, request: container_pb2.ContainerServiceLogsRequest
    ) -> AsyncGenerator[container_pb2.ContainerServiceLogsResponse, None]:
        from shoal.v1 import container_pb2

        ask = container_pb2.ContainerServiceLogsRequest()
        ask.CopyFrom(request)
        while True:
            try:
                async for message in self.link.stream(_containers("Logs"), ask):
                    ask.cursor = message.cursor
                    yield message
                return
            except LinkLost:
                await self.link.reconnect()

    # -- volumes -----------------------------------------------------------------------------------------------------

    async def volumes(self) -> list[volume_pb2.Volume]:
        """The host's volumes, by name."""
        from shoal.v1 import volume_pb2

        return await self._list(_volumes("List"), volume_pb2.VolumeServiceListRequest(), "volume")

    async def remove_volume(self, name: str) -> None:
        """Delete a volume and its content."""
        from shoal.v1 import volume_pb2

        request = volume_pb2.VolumeServiceRemoveRequest(name=name)
        await self.link.unary(_volumes("Remove"), request, timeout=START_TIMEOUT, repeat=False)

    # ----------------------------------------------------------------------------------------------------------------

    async def _list(self, method: Method, request: Any, field: str) -> list[Any]:
        """All items of a read-only stream; a lost link starts it again."""
        while True:
            try:
                return [getattr(item, field) async for item in self.link.stream(method, request, timeout=CALL_TIMEOUT)]
            except LinkLost:
                await self.link.reconnect()

    async def _operation(self, method: Method, request: Any, result: str, progress: Progressed | None) -> Any:
        """Follow one operation of the host to its result."""
        if not request.request_id:
            request.request_id = new_request_id()
        while True:
            try:
                async for message in self.link.stream(method, request):
                    kind = message.WhichOneof("event")
                    if kind == result:
                        return getattr(message, result)
                    if kind == "progress" and progress is not None:
                        progress(message.progress)
                raise LinkLost("the stream ended before the result")
            except LinkLost:
                await self.link.reconnect()


Progressed = Callable[["types_pb2.Progress"], None]
Method = Callable[[Any], Callable[..., Any]]


def _system(name: str) -> Method:
    def pick(channel: Any) -> Any:
        from shoal.v1 import system_pb2_grpc

        return getattr(system_pb2_grpc.SystemServiceStub(channel), name)

    return pick


def _images(name: str) -> Method:
    def pick(channel: Any) -> Any:
        from shoal.v1 import image_pb2_grpc

        return getattr(image_pb2_grpc.ImageServiceStub(channel), name)

    return pick


def _containers(name: str) -> Method:
    def pick(channel: Any) -> Any:
        from shoal.v1 import container_pb2_grpc

        return getattr(container_pb2_grpc.ContainerServiceStub(channel), name)

    return pick


def _volumes(name: str) -> Method:
    def pick(channel: Any) -> Any:
        from shoal.v1 import volume_pb2_grpc

        return getattr(volume_pb2_grpc.VolumeServiceStub(channel), name)

    return pick
