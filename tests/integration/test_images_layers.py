"""What layers mean: against umoci, and there and back through pack and unpack."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import socket
import stat
import struct
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from backports import zstd

from shoal.digest import Digest
from shoal.errors import InvalidArgument, ResourceExhausted
from shoald.host import mounts
from shoald.images.assemble import BuiltLayer
from shoald.images.unpacker import UnpackLimits, unpacking
from shoald.oci.config import ImageConfig, RootFS
from shoald.oci.manifest import encode
from tests.support.docker_registry import docker_registry
from tests.support.image_host import ImageHost, image_host
from tests.support.images import push_image
from tests.support.layers import Device, Dir, Entry, File, Hardlink, Layer, Symlink, make_tar
from tests.support.unpacked import pack, tree, unpack

pytestmark = [pytest.mark.root]

NS = 1_700_000_000_123_456_789
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)

LAYERS: list[dict[str, Entry]] = [
    {
        "etc": Dir(0o755),
        "etc/keep": "keep",
        "etc/gone": "gone",
        "full": Dir(0o700, 10, 20),
        "full/a": "a",
        "full/b/c": "c",
        "swap": "a file",
        "tree/x/y": "y",
        "link": Symlink("etc"),
        "su": File(b"x", 0o4755, 5, 6, 1234),
        "sgid": Dir(0o2775, 0, 50),
        "sgid/inside": File(b"x", 0o644, 0, 0),
        "first": "shared",
        "second": Hardlink("first"),
        "null": Device("c", 1, 3),
        "loop": Device("b", 7, 0, 0o660),
        "ü-\N{SNOWMAN}": "utf-8",
        "n" * 200: "long",
        "p/" * 60 + "deep": "deep",
    },
    {
        "etc/.wh.gone": "",
        "full/.wh..wh..opq": "",
        "full/new": "new",
        "swap": Dir(0o711),
        "swap/in": "in",
        ".wh.tree": "",
        "link": File(b"no link any more"),
        "first": "not shared any more",
    },
    {".wh.swap": "", "tree": Dir(0o700), "tree/again": "z"},
]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[ImageHost]:
    async with image_host(tmp_path / "root") as opened:
        yield opened


async def test_same_as_umoci(host: ImageHost, tmp_path: Path) -> None:
    with docker_registry() as registry:
        pushed = await push_image(registry.address, "semantics:1", layers=list(LAYERS))
        image = await host.store.pull(pushed.reference)
        source = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{pushed.reference}"]
        subprocess.run([*source, f"oci:{tmp_path}/oci:1"], check=True)
    umoci = ["umoci", "unpack", "--image", f"{tmp_path}/oci:1", str(tmp_path / "bundle")]
    subprocess.run(umoci, check=True, capture_output=True)
    top = host.md.snapshots.by_chain(image.chain_id)
    assert top is not None
    async with host.snapshots.mounted(top.id) as mounted:
        ours = tree(mounted)
    theirs = tree(tmp_path / "bundle/rootfs")
    assert set(ours) == set(theirs)
    for name, entry in theirs.items():
        # umoci gives directories that no layer describes the time of now; the upper of an overlay has its own.
        skip = {4} if entry[0] in (oct(0o40755), oct(0o40700), oct(0o40711)) else set()
        mine = ours[name]
        assert [v for at, v in enumerate(mine) if at not in skip] == [
            v for at, v in enumerate(entry) if at not in skip
        ], name
    assert ours["full"][:3] == (oct(0o40700), 10, 20)
    assert ours["second"][5] == b"shared"


def _rich(top: Path, base: int = 0) -> None:
    """Everything that a layer can hold, as a container in a user namespace leaves it behind."""
    (top / "dir").mkdir()
    (top / "dir/file").write_bytes(b"x" * 5000)
    os.setxattr(top / "dir/file", "user.note", b"\0\xff")
    (top / "dir/empty").touch()
    (top / "capable").write_bytes(b"x")
    os.setxattr(top / "capable", "security.capability", CAPABILITY)
    (top / "su").write_bytes(b"x")
    (top / "one").write_text("linked")
    os.link(top / "one", top / "dir/two")
    os.symlink("/dir/../nowhere", top / "link")
    os.link(top / "link", top / "link2", follow_symlinks=False)
    os.mkfifo(top / "fifo")
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "gone", stat.S_IFCHR, 0)
    (top / "opaque").mkdir()
    os.setxattr(top / "opaque", "trusted.overlay.opaque", b"y")
    os.mkdir(os.fsencode(top) + b"/raw-\xff\xfe")
    (top / ("l" * 250)).mkdir()
    (top / ("l" * 250) / ("m" * 250)).write_text("deep")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(top / "socket"))
    for name in (".", *tree(top)):
        os.chown(top / name, base + 7, base + 8, follow_symlinks=False)
        os.utime(top / name, ns=(NS, NS), follow_symlinks=False)
    os.setxattr(top / "capable", "security.capability", CAPABILITY)
    os.chmod(top / "su", 0o6755)
    os.chown(top / "dir", base, base)
    os.chown(top / "dir/empty", 12, base + 65535)


@pytest.mark.parametrize("base", [0, 200_000])
def test_there_and_back(tmp_path: Path, base: int) -> None:
    layer, again = tmp_path / "layer", tmp_path / "again"
    layer.mkdir()
    again.mkdir()
    _rich(layer, base)
    archive, packed = pack(layer, "none", base)
    assert packed["digest"] == packed["diff_id"] == str(Digest.of(archive))
    assert packed["size"] == packed["tar_bytes"] == len(archive)
    unpacked = unpack(again, archive)
    assert unpacked["diff_id"] == packed["diff_id"]
    assert (unpacked["content_bytes"], unpacked["entries"]) == (packed["content_bytes"], packed["entries"])
    wanted, found = tree(layer), tree(again)
    del wanted["socket"]
    assert set(wanted) == set(found)
    for name in wanted:
        mode, uid, gid, *rest = wanted[name]
        assert isinstance(uid, int)
        assert isinstance(gid, int)
        shifted = [uid - base, gid - base]
        if name == "dir/empty" and base:
            shifted[0] = 65534  # an owner from outside of the namespace
        if name == "gone":
            shifted, rest[1] = [0, 0], found[name][4]  # a whiteout is nobody's and timeless
        if name == ".":
            continue  # an archive of a layer has no root
        assert found[name] == (mode, *shifted, *rest), name
    assert pack(again, "none")[1]["diff_id"] == (packed["diff_id"])


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_pack_is_deterministic(tmp_path: Path, compression: str) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    _rich(layer)
    first, result = pack(layer, compression)
    assert pack(layer, compression)[0] == first
    unpackers: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "zstd": zstd.decompress, "none": bytes}
    plain = unpackers[compression](first)
    assert result["diff_id"] == str(Digest.of(plain))
    assert result["digest"] == str(Digest.of(first))


def test_others_read_what_we_pack(tmp_path: Path) -> None:
    layer, other = tmp_path / "layer", tmp_path / "other"
    layer.mkdir()
    other.mkdir()
    _rich(layer)
    archive, _ = pack(layer, "gzip")
    (tmp_path / "layer.tgz").write_bytes(archive)
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpzf", tmp_path / "layer.tgz", "-C", other],
        check=True,
    )
    found, wanted = tree(other), tree(layer)
    assert found["capable"][6] == {"security.capability": CAPABILITY}
    for name in ("dir/file", "one", "dir/two", "link", "su", "l" * 250 + "/" + "m" * 250, "raw-\udcff\udcfe"):
        assert found[name] == wanted[name]
    assert {".wh.gone", "opaque/.wh..wh..opq"} <= set(found)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        names = [member.name for member in opened]
    assert names == sorted(names, key=lambda name: name.replace(".wh..wh..opq", "").replace(".wh.", "").split("/"))


def test_capability_of_a_user_namespace_becomes_plain(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    version3 = struct.pack("<IIIIII", 0x03000001, 1 << 10, 0, 0, 0, 200_000)
    os.setxattr(tmp_path / "f", "security.capability", version3)
    os.chown(tmp_path / "f", 200_000, 200_000)
    os.setxattr(tmp_path / "f", "security.capability", version3)
    (again := tmp_path / "again").mkdir()
    layer = tmp_path / "layer"
    layer.mkdir()
    os.rename(tmp_path / "f", layer / "f")
    unpack(again, pack(layer, "none", 200_000)[0])
    assert os.getxattr(again / "f", "security.capability") == CAPABILITY


def test_whiteout_names_are_refused_when_packing(tmp_path: Path) -> None:
    """A file that a container calls .wh.passwd would delete /etc/passwd in the image."""
    (tmp_path / ".wh.passwd").touch()
    assert pack(tmp_path)[1]["error"] == "BAD_TREE"


@pytest.mark.parametrize("style", ["--format=gnu", "--format=pax", "--format=ustar", "--format=v7", "--format=oldgnu"])
def test_formats_of_gnu_tar(tmp_path: Path, style: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_bytes(os.urandom(70_000))
    (source / "d/sparse").touch()
    os.truncate(source / "d/sparse", 50 << 20)
    with open(source / "d/sparse", "r+b") as file:
        file.seek(20 << 20)
        file.write(b"data")
    os.link(source / "d/f", source / "hard")
    os.symlink("d/f", source / "soft")
    target.mkdir()
    sparse = [] if "v7" in style or "ustar" in style else ["--sparse"]
    archive = subprocess.run(["tar", style, *sparse, "-cf", "-", "-C", source, "."], capture_output=True, check=True)
    assert "error" not in unpack(target, archive.stdout)
    wanted, found = tree(source), tree(target)
    for name, entry in wanted.items():
        at = slice(0, 4) if "pax" not in style else slice(0, 5)
        assert found[name][at] == entry[at], name
        assert found[name][5:7] == entry[5:7], name
    if sparse:
        assert (target / "d/sparse").stat().st_blocks < 1000


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_formats_of_pax(tmp_path: Path, version: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with open(source / "s", "wb") as file:
        for at in range(0, 40 << 20, 4 << 20):
            file.seek(at)
            file.write(os.urandom(4096))
        file.truncate(41 << 20)
    argv = ["tar", "--format=pax", "--sparse", f"--sparse-version={version}", "-cf", "-", "-C", str(source), "s"]
    archive = subprocess.run(argv, capture_output=True, check=True)
    unpack(target, archive.stdout)
    assert tree(target)["s"] == tree(source)["s"]


@pytest.mark.parametrize("pack_with", [gzip.compress, zstd.compress, bz2.compress, lzma.compress, bytes])
def test_archive_finds_the_compression(tmp_path: Path, pack_with: object) -> None:
    assert callable(pack_with)
    result = unpack(tmp_path, pack_with(make_tar({"a/b": "c"})), "archive")
    assert "error" not in result
    assert (tmp_path / "a/b").read_text() == "c"


def test_many_gzip_members_and_zstd_frames(tmp_path: Path) -> None:
    tar = make_tar({"f": os.urandom(300_000)})
    pieces = [tar[at : at + 7000] for at in range(0, len(tar), 7000)]
    for pack_with in (gzip.compress, zstd.compress):
        result = unpack(tmp_path, b"".join(map(pack_with, pieces)))
        assert result["diff_id"] == str(Digest.of(tar))
    skippable = b"\x5a\x2a\x4d\x18" + struct.pack("<I", 3) + b"abc"
    assert unpack(tmp_path, skippable + zstd.compress(tar))["diff_id"] == str(Digest.of(tar))


def test_context_is_owned_by_root(tmp_path: Path) -> None:
    layer: Layer = {
        "d": Dir(0o750, 1000, 1000),
        "d/f": File(b"x", 0o4711, 1000, 1000),
        ".wh.kept": "a name as any",
    }
    unpack(tmp_path, make_tar(layer), "context")
    found = tree(tmp_path)
    assert found["d"][:3] == (oct(0o40750), 0, 0)
    assert found["d/f"][:3] == (oct(0o104711), 0, 0)
    assert found[".wh.kept"][5] == b"a name as any"


def test_archive_into_a_directory_of_the_image(tmp_path: Path) -> None:
    """`/app` leads to an absolute path: one of the image, not of the host."""
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (root / "app").symlink_to(outside)
    archive = make_tar({"f": File(b"x", 0o644, 3, 4), "h": Hardlink("f")})
    unpack(root, archive, "archive", "--into", "app/sub", "--id-base", "1000")
    assert os.listdir(outside) == []
    inside = root / str(outside).lstrip("/") / "sub"
    assert (inside / "f").stat().st_uid == 1003
    assert inside.stat().st_uid == 1000
    assert (inside / "h").samefile(inside / "f")


def test_last_one_wins(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, body in [
            ("a", tarfile.REGTYPE, b"old"),
            ("a", tarfile.REGTYPE, b"new"),
            ("d", tarfile.DIRTYPE, b""),
            ("d/in", tarfile.REGTYPE, b"x"),
            ("d", tarfile.REGTYPE, b"a file now"),
            ("f", tarfile.REGTYPE, b"x"),
            ("f", tarfile.DIRTYPE, b""),
            ("f/in", tarfile.REGTYPE, b"y"),
            ("f", tarfile.DIRTYPE, b""),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode = kind, len(body), 0o755
            tar.addfile(info, io.BytesIO(body))
    unpack(tmp_path, out.getvalue())
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "d").read_bytes() == b"a file now"
    assert (tmp_path / "f/in").read_bytes() == b"y"


def test_whiteout_and_entry_in_one_layer(tmp_path: Path) -> None:
    """A whiteout concerns what is below; a directory of the same name in this layer is then merged with nothing."""
    for number, order in enumerate(([".wh.d", "d/f"], ["d/f", ".wh.d"], [".wh.d", "d", "d/f"])):
        target = tmp_path / str(number)
        target.mkdir()
        unpack(target, make_tar({name: (None if name == "d" else "x") for name in order}))
        assert os.getxattr(target / "d", "trusted.overlay.opaque") == b"y", order
        assert (target / "d/f").read_text() == "x"


async def test_pack_layer_and_assemble(host: ImageHost) -> None:
    snapshot = await host.snapshots.create_layer(None, uid_base=200_000)
    fs = host.snapshots.fs_path(snapshot.id)
    (fs / "file").write_text("x")
    os.chown(fs / "file", 200_033, 200_033)
    blob = await host.layers.pack_layer(snapshot)
    assert host.content.size(Digest.parse(blob.digest)) == blob.size
    config = encode(ImageConfig(architecture="amd64", os="linux", rootfs=RootFS(diff_ids=[blob.diff_id])))
    image = await host.assembler.create_image(config, [BuiltLayer(blob, snapshot)], ["built:1"])
    assert image.tags == ("docker.io/library/built:1",)
    assert host.assembler.layers_of(image)[0].blob == blob
    with docker_registry() as registry:
        target = f"{registry.address}/built:1"
        host.store.tag("built:1", target)
        await host.store.push(target)
        listed = subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", f"docker://{target}"], capture_output=True, check=True
        )
        assert blob.digest.encode() in listed.stdout
        async with image_host(host.root / "other") as other:
            pulled = await other.store.pull(target)
            assert pulled.id == image.id
            assert tree(other.fs(pulled.chain_id))["file"][1:3] == (33, 33)
    with pytest.raises(InvalidArgument):
        await host.assembler.create_image(config, [], [])


async def test_pack_on_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts.mount("shoal-test", disk, "tmpfs", data="size=24m,mode=0755")
    try:
        async with image_host(disk / "root") as host:
            snapshot = await host.snapshots.create_layer(None)
            (host.snapshots.fs_path(snapshot.id) / "f").write_bytes(os.urandom(14 << 20))
            with pytest.raises(ResourceExhausted) as caught:
                await host.layers.pack_layer(snapshot)
            assert caught.value.reason == "DISK_FULL"
            assert (host.left()["blobs"], host.left()["partials"]) == ([], [])
            assert os.listdir(disk / "root/tmp") == []
    finally:
        mounts.unmount_tree(disk, detach=True)


async def test_context_in_chunks(host: ImageHost, tmp_path: Path) -> None:
    target = tmp_path / "context"
    target.mkdir()
    tar = gzip.compress(make_tar({"Dockerfile": "FROM x", "big": os.urandom(1 << 20)}))

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(tar), 100_000):
            yield tar[at : at + 100_000]

    unpacked = await host.layers.unpack_context(chunks(), target)
    assert unpacked.entries == 2
    assert (target / "Dockerfile").read_text() == "FROM x"


async def test_limits_reach_the_program(tmp_path: Path) -> None:
    async with unpacking(tmp_path, "context", limits=UnpackLimits(entries=1)) as unpacker:
        await unpacker.write(make_tar({"a": "", "b": ""}))
        with pytest.raises(ResourceExhausted) as caught:
            await unpacker.finish()
    assert caught.value.reason == "ARCHIVE_TOO_LARGE"
