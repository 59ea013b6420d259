"""Durable writes, and trees that fight back."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from shoal.errors import NotFound, ShoalError
from shoald.host import files, notify, syscall, trees, usage
from shoald.host.pid import process_alive, process_start_time, send_signal


def test_atomic_write_replaces_and_sets_the_exact_mode(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("old and longer")
    old = os.umask(0o077)
    try:
        files.atomic_write(path, b"new", 0o644)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o644
    assert os.listdir(tmp_path) == ["config.json"]


def test_atomic_write_replaces_a_symlink_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("canary")
    (tmp_path / "link").symlink_to("canary")
    files.atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "canary").read_text() == "canary"
    assert not (tmp_path / "link").is_symlink()


def test_a_failed_atomic_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ShoalError):
        files.atomic_write(tmp_path / "taken", b"x")
    assert os.listdir(tmp_path) == ["taken"]
    with pytest.raises(NotFound):
        files.atomic_write(tmp_path / "missing" / "file", b"x")


def test_a_full_disk_is_resource_exhausted() -> None:
    error = syscall.failure("write", 28, path="/x")
    assert (error.code, error.reason, error.metadata["errno"]) == ("RESOURCE_EXHAUSTED", "DISK_FULL", "ENOSPC")
    assert "/x" in str(error)


def test_disk_space(tmp_path: Path) -> None:
    space = files.disk_space(tmp_path)
    assert 0 < space.free <= space.total
    assert files.disk_free(tmp_path) <= space.total


def test_remove_tree_does_not_follow_symlinks(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("x")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "to-directory").symlink_to(outside)
    (tree / "a" / "to-file").symlink_to(outside / "canary")
    (tree / "dangling").symlink_to("/nonexistent")
    os.mkfifo(tree / "fifo")
    (tree / "a" / "locked").mkdir()
    (tree / "a" / "locked" / "file").touch()
    (tree / "a" / "locked").chmod(0)
    (tree / os.fsdecode(b"bad-\xff-utf8\n")).touch()
    assert trees.remove_tree(tree) is True
    assert not tree.exists()
    assert (outside / "canary").read_text() == "x"
    assert trees.remove_tree(tree) is False


def test_remove_tree_of_a_symlink_removes_the_link(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    assert trees.remove_tree(tmp_path / "l") is True
    assert (tmp_path / "d").is_dir()
    assert not (tmp_path / "l").is_symlink()


def make_deep(top: Path, depth: int) -> None:
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_trees_deeper_than_path_max(tmp_path: Path) -> None:
    # 2,500 levels: beyond PATH_MAX (4096 bytes) and beyond Python's recursion limit.
    tree = tmp_path / "tree"
    tree.mkdir()
    make_deep(tree, 2500)
    before = len(os.listdir("/proc/self/fd"))
    assert trees.tree_size(tree).entries == 1 + 2 * 2500
    assert trees.remove_tree(tree) is True
    assert not tree.exists()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_remove_tree_while_another_adds(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(50):
        (tree / str(number)).mkdir(parents=True)
    stop = threading.Event()

    def add() -> None:
        number = 0
        while not stop.is_set() and number < 300:
            number += 1
            try:
                (tree / str(number % 50) / f"new{number}").touch()
            except OSError:
                continue

    thread = threading.Thread(target=add)
    thread.start()
    reasons = []
    try:
        trees.remove_tree(tree)
    except ShoalError as error:
        reasons.append(error.metadata["errno"])
    finally:
        stop.set()
        thread.join()
    # An endless adder may win; then it must be said, and said right.
    assert reasons in ([], ["ENOTEMPTY"])
    trees.remove_tree(tree)
    assert not tree.exists()


def test_remove_tree_never_leaves_when_directories_become_symlinks(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for number in range(20):
        (outside / f"canary{number}").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                (tree / "x").mkdir()
                os.rename(tree / "x", tree / "y")
                (tree / "x").symlink_to(outside)
            except OSError:
                continue

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(200):
            try:
                trees.remove_tree(tree)
            except ShoalError:
                pass
            tree.mkdir(exist_ok=True)
    finally:
        stop.set()
        thread.join()
    assert len(os.listdir(outside)) == 20


def test_tree_size_counts_a_hard_link_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10_000))
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "l").symlink_to("/usr")
    size = trees.tree_size(tmp_path)
    directory = tmp_path.lstat()
    assert size.apparent == 10_000 + directory.st_size + 4
    assert size.entries == 3
    with pytest.raises(NotFound):
        trees.tree_size(tmp_path / "missing")


def test_usage_from_version_2_files(tmp_path: Path) -> None:
    contents = {
        "memory.current": "3000\n",
        "memory.max": "max\n",
        "memory.peak": "4000\n",
        "memory.stat": "anon 1000\ninactive_file 500\n",
        "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n",
        "cpu.stat": "usage_usec 70\nuser_usec 40\nsystem_usec 30\nnr_throttled 1\nthrottled_usec 9\n",
        "pids.current": "4\n",
        "pids.max": "100\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2\n9:0 \n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    assert usage.usage_v2(tmp_path) == usage.Usage(
        memory=2500,
        memory_limit=None,
        memory_peak=4000,
        oom_kills=1,
        cpu_us=70,
        cpu_user_us=40,
        cpu_system_us=30,
        throttled_us=9,
        pids=4,
        pids_limit=100,
        read_bytes=11,
        write_bytes=22,
    )
    assert usage.usage_v2(tmp_path / "gone") == usage.Usage()


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: Path, abstract: bool) -> None:
    address = f"@shoal-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        assert notify.notify(notify.READY, notify.status("two\nlines"), environment={"NOTIFY_SOCKET": address})
        assert manager.recv(1000) == b"READY=1\nSTATUS=two lines"


def test_notify_without_a_manager(tmp_path: Path) -> None:
    assert not notify.notify(notify.READY, environment={})
    assert not notify.notify(notify.READY, environment={"NOTIFY_SOCKET": "vsock:2:1"})
    assert not notify.notify(notify.READY, environment={"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_processes_are_told_apart_by_their_start() -> None:
    start = process_start_time(os.getpid())
    assert start is not None
    assert process_alive(os.getpid(), start)
    assert not process_alive(os.getpid(), start + 1)
    assert process_start_time(2**22 + 1) is None
    # Signal 0 checks only; the wrong start time must not even do that.
    assert send_signal(os.getpid(), start, 0)
    assert not send_signal(os.getpid(), start + 1, 0)
    assert not send_signal(0, 0, 9)
