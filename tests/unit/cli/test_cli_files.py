"""Files and secrets of the client: `--mount`, `--config`, `--secret`, and what is found and hashed of a directory."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import FailedPrecondition, NotFound, ResourceExhausted
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.mounts import MountFlag, parse_config, parse_mount, parse_volume
from shoalctl.flags.secrets import MAX_SECRET_BYTES, parse_secret
from shoalctl.fleet import localtree
from shoalctl.fleet.localtree import HashCache, LocalTree
from tests.support.cli import Shoal


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("type=bind,src=/srv,dst=/d", MountFlag("bind", "/srv", "/d")),
        ("type=bind,source=host:/srv,destination=/d,readonly", MountFlag("bind", "/srv", "/d", True)),
        ("type=bind,src=/s,dst=/d,bind-propagation=slave", MountFlag("bind", "/s", "/d", propagation="slave")),
        ("type=bind,src=./conf,target=/d", MountFlag("content", "", "/d", True, local="./conf")),
        ("type=bind,src=local:/conf,target=/d,ro=true", MountFlag("content", "", "/d", True, local="/conf")),
        ("src=data,dst=/d", MountFlag("volume", "data", "/d")),
        ("dst=/d", MountFlag("volume", "", "/d")),
        ("type=volume,src=data,dst=/d,volume-nocopy", MountFlag("volume", "data", "/d", no_copy=True)),
        ("type=volume,src=data,dst=/d,volume-subpath=a/b", MountFlag("volume", "data", "/d", subpath="a/b")),
        (
            'type=volume,src=data,dst=/d,volume-opt=type=nfs,"volume-opt=o=addr=1.2.3.4,rw",volume-label=a=b',
            MountFlag(
                "volume", "data", "/d", labels={"a": "b"}, volume_options={"type": "nfs", "o": "addr=1.2.3.4,rw"}
            ),
        ),
        ("type=tmpfs,dst=/d,tmpfs-size=64m,tmpfs-mode=0700", MountFlag("tmpfs", "", "/d", False, 64 << 20, 0o700)),
        ("type=bind,src=/s,dst=/d,readonly=false,consistency=cached", MountFlag("bind", "/s", "/d")),
    ],
)
def test_mounts(text: str, wanted: MountFlag) -> None:
    assert parse_mount(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "type=npipe,dst=/d",
        "type=bind,dst=/d",
        "type=bind,src=name,dst=/d",
        "type=bind,src=/s",
        "type=bind,src=/s,dst=d",
        "type=bind,src=/s,dst=/d,bind-propagation=rshared",
        "type=bind,src=./s,dst=/d,bind-propagation=rslave",
        "type=bind,src=/s,dst=/d,tmpfs-size=1m",
        "type=bind,src=/s,dst=/d,volume-nocopy",
        "type=bind,src=/s,dst=/d,volume-opt=a=b",
        "type=tmpfs,src=/s,dst=/d",
        "type=volume,src=/s,dst=/d",
        "type=volume,src=data,dst=/d,volume-driver=flocker",
        "type=volume,src=data,dst=/d,volume-subpath=../x",
        "type=volume,src=data,dst=/d,volume-opt=",
        "type=volume,src=data,src=other,dst=/d",
        "type=volume,src=data,dst=/d,readonly=maybe",
        "type=volume,src=data,dst=/d,colour=red",
        'type=volume,"src=data,dst=/d',
    ],
)
def test_bad_mounts(text: str) -> None:
    with pytest.raises(UsageFault, match="invalid mount"):
        parse_mount(text)


@given(st.text(alphabet='typebindsrcvolume=,/.:~lhost0" -', max_size=40))
def test_any_text_is_a_mount_or_a_fault(text: str) -> None:
    for parse in (parse_mount, parse_volume):
        try:
            mount = parse(text)
        except UsageFault:
            continue
        assert mount.target.startswith("/")
        # It is always clear whose path it is.
        assert (mount.kind == "content") == bool(mount.local)
        assert mount.kind != "bind" or mount.source.startswith("/")


def test_configs() -> None:
    assert parse_config("app=./a.ini") == MountFlag("content", "", "/app", True, local="./a.ini")
    wanted = MountFlag("content", "", "/etc/x", True, local="a.ini", file_mode=0o440)
    assert parse_config("app=a.ini,target=/etc/x,mode=0440") == wanted
    for bad in ("app", "=x", "app=", "app=x,target=y", "app=x,mode=9", "app=x,what=1", "a/b=x"):
        with pytest.raises(UsageFault):
            parse_config(bad)


def test_secrets(tmp_path: Path) -> None:
    file = tmp_path / "pw"
    file.write_bytes(b"from a file\n")
    environment = {"PW": "from env", "db": "by name"}
    assert parse_secret(f"id=db,src={file}", environment).value == b"from a file\n"
    found = parse_secret("id=db,env=PW,mode=0440,target=/etc/pw", environment)
    assert (found.target, found.value, found.mode) == ("/etc/pw", b"from env", 0o440)
    assert parse_secret("id=db,type=env,src=PW", environment).value == b"from env"
    assert parse_secret("id=db", environment).value == b"by name"
    assert parse_secret(f"id=x,src={file},target=sub", environment).target == "/run/secrets/sub"
    assert "from env" not in repr(found)
    file.write_bytes(bytes(MAX_SECRET_BYTES + 1))
    for bad in (
        "src=x",
        "id=a/b,env=PW",
        "id=x,env=NOT_SET",
        "id=x,src=/no/such",
        "id=x,env=PW,src=y",
        "id=x,env=PW,mode=7777",
        "id=x,env=PW,target=/../x",
        "id=x,env=PW,colour=red",
        f"id=x,src={file}",
    ):
        with pytest.raises(UsageFault):
            parse_secret(bad, environment)


@pytest.fixture
def cache(tmp_path: Path) -> HashCache:
    return HashCache(tmp_path / "cache" / "hashes.json")


def test_a_tree_of_this_machine(tmp_path: Path, cache: HashCache) -> None:
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    (top / "d" / "f").write_bytes(b"x")
    (top / "d" / "f").chmod(0o4751)
    (top / "out").symlink_to("/etc/passwd")
    (top / "dir").symlink_to("d")
    os.mkfifo(top / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(top / "sock"))
    tree = LocalTree(top, cache)
    assert tree.scan()
    by_path = {entry.path: entry for entry in tree.entries}
    assert list(by_path) == ["", "d", "dir", "out", "d/f"], "directories before what is in them"
    assert (by_path["d/f"].mode, by_path["d/f"].digest) == (0o751, f"sha256:{hashlib.sha256(b'x').hexdigest()}")
    assert (by_path["out"].link, by_path["dir"].link) == ("/etc/passwd", "d")
    assert sorted(tree.skipped) == ["pipe", "sock"]
    assert not tree.scan(), "nothing has changed"
    (top / "d" / "f").write_bytes(b"y")
    assert tree.scan()
    assert b"".join(tree.read(tree.blobs()[f"sha256:{hashlib.sha256(b'y').hexdigest()}"])) == b"y"


def test_the_path_itself_may_be_a_link_and_a_file(tmp_path: Path, cache: HashCache) -> None:
    (tmp_path / "real").write_bytes(b"z")
    (tmp_path / "link").symlink_to("real")
    tree = LocalTree(tmp_path / "link", cache, 0o440)
    tree.scan()
    [entry] = tree.entries
    assert (entry.path, entry.mode, b"".join(tree.read(entry))) == ("", 0o440, b"z")


def test_limits_and_what_can_not_be_read(tmp_path: Path, cache: HashCache, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound):
        LocalTree(tmp_path / "nowhere", cache).scan()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FailedPrecondition):
        LocalTree(tmp_path / "pipe", cache).scan()
    many = tmp_path / "many"
    many.mkdir()
    for number in range(4):
        (many / str(number)).write_bytes(bytes(100))
    for name, value in (("MAX_ENTRIES", 4), ("MAX_FILE_BYTES", 99), ("MAX_TREE_BYTES", 399)):
        with monkeypatch.context() as patched:
            patched.setattr(localtree, name, value)
            with pytest.raises(ResourceExhausted):
                LocalTree(many, cache).scan()
    LocalTree(many, cache).scan()


def test_files_that_stay_are_hashed_once(tmp_path: Path, cache: HashCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localtree, "_SETTLED_S", -1.0)
    read: list[Path] = []
    really = localtree.hashed
    monkeypatch.setattr(localtree, "hashed", lambda path, found: (read.append(path), really(path, found))[1])
    file = tmp_path / "f"
    file.write_bytes(b"x")
    LocalTree(file, cache).scan()
    cache.save()
    later = HashCache(tmp_path / "cache" / "hashes.json")
    LocalTree(file, later).scan()
    assert len(read) == 1
    file.write_bytes(b"y")
    LocalTree(file, later).scan()
    assert len(read) == 2
    (tmp_path / "cache" / "hashes.json").write_text("[broken")
    LocalTree(file, HashCache(tmp_path / "cache" / "hashes.json")).scan()
    assert len(read) == 3


@pytest.mark.usefixtures("config")
def test_no_host_is_asked_for_what_is_not_here(shoal: Shoal) -> None:
    code, _, err = shoal("run", "-v", "./nowhere-at-all:/c", "busybox")
    assert code != 0
    assert "does not exist on this machine" in err
    code, _, err = shoal("run", "-d", "--follow", "-v", ".:/c", "busybox")
    assert "foreground" in err
    code, _, err = shoal("run", "--follow", "busybox")
    assert "nothing to follow" in err
    code, _, err = shoal("volume", "prune")
    assert code != 0
