"""What `build --output` does with the image that a host made: its files come to this machine, or it is pushed."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shoalctl.commands.build_options import BuildOptions
from shoalctl.flags.build_output import Output
from shoalctl.flags.fault import UsageFault

if TYPE_CHECKING:
    from shoal.v1 import image_pb2
    from shoalctl.fleet.host import HostClient


def check_outputs(options: BuildOptions, hosts: Sequence[str]) -> None:
    """Find what can't work before anything is built. Raises UsageFault."""
    if options.detach and (options.outputs or options.iidfile):
        raise UsageFault("--detach leaves nobody here for an --output or --iidfile")
    if options.detach and options.ssh:
        raise UsageFault("--detach leaves no agent here for --ssh")
    for output in options.outputs:
        if output.kind == "image":
            if output.push and not options.names:
                raise UsageFault("an image is pushed under a name", hint="give it one with -t")
            continue
        if len(hosts) > 1:
            raise UsageFault(f"--output type={output.kind} needs a single host", hint="choose one with -H")
        if output.dest == "-" and sys.stdout.isatty():
            raise UsageFault("an archive is not for a terminal", hint="write it to a file: -o type=tar,dest=FILE")
    if sum(output.dest == "-" for output in options.outputs) > 1:
        raise UsageFault("only one output can go to standard output")


async def deliver(host: HostClient, image: image_pb2.Image, output: Output, options: BuildOptions) -> None:
    """Do with the image what the output says. Raises ShoalError."""
    if output.kind == "image":
        if output.push:
            await _push(host, output.names or options.names)
        return
    async with _container(host, image.id) as container:
        if output.kind == "tar":
            from shoalctl.commands.exporting import export_to

            await export_to(host, container, "" if output.dest == "-" else output.dest)
            return
        from shoalctl.commands.copying import Copying
        from shoalctl.flags.copy_paths import CopyPath

        os.makedirs(output.dest, exist_ok=True)
        copying = Copying(host, archive=False, follow=False, quiet=True)
        await copying.run(CopyPath(container, "/."), CopyPath("", output.dest))


async def _push(host: HostClient, names: Sequence[str]) -> None:
    from shoal.v1 import image_pb2
    from shoalctl.commands.credentials import credentials
    from shoalctl.fleet.host import new_request_id

    for name in names:
        request = image_pb2.ImageServicePushRequest(
            request_id=new_request_id(), reference=name, credentials=await credentials(None, name)
        )
        await host.push(request)


@asynccontextmanager
async def _container(host: HostClient, image: str) -> AsyncIterator[str]:
    """A container of the image for the time of the block; it is never started."""
    from shoal.v1 import container_pb2, container_pb2_grpc
    from shoalctl.fleet.host import new_request_id

    # An image may have no command, and a container has to have one.
    spec = container_pb2.ContainerSpec(image=image, entrypoint=["/"], entrypoint_set=True, network="none")
    request = container_pb2.ContainerServiceCreateRequest(
        request_id=new_request_id(), spec=spec, pull_policy=container_pb2.PULL_POLICY_NEVER
    )
    answer = await host.link.unary(
        lambda channel: container_pb2_grpc.ContainerServiceStub(channel).Create, request, timeout=None
    )
    try:
        yield answer.container.id
    finally:
        await host.remove(answer.container.id, force=True, volumes=True)
