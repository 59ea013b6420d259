"""Layers between their two forms: a snapshot's files, and an archive."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterable, Sequence
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

from shoal.digest import Digest
from shoal.errors import FailedPrecondition, Internal, InvalidArgument, ResourceExhausted, ShoalError
from shoald.content.ports import ContentStore
from shoald.host.blocking import to_end
from shoald.host.process import DEVNULL, PIPE, Process, program_failed, spawn
from shoald.host.syscall import failure, translated
from shoald.images.unpacker import ENVIRONMENT, Unpacked, UnpackLimits, unpacking
from shoald.metadata import HoldKind, Metadata
from shoald.model.snapshot import Snapshot
from shoald.oci.mediatypes import Compression, layer_type
from shoald.snapshots.ports import Snapshotter

_CHUNK = 1 << 20


class LayerBlob(Struct, frozen=True):
    """A layer's archive in the content store. `size` is that of the blob, `content_bytes` that of its files."""

    diff_id: str
    digest: str
    size: int
    media_type: str
    content_bytes: int = 0


class Layers:
    """Packs snapshots and unpacks archives, always in confined programs."""

    def __init__(
        self,
        md: Metadata,
        content: ContentStore,
        snapshots: Snapshotter,
        tmp: Path,
        *,
        compression: Compression = Compression.GZIP,
        limits: UnpackLimits | None = None,
    ) -> None:
        """`tmp` takes archives while their digest is not known yet (files without a name: nothing is ever left)."""
        self._md = md
        self._content = content
        self._snapshots = snapshots
        self._tmp = tmp
        self._compression = compression
        self._limits = limits or UnpackLimits()

    async def pack_layer(
        self, snapshot: Snapshot, *, lease: str | None = None, without: Sequence[str] = ()
    ) -> LayerBlob:
        """Store a snapshot's own files as a blob, owners shifted back by its uid_base; the lease holds it. `without`:
        paths of empty files and directories that are left out (if they still are empty).

        The same files always give the same blob. It must not change meanwhile. Raises InvalidArgument (BAD_TREE: names
        that an image can't have), ResourceExhausted (DISK_FULL), Internal.
        """
        with translated("make temporary file in", self._tmp):
            self._tmp.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = tempfile.TemporaryFile(dir=self._tmp)  # noqa: SIM115 -- closed below
        with file:
            result = await self._pack(snapshot, file, without)
            digest = Digest.parse(result["digest"])
            media_type = layer_type(self._compression)
            if lease is not None:
                self._md.leases.hold(lease, HoldKind.BLOB, str(digest))
            await self._store(file, digest, result["size"])
            self._md.blobs.add(str(digest), result["size"], media_type)
        return LayerBlob(result["diff_id"], str(digest), result["size"], media_type, result["content_bytes"])

    async def unpack_context(self, chunks: AsyncIterable[bytes], directory: Path) -> Unpacked:
        """Unpack a build context (a tar, perhaps gzip or zstd) into an empty directory; all is root's.

        Raises InvalidArgument (BAD_ARCHIVE, PATH_ESCAPE), DataLoss (TRUNCATED), ResourceExhausted (DISK_FULL,
        ARCHIVE_TOO_LARGE). What was unpacked until then is the caller's to remove.
        """
        async with unpacking(directory, "context", limits=self._limits) as unpacker:
            async for chunk in chunks:
                await unpacker.write(chunk)
            return await unpacker.finish()

    async def unpack_archive(
        self,
        source: Path | int,
        root: Path,
        *,
        into: str = "",
        id_base: int = 0,
        owner: tuple[int, int] | None = None,
    ) -> Unpacked:
        """Unpack an archive (a tar, perhaps gzip, bzip2, xz or zstd; as ADD does) given as a file, or as a descriptor
        which is read from its position on.

        `into` is a path inside `root`, made when missing; symlinks lead where they lead inside `root`. Owners are those
        of the archive (or `owner`) plus `id_base`. Raises as unpack_context.
        """
        async with unpacking(
            root, "archive", source=source, into=into, id_base=id_base, owner=owner, limits=self._limits
        ) as unpacker:
            return await unpacker.result()

    async def _pack(self, snapshot: Snapshot, file: IO[bytes], without: Sequence[str]) -> dict[str, Any]:
        argv = [sys.executable, "-I", "-m", "shoald.host.pack", "--compression", self._compression.value]
        argv += ["--id-base", str(snapshot.uid_base), "--without", json.dumps(without)]
        directory = self._snapshots.fs_path(snapshot.id)
        child = await spawn(argv, stdin=DEVNULL, stdout=file, stderr=PIPE, env=ENVIRONMENT, cwd=directory)
        async with child:
            return await _result(child)

    async def _store(self, file: IO[bytes], digest: Digest, size: int) -> None:
        async with self._content.ingest(digest, size) as ingest:
            try:
                file.seek(ingest.offset)
                while ingest.offset < size:
                    chunk = await asyncio.to_thread(file.read, _CHUNK)
                    if not chunk:
                        raise Internal(f"the archive of layer {digest.short} is too short", reason="PACK_FAILED")
                    ingest.write(chunk)
                await ingest.commit()
            except ResourceExhausted:
                await to_end(ingest.discard())
                raise


async def _result(child: Process) -> dict[str, Any]:
    text = await child.stderr.read(1 << 20)
    status = await child.wait()
    try:
        result: dict[str, Any] = json.loads(text)
    except ValueError:
        raise program_failed(("packer",), status, text) from None
    if "error" in result:
        raise _error(str(result["error"]), str(result["message"]), result.get("errno"))
    return result


def _error(reason: str, message: str, code: int | None) -> ShoalError:
    match reason:
        case "DISK_FULL":
            return ResourceExhausted(message, reason=reason)
        case "BAD_TREE":
            return InvalidArgument(message, reason=reason)
        case "CHANGED":
            return FailedPrecondition(message, reason=reason)
    return failure("pack", code or 0, detail=message)
