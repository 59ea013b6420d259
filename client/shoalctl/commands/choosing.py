"""`shoal build --once` and `--distribute`: one host of each platform builds, the one that has most of it already."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from shoal.errors import DataLoss, FailedPrecondition
from shoalctl.fleet.building import estimated
from shoalctl.fleet.fleet import Fleet
from shoalctl.fleet.host import HostClient
from shoalctl.fleet.manifest import SharedManifest
from shoalctl.fleet.result import HostResult

if TYPE_CHECKING:
    from shoal.v1 import image_pb2


class Builder(NamedTuple):
    """A host that builds, and the others of its platform."""

    host: str
    others: Sequence[str]


async def builders(
    fleet: Fleet,
    start: image_pb2.ImageServiceBuildRequest.Start,
    contexts: Mapping[str, object],
) -> tuple[list[Builder], list[HostResult[None]]]:
    """A builder for each platform of the fleet, and the hosts that do not answer with their errors.

    Most steps in the cache win, then a context that is there, then the order of the hosts.
    """
    shared = {name: each for name, each in contexts.items() if isinstance(each, SharedManifest)}
    manifests = {name: await each.get() for name, each in shared.items()}

    async def ask(host: HostClient) -> image_pb2.ImageServiceEstimateBuildResponse:
        return await estimated(host, start, manifests)

    order = {name: at for at, name in enumerate(fleet.names)}
    found: dict[str, list[tuple[tuple[int, bool, int], str]]] = {}
    silent: list[HostResult[None]] = []
    async for result in fleet.each(ask):
        if result.error is not None:
            silent.append(HostResult(result.host, None, result.error))
            continue
        answer = result.get()
        platform = f"{answer.platform.os}/{answer.platform.architecture}/{answer.platform.variant}"
        rank = (answer.cached_steps, answer.context_held, -order[result.host])
        found.setdefault(platform, []).append((rank, result.host))
    chosen = []
    for ranked in found.values():
        best, *others = (host for _, host in sorted(ranked, reverse=True))
        chosen.append(Builder(best, others))
    return chosen, silent


async def distribute(
    fleet: Fleet, builder: Builder, names: Sequence[str], image: image_pb2.Image
) -> list[HostResult[image_pb2.Image | None]]:
    """Bring an image of the builder to the others, through this machine, which keeps it in a file meanwhile."""
    from shoalctl.fleet.archives import load_images, save_images
    from shoalctl.fleet.spool import Spool

    spool = Spool()
    try:
        async for chunk in save_images(fleet.host(builder.host), names, docker=False, expected=image.id):
            await asyncio.to_thread(spool.write, chunk)
    except OSError as error:
        raise FailedPrecondition(
            f"can't keep the image in {tempfile.gettempdir()}: {error.strerror}", reason="DISK_FULL"
        ) from error

    async def one(host: HostClient) -> image_pb2.Image | None:
        loaded = await load_images(host, spool.chunks())
        if [each.image.id for each in loaded] != [image.id]:
            raise DataLoss(f"{builder.host} sent another image than it built", reason="DIGEST_MISMATCH")
        return loaded[0].image

    return [result async for result in fleet.each(one, builder.others)]
