"""Scanning and copying of real trees: everything that a file can be, and targets that lead elsewhere."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from shoal.errors import InvalidArgument, ResourceExhausted, ShoalError
from shoald.build import trees
from shoald.build.selection import CopyItem, Tree, select
from shoald.dockerfile.errors import Span
from shoald.dockerfile.steps import CopyStep, PathSource, StageBase
from shoald.host import mounts
from shoald.host.trees import remove_tree
from shoald.host.treescan import open_inside

pytestmark = pytest.mark.root

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_bind_service, revision 2 (linux/capability.h)."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    return root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    root = tmp_path / "target"
    root.mkdir()
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts.mount("shoal-test", disk, "tmpfs", data="size=1m,mode=0700")
    try:
        yield disk
    finally:
        mounts.unmount_tree(disk, detach=True)


@pytest.fixture(autouse=True)
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the roots that nothing may touch."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("canary")
    before = os.stat(outside), os.stat(outside / "passwd")
    yield outside
    assert os.listdir(outside) == ["passwd"]
    assert (outside / "passwd").read_text() == "canary"
    assert [s.st_mtime_ns for s in before] == [os.stat(p).st_mtime_ns for p in (outside, outside / "passwd")]


def item(target: str, kind: str = "f", content: str = "", *, data: str | None = "", source: str = "") -> CopyItem:
    mode = 0o755 if kind == "d" else 0o644
    text = data.encode().hex() if data is not None and kind == "f" else None
    return CopyItem(source, target, kind, mode, 0, 0, 10**18, content, {}, 0, data=text)


async def copy_step(source: Path, target: Path, path: str = "/", dest: str = "/") -> Tree:
    step = CopyStep(
        text="", created_by="", span=Span(), base=StageBase(0), sources=(PathSource(path),), files=(), dest=dest,
        dest_is_dir=True,
    )  # fmt: skip
    tree = await trees.scan_sources(source, step)
    await trees.copy(source, target, select(step, tree, dest_is_directory=True, mode=None), None)
    return tree


def everything(root: Path) -> dict[str, tuple[object, ...]]:
    """What a tree is, without times of creation."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(os.fsencode(root)):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            relative = os.fsdecode(path).removeprefix(str(root))
            links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
            owner = (status.st_mode, status.st_uid, status.st_gid)
            found[relative] = (*owner, status.st_mtime_ns, status.st_rdev, links, content, xattrs)
    return found


async def test_a_tree_with_everything(source: Path, target: Path) -> None:
    (source / "empty").write_bytes(b"")
    (source / "dir" / "deep").mkdir(parents=True)
    (source / "dir" / "deep" / "file").write_bytes(os.urandom(3_000_000))
    os.link(source / "dir/deep/file", source / "dir/linked")
    os.link(source / "dir/deep/file", source / "zlinked")
    (source / "to file").symlink_to("dir/linked")
    (source / "to nowhere").symlink_to("/no/where")
    (source / "to dir").symlink_to("dir")
    os.mkfifo(source / "fifo", 0o640)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(source / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 99))
    bad = os.path.join(os.fsencode(source), b"\xff\xfe n\n")
    with open(bad, "wb") as file:
        file.write(b"bad name")
    os.symlink(b"\xfd", os.path.join(os.fsencode(source), b"l\xff"))
    for number, path in enumerate(sorted(source.rglob("*"))):
        os.chown(path, 1000 + number, 2000 + number, follow_symlinks=False)
    os.chmod(source / "dir", 0o1777)
    os.chmod(source / "empty", 0o6755)
    os.setxattr(source / "dir/deep/file", "user.shoal", b"\0\xff")
    os.setxattr(source / "dir", "user.dir", b"x")
    os.setxattr(source / "empty", "security.capability", CAPABILITY)
    for number, path in enumerate(sorted(source.rglob("*"), reverse=True)):
        os.utime(path, ns=(5, 10**18 + number), follow_symlinks=False)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(source / "socket"))
        await copy_step(source, target)
    os.unlink(source / "socket")  # a socket is not copied
    assert everything(target) == everything(source)


async def test_a_scan_tells_content_from_names(source: Path) -> None:
    (source / "a").write_text("same")
    (source / "b").write_text("same")
    tree = await trees.scan(source, ["/a", "/b", "/none"])
    assert tree.by_path["/a"].content == tree.by_path["/b"].content != ""
    assert tree.roots == {"/a": "/a", "/b": "/b", "/none": None}
    unhashed = await trees.scan(source, ["/"], want_hash=False)
    assert unhashed.by_path["/a"].content == ""


async def test_roots_follow_links_inside(source: Path, canary: Path) -> None:
    (source / "etc").mkdir()
    (source / "etc/real").write_text("inside")
    (source / "up").symlink_to("../../../../etc/real")
    (source / "absolute").symlink_to("/etc")
    (source / "out").symlink_to(canary)
    (source / "magic").symlink_to("/proc/self/root/etc")
    tree = await trees.scan(source, ["/up", "/absolute/real", "/out", "/magic", "/etc/../../etc"])
    assert tree.roots == {
        "/up": "/etc/real", "/absolute/real": "/etc/real", "/out": None, "/magic": None, "/etc/../../etc": "/etc",
    }  # fmt: skip


async def test_a_wildcard_link_out_of_the_scanned_directory(source: Path, target: Path) -> None:
    (source / "lib").mkdir()
    (source / "opt").mkdir()
    (source / "opt/liby.so.1").write_text("y")
    (source / "lib/liby.so").symlink_to("/opt/liby.so.1")
    await copy_step(source, target, "/lib/*.so", "/x")
    assert (target / "x/liby.so").read_text() == "y"
    assert not (target / "x/liby.so").is_symlink()


async def test_holes_stay_holes(source: Path, target: Path) -> None:
    size = 6 << 30
    with open(source / "sparse", "wb") as file:
        file.truncate(size)
        for at in (0, 3 << 30, size - 4):
            file.seek(at)
            file.write(b"data")
    tree = await trees.scan(source, ["/sparse"], want_hash=False)
    entry = tree.by_path["/sparse"]
    await trees.copy(source, target, [CopyItem("/sparse", "/s", "f", 0o600, 0, 0, entry.mtime_ns, "", {}, 0)], None)
    copied = os.stat(target / "s")
    assert copied.st_size == size
    assert copied.st_blocks * 512 < 4 << 20
    with open(target / "s", "rb") as file:
        for at in (0, 3 << 30, size - 4):
            file.seek(at)
            assert file.read(4) == b"data"
        file.seek(1 << 30)
        assert file.read(4) == b"\0\0\0\0"


async def test_a_wide_tree(source: Path, target: Path) -> None:
    """More directories than a process may usually have open."""
    for number in range(1500):
        (source / "wide" / f"{number:04d}").mkdir(parents=True)
        (source / "wide" / f"{number:04d}" / "file").touch()
    await copy_step(source, target)
    assert everything(target) == everything(source)


async def test_a_deep_tree(source: Path, target: Path) -> None:
    """Deeper than Python may recurse."""
    deep, fresh = ("/".join([name] * 1500) for name in "df")
    try:
        path = source
        for _ in range(1500):
            path /= "d"
            path.mkdir()
        (path / "file").write_text("deep")
        await copy_step(source, target)
        assert (target / deep / "file").read_text() == "deep"
        await trees.copy(None, target, [item(f"/{fresh}/file", data="x")], None)
        assert (target / fresh / "file").read_text() == "x"
    finally:
        for root in (source, target):
            remove_tree(root)


class TestOwners:
    async def test_owner_goes_to_files_and_new_parents(self, target: Path) -> None:
        (target / "old").mkdir()
        await trees.copy(None, target, [item("/old/new/file")], (7, 8))
        owners = {str(p.relative_to(target)): (p.stat().st_uid, p.stat().st_gid) for p in target.rglob("*")}
        assert owners == {"old": (0, 0), "old/new": (7, 8), "old/new/file": (7, 8)}
        assert stat.S_IMODE((target / "old/new").stat().st_mode) == 0o755

    async def test_directories_that_exist(self, source: Path, target: Path) -> None:
        """The destination itself stays as it is; those below are as the source has them."""
        for root, mode in ((source, 0o711), (target, 0o750)):
            (root / "a/b").mkdir(parents=True)
            os.chmod(root / "a", mode)
            os.chmod(root / "a/b", mode)
            os.chown(root / "a", mode, mode)
        os.utime(source / "a/b", ns=(1, 10**18))
        await copy_step(source, target, "/a", "/a")
        assert stat.S_IMODE((target / "a").stat().st_mode) == 0o750
        assert (target / "a").stat().st_uid == 0o750
        assert stat.S_IMODE((target / "a/b").stat().st_mode) == 0o711
        assert (target / "a/b").stat().st_mtime_ns == 10**18

    async def test_setuid_survives_the_change_of_owner(self, target: Path) -> None:
        await trees.copy(None, target, [replace(item("/s"), mode=0o4755)], (5, 5))
        assert stat.S_IMODE((target / "s").stat().st_mode) == 0o4755


class TestReplacing:
    async def test_a_file_replaces_files_and_links(self, target: Path, canary: Path) -> None:
        (target / "file").write_text("old")
        os.link(target / "file", target / "other name")
        (target / "link").symlink_to(canary / "passwd")
        os.mkfifo(target / "fifo")
        await trees.copy(None, target, [item(f"/{name}", data="new") for name in ("file", "link", "fifo")], None)
        assert [(target / n).read_text() for n in ("file", "link", "fifo")] == ["new"] * 3
        assert not (target / "link").is_symlink()
        assert (target / "other name").read_text() == "old"

    @pytest.mark.parametrize(
        ("items", "message"),
        [
            ([item("/dir")], "cannot replace the directory /dir"),
            ([item("/dir", "l", "x")], "cannot replace the directory /dir"),
            ([item("/file", "d")], "cannot copy to non-directory: /file"),
            ([item("/file/x")], "cannot copy to non-directory: /file"),
            ([item("/file/x/y")], "cannot copy to non-directory: /file/x"),
            ([item("/tofile", "d")], "cannot copy to non-directory: /tofile"),
        ],
    )
    async def test_refusals(self, target: Path, items: list[CopyItem], message: str) -> None:
        (target / "dir/full").mkdir(parents=True)
        (target / "file").write_text("old")
        (target / "tofile").symlink_to("file")
        with pytest.raises(InvalidArgument, match=message) as caught:
            await trees.copy(None, target, items, None)
        assert caught.value.reason == "COPY_FAILED"
        assert (target / "file").read_text() == "old"

    async def test_a_full_disk_says_so(self, small_disk: Path, target: Path) -> None:
        with pytest.raises(ResourceExhausted) as caught:
            await trees.copy(None, small_disk, [item("/big", data="x" * (3 << 20))], None)
        assert caught.value.reason == "DISK_FULL"
        assert caught.value.metadata["path"] == "/big"


class TestLeadingElsewhere:
    """The target's own links lead where they would in a container, whatever the host has there (CVE-2018-15664...)."""

    async def test_links_among_the_parents(self, target: Path, canary: Path) -> None:
        (target / "abs").symlink_to(canary)
        (target / "up").symlink_to(f"../../../../../../../../{canary}")
        (target / "inner").symlink_to("/abs/deeper")
        await trees.copy(None, target, [item(f"/{name}/passwd", data=name) for name in ("abs", "up", "inner")], None)
        inside = target / str(canary).lstrip("/")
        assert (inside / "passwd").read_text() == "up"
        assert (inside / "deeper/passwd").read_text() == "inner"

    async def test_a_directory_onto_a_link(self, source: Path, target: Path, canary: Path) -> None:
        (source / "sub").mkdir()
        (source / "sub/passwd").write_text("copied")
        os.chmod(source / "sub", 0o700)
        (target / "sub").symlink_to(canary)
        await copy_step(source, target)
        assert (target / "sub").is_symlink()
        assert (target / str(canary).lstrip("/") / "passwd").read_text() == "copied"

    @pytest.mark.parametrize(
        "link",
        ["/proc/self/root", "/proc/self/cwd", "/proc/1/root", "/proc/self/fd/3", "/proc/thread-self/root/outside"],
    )
    async def test_magic_links(self, target: Path, link: str) -> None:
        """In a target with a /proc of its own they are refused; without, they are names like others."""
        (target / "x").symlink_to(link)
        await trees.copy(None, target, [item("/x/passwd", data="copied")], None)
        assert (target / link.lstrip("/") / "passwd").read_text() == "copied"

    async def test_a_mounted_proc(self, target: Path) -> None:
        (target / "proc").mkdir()
        mounts.mount("proc", target / "proc", "proc")
        try:
            for link in ("/proc/self/root/tmp", "/proc/self/cwd", "/proc/1/root/tmp"):
                (target / "x").symlink_to(link)
                with pytest.raises(ShoalError):
                    await trees.copy(None, target, [item("/x/passwd-by-link")], None)
                (target / "x").unlink()
            assert not Path("/tmp/passwd-by-link").exists()
        finally:
            mounts.unmount_tree(target / "proc", detach=True)

    async def test_dots_in_targets(self, target: Path, canary: Path) -> None:
        await trees.copy(None, target, [item(f"/../../outside/{n}", data=n) for n in ("passwd", "x")], None)
        assert (target / "outside/passwd").read_text() == "passwd"

    async def test_links_in_circles(self, target: Path) -> None:
        (target / "a").symlink_to("b")
        (target / "b").symlink_to("a")
        with pytest.raises(ShoalError, match="symbolic links"):
            await trees.copy(None, target, [item("/a/x")], None)

    async def test_dangling_parents_are_made_inside(self, target: Path) -> None:
        """As /var/run -> /run in an image without /run."""
        (target / "var").mkdir()
        (target / "var/run").symlink_to("../run/./real")
        await trees.copy(None, target, [item("/var/run/x/pid", data="1")], None)
        assert (target / "run/real/x/pid").read_text() == "1"


def test_resolve_and_is_directory(source: Path, canary: Path) -> None:
    (source / "dir").mkdir()
    (source / "file").touch()
    (source / "in").symlink_to("/dir")
    (source / "out").symlink_to(canary)
    assert trees.resolve(source, "/in") == source / "dir"
    assert trees.resolve(source, "/../..") == source
    assert trees.resolve(source, "/out") is None
    assert trees.is_directory(source, "/in")
    assert not trees.is_directory(source, "/file")
    assert not trees.is_directory(source, "/out")


def test_open_inside_survives_renames(source: Path) -> None:
    (source / "a/b").mkdir(parents=True)
    (source / "file").touch()
    root = os.open(source, os.O_PATH)
    done = threading.Event()

    def rename() -> None:
        while not done.is_set():
            os.rename(source / "a", source / "c")
            os.rename(source / "c", source / "a")

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        for _ in range(2000):
            try:
                os.close(open_inside(root, "/a/b/../../file", os.O_PATH))
            except FileNotFoundError:
                continue
    finally:
        done.set()
        thread.join()
        os.close(root)
