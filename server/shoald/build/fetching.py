"""What ADD fetches for the builds of this host: files of URLs and checkouts of repositories, each once in a build."""

from __future__ import annotations

import asyncio
import posixpath
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace as with_fields

from shoal.digest import Digest
from shoal.errors import NotFound, ShoalError, Unimplemented
from shoald.attest.materials import git_material, http_material
from shoald.build.git import clone, repository_of
from shoald.build.place import BuildPlace
from shoald.build.remote import Fetched, fetch
from shoald.build.selection import CopyItem
from shoald.build.solver import Build
from shoald.dockerfile.steps import CopyStep, DirectoryBase, GitSource, PathSource, UrlSource

T = TypeVar("T")


class Fetching:
    """Below the build's own directory, and gone with it. `networks` gives the subnets of containers, from which nothing
    is fetched."""

    def __init__(self, networks: Callable[[], Iterable[str]]) -> None:
        self._networks = networks
        self._tasks: dict[tuple[BuildPlace, str], asyncio.Future[Any]] = {}

    def forget(self, place: BuildPlace) -> None:
        """A build is over."""
        for key in [key for key in self._tasks if key[0] is place]:
            self._tasks.pop(key).cancel()

    async def files(self, build: Build, step: CopyStep, *, into: bool) -> tuple[Path, list[CopyItem]]:
        """The files of the step's URLs, and what to make of them. Raises as `fetch`."""
        if build.local and any(isinstance(source, UrlSource) for source in step.sources):
            raise _not_here()
        place = build.place.fetched()
        items = []
        for source in step.sources:
            if not isinstance(source, UrlSource):
                continue

            async def work(url: str = source.url) -> Fetched:
                path = place / secrets.token_hex(8)
                return await fetch(url, path, checksum=step.checksum, local=_local(build), networks=self._networks())

            found = await self._once(build, f"{source.url} {step.checksum}", work)
            build.fetched[source.url] = http_material(source.url, Digest.parse(f"sha256:{found.digest}"))
            target = posixpath.join(step.dest, source.name) if into else step.dest
            item = CopyItem(f"/{found.path.name}", target, "f", 0o600, 0, 0, found.mtime_ns, found.digest, {}, 0)
            items.append(with_fields(item, named=True))
        return place, items

    async def checked_out(self, build: Build, step: CopyStep) -> tuple[CopyStep, str]:
        """An ADD of a repository as a copy of its files, and the commit; any other step as it is, and "". Raises as
        `clone`."""
        found = [source for source in step.sources if isinstance(source, GitSource)]
        if not found:
            return step, ""
        if len(step.sources) > 1:
            raise Unimplemented(
                "ADD of a git repository beside other sources is not supported",
                reason="INSTRUCTION_UNSUPPORTED",
                hint="write an ADD of its own for it",
            )
        if build.local:
            raise _not_here()
        url = found[0].url

        async def work() -> tuple[Path, str]:
            checkout = build.place.fetched() / secrets.token_hex(8)
            commit = await clone(
                url,
                checkout,
                checksum=step.checksum,
                keep_git_dir=step.keep_git_dir,
                local=_local(build),
                networks=list(self._networks()),
            )
            return checkout, commit

        checkout, commit = await self._once(build, f"{url} {step.checksum} {step.keep_git_dir}", work)
        build.fetched[url] = git_material(url, commit)
        source = PathSource(f"/{repository_of(url).directory}")
        return replace(step, base=DirectoryBase(checkout), sources=(source,), unpack=False), commit

    async def _once(self, build: Build, what: str, work: Callable[[], Awaitable[T]]) -> T:
        key = (build.place, what)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(work())
        try:
            found: T = await asyncio.shield(task)
        except ShoalError:
            self._tasks.pop(key, None)
            raise
        return found


def _not_here() -> NotFound:
    """For questions about a build, which fetch nothing."""
    return NotFound("what ADD fetches is not here", reason="NOT_FETCHED")


def _local(build: Build) -> bool:
    """Whether what only the host can reach is allowed: the caller has the host's network, and the role for it."""
    return build.request.network == "host"
