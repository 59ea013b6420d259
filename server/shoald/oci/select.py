"""Which manifest of a multi-platform index is for this host."""

from __future__ import annotations

from shoal.errors import InvalidArgument, NotFound
from shoal.platform import Platform
from shoald.oci.manifest import Descriptor, Index
from shoald.oci.mediatypes import INDEXES, MANIFESTS

_SHOWN = 20


def select_platform(index: Index, platform: Platform) -> Descriptor:
    """The entry of `index` that suits `platform` best; of equals, the first (image-spec `image-index.md`).

    Entries without a platform are taken only when there is no other; entries for "unknown" (attestations) never.
    Raises NotFound (NO_MATCHING_PLATFORM) with the platforms that there are.
    """
    entries = [each for each in index.manifests if each.media_type in INDEXES | MANIFESTS and not each.artifact_type]
    named = [(each, found) for each in entries if (found := platform_of(each)) is not None]
    best = platform.best(found for _, found in named)
    if best is not None:
        return named[best][0]
    for each in entries:
        if each.platform is None:
            return each
    offered = sorted({str(found) for _, found in named if found.os != "unknown"})
    listed = ", ".join(offered[:_SHOWN]) + (", ..." if len(offered) > _SHOWN else "")
    raise NotFound(
        f"no matching manifest for {platform} in the manifest list entries",
        reason="NO_MATCHING_PLATFORM",
        hint=f"the image is made for {listed}" if offered else "the image names no platform at all",
        metadata={"platform": str(platform)},
    )


def platform_of(entry: Descriptor) -> Platform | None:
    """The platform of an index entry; None when it has none or one that makes no sense."""
    if entry.platform is None:
        return None
    try:
        return entry.platform.platform
    except InvalidArgument:
        return None
