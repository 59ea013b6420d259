"""The course of `shoal create`: that of a detached run, but for the call that makes the container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.errors import ShoalError
from shoalctl import exits
from shoalctl.commands.running import Running
from shoalctl.fleet.host import HostClient, new_request_id
from shoalctl.fleet.lifecycle import create

if TYPE_CHECKING:
    from shoal.v1 import container_pb2


class Creating(Running):
    """One `shoal create` on the hosts of a fleet."""

    def exit_code(self, error: ShoalError) -> int:
        """As docker: 125 to 127 are those of `run` alone."""
        return exits.for_error(error)

    def request(self, spec: container_pb2.ContainerSpec) -> Any:
        """The image was pulled before, or is here."""
        from shoal.v1 import container_pb2

        return container_pb2.ContainerServiceCreateRequest(
            request_id=new_request_id(), spec=spec, pull_policy=container_pb2.PULL_POLICY_NEVER
        )

    async def made(self, host: HostClient, request: Any) -> Any:
        """The host's answer; the same request again gets the same container."""
        return await create(host, request)
