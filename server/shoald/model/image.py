"""What the daemon knows of an image, and the events of pulling, pushing and building one."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from shoald.oci.config import ImageConfig


class Image(Struct, frozen=True):
    """An image of this host, unpacked and ready to run."""

    id: str
    """Digest of the image configuration, "sha256:<hex>"."""
    manifest_digest: str
    manifest_media_type: str
    config: ImageConfig
    created_at: datetime
    """From the configuration, else when it came here; UTC."""
    size_bytes: int
    """Sum of the unpacked layers."""
    chain_id: str
    """Chain id of the top layer: names its snapshot. Empty for an image without layers."""
    tags: tuple[str, ...] = ()
    """Canonical references with tags."""
    repo_digests: tuple[str, ...] = ()
    """Canonical references with manifest digests."""
    part_of: tuple[str, ...] = ()
    """Tags of the indexes that it is in. Those of `tags` among them mean an index, and this image on this host."""


class IndexRecord(Struct, frozen=True):
    """One image for several platforms, or with attestations (image-spec `image-index.md`), that is here as a whole."""

    digest: str
    media_type: str
    size_bytes: int
    image_id: str
    """What it means on this host."""
    images: tuple[str, ...] = ()
    """Ids of all images, in the order of the index."""


class ProgressPhase(StrEnum):
    """Phase of one part of an operation; mirrors shoal.v1.Progress.Phase."""

    WAITING = "waiting"
    DOWNLOADING = "downloading"
    UNPACKING = "unpacking"
    UPLOADING = "uploading"
    DONE = "done"
    EXISTS = "exists"


class Progress(Struct, frozen=True):
    """State of one part of an operation; a later record with the same id replaces the earlier one. Sizes in bytes."""

    id: str
    phase: ProgressPhase
    done_bytes: int = 0
    total_bytes: int = 0


class RegistryCredentials(Struct, frozen=True, repr_omit_defaults=True):
    """What a registry asks for; lives for one call, is never stored or logged."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry: str = ""
    """The domain of the references that they are for; a build uses them for no other one."""

    def __repr__(self) -> str:
        return f"RegistryCredentials(username={self.username!r}, ...)"


class Loaded(Struct, frozen=True):
    """An image of an archive, and the names that it has there."""

    image: Image
    names: tuple[str, ...]
