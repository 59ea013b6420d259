"""Statements as an image's index holds them: in a manifest beside the image's (BuildKit's attestation-storage.md)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from shoal.digest import Digest
from shoald.attest.statement import MEDIA_TYPE, Statement
from shoald.oci.config import ContainerDefaults, ImageConfig, RootFS
from shoald.oci.manifest import Descriptor, Manifest, PlatformSpec, encode
from shoald.oci.mediatypes import OCI_CONFIG, OCI_MANIFEST

PREDICATE_TYPE = "in-toto.io/predicate-type"
REFERENCE_TYPE, REFERENCE_DIGEST = "vnd.docker.reference.type", "vnd.docker.reference.digest"
ATTESTATION = "attestation-manifest"
_UNKNOWN = "unknown"


class AttestationManifest(Struct, frozen=True):
    """What is to be stored: the blobs that the manifest names (with their media types), the manifest itself, and its
    descriptor for the index, where it comes after all images."""

    blobs: tuple[tuple[bytes, str], ...]
    manifest: bytes
    descriptor: Descriptor


def attestation_manifest(statements: Sequence[Statement], image: Digest) -> AttestationManifest:
    """The manifest of statements about the image whose manifest has this digest, in the order given (BuildKit: SBOMs,
    then provenance). The same statements give the same bytes."""
    config = encode(
        ImageConfig(
            architecture=_UNKNOWN,
            os=_UNKNOWN,
            config=ContainerDefaults(),
            rootfs=RootFS(diff_ids=[str(Digest.of(each.body)) for each in statements]),
        )
    )
    layers = [
        replace(Descriptor.of(each.body, MEDIA_TYPE), annotations={PREDICATE_TYPE: each.predicate_type})
        for each in statements
    ]
    manifest = encode(Manifest.of(Descriptor.of(config, OCI_CONFIG), layers))
    descriptor = replace(
        Descriptor.of(manifest, OCI_MANIFEST),
        annotations={REFERENCE_DIGEST: str(image), REFERENCE_TYPE: ATTESTATION},
        platform=PlatformSpec(architecture=_UNKNOWN, os=_UNKNOWN),
    )
    blobs = [(config, OCI_CONFIG), *((each.body, MEDIA_TYPE) for each in statements)]
    return AttestationManifest(tuple(blobs), manifest, descriptor)
