"""`shoal build --debug`: a shell in the state before the step that failed.

The Dockerfile is built once more up to that step, which takes no time: all of it comes from the cache. What is mounted
for the step only (caches, secrets, bind mounts) is not there.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from shoal.errors import ShoalError
from shoalctl.fleet.building import Archive, Build
from shoalctl.fleet.host import HostClient
from shoalctl.fleet.manifest import SharedManifest
from shoalctl.render import console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.v1 import image_pb2
    from shoalctl.commands.run_options import RunOptions

_SHELL = ("/bin/sh",)
HINT = "look at the state before it: shoal build --debug"


def failed_line(error: ShoalError | None) -> int:
    """The first line of a RUN that failed; 0 for any other error."""
    if error is None or error.reason != "BUILD_STEP_FAILED":
        return 0
    line = error.metadata.get("start_line", "")
    # A trigger of the base image has the line of its FROM, before which there is nothing.
    return int(line) if line.isdecimal() and int(line) > 1 else 0


async def open_shell(
    host: HostClient,
    start: image_pb2.ImageServiceBuildRequest.Start,
    line: int,
    context: SharedManifest | Archive,
    named: Mapping[str, SharedManifest | Archive],
) -> None:
    """Build what comes before `line` on the host, and run a shell there until it ends."""
    from shoalctl.commands.running import Running
    from shoalctl.fleet.fleet import Fleet

    name = f"shoal-debug:{os.urandom(8).hex()}"
    build = Build(host, _before(start, line, name), context, named)
    try:
        async for _ in build.events():
            pass
    except asyncio.CancelledError:
        await asyncio.shield(host.cancel(build.request_id))
        raise
    console.err(f"a shell on {host.name}, before line {line}; nothing that is done here is kept")
    try:
        async with Fleet([host.link.host], timeout=host.link.timeout) as fleet:
            await Running(fleet, _options(name, start)).run()
    finally:
        # A shell that was left (or did not hear of the end) goes with the container.
        with suppress(ShoalError):
            await host.remove(f"debug-{name[-16:]}", force=True)
        await host.remove_image(name, force=True)


def _before(
    start: image_pb2.ImageServiceBuildRequest.Start, line: int, name: str
) -> image_pb2.ImageServiceBuildRequest.Start:
    """The same up to a line: the stage that it is in becomes the last one."""
    changed = type(start)()
    changed.CopyFrom(start)
    changed.dockerfile = b"".join(start.dockerfile.splitlines(keepends=True)[: line - 1])
    for field in (
        "request_id",
        "target",
        "tags",
        "no_cache",
        "cache_to",
        "inline_cache",
        "lent_caches",
        "cache_exports",
        "sbom",
        "provenance",
    ):
        changed.ClearField(field)
    changed.tags.append(name)
    return changed


def _options(name: str, start: image_pb2.ImageServiceBuildRequest.Start) -> RunOptions:
    """As docker gives a RUN its variables: with the build's arguments."""
    from shoalctl.commands.run_options import RunOptions
    from shoalctl.flags.networks import NetworkFlag
    from shoalctl.render.terminal import input_is_terminal

    return RunOptions(
        image=name,
        entrypoint=_SHELL,
        env=[f"{key}={value}" for key, value in start.build_args.items()],
        networks=[NetworkFlag(start.network)] if start.network else (),
        interactive=True,
        tty=input_is_terminal() and console.is_terminal(),
        remove=True,
        name=f"debug-{name[-16:]}",
        pull="never",
    )
