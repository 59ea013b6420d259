"""New images: from layers and a configuration to documents, rows and names."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from shoal.digest import Digest
from shoal.errors import DataLoss, InvalidArgument
from shoal.reference import Reference
from shoald.content.ports import ContentStore
from shoald.images.layers import LayerBlob
from shoald.images.pull import created_at
from shoald.metadata import HoldKind, Metadata
from shoald.model.image import Image
from shoald.model.snapshot import Snapshot
from shoald.oci.config import parse_config
from shoald.oci.manifest import Descriptor, Index, Manifest, encode
from shoald.oci.mediatypes import OCI_CONFIG, OCI_MANIFEST, is_foreign, layer_compression, layer_type
from shoald.oci.parse import parse_manifest
from shoald.snapshots.ports import Snapshotter


class BuiltLayer(Struct, frozen=True):
    """A layer in both forms."""

    blob: LayerBlob
    snapshot: Snapshot


class Assembler:
    """Makes images of layers that are here."""

    def __init__(self, md: Metadata, content: ContentStore, snapshots: Snapshotter) -> None:
        self._md = md
        self._content = content
        self._snapshots = snapshots

    def layers_of(self, image: Image) -> list[BuiltLayer]:
        """The layers of an image, the lowest first, for one that is built on it; media types are OCI's.

        Raises DataLoss (SNAPSHOT_LOST) when a layer's snapshot is gone.
        """
        manifest = parse_manifest(self._content.read(Digest.parse(image.manifest_digest)), image.manifest_media_type)
        if isinstance(manifest, Index):
            raise InvalidArgument(f"{image.manifest_digest} is an index", reason="BAD_MANIFEST")
        layers: list[BuiltLayer] = []
        chains = image.config.chain_ids()
        for descriptor, diff_id, chain in zip(manifest.layers, image.config.rootfs.diff_ids, chains, strict=True):
            snapshot = self._md.snapshots.by_chain(chain)
            if snapshot is None:
                raise DataLoss(
                    f"a layer of image {image.id} is gone", reason="SNAPSHOT_LOST", hint="pull the image again"
                )
            blob = LayerBlob(
                diff_id, descriptor.digest, descriptor.size, _oci_type(descriptor.media_type), snapshot.size_bytes
            )
            layers.append(BuiltLayer(blob, snapshot))
        return layers

    async def create_image(self, config: bytes, layers: Sequence[BuiltLayer], tags: Sequence[str] = ()) -> Image:
        """Make an image of `layers` (the lowest first), whose diff ids are those that `config` names.

        Writes configuration and OCI manifest as blobs, then the rows, in one transaction. Each snapshot lies on the one
        before it, and is committed under its chain id if it is not yet. Tags are normalised, and move. What the
        caller's lease does not hold may be collected meanwhile. Raises InvalidArgument (BAD_IMAGE_CONFIG,
        INVALID_REFERENCE).
        """
        parsed = parse_config(config)
        names = tuple(str(Reference.parse(tag).docker_ref()) for tag in tags)
        if any("@" in name for name in names):
            raise InvalidArgument("a tag can't have a digest", reason="INVALID_REFERENCE")
        if parsed.rootfs.diff_ids != [layer.blob.diff_id for layer in layers]:
            raise InvalidArgument("the configuration does not name the image's layers", reason="BAD_IMAGE_CONFIG")
        described = Descriptor.of(config, OCI_CONFIG)
        manifest = encode(
            Manifest.of(
                described,
                [
                    Descriptor(media_type=each.blob.media_type, digest=each.blob.digest, size=each.blob.size)
                    for each in layers
                ],
            )
        )
        descriptor = Descriptor.of(manifest, OCI_MANIFEST)
        with self._md.leases.lease("assemble") as lease:
            for part in (descriptor, described):
                self._md.leases.hold(lease, HoldKind.BLOB, part.digest)
            await self._content.put(config)
            await self._content.put(manifest)
            chains = parsed.chain_ids()
            snapshots = await self._commit(chains, layers, lease)
            with self._md.transaction():
                for part in (descriptor, described):
                    self._md.blobs.add(part.digest, part.size, part.media_type)
                return self._md.images.put(
                    Image(
                        id=described.digest,
                        manifest_digest=descriptor.digest,
                        manifest_media_type=OCI_MANIFEST,
                        config=parsed,
                        created_at=created_at(parsed),
                        size_bytes=sum(each.size_bytes for each in snapshots),
                        chain_id=chains[-1] if chains else "",
                        tags=names,
                    ),
                    [layer.blob.digest for layer in layers],
                )

    async def _commit(self, chains: Sequence[str], layers: Sequence[BuiltLayer], lease: str) -> list[Snapshot]:
        """The snapshot of each chain id, held by the lease."""
        done: list[Snapshot] = []
        synced = False
        for chain, layer in zip(chains, layers, strict=True):
            snapshot = self._md.snapshots.by_chain(chain)
            if snapshot is None:
                current = self._md.snapshots.get(layer.snapshot.id)
                if current is not None and current.committed:
                    snapshot = self._md.snapshots.commit(current.id, chain, layer.blob.diff_id)
                else:
                    if not synced:
                        await self._snapshots.sync()
                        synced = True
                    snapshot = await self._snapshots.commit(
                        layer.snapshot.id,
                        chain_id=chain,
                        diff_id=layer.blob.diff_id,
                        size_bytes=layer.blob.content_bytes,
                        durable=False,
                    )
            self._md.leases.hold(lease, HoldKind.SNAPSHOT, snapshot.id)
            done.append(snapshot)
        return done


def _oci_type(media_type: str) -> str:
    compression = layer_compression(media_type)
    return media_type if compression is None or is_foreign(media_type) else layer_type(compression)
