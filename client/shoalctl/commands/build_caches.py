"""Caches of builds in directories of this machine: lent to the hosts, and written when a host has built."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from shoal.errors import FailedPrecondition, ShoalError
from shoalctl.flags.build_cache import LocalCache
from shoalctl.flags.fault import UsageFault
from shoalctl.fleet.cache_layout import CacheLayout, Part
from shoalctl.fleet.cache_writing import CacheWriter
from shoalctl.render.build_log import BuildView
from shoalctl.render.progress import DONE

if TYPE_CHECKING:
    from shoal.v1 import image_pb2
    from shoalctl.commands.build_options import BuildOptions
    from shoalctl.fleet.building import Build
    from shoalctl.fleet.host import HostClient

_DOWNLOADING = 2
_WORTH_A_LINE = 1 << 20  # bytes


class Lent(NamedTuple):
    """A directory whose manifest was found, and the handle that hosts know it by."""

    name: str
    layout: CacheLayout
    manifest: Part
    handle: str


class LocalCaches:
    """Those of one `shoal build`."""

    def __init__(self, options: BuildOptions, view: BuildView) -> None:
        self._view = view
        self._sources = options.local_caches
        self._targets = list(options.local_targets)
        self._lent: list[Lent] = []
        self._warnings: list[str] = []

    @staticmethod
    def check(options: BuildOptions, hosts: Sequence[str]) -> None:
        """Find what can't work before any host is asked. Raises UsageFault."""
        if options.detach and (options.local_caches or options.local_targets):
            raise UsageFault("--detach leaves nobody here for a cache of type=local", hint="use a cache in a registry")
        if options.local_targets and len(hosts) > 1:
            raise UsageFault("--cache-to type=local needs a single host", hint="choose one with -H, or --once")

    def prepare(self) -> None:
        """Look at the directories (blocking). A cache that is not there is a warning. Raises UsageFault for one that
        can't be written."""
        for target in list(self._targets):
            try:
                CacheWriter(target.path).prepare()
            except ShoalError as error:
                if not target.ignore_errors:
                    raise UsageFault(f"--cache-to: {target.path}: {error.message}", hint=error.hint) from error
                self._warnings.append(f"the cache can't be written to {target.path}: {error}")
                self._targets.remove(target)
        for source in self._sources:
            try:
                self._lent.append(_opened(source))
            except ShoalError as error:
                self._warnings.append(f"the cache {source.path} can't be used: {error}")

    def tell(self, start: image_pb2.ImageServiceBuildRequest.Start) -> None:
        """Add to a build's first message what hosts are lent, and what they are to make."""
        for lent in self._lent:
            kind, digest, size = lent.manifest
            start.lent_caches.add(handle=lent.handle, name=lent.name, media_type=kind, digest=digest, size_bytes=size)
        for all_steps in (False, True):
            targets = [each for each in self._targets if each.all_steps is all_steps]
            if targets:
                start.cache_exports.add(all_steps=all_steps, ignore_errors=all(each.ignore_errors for each in targets))

    @asynccontextmanager
    async def lending(self, host: HostClient) -> AsyncIterator[None]:
        """The host can have of them what it wants inside the block."""
        for text in self._warnings:
            self._view.warning(host.name, text)
        tasks = [asyncio.create_task(self._lend(host, lent)) for lent in self._lent]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _lend(self, host: HostClient, lent: Lent) -> None:
        from shoalctl.fleet.cache_lending import CacheLoan

        try:
            await CacheLoan(host, lent.handle, lent.layout).run()
        except ShoalError as error:
            self._view.warning(host.name, f"the cache {lent.name} can't be used: {error}")

    async def write(self, host: HostClient, build: Build) -> None:
        """Fetch what the build made into the directories. Raises ShoalError, unless errors are to be ignored."""
        from shoalctl.fleet.cache_fetching import CacheFetch

        for target in self._targets:
            ready = build.caches.get(target.all_steps)
            try:
                if ready is None and target.ignore_errors:
                    continue  # the host has said why
                if ready is None:
                    raise FailedPrecondition(
                        "the host made none", reason="CACHE_NOT_MADE", hint="its version is older; update shoald there"
                    )
                fetch = CacheFetch(host, build.request_id, lambda done, total: self._received(host, done, total))
                await fetch.run(ready.digest, ready.size_bytes, CacheWriter(target.path), target.tag)
            except ShoalError as error:
                text = f"its cache was not written to {target.path}: {error}"
                if not target.ignore_errors:
                    error.message = f"the image was built, but {text}"
                    raise
                self._view.warning(host.name, f"the image was built, but {text}")

    def _received(self, host: HostClient, done: int, total: int) -> None:
        if total >= _WORTH_A_LINE:
            self._view.progress(host.name, "cache", DONE[0] if done == total else _DOWNLOADING, done, total)


def _opened(source: LocalCache) -> Lent:
    layout = CacheLayout(source.path)
    manifest = layout.find(source.tag, source.digest)
    return Lent(source.path, layout, manifest, os.urandom(16).hex())
