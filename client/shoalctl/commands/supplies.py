"""What a container is given of this machine: files, configs and secrets; and its files kept in step while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import ShoalError
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.mounts import MountFlag
from shoalctl.flags.secrets import SecretFlag
from shoalctl.render.errors import show_error, show_warning

if TYPE_CHECKING:
    from shoal.v1 import container_pb2
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.localtree import HashCache, LocalTree

_FIRST_LOOK, _LONGEST_LOOK = 0.25, 5.0  # s between two looks at the files
_EFFORT = 10  # looking takes at most a tenth of the time


class Supplies:
    """The files and secrets of one `run` or `create`, for any number of hosts: read and hashed once."""

    def __init__(self, mounts: Sequence[MountFlag], secrets: Sequence[SecretFlag]) -> None:
        """Raises UsageFault for a path that is not here: before any host is asked."""
        self._cache: HashCache | None = None
        self._trees: list[tuple[str, LocalTree]] = []
        for mount in mounts:
            if mount.kind == "content":
                self._add(mount)
        self._secrets = secrets
        self._scanned: asyncio.Task[None] | None = None
        self._followed: list[tuple[HostClient, str]] = []

    def _add(self, mount: MountFlag) -> None:
        # Hashing takes 5 ms to import, and most containers are given nothing.
        from shoalctl.fleet.localtree import HashCache, LocalTree, missing

        if not Path(mount.local).exists():
            why = missing(mount.local)
            raise UsageFault(why.message, hint=why.hint)
        self._cache = self._cache or HashCache()
        self._trees.append((mount.target, LocalTree(Path(mount.local), self._cache, mount.file_mode)))

    async def fill(self, host: HostClient, spec: container_pb2.ContainerSpec) -> None:
        """Send this host what it lacks, and name it in the request."""
        if not self._trees and not self._secrets:
            return
        from shoal.v1 import container_pb2
        from shoalctl.fleet.sending import put_secret, send_tree

        if self._trees:
            await asyncio.shield(self._scan())
        digests = {target: await send_tree(host, tree) for target, tree in self._trees}
        for mount in spec.mounts:
            if mount.kind == mount.KIND_CONTENT:
                mount.content_digest = digests[mount.target]
        for secret in self._secrets:
            handle = await put_secret(host, secret.value, secret.mode)
            spec.mounts.add(
                kind=container_pb2.Mount.KIND_SECRET, target=secret.target, read_only=True, content_digest=handle
            )

    def _scan(self) -> asyncio.Task[None]:
        if self._scanned is None:
            self._scanned = asyncio.create_task(asyncio.to_thread(self._scan_now))
        return self._scanned

    def _scan_now(self) -> None:
        for _, tree in self._trees:
            tree.scan()
            for name in tree.skipped[:3]:
                show_warning(f"{tree.path / name} is no file, directory or link, and stays out")
        if self._cache is not None:
            self._cache.save()

    # --- in step ----------------------------------------------------------------------------------------------------

    def follow(self, host: HostClient, container: str) -> None:
        """From now on this container gets the changes too."""
        self._followed.append((host, container))

    async def keep_in_step(self) -> None:
        """Watch the files and give each state of them, whole, to the containers; until cancelled."""
        changed: set[str] = set()
        pause = _FIRST_LOOK
        while True:
            await asyncio.sleep(pause)
            began = asyncio.get_running_loop().time()
            seen = await asyncio.to_thread(self._look)
            pause = min(max(_FIRST_LOOK, _EFFORT * (asyncio.get_running_loop().time() - began)), _LONGEST_LOOK)
            # A state that stayed for one look is whole: an editor or a checkout is done with it.
            ready, changed = changed - seen, changed | seen
            for target in ready:
                changed.discard(target)
                await self._renew(target)

    def _look(self) -> set[str]:
        changed = set()
        for target, tree in self._trees:
            try:
                if tree.scan():
                    changed.add(target)
            except ShoalError:
                changed.add(target)  # in the middle of a change
        return changed

    async def _renew(self, target: str) -> None:
        from shoalctl.fleet.sending import replace_tree, send_tree

        tree = next(tree for place, tree in self._trees if place == target)

        async def one(host: HostClient, container: str) -> None:
            try:
                await replace_tree(host, container, target, await send_tree(host, tree))
            except ShoalError as error:
                show_error(error, host.name)

        await asyncio.gather(*(one(host, container) for host, container in self._followed))
