"""From the bytes of a manifest or an index to a value, refusing whatever could mean two things."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from shoal.errors import DataLoss, InvalidArgument, Unimplemented
from shoald.oci.manifest import Descriptor, Index, Manifest
from shoald.oci.mediatypes import INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST, SCHEMA1, base_type
from shoald.oci.strict import check_digest

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
"""The limit that distribution-spec ("Pushing Manifests") tells registries to support at least."""
MAX_DESCRIPTORS = 4096
"""Layers of one manifest, or manifests of one index: far more than any tool makes (overlayfs stops at about 500)."""
MAX_SIZE = 2**63 - 1
BAD: Final = "BAD_MANIFEST"
SILENT: Final = frozenset({"", "application/json", "text/plain", "application/octet-stream", "binary/octet-stream"})
"""Content types that say nothing about which document it is; some registries and proxies send them."""

_T = TypeVar("_T")


class _Probe(msgspec.Struct, frozen=True, rename="camel"):
    """Which document this is, before it is read as one: presence and type of the members that tell."""

    schema_version: int | None = None
    media_type: str | None = None
    config: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    manifests: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    fs_layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_probe = msgspec.json.Decoder(_Probe)
_manifest = msgspec.json.Decoder(Manifest)
_index = msgspec.json.Decoder(Index)


def parse_manifest(body: bytes, media_type: str = "") -> Manifest | Index:
    """Read a manifest or an index.

    `media_type` is what the descriptor or the registry says it is; empty (or a type that says nothing, such as
    application/json) leaves it to the document's own `mediaType`, else to its shape.

    Raises InvalidArgument (BAD_MANIFEST) for what is neither or could be both (CVE-2021-41190), for a `mediaType` other
    than announced, for bad digests and negative sizes; DataLoss (SIZE_MISMATCH) beyond MAX_MANIFEST_BYTES;
    Unimplemented (SCHEMA1) for Docker's schema 1.
    """
    if len(body) > MAX_MANIFEST_BYTES:
        raise DataLoss(f"manifest of {len(body)} bytes is larger than {MAX_MANIFEST_BYTES}", reason="SIZE_MISMATCH")
    probe = _decode(_probe, body)
    kind = _kind(probe, base_type(media_type))
    if kind in INDEXES:
        index = _decode(_index, body)
        _check_descriptors(index.manifests)
        return index
    manifest = _decode(_manifest, body)
    _check_descriptors(manifest.parts)
    return manifest


def manifest_type(body: bytes, media_type: str = "") -> str:
    """The media type of a manifest or index, found as parse_manifest does; raises the same errors."""
    return _kind(_decode(_probe, body), base_type(media_type))


def _decode(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidArgument(f"invalid manifest: {e}", reason=BAD) from e


def _kind(probe: _Probe, announced: str) -> str:
    """The one media type that the announcement, the document's own word and its shape agree on."""
    stated = probe.media_type or ""
    if SCHEMA1 & {announced, stated} or (probe.schema_version == 1 and _has(probe.fs_layers)):
        raise Unimplemented(
            "this image has a manifest of Docker's schema 1, which nobody should make any more",
            reason="SCHEMA1",
            hint="push the image again with a current tool: docker build, skopeo copy --format=oci",
        )
    if probe.schema_version not in (2, None):
        raise InvalidArgument(f"manifest has schemaVersion {probe.schema_version}, not 2", reason=BAD)
    index, manifest = _has(probe.manifests), _has(probe.layers) or _has(probe.config)
    if index and manifest:
        raise InvalidArgument("manifest has both layers and manifests: it could be read as two images", reason=BAD)
    known = INDEXES | MANIFESTS
    if stated and stated not in known:
        raise InvalidArgument(f"manifest says that it is a {stated[:100]!r}, which is no image", reason=BAD)
    if announced in known and stated and stated != announced:
        raise InvalidArgument(f"manifest says that it is a {stated}, but was announced as {announced}", reason=BAD)
    kind = announced if announced in known else stated
    if not kind:
        if announced not in SILENT:
            raise InvalidArgument(f"a {announced[:100]!r} is no image", reason=BAD)
        kind = OCI_INDEX if index else OCI_MANIFEST
    if (kind in INDEXES and manifest) or (kind in MANIFESTS and index):
        raise InvalidArgument(f"manifest is announced as {kind}, but has the members of the other kind", reason=BAD)
    return kind


def _has(member: msgspec.Raw | msgspec.UnsetType) -> bool:
    return member is not msgspec.UNSET


def _check_descriptors(descriptors: list[Descriptor]) -> None:
    if len(descriptors) > MAX_DESCRIPTORS:
        raise InvalidArgument(f"manifest names {len(descriptors)} parts; {MAX_DESCRIPTORS} is the limit", reason=BAD)
    for each in descriptors:
        check_digest(each.digest, "digest in manifest", BAD)
        if not 0 <= each.size <= MAX_SIZE:
            raise InvalidArgument(f"manifest gives {each.digest} the size {each.size}", reason=BAD)
