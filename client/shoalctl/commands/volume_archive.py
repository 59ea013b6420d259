"""What `shoal volume` shows and moves: inspect, export, import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import NotFound, ShoalError
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

if TYPE_CHECKING:
    from shoal.v1 import volume_pb2
    from shoalctl.fleet.host import HostClient

Found = tuple[list[dict[str, Any]], list[ShoalError]]


def volume_view(host: str, answer: volume_pb2.VolumeServiceInspectResponse) -> dict[str, Any]:
    """As docker shows it; Host and Containers are shoal's own additions."""
    from shoalctl.commands.container_rows import stamp
    from shoalctl.render.template import FreeMap

    volume = answer.volume
    return {
        "Host": host,
        "CreatedAt": stamp(volume.created_at),
        "Driver": "local",
        "Labels": FreeMap(volume.labels),
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": FreeMap(volume.options),
        "Scope": "local",
        "Anonymous": volume.anonymous,
        "Containers": list(answer.containers),
        "UsageData": {"Size": answer.size_bytes, "RefCount": len(answer.containers)},
    }


async def inspect_volumes(invocation: Invocation, names: list[str], format_: str) -> int:
    """Print them; the exit code."""
    from shoalctl.commands.outcome import collected, inspected
    from shoalctl.fleet.volumes import inspect_volume

    async def on_host(host: HostClient) -> Found:
        found, errors = [], []
        for name in names:
            try:
                found.append(volume_view(host.name, await inspect_volume(host, name)))
            except NotFound as error:
                errors.append(error)
        return found, list[ShoalError](errors)

    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(on_host), fleet.names)
    return inspected(results, format_)


async def export_to(invocation: Invocation, name: str, output: str) -> int:
    """Write the archive; a file is whole or not there. The exit code."""
    from shoalctl.commands.exporting import write_archive
    from shoalctl.commands.outcome import single
    from shoalctl.fleet.volumes import export_volume

    if not output and sys.stdout.isatty():
        raise UsageFault("an archive is not for a terminal", hint="write it to a file: -o FILE, or into a pipe")
    async with invocation.fleet() as fleet:
        if len(fleet.names) > 1:
            raise UsageFault("an export is of a single host", hint="choose one with -H")
        host = fleet.host(fleet.names[0])
        return await single(host.name, write_archive(export_volume(host, name), output))


async def import_from(invocation: Invocation, name: str, source: str) -> int:
    """Send the archive to each host; the exit code. Raises UsageFault when it can't be read."""
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.volumes import import_volume

    if source == "-":
        if sys.stdin.isatty():
            raise UsageFault("there is no archive on a terminal", hint="name a file, or use a pipe")
        if len(invocation.selected()) > 1:
            raise UsageFault("standard input can go to a single host only", hint="choose one with -H, or name a file")
    else:
        _check_file(source)

    async def work(host: HostClient, volume: str) -> list[str]:
        await import_volume(host, volume, _chunks(source))
        return [volume]

    return await batch(invocation, [name], work)


def _check_file(source: str) -> None:
    if not Path(source).is_file():
        raise UsageFault(f"there is no file {source}")
    try:
        with open(source, "rb"):
            pass
    except OSError as error:
        raise UsageFault(f"can't read {source}: {error.strerror}") from error


def _chunks(source: str) -> Iterator[bytes]:
    from shoalctl.fleet.volumes import CHUNK

    if source == "-":
        while chunk := sys.stdin.buffer.read(CHUNK):
            yield chunk
        return
    with open(source, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
