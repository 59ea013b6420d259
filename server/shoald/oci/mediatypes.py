"""Media types of manifests, configs and layers: the OCI ones and Docker's schema 2, and what each says about its bytes.

Follows image-spec `media-types.md` (with its compatibility matrix) and distribution's "Image Manifest V 2, Schema 2".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD: Final = OCI_LAYER + "+zstd"
OCI_FOREIGN_LAYER: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_FOREIGN_LAYER_GZIP: Final = OCI_FOREIGN_LAYER + "+gzip"
OCI_FOREIGN_LAYER_ZSTD: Final = OCI_FOREIGN_LAYER + "+zstd"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"

DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD: Final = DOCKER_LAYER + ".zstd"
DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_LAYER_GZIP: Final = DOCKER_FOREIGN_LAYER + ".gzip"

DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
SCHEMA1: Final = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})
FOREIGN_LAYERS: Final = frozenset(
    {
        OCI_FOREIGN_LAYER,
        OCI_FOREIGN_LAYER_GZIP,
        OCI_FOREIGN_LAYER_ZSTD,
        DOCKER_FOREIGN_LAYER,
        DOCKER_FOREIGN_LAYER_GZIP,
    }
)
ACCEPT: Final = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)
"""What a pull asks a registry for, best first."""


class Compression(StrEnum):
    """How the bytes of a layer are compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


_LAYERS: Final[dict[str, Compression]] = {
    OCI_LAYER: Compression.NONE,
    OCI_LAYER_GZIP: Compression.GZIP,
    OCI_LAYER_ZSTD: Compression.ZSTD,
    OCI_FOREIGN_LAYER: Compression.NONE,
    OCI_FOREIGN_LAYER_GZIP: Compression.GZIP,
    OCI_FOREIGN_LAYER_ZSTD: Compression.ZSTD,
    DOCKER_LAYER: Compression.NONE,
    DOCKER_LAYER_GZIP: Compression.GZIP,
    DOCKER_LAYER_ZSTD: Compression.ZSTD,
    DOCKER_FOREIGN_LAYER: Compression.NONE,
    DOCKER_FOREIGN_LAYER_GZIP: Compression.GZIP,
}


def layer_compression(media_type: str) -> Compression | None:
    """The compression that a layer's media type states; None when this is not a layer of a file system."""
    return _LAYERS.get(media_type)


def is_layer(media_type: str) -> bool:
    """Whether this type is a file system layer that a container's root can be made of."""
    return media_type in _LAYERS


def is_foreign(media_type: str) -> bool:
    """Whether this layer may not be distributed: its bytes live at the descriptor's `urls`, not in the registry."""
    return media_type in FOREIGN_LAYERS


def base_type(content_type: str) -> str:
    """A media type without its parameters, in lower case ("Application/JSON; charset=utf-8" -> "application/json")."""
    return content_type.split(";", 1)[0].strip().lower()


def layer_type(compression: Compression, *, docker: bool = False) -> str:
    """The media type of a layer that is compressed this way, in the OCI or in Docker's vocabulary."""
    if docker:
        return DOCKER_LAYER if compression is Compression.NONE else f"{DOCKER_LAYER}.{compression.value}"
    return OCI_LAYER if compression is Compression.NONE else f"{OCI_LAYER}+{compression.value}"
