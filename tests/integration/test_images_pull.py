"""Pull and push against a real docker-registry."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shoal.digest import Digest
from shoal.errors import DataLoss, FailedPrecondition, Internal, InvalidArgument, NotFound, ResourceExhausted
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.gc import collect
from shoald.host import mounts
from shoald.model.image import Image
from shoald.oci.config import ContainerDefaults, ImageConfig, RootFS
from shoald.oci.manifest import Descriptor, Manifest, encode
from shoald.oci.mediatypes import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from shoald.registry.client import RegistryClient
from tests.support.docker_registry import DockerRegistry, docker_registry
from tests.support.evil_tars import evil_tars
from tests.support.image_host import ImageHost, Records, image_host
from tests.support.images import push_image
from tests.support.layers import Dir, File, Layer, Symlink, make_tar
from tests.support.unpacked import tree

pytestmark = [pytest.mark.root]

BIG_FILE = File(os.urandom(3 << 20))
BIG: Layer = {"big": BIG_FILE}


@pytest.fixture(scope="module")
def registry() -> Iterator[DockerRegistry]:
    with docker_registry() as running:
        yield running


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[ImageHost]:
    async with image_host(tmp_path / "root") as opened:
        yield opened


async def _push_raw(
    registry: DockerRegistry, name: str, blobs: list[bytes], diff_ids: list[str], sizes: list[int] | None = None
) -> str:
    """An image whose configuration says what `diff_ids` says, right or wrong."""
    ref = Reference.parse(f"{registry.address}/{name}:1")
    client = RegistryClient()
    host = Platform.host()
    config = encode(
        ImageConfig(
            architecture=host.architecture, os=host.os, config=ContainerDefaults(), rootfs=RootFS(diff_ids=diff_ids)
        )
    )
    described = Descriptor.of(config, OCI_CONFIG)
    parts = [Descriptor.of(blob, OCI_LAYER_GZIP) for blob in blobs]
    try:
        for descriptor, body in zip([described, *parts], [config, *blobs], strict=True):
            await client.push_blob(ref, descriptor, lambda body=body: _once(body))  # type: ignore[misc]
        manifest = encode(Manifest.of(described, parts, OCI_MANIFEST))
        await client.push_manifest(ref, manifest, OCI_MANIFEST)
    finally:
        await client.close()
    return str(ref)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _visible(host: ImageHost, image: Image) -> dict[str, tuple[object, ...]]:
    top = host.md.snapshots.by_chain(image.chain_id)
    assert top is not None
    async with host.snapshots.mounted(top.id) as path:
        return tree(path)


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_pull(registry: DockerRegistry, host: ImageHost, docker: bool, compression: str) -> None:
    pushed = await push_image(
        registry.address, f"kinds/{compression}:{docker}".lower(), docker=docker, compression=compression
    )
    records = Records()
    image = await host.store.pull(pushed.reference, progress=records)
    assert image.id == pushed.image.id
    assert image.tags == (pushed.reference,)
    assert image.repo_digests == (f"{pushed.reference.rpartition(':')[0]}@{pushed.digest}",)
    assert image.config.defaults.cmd == ["sh"]
    (layer,) = pushed.image.parsed.layers
    assert records.phases(layer.digest) == ["waiting", "downloading", "unpacking", "done"]
    files = await _visible(host, image)
    assert files["bin/busybox"][5] == Path("/bin/busybox").read_bytes()
    assert files["tmp"][0] == oct(0o41777)
    assert files["var/www"][1:3] == (33, 33)
    assert host.left()["leases"] == (set(), set())
    again = Records()
    assert await host.store.pull(pushed.reference, progress=again) == image
    assert again.phases(layer.digest) == ["exists"]


async def test_pull_by_digest_gives_no_tag(registry: DockerRegistry, host: ImageHost) -> None:
    pushed = await push_image(registry.address, "bydigest:1")
    image = await host.store.pull(f"{registry.address}/bydigest@{pushed.digest}")
    assert image.tags == ()
    assert host.md.images.find(f"{registry.address}/bydigest@{pushed.digest}").id == image.id
    tagged = await host.store.pull(pushed.reference)
    assert (tagged.id, tagged.tags) == (image.id, (pushed.reference,))


async def test_moved_tag_leaves_the_old_image(registry: DockerRegistry, host: ImageHost) -> None:
    first = await host.store.pull((await push_image(registry.address, "moves:1")).reference)
    await push_image(registry.address, "moves:1", config={"Cmd": ["true"]})
    second = await host.store.pull(f"{registry.address}/moves:1")
    assert first.id != second.id
    old = host.md.images.get(first.id)
    assert old is not None
    assert old.tags == ()
    assert second.chain_id == first.chain_id


async def test_platforms(registry: DockerRegistry, host: ImageHost) -> None:
    pushed = await push_image(registry.address, "multi:1", platforms=["linux/s390x", str(Platform.host())])
    image = await host.store.pull(pushed.reference)
    assert image.id == pushed.images[1].id
    assert image.manifest_digest == pushed.images[1].digest
    assert image.repo_digests[0].endswith(pushed.digest)
    other = await host.store.pull(pushed.reference, Platform.parse("linux/s390x"))
    assert other.id == pushed.images[0].id
    with pytest.raises(NotFound) as caught:
        await host.store.pull(pushed.reference, Platform.parse("windows/amd64"))
    assert caught.value.reason == "NO_MATCHING_PLATFORM"
    assert "linux/s390x" in (caught.value.hint or "")


async def test_single_manifest_for_another_platform(registry: DockerRegistry, host: ImageHost) -> None:
    built = await push_image(registry.address, "single-s390x:index", platforms=["linux/s390x"])
    with pytest.raises(NotFound) as caught:
        await host.store.pull(f"{registry.address}/single-s390x@{built.image.digest}", Platform.parse("linux/amd64"))
    assert caught.value.reason == "NO_MATCHING_PLATFORM"
    assert "linux/s390x" in caught.value.message
    assert host.left()["images"] == []


async def test_missing_image(registry: DockerRegistry, host: ImageHost) -> None:
    with pytest.raises(NotFound) as caught:
        await host.store.pull(f"{registry.address}/nowhere:1")
    assert caught.value.reason == "IMAGE_NOT_FOUND"


async def test_layers_share_what_is_here(registry: DockerRegistry, host: ImageHost) -> None:
    base: Layer = {"a": "1", "dir": Dir(0o750, 7, 8)}
    one = await push_image(registry.address, "share:1", layers=[base, {"b": "2"}])
    two = await push_image(registry.address, "share:2", layers=[base, {"c": "3"}])
    await host.store.pull(one.reference)
    records = Records()
    image = await host.store.pull(two.reference, progress=records)
    lower, upper = two.image.parsed.layers
    assert records.phases(lower.digest) == ["exists"]
    assert records.phases(upper.digest)[-1] == "done"
    assert set(await _visible(host, image)) == {".", "a", "dir", "c"}
    assert len(host.md.snapshots.ids()) == 3


async def test_two_pulls_share_one_download(registry: DockerRegistry, host: ImageHost) -> None:
    layers: list[Layer] = [BIG, {"small": "x"}]
    one = await push_image(registry.address, "twice:1", layers=layers)
    two = await push_image(registry.address, "twice:2", layers=layers, config={"Cmd": ["other"]})
    opened = 0
    real = host.registry.blob

    def counted(ref, descriptor, offset=0, *, credentials=None):  # type: ignore[no-untyped-def]
        nonlocal opened
        opened += descriptor.media_type == OCI_LAYER_GZIP
        return real(ref, descriptor, offset, credentials=credentials)

    host.registry.blob = counted  # type: ignore[method-assign]
    seen = [Records() for _ in range(6)]
    names = [one.reference, two.reference] * 3
    images = await asyncio.gather(
        *(host.store.pull(name, progress=record) for name, record in zip(names, seen, strict=True))
    )
    assert opened == 2
    assert {image.id for image in images} == {one.image.id, two.image.id}
    for records in seen:
        for layer in one.image.parsed.layers:
            assert records.phases(layer.digest)[-1] in ("done", "exists")
    assert len(host.md.snapshots.ids()) == 2
    assert host.left()["leases"] == (set(), set())


async def test_one_of_two_pulls_is_cancelled(registry: DockerRegistry, host: ImageHost) -> None:
    pushed = await push_image(registry.address, "half:1", layers=[BIG, {"x": "y"}])
    first = asyncio.create_task(host.store.pull(pushed.reference))
    second = asyncio.create_task(host.store.pull(pushed.reference))
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).id == pushed.image.id


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15])
async def test_cancelled_pull_leaves_nothing(registry: DockerRegistry, host: ImageHost, delay: float) -> None:
    pushed = await push_image(registry.address, "cancel:1", layers=[BIG, {"x": "y"}, {"z": "z"}])
    pull = asyncio.create_task(host.store.pull(pushed.reference))
    await asyncio.sleep(delay)
    pull.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await pull
    left = host.left()
    assert left["leases"] == (set(), set())
    if pull.cancelled():
        assert left["images"] == []
        uncommitted = [each.id for each in host.md.snapshots.all() if not each.committed]
        assert uncommitted == []
        assert left["directories"] == sorted([".empty", *host.md.snapshots.ids()])
    assert (await host.store.pull(pushed.reference)).id == pushed.image.id


async def test_resume(registry: DockerRegistry, host: ImageHost) -> None:
    pushed = await push_image(registry.address, "resume:1", layers=[BIG], compression="none")
    (layer,) = pushed.image.parsed.layers
    digest = Digest.parse(layer.digest)
    async with host.content.ingest(digest, layer.size) as ingest:
        ingest.write(pushed.image.blobs[layer.digest][1][:1_000_000])
    records = Records()
    image = await host.store.pull(pushed.reference, progress=records)
    downloading = [record for record in records if record.phase == "downloading"]
    assert downloading[0].done_bytes == 1_000_000
    assert (await _visible(host, image))["big"][5] == BIG_FILE.content


async def test_wrong_digest(registry: DockerRegistry, host: ImageHost) -> None:
    pushed = await push_image(registry.address, "broken:1", layers=[{"f": os.urandom(100_000)}])
    (layer,) = pushed.image.parsed.layers
    path = registry.blob_path(layer.digest)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataLoss) as caught:
        await host.store.pull(pushed.reference)
    assert caught.value.reason == "DIGEST_MISMATCH"
    left = host.left()
    assert (left["images"], left["snapshots"], left["partials"], left["leases"]) == ([], [], [], (set(), set()))


async def test_truncated_layer(registry: DockerRegistry, host: ImageHost) -> None:
    """The blob is what its digest says, but it is half a gzip file."""
    tar = make_tar({"f": os.urandom(100_000)})
    name = await _push_raw(registry, "truncated", [gzip.compress(tar)[:-5000]], [str(Digest.of(tar))])
    with pytest.raises(DataLoss) as caught:
        await host.store.pull(name)
    assert caught.value.reason == "TRUNCATED"
    assert (host.left()["images"], host.left()["snapshots"]) == ([], [])


async def test_wrong_diff_id(registry: DockerRegistry, host: ImageHost) -> None:
    tar = make_tar({"f": "x"})
    name = await _push_raw(registry, "otherdiff", [gzip.compress(tar)], [str(Digest.of(b"something else"))])
    with pytest.raises(DataLoss) as caught:
        await host.store.pull(name)
    assert caught.value.reason == "LAYER_MISMATCH"
    assert (host.left()["images"], host.left()["snapshots"]) == ([], [])


async def test_layer_that_is_no_tar(registry: DockerRegistry, host: ImageHost) -> None:
    name = await _push_raw(registry, "notar", [gzip.compress(b"x" * 5000)], [str(Digest.of(b"x" * 5000))])
    with pytest.raises(InvalidArgument) as caught:
        await host.store.pull(name)
    assert caught.value.reason == "BAD_LAYER"
    assert "layer " in caught.value.message


async def test_number_of_layers_differs(registry: DockerRegistry, host: ImageHost) -> None:
    tar = make_tar({"f": "x"})
    name = await _push_raw(registry, "toomany", [gzip.compress(tar)], [])
    with pytest.raises(InvalidArgument) as caught:
        await host.store.pull(name)
    assert caught.value.reason == "BAD_IMAGE_CONFIG"


async def test_full_disk(registry: DockerRegistry, tmp_path: Path) -> None:
    pushed = await push_image(registry.address, "large:1", layers=[{"ok": "x"}, {"f": os.urandom(6 << 20)}])
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts.mount("shoal-test", disk, "tmpfs", data="size=8m,mode=0755")
    try:
        async with image_host(disk / "root") as host:
            for _ in range(2):
                with pytest.raises(ResourceExhausted) as caught:
                    await host.store.pull(pushed.reference)
                assert caught.value.reason == "DISK_FULL"
                left = host.left()
                assert (left["images"], left["partials"], left["blobs"]) == ([], [], [])
                assert left["leases"] == (set(), set())
                assert not [each for each in host.md.snapshots.all() if not each.committed]
            # What is left leaves room for something small.
            small = await push_image(registry.address, "small:1", layers=[{"s": "x"}])
            assert (await host.store.pull(small.reference)).id == small.image.id
    finally:
        mounts.unmount_tree(disk, detach=True)


async def test_killed_unpacker(registry: DockerRegistry, host: ImageHost, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoald.images import unpacker

    pushed = await push_image(registry.address, "killed:1", layers=[BIG])
    real = unpacker.Unpacker.write
    killed: list[int] = []

    async def write(self: unpacker.Unpacker, chunk: bytes) -> None:
        if not killed:
            killed.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)
        await real(self, chunk)

    monkeypatch.setattr(unpacker.Unpacker, "write", write)
    with pytest.raises(Internal) as caught:
        await host.store.pull(pushed.reference)
    assert "SIGKILL" in caught.value.message
    assert (host.left()["images"], host.left()["snapshots"], host.left()["leases"]) == ([], [], (set(), set()))
    # The blob was whole: the next pull has only to unpack it.
    records = Records()
    await host.store.pull(pushed.reference, progress=records)
    assert "downloading" not in records.phases(pushed.image.parsed.layers[0].digest)


async def test_implicit_directories_look_like_those_below(registry: DockerRegistry, host: ImageHost) -> None:
    pushed = await push_image(
        registry.address,
        "implicit:1",
        layers=[
            {"./": Dir(0o751, 3, 4), "tmp": Dir(0o1777), "srv": Dir(0o700, 5, 6), "srv/deep": Dir(0o711, 7, 8)},
            {"other": "x"},
            {"tmp/new": "x", "srv/deep/new": "x", "fresh/new": "x"},
        ],
    )
    files = await _visible(host, await host.store.pull(pushed.reference))
    assert files["."][:3] == (oct(0o40751), 3, 4)
    assert files["tmp"][:3] == (oct(0o41777), 0, 0)
    assert files["srv"][:3] == (oct(0o40700), 5, 6)
    assert files["srv/deep"][:3] == (oct(0o40711), 7, 8)
    assert files["fresh"][:3] == (oct(0o40755), 0, 0)


async def test_opaque_root(registry: DockerRegistry, host: ImageHost) -> None:
    pushed = await push_image(
        registry.address,
        "opaqueroot:1",
        layers=[{"gone": "x", "dir/gone": "x"}, {"dir/new": "x", ".wh..wh..opq": "", "file": "x"}],
    )
    assert set(await _visible(host, await host.store.pull(pushed.reference))) == {".", "dir", "dir/new", "file"}


async def test_evil_layers(registry: DockerRegistry, host: ImageHost, tmp_path: Path) -> None:
    """The corpus by way of a pull: refused ones leave nothing behind, and the host never changes."""
    canary = tmp_path / "canary"
    (canary / "dir").mkdir(parents=True)
    (canary / "file").write_text("sings")
    before, at_start = tree(canary), host.left()
    for evil in evil_tars(canary):
        name = f"evil/{evil.name.replace('_', '-')}:1"
        pushed = await push_image(registry.address, name, layers=[evil.data])
        if evil.layer == "refused":
            with pytest.raises(InvalidArgument) as caught:
                await host.store.pull(pushed.reference)
            assert caught.value.reason in ("BAD_LAYER", "PATH_ESCAPE"), evil.name
        else:
            image = await host.store.pull(pushed.reference)
            await host.store.remove_image(image.id)
            await collect(host.md, host.content, host.snapshots)
        assert tree(canary) == before, evil.name
    await collect(host.md, host.content, host.snapshots)
    assert host.left() == at_start


# Push


async def test_push_is_byte_identical(registry: DockerRegistry, host: ImageHost) -> None:
    pushed = await push_image(registry.address, "origin:1", layers=[BIG, {"l": Symlink("x")}], docker=True)
    await host.store.pull(pushed.reference)
    target = f"{registry.address}/copy/of:2"
    host.store.tag(pushed.reference, target)
    records = Records()
    digest, size = await host.store.push(target, progress=records)
    assert (digest, size) == (pushed.digest, len(pushed.image.manifest))
    shown = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{target}"], capture_output=True, check=True
    )
    assert shown.stdout == pushed.image.manifest
    # The registry mounts what another of its repositories has: nothing is sent.
    assert {records.phases(part.digest)[-1] for part in pushed.image.parsed.parts} == {"exists"}
    image = host.md.images.find(target)
    assert f"{registry.address}/copy/of@{pushed.digest}" in image.repo_digests


async def test_push_to_another_registry(registry: DockerRegistry, host: ImageHost, tmp_path: Path) -> None:
    pushed = await push_image(registry.address, "away:1")
    await host.store.pull(pushed.reference)
    with docker_registry() as other:
        target = f"{other.address}/away:1"
        host.store.tag(pushed.reference, target)
        records = Records()
        await host.store.push(target, progress=records)
        assert {records.phases(part.digest)[-1] for part in pushed.image.parsed.parts} == {"done"}
        where = f"oci:{tmp_path}/out:1"
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{target}", where], check=True)
        config = json.loads(
            subprocess.run(["skopeo", "inspect", "--config", where], capture_output=True, check=True).stdout
        )
        assert config["rootfs"]["diff_ids"] == list(pushed.image.diff_ids)


async def test_push_what_has_no_blob_here(registry: DockerRegistry, host: ImageHost) -> None:
    """The layer was unpacked already when the image came, so its other compression was never fetched."""
    first = await push_image(registry.address, "wrap:gz", layers=[{"f": "x" * 1000}])
    second = await push_image(registry.address, "wrap:zstd", layers=[{"f": "x" * 1000}], compression="zstd")
    await host.store.pull(first.reference)
    await host.content.delete(Digest.parse(first.image.parsed.layers[0].digest))
    await host.store.pull(second.reference)
    with docker_registry() as other:
        target = f"{other.address}/wrap:1"
        host.store.tag(first.reference, target)
        digest, _ = await host.store.push(target)
        assert digest in (first.digest, second.digest)


async def test_push_of_nothing(host: ImageHost) -> None:
    with pytest.raises(NotFound) as caught:
        await host.store.push("127.0.0.1:1/no/such:1")
    assert caught.value.reason == "IMAGE_NOT_FOUND"


# Names


async def test_remove(registry: DockerRegistry, host: ImageHost) -> None:
    pushed = await push_image(registry.address, "names:1")
    image = await host.store.pull(pushed.reference)
    host.store.tag(image.id, "other")
    host.store.tag(image.id, f"{registry.address}/names:2")
    with pytest.raises(FailedPrecondition) as caught:
        await host.store.remove_image(image.id[7:19])
    assert caught.value.reason == "IMAGE_HAS_NAMES"
    assert await host.store.remove_image("other") == (["docker.io/library/other:latest"], [])
    assert await host.store.remove_image(pushed.reference) == ([pushed.reference], [])
    untagged, deleted = await host.store.remove_image(f"{registry.address}/names:2")
    assert deleted == [image.id]
    assert untagged == [f"{registry.address}/names:2", *image.repo_digests]
    with pytest.raises(NotFound):
        await host.store.remove_image("other")


async def test_remove_by_force(registry: DockerRegistry, host: ImageHost) -> None:
    image = await host.store.pull((await push_image(registry.address, "forced:1")).reference)
    host.store.tag(image.id, "elsewhere/a:1")
    _, deleted = await host.store.remove_image(image.id, force=True)
    assert deleted == [image.id]
    assert host.left()["images"] == []
