"""What becomes of one host's containers: a function for each call of the API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from shoalctl.connect.failure import LinkLost
from shoalctl.fleet.host import START_TIMEOUT, HostClient, new_request_id

if TYPE_CHECKING:
    from shoal.v1 import container_pb2


async def create(
    host: HostClient, request: container_pb2.ContainerServiceCreateRequest
) -> container_pb2.ContainerServiceCreateResponse:
    """Make a container that does not run yet; `request.request_id` makes a repeat after a lost link safe."""
    if not request.request_id:
        request.request_id = new_request_id()
    return await host.link.unary(_containers("Create"), request, timeout=None)  # type: ignore[no-any-return]


async def restart(
    host: HostClient, name: str, *, timeout: timedelta | None = None, signal: str = ""
) -> container_pb2.Container:
    """Stop, as `HostClient.stop` does, if it runs; start."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceRestartRequest(name=name, signal=signal, request_id=new_request_id())
    if timeout is not None:
        request.timeout.FromTimedelta(timeout)
    answer = await host.link.unary(_containers("Restart"), request, timeout=None)
    return answer.container  # type: ignore[no-any-return]


async def pause(host: HostClient, name: str) -> None:
    """Freeze all processes."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServicePauseRequest(name=name, request_id=new_request_id())
    await host.link.unary(_containers("Pause"), request)


async def unpause(host: HostClient, name: str) -> None:
    """Thaw."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceUnpauseRequest(name=name, request_id=new_request_id())
    await host.link.unary(_containers("Unpause"), request)


async def rename(host: HostClient, name: str, new_name: str) -> None:
    """Give it another name."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceRenameRequest(name=name, new_name=new_name, request_id=new_request_id())
    await host.link.unary(_containers("Rename"), request)


async def update(
    host: HostClient, request: container_pb2.ContainerServiceUpdateRequest
) -> container_pb2.ContainerServiceUpdateResponse:
    """Change limits and the restart policy, all or nothing."""
    if not request.request_id:
        request.request_id = new_request_id()
    return await host.link.unary(_containers("Update"), request, timeout=START_TIMEOUT)  # type: ignore[no-any-return]


async def top(host: HostClient, name: str, arguments: Sequence[str] = ()) -> container_pb2.ContainerServiceTopResponse:
    """Its processes, by ps(1) of the host."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceTopRequest(name=name, ps_arguments=arguments)
    return await host.link.unary(_containers("Top"), request)  # type: ignore[no-any-return]


async def stats(
    host: HostClient, names: Sequence[str] = (), *, one_shot: bool = False, interval: timedelta | None = None
) -> AsyncGenerator[Sequence[container_pb2.ContainerServiceStatsResponse.Sample], None]:
    """Samples of these containers (all that run), once or again and again; a lost link is taken up."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceStatsRequest(names=names, one_shot=one_shot)
    if interval is not None:
        request.interval.FromTimedelta(interval)
    while True:
        try:
            async for message in host.link.stream(_containers("Stats"), request):
                yield message.samples
            return
        except LinkLost:
            await host.link.reconnect()


async def changes(host: HostClient, name: str) -> list[container_pb2.ContainerServiceChangesResponse.Change]:
    """What it changed of its image's files, by path."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceChangesRequest(name=name)
    while True:
        found: list[container_pb2.ContainerServiceChangesResponse.Change] = []
        try:
            async for message in host.link.stream(_containers("Changes"), request):
                found += message.changes
            return found
        except LinkLost:
            await host.link.reconnect()


async def commit(host: HostClient, request: container_pb2.ContainerServiceCommitRequest) -> str:
    """Make an image of it; the image's id."""
    if not request.request_id:
        request.request_id = new_request_id()
    answer = await host.link.unary(_containers("Commit"), request, timeout=None)
    return str(answer.image_id)


async def prune(
    host: HostClient, labels: Sequence[tuple[str, str]] = (), until: datetime | None = None
) -> container_pb2.ContainerServicePruneResponse:
    """Remove what does not run: its labels match, and it was made before `until`."""
    from shoal.v1 import container_pb2, types_pb2

    request = container_pb2.ContainerServicePruneRequest(
        labels=[types_pb2.LabelSelector(key=key, value=value) for key, value in labels]
    )
    if until is not None:
        request.until.FromDatetime(until)
    return await host.link.unary(_containers("Prune"), request, timeout=None, repeat=False)  # type: ignore[no-any-return]


def _containers(name: str) -> Callable[[Any], Callable[..., Any]]:
    def pick(channel: Any) -> Any:
        from shoal.v1 import container_pb2_grpc

        return getattr(container_pb2_grpc.ContainerServiceStub(channel), name)

    return pick
