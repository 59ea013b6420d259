"""What `build --output` does with the image that a host made: its files come to this machine, or it is pushed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.platform import Platform
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
        if output.kind == "tar" and len(options.platforms) > 1:
            raise UsageFault("--output type=tar needs a single platform", hint="type=local makes a directory for each")
        if output.dest == "-" and sys.stdout.isatty():
            raise UsageFault(
                "an archive is not for a terminal", hint=f"write it to a file: -o type={output.kind},dest=FILE"
            )
    if sum(output.dest == "-" for output in options.outputs) > 1:
        raise UsageFault("only one output can go to standard output")


async def deliver(host: HostClient, image: image_pb2.Image, index: str, output: Output, options: BuildOptions) -> None:
    """Do with the image, or with the index that has this digest, what the output says. Raises ShoalError."""
    if output.kind == "image":
        if output.push:
            await _push(host, output.names or options.names)
        return
    from shoalctl.commands.exporting import unpack_archive, write_archive
    from shoalctl.fleet.archives import save_images
    from shoalctl.fleet.builds import export_image
    from shoalctl.fleet.unpacking import LocalTarget

    if output.kind in ("oci", "docker"):
        names = output.names or options.tags or [index or image.id]
        saved = save_images(host, names, docker=output.kind == "docker", expected=index or image.id)
        await write_archive(saved, "" if output.dest == "-" else output.dest)
        return
    if output.kind == "local" and len(options.platforms) > 1:
        from shoalctl.fleet.indexes import inspect_index

        # A directory for each, as buildx has it.
        for each in (await inspect_index(host, index)).images:
            # Its parts may come from anywhere; in normal form they have no separators.
            own = Platform(each.platform.os, each.platform.architecture, each.platform.variant)
            place = os.path.join(output.dest, str(own).replace("/", "_"))
            os.makedirs(place, exist_ok=True)
            await unpack_archive(export_image(host, each.id), LocalTarget(place, "."))
        return
    chunks = export_image(host, image.id)
    if output.kind == "tar":
        await write_archive(chunks, "" if output.dest == "-" else output.dest)
        return
    os.makedirs(output.dest, exist_ok=True)
    await unpack_archive(chunks, LocalTarget(output.dest, "."))


async def _push(host: HostClient, names: Sequence[str]) -> None:
    from shoal.v1 import image_pb2
    from shoalctl.commands.credentials import credentials
    from shoalctl.fleet.host import new_request_id

    for name in names:
        request = image_pb2.ImageServicePushRequest(
            request_id=new_request_id(), reference=name, credentials=await credentials(None, name)
        )
        await host.push(request)
