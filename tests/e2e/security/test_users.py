"""Row 4: USER means exactly one user or is refused (CVE-2026-30892, CVE-2022-36109, overflows of ids)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.e2e.security.building import Builder
from tests.e2e.security.lab import REFUSED, Lab, refusal
from tests.support.layers import Device, Entry, File, Symlink

PASSWD = """root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:app:/home/app:/bin/sh
12:x:1234:1235:a numeric name:/:/bin/sh
huge:x:4294967296:0::/:/bin/sh
negative:x:-1:0::/:/bin/sh
hex:x:0x0:0::/:/bin/sh
short
"""
GROUP = "root:x:0:app\napp:x:1001:\nextra:x:2000:app,other\n12:x:1235:\nwheel:x:0:nobody\nhuge:x:4294967296:\n"
FILES: dict[str, Entry] = {"etc/passwd": PASSWD, "etc/group": GROUP}

ALLOWED = {
    "": "0 0 0",
    "0": "0 0 0",
    "root": "0 0 0",
    "0:0": "0 0 0",
    "root:root": "0 0 0",
    "1000": "1000 1001 0,1001,2000",
    "app": "1000 1001 0,1001,2000",
    "app:extra": "1000 2000 2000",
    "app:0": "1000 0 0",
    "5:6": "5 6 6",
    "60000": "60000 0 0",
    "12": "1234 1235 1235",
    "007": "7 0 0",
}
"""USER -> uid, gid, sorted groups. A name wins over a number, as in Docker."""

REFUSED_USERS = [
    "2147483648",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "99999999999999999999999999",
    "-1",
    "-0",
    "+0",
    "0x0",
    " 1000",
    "1000 ",
    "\t0",
    "0\n",
    "1000abc",
    "1e3",
    "1_000",
    "\u0660",
    "nobody-here",
    "huge",
    "negative",
    "hex",
    ":",
    ":0",
    "0:",
    "0:0:0",
    "0:-1",
    "0:4294967296",
    "0:2147483648",
    "0:nogroup-here",
    "0: 0",
    "root:x:0",
]

ID = (
    "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -nu | tr '\\n' ',' | sed 's/,$//'); "
    "grep -E '^(Uid|Gid):' /proc/self/status"
)


@pytest.fixture(scope="session")
def _images() -> dict[tuple[int, str], str]:
    return {}


@pytest.fixture
def image(lab: Lab, _images: dict[tuple[int, str], str]) -> str:
    """With users of all kinds; made once for each lab."""
    key = (id(lab), "users")
    if key not in _images:
        _images[key] = lab.image(FILES)
    return _images[key]


def _check(output: str, expected: str) -> None:
    lines = output.splitlines()
    uid, gid, _ = expected.split()
    assert lines[0] == expected
    # Real, effective, saved and file system ids alike.
    assert lines[1].split()[1:] == [uid] * 4
    assert lines[2].split()[1:] == [gid] * 4


@pytest.mark.parametrize("user", ALLOWED)
def test_right_ids_when_asked(lab: Lab, image: str, user: str) -> None:
    _check(lab.sh(image, ID, *(("-u", user) if user else ())), ALLOWED[user])


@pytest.mark.parametrize("user", ["", "root", "app", "app:extra", "12", "60000"])
def test_right_ids_from_an_image(lab: Lab, userns: tuple[str, ...], user: str) -> None:
    _check(lab.sh(lab.image(FILES, config={"User": user}), ID, *userns), ALLOWED[user])


@pytest.mark.parametrize("user", REFUSED_USERS)
def test_refused_when_asked(host: Lab, user: str) -> None:
    image = host.image(FILES)
    done = host.fleet.shoal("run", "-q", "--rm", f"--user={user}", image, "id", code=None)
    assert "user" in refusal(done)
    assert done.stdout == ""


@pytest.mark.parametrize("user", REFUSED_USERS)
def test_refused_from_an_image(host: Lab, user: str) -> None:
    done = host.run(host.image(FILES, config={"User": user}), "id")
    assert "user" in refusal(done)
    assert done.stdout == ""


def test_ids_beyond_the_user_namespace(lab: Lab, image: str) -> None:
    """The namespace has 65536 ids; the host's has more."""
    for user in ("65536", "70000", "2147483647"):
        assert "id" in refusal(lab.run(image, "id", options=("-u", user)))
    for user in ("65535", "0:65535"):
        assert lab.run(image, "id", options=("-u", user)).returncode == 0
    assert lab.sh(image, "id -u", "-u", "70000", "--userns", "host") == "70000\n"


SOURCES: Mapping[str, Mapping[str, Entry]] = {
    "link-up": {"etc/passwd": Symlink("../" * 12 + "etc/passwd"), "etc/group": Symlink("/etc/passwd")},
    "link-proc": {"etc/passwd": Symlink("/proc/1/root/etc/passwd")},
    "link-descriptor": {"etc/passwd": Symlink("/proc/self/fd/0")},
    "loop": {"etc/passwd": Symlink("passwd")},
    "etc-link": {"etc": Symlink("../../../../etc")},
    "zero": {"etc/passwd": Device("c", 1, 5)},
    "disk": {"etc/passwd": Device("b", 254, 0)},
    "directory": {"etc/passwd": None},
    "missing": {"etc/.wh.passwd": File(), "etc/.wh.group": File()},
    "binary": {"etc/passwd": b"\0\xff:::\n" * 1000, "etc/group": b"\xff\xfe\n:\n::::::\n"},
    "long-line": {"etc/passwd": b"x" * (4 << 20)},
}


@pytest.mark.parametrize("name", SOURCES)
def test_user_database_of_the_host_plays_no_part(host: Lab, userns: tuple[str, ...], name: str) -> None:
    """Names that only the host knows are unknown; numbers need no file at all."""
    image = host.image(SOURCES[name])
    assert "user" in refusal(host.run(image, "id", options=("-u", "daemon", *userns))), "a name of the host's"
    done = host.run(image, "/bin/cat", "/proc/self/status", options=("-u", "1000:7", *userns))
    ids = ("Uid:\t1000\t1000\t1000\t1000\n", "Gid:\t7\t7\t7\t7\n")
    assert done.returncode == REFUSED or all(line in done.stdout for line in ids), (done.stdout, done.stderr)


def test_user_database_that_never_ends(host: Lab) -> None:
    """Bounded in size, and a fifo is not waited for."""
    huge = b"".join(b"u%d:x:%d:0::/:/bin/sh\n" % (n, n) for n in range(400_000))
    assert "larger" in refusal(host.run(host.image({"etc/passwd": huge}), "id", options=("-u", "app")))
    image = host.image(_fifo("etc/passwd"))
    assert "user" in refusal(host.run(image, "id", options=("-u", "app"), timeout=30))


def _fifo(name: str) -> bytes:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type = tarfile.FIFOTYPE
        tar.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize("user", ["4294967296", "-1", "nobody-here", "0x0", "1000abc"])
def test_refused_in_a_build(builder: Builder, user: str, busybox: str) -> None:
    done = builder.build(f"FROM {busybox}\nUSER {user}\nRUN id > /tmp/seen\n", code=None)
    assert done.returncode != 0
    assert "user" in done.stderr


def test_right_ids_in_a_build(builder: Builder, busybox: str) -> None:
    steps = (
        f"USER {user}\nRUN test $(id -u):$(id -g) = {ids}\n" for user, ids in (("www-data", "33:33"), ("5:6", "5:6"))
    )
    dockerfile = f"FROM {busybox}\n{''.join(steps)}"
    builder.build(dockerfile)
