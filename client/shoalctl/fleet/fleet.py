"""The fleet: a set of hosts and what can be done on all of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
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
HostEvents = Callable[[str, "image_pb2.BuildEvent"], None]


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

        `timeout` in seconds for connecting. Raises NotFound or InvalidArgument as `Inventory.select` does, and
        FailedPrecondition (reason CONFIG_UNREADABLE) for a file that `config` or SHOAL_CONFIG names in vain.
        """
        groups = [group] if group else []
        inventory = Inventory.load(config, must_exist=True)
        return cls(inventory.select(hosts, groups, all_hosts, labels=labels), timeout=timeout)

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

    def merged(
        self,
        work: Callable[[HostClient], AsyncIterator[T]],
        hosts: Sequence[str] | None = None,
        at_once: int | None = None,
    ) -> Results[T]:
        """Any stream of all hosts at once: items as they come, and a last result with the error where one fails.

        `at_once` limits the open streams, for those that end.
        """
        return fanout.merged(self._chosen(hosts), work, at_once)

    def ping(self, hosts: Sequence[str] | None = None) -> Results[datetime]:
        """Whether the hosts answer: their time, in UTC."""
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

    def build(
        self,
        directory: Path,
        *,
        dockerfile: Path | None = None,
        tags: Sequence[str] = (),
        build_args: Mapping[str, str] | None = None,
        target: str = "",
        no_cache: bool = False,
        credentials: types_pb2.RegistryCredentials | None = None,
        hosts: Sequence[str] | None = None,
        report: HostEvents | None = None,
    ) -> Results[image_pb2.Image]:
        """Build an image of a directory on all hosts; `report` is called with the host's name and each event.

        Raises InvalidArgument when the directory or the Dockerfile can't be read.
        """
        from shoal.v1 import image_pb2
        from shoalctl.flags.dockerfile import from_directory
        from shoalctl.fleet.building import Build
        from shoalctl.fleet.context import BuildContext
        from shoalctl.fleet.manifest import SharedManifest

        source = from_directory(str(directory), str(dockerfile or ""))
        context = SharedManifest(BuildContext.at(directory, source.path))
        start = image_pb2.ImageServiceBuildRequest.Start(
            request_id=new_request_id(),
            dockerfile=source.text,
            dockerfile_name=source.name,
            tags=tags,
            build_args=build_args,
            target=target,
            no_cache=no_cache,
            credentials=credentials,
        )

        async def one(host: HostClient) -> image_pb2.Image:
            build = Build(host, start, context)
            async for event in build.events():
                if report is not None:
                    report(host.name, event)
            return build.result()

        return self.each(one, hosts)

    def start(self, name: str, *, hosts: Sequence[str] | None = None) -> Results[container_pb2.Container]:
        """Start a stopped container."""
        return self.each(lambda host: host.start(name), hosts)

    def stop(
        self, name: str, *, timeout: timedelta | None = None, hosts: Sequence[str] | None = None
    ) -> Results[container_pb2.Container]:
        """Stop a container: its signal, `timeout` (None: its own), kill."""
        return self.each(lambda host: host.stop(name, timeout=timeout), hosts)

    def wait(
        self, name: str, *, hosts: Sequence[str] | None = None
    ) -> Results[container_pb2.ContainerServiceWaitResponse]:
        """Wait until a container does not run; its exit code."""
        return self.each(lambda host: host.wait(name), hosts)

    def remove(self, name: str, *, force: bool = False, hosts: Sequence[str] | None = None) -> Results[str]:
        """Remove a container; its id."""
        return self.each(lambda host: host.remove(name, force=force), hosts)

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
