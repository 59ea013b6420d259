"""Where a build has its files: contexts that were sent for it alone, those that the host keeps, and what it fetches."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from pathlib import Path

from shoal.errors import ShoalError
from shoald.build.contexts import Contexts, HeldContext
from shoald.host.syscall import translated
from shoald.host.trees import remove_tree
from shoald.model.build import BuildRequest


class BuildPlace:
    """Directories of one build below `tmp_dir`. `make` it before use, `remove` it in any case."""

    def __init__(self, tmp_dir: Path) -> None:
        self.directory = tmp_dir / f"build-{secrets.token_hex(8)}"
        self.roots: dict[str, Path] = {}
        """The directory of each context by name ("" is the main one)."""
        self.held: dict[Path, HeldContext] = {}
        """Those of them that the host keeps."""
        self._stack = AsyncExitStack()

    async def describe(self, request: BuildRequest, contexts: Contexts) -> bool:
        """In place of `make`, for questions about a build: contexts of which only the manifest need be here. Whether
        all are here as a whole."""
        held = "" in request.manifests
        for name, digest in request.manifests.items():
            try:
                nowhere = self.directory / f"none-{name.encode().hex()}"
                found = await self._stack.enter_async_context(contexts.described(digest, nowhere))
            except ShoalError:
                held = False
                continue
            self.roots[name] = found.root
            self.held[found.root] = found
            held = held and contexts.holds(digest)
        return held

    async def make(self, request: BuildRequest, contexts: Contexts) -> None:
        """A directory for each context that is sent, and the contexts that are held. Raises FailedPrecondition
        (CONTEXT_MISSING)."""
        with translated("make directory"):
            self.directory.mkdir(mode=0o700, parents=True)
        names = ["", *sorted(name for name, image in request.contexts.items() if not image)]
        for number, name in enumerate(names):
            if name in request.manifests:
                held = await self._stack.enter_async_context(contexts.taken(request.manifests[name]))
                self.roots[name] = held.root
                self.held[held.root] = held
                continue
            self.roots[name] = self.directory / f"context-{number}"
            with translated("make directory"):
                self.roots[name].mkdir(mode=0o755)  # what `COPY . /new` gives

    def fetched(self) -> Path:
        """The directory for what ADD fetches."""
        place = self.directory / "fetched"
        place.mkdir(mode=0o700, exist_ok=True)
        return place

    async def remove(self) -> None:
        """Let go of all. Idempotent."""
        await self._stack.aclose()
        if self.directory.exists():
            await asyncio.to_thread(remove_tree, self.directory)
