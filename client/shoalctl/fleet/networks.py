"""Networks of one host: a function for each call of the API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shoalctl.connect.failure import LinkLost
from shoalctl.connect.link import CALL_TIMEOUT

if TYPE_CHECKING:
    from shoal.v1 import network_pb2
    from shoalctl.fleet.host import HostClient

_LONG = 60.0


async def list_networks(host: HostClient, labels: Sequence[tuple[str, str]] = ()) -> list[network_pb2.Network]:
    """By name; also the predefined ones."""
    from shoal.v1 import network_pb2, types_pb2

    selectors = [types_pb2.LabelSelector(key=key, value=value) for key, value in labels]
    ask = network_pb2.NetworkServiceListRequest(labels=selectors)
    while True:
        try:
            return [item.network async for item in host.link.stream(_networks("List"), ask, timeout=CALL_TIMEOUT)]
        except LinkLost:
            await host.link.reconnect()


async def create_network(
    host: HostClient, request: network_pb2.NetworkServiceCreateRequest
) -> network_pb2.NetworkServiceCreateResponse:
    """Make a network; its request id makes a repeat after a lost link safe."""
    from shoalctl.fleet.host import new_request_id

    if not request.request_id:
        request.request_id = new_request_id()
    return await host.link.unary(_networks("Create"), request, timeout=_LONG)  # type: ignore[no-any-return]


async def inspect_network(host: HostClient, name: str) -> network_pb2.NetworkServiceInspectResponse:
    """A network and the containers in it."""
    from shoal.v1 import network_pb2

    return await host.link.unary(_networks("Inspect"), network_pb2.NetworkServiceInspectRequest(name=name))  # type: ignore[no-any-return]


async def remove_network(host: HostClient, name: str) -> None:
    """Delete it."""
    from shoal.v1 import network_pb2

    request = network_pb2.NetworkServiceRemoveRequest(name=name)
    await host.link.unary(_networks("Remove"), request, timeout=_LONG, repeat=False)


async def prune_networks(host: HostClient, labels: Sequence[tuple[str, str]] = ()) -> list[str]:
    """Names of the networks that were removed because no container names them."""
    from shoal.v1 import network_pb2, types_pb2

    selectors = [types_pb2.LabelSelector(key=key, value=value) for key, value in labels]
    request = network_pb2.NetworkServicePruneRequest(labels=selectors)
    answer = await host.link.unary(_networks("Prune"), request, timeout=_LONG, repeat=False)
    return list(answer.names)


async def connect_network(host: HostClient, request: network_pb2.NetworkServiceConnectRequest) -> None:
    """Put a container into one more network."""
    await host.link.unary(_networks("Connect"), request, timeout=_LONG, repeat=False)


async def disconnect_network(host: HostClient, network: str, container: str, *, force: bool) -> None:
    """Take a container out of a network."""
    from shoal.v1 import network_pb2

    request = network_pb2.NetworkServiceDisconnectRequest(network=network, container=container, force=force)
    await host.link.unary(_networks("Disconnect"), request, timeout=_LONG, repeat=False)


def _networks(name: str) -> Callable[[Any], Callable[..., Any]]:
    def pick(channel: Any) -> Any:
        from shoal.v1 import network_pb2_grpc

        return getattr(network_pb2_grpc.NetworkServiceStub(channel), name)

    return pick
