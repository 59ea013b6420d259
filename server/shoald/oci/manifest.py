"""Manifests and indexes: the documents that name an image's parts (image-spec `manifest.md`, `image-index.md`)."""

from __future__ import annotations

import msgspec

from shoal.digest import Digest
from shoal.platform import Platform
from shoald.oci.mediatypes import OCI_INDEX, OCI_MANIFEST


class PlatformSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The platform object of an index entry, as it is written."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")
    variant: str = ""

    @property
    def platform(self) -> Platform:
        """The same in shoal's own words."""
        return Platform(self.os, self.architecture, self.variant)


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Names some content by type, digest and size in bytes (image-spec `descriptor.md`)."""

    media_type: str
    digest: str
    """Canonical digest, "sha256:<hex>"."""
    size: int
    urls: list[str] | None = None
    """Other places for the content. Never followed unless the daemon's configuration allows it."""
    annotations: dict[str, str] | None = None
    data: str | None = None
    """Base64 of the content itself; shoal always fetches instead."""
    artifact_type: str = ""
    platform: PlatformSpec | None = None

    @classmethod
    def of(cls, body: bytes, media_type: str) -> Descriptor:
        """Describe these bytes (SHA-256)."""
        return cls(media_type=media_type, digest=str(Digest.of(body)), size=len(body))


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One image for one platform: a configuration and the layers, the lowest first."""

    schema_version: int = msgspec.field(default=0, name="schemaVersion")
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: list[Descriptor]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None

    @classmethod
    def of(cls, config: Descriptor, layers: list[Descriptor], media_type: str = OCI_MANIFEST) -> Manifest:
        """A new manifest of schema version 2."""
        return cls(schema_version=2, media_type=media_type, config=config, layers=layers)

    @property
    def parts(self) -> list[Descriptor]:
        """Everything that must be there before this manifest is: the configuration and the layers."""
        return [self.config, *self.layers]


class Index(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One image for several platforms: a manifest each."""

    schema_version: int = msgspec.field(default=0, name="schemaVersion")
    media_type: str = ""
    artifact_type: str = ""
    manifests: list[Descriptor]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None

    @classmethod
    def of(cls, manifests: list[Descriptor], media_type: str = OCI_INDEX) -> Index:
        """A new index of schema version 2."""
        return cls(schema_version=2, media_type=media_type, manifests=manifests)


def encode(document: msgspec.Struct) -> bytes:
    """Write a document that shoal itself made: compact JSON, fields in the order of the specification, maps sorted.

    The same value always gives the same bytes. Never use it on a document that came from elsewhere: its digest is
    that of the bytes as they came.
    """
    return msgspec.json.encode(document, order="deterministic")
