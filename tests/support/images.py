"""Small real images for tests: made in memory, pushed to a registry with shoal's own client.

    await push_image(registry.address, "busybox:latest")
    await push_image(address, "app:1", layers=[busybox_layer(), {"app/hello": "hi"}], config={"Cmd": ["ls", "/app"]})
    push_image_sync(address, "multi:1", platforms=["linux/amd64", "linux/arm64"])

From a shell, in the root of the repository: python -m tests.support.images ADDRESS NAME:TAG [--help]
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shoal.digest import Digest
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.oci.config import ContainerDefaults, History, ImageConfig, RootFS
from shoald.oci.manifest import Descriptor, Index, Manifest, PlatformSpec, encode
from shoald.oci.mediatypes import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Compression,
    layer_type,
)
from shoald.registry.client import RegistryClient
from shoald.registry.ports import Credentials, Registry
from tests.support.layers import Layer, busybox_layer, compress, make_tar

CREATED = "2024-01-02T03:04:05Z"
BUSYBOX_CONFIG: Mapping[str, Any] = {
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "Cmd": ["sh"],
}


@dataclass(frozen=True)
class TestImage:
    """An image in memory: a manifest and all that it names."""

    __test__ = False

    descriptor: Descriptor
    manifest: bytes
    config: bytes
    blobs: Mapping[str, tuple[Descriptor, bytes]]
    diff_ids: tuple[str, ...]
    platform: Platform

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return self.descriptor.digest

    @property
    def id(self) -> str:
        """Digest of the configuration, which is what an image's id is."""
        return str(Digest.of(self.config))

    @property
    def parsed(self) -> Manifest:
        """The manifest as a value."""
        return msgspec.json.decode(self.manifest, type=Manifest)


@dataclass(frozen=True)
class PushedImage:
    """What was pushed: `reference` is canonical with the tag; `digest` is the manifest's, or the index's."""

    reference: str
    digest: str
    images: tuple[TestImage, ...]

    @property
    def image(self) -> TestImage:
        """The first (or only) platform's image."""
        return self.images[0]


def make_image(
    layers: Sequence[Layer] | None = None,
    config: Mapping[str, Any] | ContainerDefaults | None = None,
    *,
    docker: bool = False,
    compression: Compression | str = Compression.GZIP,
    platform: str | None = None,
) -> TestImage:
    """Make an image. Without layers it is busybox; `config` has the names of the image-spec ("Cmd", "Env"...)."""
    if layers is None:
        layers = [busybox_layer()]
        config = (
            {**BUSYBOX_CONFIG, **(config if isinstance(config, Mapping) else {})}
            if not isinstance(config, ContainerDefaults)
            else config
        )
    compression = Compression(compression)
    runs_on = Platform.parse(platform) if platform else Platform.host()
    blobs: dict[str, tuple[Descriptor, bytes]] = {}
    parts: list[Descriptor] = []
    tars = [make_tar(layer) for layer in layers]
    for tar in tars:
        packed = compress(tar, compression)
        parts.append(Descriptor.of(packed, layer_type(compression, docker=docker)))
        blobs[parts[-1].digest] = (parts[-1], packed)
    diff_ids = tuple(str(Digest.of(tar)) for tar in tars)
    body = encode(
        ImageConfig(
            created=CREATED,
            architecture=runs_on.architecture,
            os=runs_on.os,
            variant=runs_on.variant,
            config=config
            if isinstance(config, ContainerDefaults)
            else msgspec.convert(dict(config or {}), ContainerDefaults),
            rootfs=RootFS(diff_ids=list(diff_ids)),
            history=[History(created=CREATED, created_by=f"layer {n}") for n in range(len(tars))],
        )
    )
    described = Descriptor.of(body, DOCKER_CONFIG if docker else OCI_CONFIG)
    blobs[described.digest] = (described, body)
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    manifest = encode(Manifest.of(described, parts, media_type))
    return TestImage(Descriptor.of(manifest, media_type), manifest, body, blobs, diff_ids, runs_on)


def make_index(images: Sequence[TestImage], *, docker: bool = False) -> tuple[bytes, str]:
    """The index of several images, each for its platform, and its media type."""
    entries = [
        msgspec.structs.replace(
            image.descriptor,
            platform=PlatformSpec(
                architecture=image.platform.architecture, os=image.platform.os, variant=image.platform.variant
            ),
        )
        for image in images
    ]
    media_type = DOCKER_INDEX if docker else OCI_INDEX
    return encode(Index.of(entries, media_type)), media_type


async def push_built(
    registry: Registry,
    ref: Reference,
    images: Sequence[TestImage],
    *,
    docker: bool = False,
    index: bool = False,
    credentials: Credentials | None = None,
) -> str:
    """Push images, and an index of them if there are several or `index` says so. Gives the digest under the tag."""
    whole = index or len(images) > 1
    for image in images:
        for descriptor, body in image.blobs.values():
            await registry.push_blob(ref, descriptor, lambda body=body: _chunks(body), credentials=credentials)  # type: ignore[misc]
        name = image.digest if whole else ref.selector
        await registry.push_manifest(ref, image.manifest, image.descriptor.media_type, name, credentials=credentials)
    if not whole:
        return images[0].digest
    body, media_type = make_index(images, docker=docker)
    return await registry.push_manifest(ref, body, media_type, credentials=credentials)


async def push_image(
    address: str,
    name: str,
    *,
    layers: Sequence[Layer] | None = None,
    config: Mapping[str, Any] | ContainerDefaults | None = None,
    docker: bool = False,
    compression: Compression | str = Compression.GZIP,
    platforms: Sequence[str] | None = None,
    credentials: Credentials | None = None,
) -> PushedImage:
    """Make an image and push it as `address/name`. With `platforms` (even one), an index with an image for each.

    The images of an index differ by an environment variable IMAGE_PLATFORM only.
    """
    ref = Reference.parse(f"{address}/{name}").with_default_tag()
    base = msgspec.to_builtins(config) if isinstance(config, ContainerDefaults) else dict(config or {})
    images = [make_image(layers, base, docker=docker, compression=compression)] if platforms is None else []
    for each in platforms or ():
        env = [*(base.get("Env") or BUSYBOX_CONFIG["Env"]), f"IMAGE_PLATFORM={each}"]
        images.append(make_image(layers, {**base, "Env": env}, docker=docker, compression=compression, platform=each))
    client = RegistryClient()
    try:
        digest = await push_built(
            client, ref, images, docker=docker, index=platforms is not None, credentials=credentials
        )
    finally:
        await client.close()
    return PushedImage(str(ref), digest, tuple(images))


def push_image_sync(address: str, name: str, **options: Any) -> PushedImage:
    """push_image for code without an event loop."""
    return asyncio.run(push_image(address, name, **options))


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 1024 * 1024):
        yield body[at : at + 1024 * 1024]


def main() -> None:
    """Push a busybox image from the command line; prints its reference and digest."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("address", help="registry as host:port")
    parser.add_argument("name", help="repository:tag")
    parser.add_argument("--docker", action="store_true", help="Docker's media types instead of OCI's")
    parser.add_argument("--compression", choices=[c.value for c in Compression], default="gzip")
    parser.add_argument("--platform", action="append", help="make an index; may be given several times")
    parser.add_argument("--cmd", nargs=argparse.REMAINDER, help="the image's command")
    given = parser.parse_args()
    pushed = push_image_sync(
        given.address,
        given.name,
        config={"Cmd": given.cmd} if given.cmd else None,
        docker=given.docker,
        compression=given.compression,
        platforms=given.platform,
    )
    print(f"{pushed.reference}@{pushed.digest}")


if __name__ == "__main__":
    main()
