"""The fleet: a set of hosts and what can be done on all of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from shoal.errors import NotFound
from shoalctl.fleet import fanout
from shoalctl.fleet.host import HostClient, new_request_id
from shoalctl.fleet.result import HostResult
from shoalctl.inventory import Host, Inventory

if TYPE_CHECKING:
    from shoal.v1 import container_pb2, image_pb2, system_pb2, types_pb2

T = TypeVar("T")

Results = AsyncGenerator[HostResult[T], None]
HostProgress = Callable[[str, "types_pb2.Progress"], None]


class Fleet:
    """A set of hosts. Connections are made on first use and closed at the end of the `async with` block.

    ```python
    async with Fleet.load(group="web") as fleet:
        async for result in fleet.pull("busybox"):
            print(result.host, result.value.id if result.ok else result.error)
    ```

    A method that asks hosts yields one `HostResult` for each, as they finish; an error of one host is in its result.
    `hosts=` narrows a call to some of the fleet's hosts, by name.
    """

    def __init__(self, hosts: Sequence[Host], *, timeout: float = 10.0) -> None:
        self._clients = {host.name: HostClient(host, timeout) for host in hosts}

    @classmethod
    def load(
        cls,
        hosts: Sequence[str] = (),
        *,
        group: str | None = None,
        all_hosts: bool = False,
        labels: Sequence[str] = (),
        config: Path | None = None,
        timeout: float = 10.0,
    ) -> Fleet:
        """The fleet that the client's configuration describes: named hosts, a group, all, by label, or the default.

        `timeout` in seconds for connecting. Raises NotFound or InvalidArgument as `Inventory.select` does.
        """
        groups = [group] if group else []
        return cls(Inventory.load(config).select(hosts, groups, all_hosts, labels=labels), timeout=timeout)

    async def __aenter__(self) -> Fleet:
        for client in list(self._clients.values())[: fanout.AT_ONCE]:
            client.link.warm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    @property
    def names(self) -> list[str]:
        """The names of the hosts, in order."""
        return list(self._clients)

    def host(self, name: str) -> HostClient:
        """One host with all its calls. Raises NotFound (reason UNKNOWN_HOST)."""
        try:
            return self._clients[name]
        except KeyError:
            raise NotFound(f"host {name!r} is not in this fleet", reason="UNKNOWN_HOST") from None

    def each(self, work: Callable[[HostClient], Awaitable[T]], hosts: Sequence[str] | None = None) -> Results[T]:
        """Do anything on all hosts at once: one result for each, in the order in which they finish."""
        return fanout.each(self._chosen(hosts), work)

    def merged(self, work: Callable[[HostClient], AsyncIterator[T]], hosts: Sequence[str] | None = None) -> Results[T]:
        """Any stream of all hosts at once: items as they come, and a last result with the error where one fails."""
        return fanout.merged(self._chosen(hosts), work)

    def ping(self, hosts: Sequence[str] | None = None) -> Results[object]:
        """Whether the hosts answer."""
        return self.each(lambda host: host.ping(), hosts)

    def info(self, hosts: Sequence[str] | None = None) -> Results[system_pb2.SystemServiceInfoResponse]:
        """What the hosts have."""
        return self.each(lambda host: host.info(), hosts)

    def version(self, hosts: Sequence[str] | None = None) -> Results[system_pb2.SystemServiceVersionResponse]:
        """What runs on the hosts."""
        return self.each(lambda host: host.version(), hosts)

    def pull(
        self,
        reference: str,
        *,
        hosts: Sequence[str] | None = None,
        platform: types_pb2.Platform | None = None,
        credentials: types_pb2.RegistryCredentials | None = None,
        progress: HostProgress | None = None,
        request_id: str | None = None,
    ) -> Results[image_pb2.Image]:
        """Pull an image on all hosts; `progress` is called with the host's name and each record.

        Leaving early does not stop the work on the hosts; `cancel(request_id)` does.
        """
        from shoal.v1 import image_pb2

        request = image_pb2.ImageServicePullRequest(
            request_id=request_id or new_request_id(), reference=reference, platform=platform, credentials=credentials
        )
        return self.each(lambda host: host.pull(request, _of(host, progress)), hosts)

    def push(
        self,
        reference: str,
        *,
        hosts: Sequence[str] | None = None,
        credentials: types_pb2.RegistryCredentials | None = None,
        progress: HostProgress | None = None,
        request_id: str | None = None,
    ) -> Results[image_pb2.ImageServicePushResponse.Pushed]:
        """Push an image from all hosts; as `pull`."""
        from shoal.v1 import image_pb2

        request = image_pb2.ImageServicePushRequest(
            request_id=request_id or new_request_id(), reference=reference, credentials=credentials
        )
        return self.each(lambda host: host.push(request, _of(host, progress)), hosts)

    def cancel(self, request_id: str, hosts: Sequence[str] | None = None) -> Results[bool]:
        """End a pull, push or build on all hosts; whether it was running."""
        return self.each(lambda host: host.cancel(request_id), hosts)

    def run(
        self,
        spec: container_pb2.ContainerSpec,
        *,
        hosts: Sequence[str] | None = None,
        pull_policy: int = 0,
        credentials: types_pb2.RegistryCredentials | None = None,
        request_id: str | None = None,
    ) -> Results[container_pb2.ContainerServiceRunResponse]:
        """Create and start a container on all hosts."""
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceRunRequest(
            request_id=request_id or new_request_id(),
            spec=spec,
            pull_policy=pull_policy,  # type: ignore[arg-type]
            credentials=credentials,
        )
        return self.each(lambda host: host.run(request), hosts)

    def containers(
        self, request: container_pb2.ContainerServiceListRequest | None = None, *, hosts: Sequence[str] | None = None
    ) -> Results[list[container_pb2.Container]]:
        """The containers of all hosts, newest first; only running ones unless the request says otherwise."""
        return self.each(lambda host: host.containers(request), hosts)

    def images(
        self, request: image_pb2.ImageServiceListRequest | None = None, *, hosts: Sequence[str] | None = None
    ) -> Results[list[image_pb2.Image]]:
        """The images of all hosts, newest first."""
        return self.each(lambda host: host.images(request), hosts)

    def logs(
        self, request: container_pb2.ContainerServiceLogsRequest, *, hosts: Sequence[str] | None = None
    ) -> Results[container_pb2.LogRecord]:
        """The output of a container on all hosts, as it comes."""
        return self.merged(lambda host: host.logs(request), hosts)

    def events(
        self, request: system_pb2.SystemServiceEventsRequest, *, hosts: Sequence[str] | None = None
    ) -> Results[system_pb2.Event]:
        """What happens on all hosts, as it happens."""
        return self.merged(lambda host: host.events(request), hosts)

    def _chosen(self, hosts: Sequence[str] | None) -> list[HostClient]:
        return list(self._clients.values()) if hosts is None else [self.host(name) for name in hosts]


def _of(host: HostClient, progress: HostProgress | None) -> Callable[[types_pb2.Progress], None] | None:
    if progress is None:
        return None
    report = progress
    return lambda record: report(host.name, record)
