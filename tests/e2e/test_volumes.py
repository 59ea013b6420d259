"""Volumes: driver options, filling, parts, archives, and what a kill -9 leaves."""

from __future__ import annotations

import io
import secrets
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.pki import Role
from tests.support.daemon import Daemon, Fleet, running_fleet, until
from tests.support.evil_tars import evil_tars


@pytest.fixture(autouse=True)
def _clean(host: Fleet) -> Iterator[None]:
    yield
    host.remove_containers()
    host.shoal("volume", "prune", "-a", "--force")


def _mounts(daemon: Daemon) -> list[str]:
    """Mount points of volumes on the host."""
    prefix = f"{daemon.root}/volumes/"
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(prefix)]


def _run(host: Fleet, busybox: str, *arguments: str, code: int | None = 0) -> str:
    return host.shoal("run", "--rm", *arguments[:-1], busybox, "sh", "-c", arguments[-1], code=code).stdout


def test_create_list_inspect_prune(host: Fleet) -> None:
    assert host.shoal("volume", "create", "--label", "tier=db", "data").stdout == "data\n"
    assert host.shoal("volume", "create", "data").stdout == "data\n"
    anonymous = host.shoal("volume", "create").stdout.strip()
    assert len(anonymous) == 64
    assert host.shoal("volume", "ls", "-q", "-f", "label=tier").stdout == "data\n"
    assert host.shoal("volume", "ls", "-q", "-f", "name=dat").stdout == "data\n"
    [view] = __import__("json").loads(host.shoal("volume", "inspect", "data").stdout)
    assert (view["Name"], view["Labels"], view["Driver"], view["Containers"]) == ("data", {"tier": "db"}, "local", [])
    assert view["Mountpoint"].endswith("/volumes/data/data")
    assert host.shoal("volume", "prune", "-f").stdout.splitlines()[0] == anonymous
    assert host.shoal("volume", "ls", "-q").stdout == "data\n"
    assert "nothing" not in host.shoal("volume", "prune", "-a", "-f", "--filter", "label=other").stdout
    assert host.shoal("volume", "ls", "-q").stdout == "data\n"
    assert "data" in host.shoal("volume", "prune", "-a", "-f", "--filter", "label=tier=db").stdout
    assert host.shoal("volume", "inspect", "data", code=None).returncode != 0


def test_a_tmpfs_volume_lives_from_its_first_container_to_its_last(host: Fleet, busybox: str) -> None:
    daemon = host.first
    host.shoal("volume", "create", "-o", "type=tmpfs", "-o", "o=size=4m,mode=0700,noexec", "scratch")
    assert not _mounts(daemon)
    host.shoal("run", "-d", "--name", "a", "-v", "scratch:/s", busybox, "sleep", "600")
    assert len(_mounts(daemon)) == 1
    out = _run(host, busybox, "-v", "scratch:/s", "echo hello >/s/f; grep ' /s ' /proc/mounts; stat -c %a /s")
    assert "tmpfs" in out
    assert "noexec" in out
    assert out.endswith("700\n")
    assert _run(host, busybox, "-v", "scratch:/s:ro", "cat /s/f; touch /s/x || echo no") == "hello\nno\n"
    host.shoal("rm", "-f", "a")
    until(lambda: not _mounts(daemon), what="the volume is unmounted")
    assert _run(host, busybox, "-v", "scratch:/s", "ls /s") == ""
    events = host.shoal("events", "--since", "1h", "--until", "0s", "-f", "volume=scratch").stdout
    for action in ("create", "mount", "unmount"):
        assert f" {action}" in events, events


def test_a_bind_volume_and_options_in_a_mount_flag(host: Fleet, busybox: str) -> None:
    device = host.directory / "exported"
    device.mkdir()
    (device / "there").write_text("yes\n")
    options = f"volume-opt=type=none,volume-opt=o=bind,volume-opt=device={device},volume-label=a=b"
    mount = f"type=volume,src=bound,dst=/b,{options}"
    assert _run(host, busybox, "--mount", mount, "cat /b/there; echo new >/b/made") == "yes\n"
    assert (device / "made").stat().st_uid == 0
    assert host.shoal("volume", "ls", "-q", "-f", "label=a=b").stdout == "bound\n"
    assert not _mounts(host.first)
    host.shoal("volume", "rm", "bound")
    assert (device / "there").read_text() == "yes\n"
    other = host.shoal(
        "run", "--rm", "--mount", "type=volume,src=x1,dst=/b,volume-opt=type=nfs", busybox, "true", code=None
    )
    assert "NFS" in other.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("type=ext4", "device=/dev/sda1"),
        ("type=tmpfs", "o=size=lots"),
        ("type=tmpfs", "o=lowerdir=/"),
        ("type=none", "device=/tmp"),
        ("type=none", "o=bind", "device=relative"),
        ("type=nfs", "device=:/x"),
        ("type=nfs", "o=addr=10.0.0.1,bad option", "device=:/x"),
        ("colour=red",),
    ],
)
def test_bad_options_make_nothing(host: Fleet, options: tuple[str, ...]) -> None:
    flags = [flag for option in options for flag in ("-o", option)]
    assert host.shoal("volume", "create", *flags, "bad", code=None).returncode != 0
    assert host.shoal("volume", "ls", "-q").stdout == ""


def test_a_mount_that_fails_is_told_and_leaves_nothing(host: Fleet, busybox: str) -> None:
    host.shoal("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/no/such/device", "lost")
    failed = host.shoal("run", "-d", "-v", "lost:/l", busybox, "true", code=None)
    assert failed.returncode != 0
    assert "lost" in failed.stderr
    assert not _mounts(host.first)
    assert not host.json("ps", "-a")
    assert host.shoal("volume", "create", "lost", code=None).returncode != 0, "other options: it exists already"


def test_driver_options_need_an_admin(host: Fleet, busybox: str) -> None:
    certificate, key = host.user("op", Role.OPERATOR)
    host.add_host("h1-op", host.first.address, cert=str(certificate), key=str(key))
    try:
        refused = host.shoal("volume", "create", "-H", "h1-op", "-o", "type=tmpfs", "t", code=None)
        assert "admin" in refused.stderr
        mount = "type=volume,src=tmp,dst=/t,volume-opt=type=tmpfs"
        refused = host.shoal("run", "-d", "-H", "h1-op", "--mount", mount, busybox, "true", code=None)
        assert "admin" in refused.stderr
        assert host.shoal("volume", "create", "-H", "h1-op", "plain").stdout == "plain\n"
    finally:
        host.remove_host("h1-op")


def test_filling_and_nocopy_and_subpath(host: Fleet, busybox: str) -> None:
    assert "busybox" in _run(host, busybox, "-v", "full:/bin", "ls /bin")
    assert _run(host, busybox, "--mount", "type=volume,src=empty,dst=/usr,volume-nocopy", "ls /usr") == ""
    tmpfs = "type=volume,src=mem,dst=/bin,volume-opt=type=tmpfs"
    assert "busybox" in _run(host, busybox, "--mount", tmpfs, "ls /bin")
    _run(host, busybox, "-v", "parts:/p", "mkdir -p /p/a/b; echo in >/p/a/b/f; ln -s / /p/out; ln -s a/b /p/short")
    for subpath in ("a/b", "short"):
        mount = f"type=volume,src=parts,dst=/m,volume-subpath={subpath}"
        assert _run(host, busybox, "--mount", mount, "ls /m") == "f\n"
    for subpath in ("out", "out/etc", "missing"):
        mount = f"type=volume,src=parts,dst=/m,volume-subpath={subpath}"
        assert host.shoal("run", "--rm", "--mount", mount, busybox, "true", code=None).returncode != 0


def test_owners_are_those_that_containers_see(host: Fleet, busybox: str) -> None:
    _run(host, busybox, "-v", "own:/o", "touch /o/root; touch /o/me; chown 1000:1000 /o/me; chmod 2750 /o")
    data = host.first.root / "volumes" / "own" / "data"
    assert [(data / name).stat().st_uid for name in ("root", "me")] == [0, 1000]
    out = _run(host, busybox, "-u", "1000", "-v", "own:/o", "stat -c %u /o/me 2>&1 || true; id -u")
    assert out.endswith("1000\n")
    assert _run(host, busybox, "-v", "own:/o", "stat -c '%u %g' /o/me") == "1000 1000\n"


def test_bind_propagation(host: Fleet, busybox: str) -> None:
    source = host.directory / "propagated"
    (source / "below").mkdir(parents=True)
    subprocess.run(["mount", "--bind", source, source], check=True)
    try:
        subprocess.run(["mount", "--make-shared", source], check=True)
        mount = f"type=bind,src={source},dst=/p,bind-propagation=rslave"
        host.shoal("run", "-d", "--name", "slave", "--mount", mount, busybox, "sleep", "600")
        subprocess.run(["mount", "-t", "tmpfs", "late", source / "below"], check=True)
        (source / "below" / "f").touch()
        assert host.shoal("exec", "slave", "ls", "/p/below").stdout == "f\n"
        host.shoal("rm", "-f", "slave")
    finally:
        subprocess.run(["umount", "-R", "-l", source], check=False)
    refused = host.shoal("run", "--mount", f"type=bind,src={source},dst=/p,bind-propagation=shared", busybox, code=None)
    assert refused.returncode != 0


def test_export_and_import(host: Fleet, busybox: str) -> None:
    script = (
        "cd /e; mkdir d; echo text >d/f; ln d/f hard; ln -s /etc soft; mkfifo pipe; touch .wh.kept; chown -R 7:8 d;"
        "chmod 4711 hard; chmod 1750 /e; chown 999:999 /e"
    )
    _run(host, busybox, "-v", "one:/e", script)
    archive = host.directory / "one.tar"
    host.shoal("volume", "export", "-o", archive, "one")
    with tarfile.open(archive) as tar:
        assert "./" in tar.getnames() or "." in tar.getnames()
    assert host.shoal("volume", "import", "two", archive).stdout == "two\n"
    look = "cd /e; stat -c '%n %a %u:%g %F' . d d/f hard soft pipe .wh.kept; cat hard; readlink soft"
    assert _run(host, busybox, "-v", "two:/e", look) == _run(host, busybox, "-v", "one:/e", look)
    # Over what is there, also while a container uses it.
    host.shoal("run", "-d", "--name", "user", "-v", "two:/e", busybox, "sleep", "600")
    host.shoal("exec", "user", "sh", "-c", "echo mine >/e/mine; echo changed >/e/d/f")
    host.shoal("volume", "import", "two", archive)
    assert host.shoal("exec", "user", "cat", "/e/mine", "/e/d/f").stdout == "mine\ntext\n"
    leftovers = [path.name for path in (host.first.root / "volumes").iterdir() if path.name.startswith(".")]
    assert not leftovers
    assert not _mounts(host.first)


def _tar(*members: tuple[str, bytes, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode = kind, len(content), 0o4755
            tar.addfile(info, io.BytesIO(content) if content else None)
    return out.getvalue()


def test_evil_archives_touch_nothing_outside(host: Fleet, busybox: str) -> None:
    canary = host.directory / "canary"
    (canary / "dir").mkdir(parents=True)
    (canary / "file").write_text("untouched")
    archive = host.directory / "evil.tar"
    for number, evil in enumerate(evil_tars(canary)):
        archive.write_bytes(evil.data)
        for volume in (f"evil-{number}", "evil-all"):
            host.shoal("volume", "import", volume, archive, code=None)
        assert (canary / "file").read_text() == "untouched", evil.name
        assert [path.name for path in canary.iterdir() if path.name not in ("dir", "file")] == [], evil.name
        assert not list((canary / "dir").iterdir()), evil.name
    for name, data in {
        "device": _tar(("good", tarfile.REGTYPE, b"x"), ("dev", tarfile.CHRTYPE, b"")),
        "cut": _tar(("good", tarfile.REGTYPE, b"x" * 5000))[:3000],
        "noise": b"no archive at all" * 100,
    }.items():
        archive.write_bytes(data)
        assert host.shoal("volume", "import", f"bad-{name}", archive, code=None).returncode != 0
        assert f"bad-{name}" not in host.shoal("volume", "ls", "-q").stdout.split(), "no half volume"
    host.shoal("volume", "create", "kept")
    _run(host, busybox, "-v", "kept:/k", "echo x >/k/x")
    archive.write_bytes(_tar(("good", tarfile.REGTYPE, b"x"), ("../up", tarfile.REGTYPE, b"x")))
    assert host.shoal("volume", "import", "kept", archive, code=None).returncode != 0
    assert _run(host, busybox, "-v", "kept:/k", "ls /k") == "x\n", "a bad archive changes nothing"
    assert host.shoal("volume", "import", "x/../y", archive, code=None).returncode != 0


def test_kill_9_leaves_no_mount_and_no_half_volume(host: Fleet, busybox: str) -> None:
    daemon = host.first
    host.shoal("volume", "create", "-o", "type=tmpfs", "mem")
    host.shoal("run", "-d", "--name", "user", "-v", "mem:/m", busybox, "sleep", "600")
    big = host.directory / "big.tar"
    big.write_bytes(_tar(*((f"f{number}", tarfile.REGTYPE, secrets.token_bytes(1 << 20)) for number in range(48))))
    sending = subprocess.Popen(
        host.command("volume", "import", "half", str(big)), env=host.environment(), stderr=subprocess.DEVNULL
    )
    volumes = daemon.root / "volumes"
    until(lambda: [path for path in volumes.iterdir() if path.name.startswith(".trash")], what="the import has begun")
    time.sleep(0.05)
    daemon.kill()
    sending.kill()
    sending.wait()
    # The container ends while no daemon looks.
    [pid] = list(daemon.run_dir.glob("*/pidfile"))
    subprocess.run(["kill", "-9", pid.read_text().strip()], check=True)
    daemon.start()
    until(lambda: not _mounts(daemon), what="no mount is left")
    assert not [path for path in volumes.iterdir() if path.name.startswith(".")]
    content = list((volumes / "half" / "data").iterdir()) if (volumes / "half").exists() else []
    assert len(content) in (0, 48)
    # And the mount of one that goes on stays, and ends with it.
    host.shoal("start", "user")
    daemon.kill()
    daemon.start()
    assert len(_mounts(daemon)) == 1
    host.shoal("rm", "-f", "user")
    until(lambda: not _mounts(daemon), what="the mount ends with its last user")


def test_flags_of_the_file_system_stay_with_runc(busybox: str) -> None:
    with running_fleet(1, runtime={"name": "runc"}) as fleet:
        fleet.shoal("volume", "create", "-o", "type=tmpfs", "-o", "o=noexec,nosuid,nodev", "hard")
        (fleet.directory / "pw").write_text("abc")
        flags = (
            "-v",
            "hard:/rw",
            "-v",
            "hard:/ro:ro",
            "-v",
            "./pw:/mine",
            "--secret",
            f"id=db,src={fleet.directory}/pw",
        )
        script = "cat /run/secrets/db /mine; echo; grep -c nosuid,nodev,noexec /proc/mounts; touch /rw/x; touch /ro/y"
        done = fleet.shoal("run", "--rm", *flags, busybox, "sh", "-c", script, code=None)
        assert done.stdout.startswith("abcabc\n"), done.stderr
        assert "Read-only" in done.stderr
