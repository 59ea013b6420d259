"""Which entry of an index is for which host."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.digest import Digest
from shoal.errors import NotFound
from shoal.platform import Platform
from shoald.oci.manifest import Descriptor, Index, PlatformSpec
from shoald.oci.mediatypes import OCI_MANIFEST
from shoald.oci.select import select_platform

UNKNOWN = PlatformSpec(os="unknown", architecture="unknown")


def entry(name: str, platform: PlatformSpec | None, **changes: Any) -> Descriptor:
    return Descriptor(
        media_type=OCI_MANIFEST, digest=str(Digest.of(name.encode())), size=1, platform=platform, **changes
    )


def spec(text: str) -> PlatformSpec:
    os, architecture, *variant = text.split("/")
    return PlatformSpec(os=os, architecture=architecture, variant=variant[0] if variant else "")


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/amd64", ["windows/amd64", "linux/386"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], 2),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], 1),
        ("linux/amd64", ["linux/x86_64"], 0),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], 1),
        ("linux/amd64", ["/", "linux/amd64"], 1),
    ],
)
def test_the_best_match(wanted: str, offered: list[str], chosen: int) -> None:
    entries = [entry(str(n), spec(text)) for n, text in enumerate(offered)]
    assert select_platform(Index.of(entries), Platform.parse(wanted)) is entries[chosen]


def test_entry_without_platform_is_the_last_resort() -> None:
    bare, match, attestation = entry("bare", None), entry("match", spec("linux/amd64")), entry("att", UNKNOWN)
    assert select_platform(Index.of([attestation, bare, match]), Platform.parse("linux/amd64")) is match
    assert select_platform(Index.of([attestation, bare]), Platform.parse("linux/amd64")) is bare


def test_what_is_no_image_is_never_chosen() -> None:
    other = Descriptor(media_type="application/x", digest=str(Digest.of(b"o")), size=1, platform=spec("linux/amd64"))
    artifact = entry("a", spec("linux/amd64"), artifact_type="application/sbom")
    with pytest.raises(NotFound):
        select_platform(Index.of([other, artifact, entry("u", UNKNOWN)]), Platform.parse("linux/amd64"))


def test_no_match_names_what_there_is() -> None:
    entries = [entry("1", spec("linux/arm64")), entry("2", spec("linux/s390x")), entry("3", UNKNOWN)]
    with pytest.raises(NotFound, match="no matching manifest for linux/amd64") as caught:
        select_platform(Index.of(entries), Platform.parse("linux/amd64"))
    assert caught.value.reason == "NO_MATCHING_PLATFORM"
    assert caught.value.hint == "the image is made for linux/arm64, linux/s390x"


def test_empty_index() -> None:
    with pytest.raises(NotFound) as caught:
        select_platform(Index.of([]), Platform.parse("linux/amd64"))
    assert caught.value.reason == "NO_MATCHING_PLATFORM"
