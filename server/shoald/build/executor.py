"""Does the steps of a build: RUN through the container launcher, COPY and ADD by the tree programs, WORKDIR.

Every step writes into a new snapshot over the one before it. A step that fails or is cancelled leaves no snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from shoal.errors import FailedPrecondition, InvalidArgument, ShoalError, Unimplemented
from shoald.build import trees
from shoald.build.fetching import Fetching
from shoald.build.keys import KnownKeys, copy_key, run_key, tree_key, workdir_key
from shoald.build.modes import mode_change
from shoald.build.mounts import StepMounts
from shoald.build.parents import select_with_parents
from shoald.build.parts import Archive, Part, Piece, in_order, runs, told, with_archives
from shoald.build.place import BuildPlace
from shoald.build.rights import INSECURE, cdi_devices, check_rights
from shoald.build.scans import Scans
from shoald.build.selection import CopyItem, Tree, clamped, finished, linkable, scan_paths, select
from shoald.build.solver import Build, Keyed, Log, Roots, StageResult
from shoald.build.stubs import remove_stubs
from shoald.containers.launcher import Launcher
from shoald.containers.step import StepProcess, run_step
from shoald.dockerfile.steps import (
    ContextBase,
    CopyStep,
    DirectoryBase,
    ImageBase,
    MountType,
    PathSource,
    RunMount,
    RunStep,
    ScratchBase,
    StageBase,
    Step,
    UrlSource,
    WorkdirStep,
)
from shoald.files.vault import SecretVault
from shoald.host.blocking import in_thread, to_end
from shoald.host.clamp import clamp_times
from shoald.host.trees import tree_size
from shoald.metadata.store import Metadata
from shoald.runtime.user import resolve_user
from shoald.snapshots.ports import Snapshotter

_EMULATOR = (
    "a program for another architecture needs an emulator on the host (binfmt_misc): apt install qemu-user-static"
)

Unpack = Callable[[Path, Path, str], Awaitable[object]]
"""Unpack an archive (a host path) below a root, into a path inside it."""


class _Watched:
    """Passes a step's output on, and sees the OCI runtime say that the kernel can't start the program."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.foreign = False

    def __call__(self, stderr: bool, data: bytes) -> None:
        self.foreign = self.foreign or b"xec format error" in data
        self._log(stderr, data)


class StepExecutor:
    """See shoald.build.solver.Executor."""

    def __init__(
        self,
        md: Metadata,
        snapshots: Snapshotter,
        launcher: Launcher,
        vault: SecretVault,
        mounts: StepMounts,
        unpack: Unpack,
        fetching: Fetching,
    ) -> None:
        self._md = md
        self._snapshots = snapshots
        self._launcher = launcher
        self._vault = vault
        self._mounts = mounts
        self._unpack = unpack
        self._contexts: dict[Path, asyncio.Task[Tree]] = {}
        self._fetching = fetching
        self._keys = KnownKeys()
        self._scans = Scans()

    def forget(self, place: BuildPlace) -> None:
        """A build is over."""
        for root in place.roots.values():
            task = self._contexts.pop(root, None)
            if task is not None:
                task.cancel()
        self._fetching.forget(place)

    # --- keys -------------------------------------------------------------------------------------------------------

    async def key(self, build: Build, stage: StageResult, step: Step, roots: Roots) -> Keyed:
        """The content key. Raises Unimplemented for what is not built yet, InvalidArgument (COPY_SOURCE_MISSING)."""
        match step:
            case RunStep():
                check_rights(step, build.request)
                platform = str(build.plan.platform_of(stage.state.index))
                mounted = await self._mounted(build, step, roots)
                return Keyed(
                    run_key(stage.key, step, platform, build.request.network, mounted, build.request.extra_hosts)
                )
            case WorkdirStep():
                return Keyed(workdir_key(stage.key, step))
            case CopyStep():
                source = await self._source(build, step, roots)
                known = self._keys.get(stage.key, repr(step), source) if source else None
                if known is not None:
                    return Keyed(known)
                step, commit = await self._fetching.checked_out(build, step)
                pieces = await self._select(build, stage, step, roots, source)
                if commit and step.keep_git_dir:
                    # Git's own files hold times and inodes: the commit tells what they are.
                    what: tuple[Any, Any] = ((), [commit, "submodules", *map(repr, step.sources), *step.exclude])
                else:
                    what = told([part for piece in pieces for part in piece.parts])
                key = copy_key(stage.key, step, *what)
                if source and not build.local:
                    self._keys.note(stage.key, repr(step), source, key)
                return Keyed(key, pieces)
        raise Unimplemented(f"this daemon can't build {step.text!r}", reason="INSTRUCTION_UNSUPPORTED")

    async def _source(self, build: Build, step: CopyStep, roots: Roots) -> str:
        """What names all files that a COPY selects from: the digest of a context, a snapshot; "" where nothing does."""
        if not all(isinstance(source, PathSource) for source in step.sources):
            return ""
        if isinstance(step.base, ContextBase):
            held = build.place.held.get(build.files_of(step.base))
            return held.digest if held else ""
        if isinstance(step.base, StageBase | ImageBase):
            return await roots.snapshot_of(step.base) or ""
        return ""

    async def _select(
        self, build: Build, stage: StageResult, step: CopyStep, roots: Roots, source: str = ""
    ) -> Sequence[Piece]:
        """What the step makes, in the order of its sources: a later one wins where names clash."""
        async with self._root(build, step, roots) as root:
            tree = await self._tree(build, step, root, source)
            into = step.dest_is_dir or await self._dest_is_directory(stage, step)
            mode = mode_change(step.chmod)
            local = any(isinstance(source, PathSource) for source in step.sources)
            pieces = []
            for each in in_order(step):
                if isinstance(next(iter(each.sources), None), UrlSource):
                    place, items = await self._fetching.files(build, each, into=into)
                    items = finished(each, items, mode)
                    # Fetched archives are unpacked only where the instruction says so, not because a local one is.
                    unpack = step.unpack and not local
                    pieces.append(Piece(await with_archives(place, items, step.dest, unpack=unpack), place))
                    continue
                items = (
                    finished(each, select_with_parents(each, tree), mode)
                    if step.parents
                    else select(each, tree, dest_is_directory=into, mode=mode)
                )
                items = clamped(items, build.request.latest_ns)
                pieces.append(Piece(await with_archives(root, items, step.dest, unpack=step.unpack and local)))
        return pieces

    async def _mounted(self, build: Build, step: RunStep, roots: Roots) -> list[str]:
        """What a RUN can see through its bind mounts: of the context the content, of a stage or image its snapshot."""
        found = []
        for mount in step.mounts:
            if mount.type is not MountType.BIND or isinstance(mount.base, ScratchBase):
                continue
            if isinstance(mount.base, ContextBase):
                found.append(await self._mounted_context(build, mount, build.files_of(mount.base)))
            else:
                found.append(await roots.snapshot_of(mount.base) or "")
        return found

    async def _mounted_context(self, build: Build, mount: RunMount, root: Path) -> str:
        held = build.place.held.get(root)
        if held and (known := self._keys.get("mount", mount.source, held.digest)):
            return known
        tree = await self._context(build, root)
        if tree.by_path.get(mount.source) is None:  # a symbolic link on the way: resolved by itself
            tree = await trees.scan(root, [mount.source])
        key = tree_key(tree, tree.followed(mount.source) or mount.source)
        if held and not build.local:
            self._keys.note("mount", mount.source, held.digest, key)
        return key

    async def _context(self, build: Build, root: Path) -> Tree:
        """The whole context; one that came without a manifest is scanned once for all steps."""
        if root in build.place.held:
            return await build.place.held[root].tree()
        task = self._contexts.get(root)
        if task is None:
            task = self._contexts[root] = asyncio.ensure_future(trees.scan(root, ["/"]))
        return await asyncio.shield(task)

    async def _tree(self, build: Build, step: CopyStep, root: Path, source: str) -> Tree:
        if not isinstance(step.base, ContextBase):
            return await self._scans.sources(source, root, step)
        # A symbolic link among the sources is resolved by itself.
        paths = scan_paths(step)
        tree = await self._context(build, root)
        plain = {path: path if path in tree.by_path and tree.by_path[path].kind != "l" else None for path in paths}
        if all(found is not None for found in plain.values()):
            return tree.with_roots(plain)
        return await trees.scan_sources(root, step)

    async def _dest_is_directory(self, stage: StageResult, step: CopyStep) -> bool:
        if stage.snapshot_id is None:
            return step.dest == "/"
        async with self._snapshots.mounted(stage.snapshot_id) as root:
            return trees.is_directory(root, step.dest)

    @contextlib.asynccontextmanager
    async def _root(self, build: Build, step: CopyStep, roots: Roots) -> AsyncIterator[Path]:
        if isinstance(step.base, DirectoryBase):
            yield step.base.path
            return
        if isinstance(step.base, ContextBase):
            yield build.files_of(step.base)
            return
        async with self._snapshots.mounted(await roots.snapshot_of(step.base)) as root:
            yield root

    # --- execution --------------------------------------------------------------------------------------------------

    async def execute(self, build: Build, stage: StageResult, step: Step, keyed: Keyed, roots: Roots, log: Log) -> str:
        """Carry a step out; the id of its committed snapshot, which the cache and the build's lease hold."""
        base = build.userns_base if isinstance(step, RunStep) and step.security != INSECURE else 0
        snapshot = await self._snapshots.create_writable(stage.snapshot_id, uid_base=base, lease=build.lease)
        try:
            match step:
                case RunStep():
                    await self._run(build, step, snapshot.id, roots, log)
                case CopyStep():
                    pieces = keyed.items or await self._select(build, stage, step, roots)
                    step, _ = await self._fetching.checked_out(build, step)
                    await self._copy(build, step, snapshot.id, pieces, roots)
                case WorkdirStep():
                    await self._workdir(step, snapshot.id)
            if build.request.latest_ns is not None:
                await in_thread(partial(clamp_times, self._snapshots.fs_path(snapshot.id), build.request.latest_ns))
            size = await asyncio.to_thread(tree_size, self._snapshots.fs_path(snapshot.id))
            await self._snapshots.commit(snapshot.id, size_bytes=size.apparent)
        except BaseException:
            with contextlib.suppress(ShoalError):
                await to_end(self._snapshots.remove(snapshot.id))
            raise
        self._md.cache.put(keyed.key, snapshot.id, description=step.text[:1000], size_bytes=size.apparent)
        return snapshot.id

    async def _run(self, build: Build, step: RunStep, snapshot_id: str, roots: Roots, log: Log) -> None:
        network = step.network if step.network != "default" else build.request.network
        async with self._mounts.prepared(build, step, roots) as made:
            mounts = made.mounts
            process = StepProcess(
                snapshot_id=snapshot_id,
                userns_base=build.userns_base if step.security != INSECURE else 0,
                privileged=step.security == INSECURE,
                cdi_devices=await in_thread(lambda: cdi_devices(step.devices, self._launcher.cdi_directories)),
                args=step.argv,
                env={**step.proxy_env, **step.env, **made.env},
                user=step.user,
                working_dir=step.workdir,
                network=network,
                extra_hosts=build.request.extra_hosts,
                mounts=mounts,
                secrets=made.secrets,
                hostname=step.hostname,
            )
            output = _Watched(log)
            code = await run_step(self._launcher, self._vault, process, output)
        if code != 0:
            command = " ".join(step.argv)
            raise FailedPrecondition(
                f'process "{command}" did not complete successfully: exit code: {code}',
                reason="BUILD_STEP_FAILED",
                hint=_EMULATOR if output.foreign else None,
                metadata={"exit_code": str(code), "command": command[:4000]},
            )
        layer = self._snapshots.fs_path(snapshot_id)
        await asyncio.to_thread(remove_stubs, layer, [mount.target for mount in mounts])

    async def _copy(
        self, build: Build, step: CopyStep, snapshot_id: str, pieces: Sequence[Piece], roots: Roots
    ) -> None:
        layers = await self._layers(build, step, roots) if len(pieces) == 1 and pieces[0].root is None else []
        links: list[trees.Link] = []
        async with self._root(build, step, roots) as source:
            async with self._snapshots.mounted(snapshot_id, read_only=False) as target:
                owner = _owner(step.chown, target)
                for piece in pieces:
                    at = source if piece.root is None else piece.root
                    links += await self._make(step, at, piece.parts, target, owner, link=bool(layers))
            # A layer is changed itself only while it is not mounted: overlayfs has no rules for that.
            own, *below = [self._snapshots.fs_path(each.id) for each in self._snapshots.chain(snapshot_id)]
            left = await trees.link(own, layers, below, links) if links else ()
            if left:
                async with self._snapshots.mounted(snapshot_id, read_only=False) as target:
                    await trees.copy(source, target, left, owner, keep_times=True)

    async def _layers(self, build: Build, step: CopyStep, roots: Roots) -> list[Path]:
        """Directories that the files of a COPY are in, the topmost first. A new layer may share them: nobody ever
        writes to a layer or a context."""
        if isinstance(step.base, ContextBase):
            return [build.files_of(step.base)]
        if isinstance(step.base, StageBase | ImageBase):
            chain = self._snapshots.chain(await roots.snapshot_of(step.base))
            return [self._snapshots.fs_path(each.id) for each in chain]
        return []

    async def _make(
        self,
        step: CopyStep,
        source: Path,
        parts: Sequence[Part],
        target: Path,
        owner: tuple[int, int] | None,
        *,
        link: bool = False,
    ) -> list[trees.Link]:
        """Make the parts, but for new files where `link`: these are returned, for `trees.link`."""
        links: list[trees.Link] = []
        link = link and not any(isinstance(part, Archive) for part in parts)
        for run in runs(parts):
            if not isinstance(run, Archive):
                items = _followed(run, step, target)
                links += await trees.copy(source, target, items, owner, linkable(items) if link else ())
                continue
            found = trees.resolve(source, run.source)
            if found is None:
                raise InvalidArgument(f"{run.source} vanished during the build", reason="COPY_FAILED")
            await self._unpack(found, target, run.dest)
        return links

    async def _workdir(self, step: WorkdirStep, snapshot_id: str) -> None:
        async with self._snapshots.mounted(snapshot_id, read_only=False) as target:
            await trees.copy(None, target, [_directory(step.path)], _owner(step.user, target))


def _directory(path: str) -> CopyItem:
    import time

    return CopyItem("", path, "d", 0o755, 0, 0, time.time_ns(), "", {}, 0, keep_existing=True)


def _followed(items: Sequence[CopyItem], step: CopyStep, root: Path) -> Sequence[CopyItem]:
    """A file copied onto a symbolic link goes where the link leads, inside the image."""
    if not any(item.target == step.dest and item.kind != "d" for item in items):
        return items
    final = trees.final_target(root, step.dest)
    return [
        msgspec.structs.replace(item, target=final) if item.target == step.dest and item.kind != "d" else item
        for item in items
    ]


def _owner(chown: str, root: Path) -> tuple[int, int] | None:
    """Numbers for `user[:group]`, looked up in the target's own files; a user alone stands for the group of the same
    number, as in BuildKit. Raises InvalidArgument."""
    if not chown:
        return None
    user = resolve_user(chown, root)
    name, colon, _ = chown.partition(":")
    if not colon and name.isdigit():
        return user.uid, user.uid
    return user.uid, user.gid
