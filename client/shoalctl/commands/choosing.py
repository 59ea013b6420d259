"""`shoal build --once` and `--distribute`: who builds what, and how the result comes to the others."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from shoal.errors import DataLoss, FailedPrecondition
from shoal.platform import Platform
from shoalctl.fleet.building import estimated
from shoalctl.fleet.fleet import Fleet
from shoalctl.fleet.host import HostClient
from shoalctl.fleet.manifest import SharedManifest
from shoalctl.fleet.result import HostResult

if TYPE_CHECKING:
    from shoal.v1 import image_pb2

Triple = tuple[str, str, str]


class Builder(NamedTuple):
    """A host that builds, for which platforms (none: its own), and the others that get what it makes."""

    host: str
    others: Sequence[str]
    platforms: Sequence[Triple] = ()


class Candidate(NamedTuple):
    """A host that answered: its platform, and how well it is prepared (the greater, the better)."""

    host: str
    platform: Triple
    rank: tuple[int, bool, int]


async def candidates(
    fleet: Fleet,
    start: image_pb2.ImageServiceBuildRequest.Start,
    contexts: Mapping[str, object],
) -> tuple[list[Candidate], list[HostResult[None]]]:
    """The hosts that could build, the best first, and those that do not answer with their errors.

    Most steps in the cache win, then a context that is there, then the order of the hosts.
    """
    shared = {name: each for name, each in contexts.items() if isinstance(each, SharedManifest)}
    manifests = {name: await each.get() for name, each in shared.items()}

    async def ask(host: HostClient) -> image_pb2.ImageServiceEstimateBuildResponse:
        return await estimated(host, start, manifests)

    order = {name: at for at, name in enumerate(fleet.names)}
    found: list[Candidate] = []
    silent: list[HostResult[None]] = []
    async for result in fleet.each(ask):
        if result.error is not None:
            silent.append(HostResult(result.host, None, result.error))
            continue
        answer = result.get()
        own = answer.platform
        rank = (answer.cached_steps, answer.context_held, -order[result.host])
        found.append(Candidate(result.host, (own.os, own.architecture, own.variant), rank))
    return sorted(found, key=lambda each: each.rank, reverse=True), silent


def builders(found: Sequence[Candidate]) -> list[Builder]:
    """A builder for each platform of the fleet, each for its own."""
    groups: dict[Triple, list[str]] = {}
    for each in found:
        groups.setdefault(each.platform, []).append(each.host)
    return [Builder(best, others) for best, *others in groups.values()]


def assigned(found: Sequence[Candidate], platforms: Sequence[Triple]) -> list[Builder]:
    """Who builds for which of these platforms: the best host that runs them without an emulator, else the best of all.
    The one that builds for the first platform comes first; the index is put together there."""
    work: dict[str, list[Triple]] = {}
    for wanted in platforms:
        native = (each for each in found if Platform(*each.platform).matches(Platform(*wanted)))
        chosen = next(native, None) or next(iter(found), None)
        if chosen is not None:
            work.setdefault(chosen.host, []).append(wanted)
    first = next(iter(work), "")
    others = [each.host for each in found if each.host != first]
    return [Builder(host, others if host == first else (), own) for host, own in work.items()]


async def transfer(
    fleet: Fleet, source: str, names: Sequence[str], expected_id: str, targets: Sequence[str]
) -> list[HostResult[image_pb2.Image | None]]:
    """Bring an image or index of one host to others, through this machine, which keeps it in a file meanwhile. The
    names mean `expected_id` on the source."""
    from shoalctl.fleet.archives import load_images, save_images
    from shoalctl.fleet.spool import Spool

    spool = Spool()
    try:
        async for chunk in save_images(fleet.host(source), names, docker=False, expected=expected_id):
            await asyncio.to_thread(spool.write, chunk)
    except OSError as error:
        raise FailedPrecondition(
            f"can't keep the image in {tempfile.gettempdir()}: {error.strerror}", reason="DISK_FULL"
        ) from error

    async def one(host: HostClient) -> image_pb2.Image | None:
        loaded = await load_images(host, spool.chunks())
        if len(loaded) != 1:
            raise DataLoss(f"{source} sent {len(loaded)} images instead of one", reason="DIGEST_MISMATCH")
        return loaded[0].image

    return [result async for result in fleet.each(one, targets)]


async def distribute(
    fleet: Fleet, source: str, targets: Sequence[str], names: Sequence[str], image: image_pb2.Image, index: str
) -> list[HostResult[image_pb2.Image | None]]:
    """Bring what a host built, an image or the index with this digest, to others; checked to be the same there."""
    built = index or image.id
    results = await transfer(fleet, source, names or [built], built, targets)
    return [result if index else _checked(result, source, image.id) for result in results]


def _checked(
    result: HostResult[image_pb2.Image | None], source: str, expected: str
) -> HostResult[image_pb2.Image | None]:
    if result.value is None or result.value.id == expected:
        return result
    wrong = DataLoss(f"{source} sent another image than it built", reason="DIGEST_MISMATCH")
    return HostResult(result.host, None, wrong)
