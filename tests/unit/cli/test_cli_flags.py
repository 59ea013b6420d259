"""Docker's notations of the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoalctl.flags.environment import environment, labels, parse_env_lines
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.filters import parse_filters
from shoalctl.flags.images import checked_platform, checked_platforms, checked_reference
from shoalctl.flags.isolation import label_files
from shoalctl.flags.mounts import MountFlag, parse_tmpfs, parse_volume
from shoalctl.flags.networks import NetworkFlag, parse_network
from shoalctl.flags.ports import Port, parse_port
from shoalctl.flags.process import Restart, entrypoint, parse_restart, parse_signal, shown
from shoalctl.flags.sizes import parse_cpus, parse_size
from shoalctl.flags.times import parse_duration, parse_time


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("80", [Port(80)]),
        ("80/udp", [Port(80, protocol="udp")]),
        ("8080:80", [Port(80, 8080)]),
        ("8080:80/TCP", [Port(80, 8080)]),
        ("0.0.0.0:8080:80", [Port(80, 8080, "0.0.0.0")]),
        ("127.0.0.1::80", [Port(80, 0, "127.0.0.1")]),
        ("[::1]:8080:80", [Port(80, 8080, "::1")]),
        ("[::1]::80/udp", [Port(80, 0, "::1", "udp")]),
        ("8000-8002:80-82", [Port(80, 8000), Port(81, 8001), Port(82, 8002)]),
        ("80-81", [Port(80), Port(81)]),
        ("0:80", [Port(80)]),
        (":80", [Port(80)]),
    ],
)
def test_ports(text: str, wanted: list[Port]) -> None:
    assert parse_port(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "80:", "8000-8001:80", "70000", "0", "80-79", "1:2:3:4", "::1:80:80", "[::1]80", "[127.0.0.1]:1:1",
        "300.1.1.1:1:1", "80/sctp", "-1:80", "8080:80/", "host:80:80", "[::1]:1:2:3", "8000-8002:80",
    ],
)  # fmt: skip
def test_bad_ports(text: str) -> None:
    with pytest.raises(UsageFault, match="invalid port"):
        parse_port(text)


@given(st.text(max_size=30))
def test_any_port_text_is_a_port_or_a_fault(text: str) -> None:
    try:
        ports = parse_port(text)
    except UsageFault:
        return
    assert all(1 <= port.container_port <= 65535 and 0 <= port.host_port <= 65535 for port in ports)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/data", MountFlag("volume", "", "/data")),
        ("name:/data", MountFlag("volume", "name", "/data")),
        ("/srv:/data:ro", MountFlag("bind", "/srv", "/data", True)),
        ("/srv/../etc/:/data/", MountFlag("bind", "/etc", "/data")),
        ("/srv:/data:rw,z", MountFlag("bind", "/srv", "/data")),
        ("v_1.x-y://data", MountFlag("volume", "v_1.x-y", "/data")),
        ("name:/data:nocopy,ro", MountFlag("volume", "name", "/data", True, no_copy=True)),
        ("/srv:/data:rslave", MountFlag("bind", "/srv", "/data", propagation="rslave")),
        ("./site:/srv", MountFlag("content", "", "/srv", True, local="./site")),
        ("a/b:/c:ro", MountFlag("content", "", "/c", True, local="a/b")),
        (".:/c", MountFlag("content", "", "/c", True, local=".")),
        ("local:/etc/x:/c", MountFlag("content", "", "/c", True, local="/etc/x")),
        ("local:x:/c", MountFlag("content", "", "/c", True, local="x")),
        ("host:/srv:/data:ro", MountFlag("bind", "/srv", "/data", True)),
        ("host:/data", MountFlag("volume", "host", "/data")),
        ("local:/data", MountFlag("volume", "local", "/data")),
    ],
)
def test_volumes(text: str, wanted: MountFlag) -> None:
    assert parse_volume(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", ":", "a:b", "./a:/b:rw", "/a:/b:shared", "n1:/b:rslave", "host:x:/b", "/a:/", "/a:/b:x", "/a:/b:ro:rw", ":/b",
     "x:/b", "C:\\a:/b", "/a:b"],
)  # fmt: skip
def test_bad_volumes(text: str) -> None:
    with pytest.raises(UsageFault, match="invalid mount"):
        parse_volume(text)


def test_a_home_directory_is_the_laptops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_volume("~/a:/b").local == "/home/me/a"
    assert parse_volume("local:~/a:/b").local == "/home/me/a"


def test_tmpfs() -> None:
    assert parse_tmpfs("/tmp") == MountFlag("tmpfs", "", "/tmp")
    assert parse_tmpfs("/tmp:size=64m,mode=1777,ro,noexec") == MountFlag("tmpfs", "", "/tmp", True, 64 << 20, 0o1777)
    assert parse_tmpfs("/tmp:exec,uid=7").options == ("exec", "uid=7")
    for bad in ("tmp", "/tmp:mode=9", "/tmp:size=x", "/tmp:what"):
        with pytest.raises(UsageFault):
            parse_tmpfs(bad)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0", 0), ("512", 512), ("512b", 512), ("1k", 1024), ("512m", 512 << 20), ("1.5G", 3 << 29), ("2GiB", 2 << 30),
     ("1 kb", 1024), ("1tb", 1 << 40), (".5g", 1 << 29), ("2.k", 2048)],
)  # fmt: skip
def test_sizes(text: str, wanted: int) -> None:
    assert parse_size(text) == wanted


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1e3", "99999999999p", "0x10", "1 2", ".", ".g", "1.2.3"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageFault):
        parse_size(text)


def test_processors() -> None:
    assert parse_cpus("1.5") == 1_500_000_000
    assert parse_cpus("0.000000001") == 1
    for bad in ("", "x", "-1", "nan", "inf", "0.0000000001", "1e999999", "1e99999", "1e-999999", "sNaN"):
        with pytest.raises(UsageFault):
            parse_cpus(bad)


def test_an_env_file_is_literal() -> None:
    text = '# comment\n\n  A=1\nB="quoted" # not a comment\nOWN\nMISSING\nEMPTY=\nC = x=y\n'.replace(
        "C = x=y", "C=x=y "
    )
    assert parse_env_lines(text, {"OWN": "mine"}) == [
        ("A", "1"),
        ("B", '"quoted" # not a comment'),
        ("OWN", "mine"),
        ("EMPTY", ""),
        ("C", "x=y "),
    ]


def test_only_line_feeds_end_the_lines_of_files(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes("A=1\u20282\u00853\f4\v5\r6\r\r\nB=x\r\n\r\nC=y".encode())
    assert environment([], [str(path)], {}) == ["A=1\u20282\u00853\f4\v5\r6\r", "B=x", "C=y"]
    path.write_bytes("a=1\u20282\u00853\f4\v5\r6\r\nb=x\r\n".encode())
    assert label_files([str(path)]) == {"a": "1\u20282\u00853\f4\v5\r6", "b": "x"}


@pytest.mark.parametrize("line", ["=x", "A B=1", "A =1"])
def test_bad_env_lines_name_their_place(line: str) -> None:
    with pytest.raises(UsageFault, match="env file:2"):
        parse_env_lines(f"OK=1\n{line}\n", {})


def test_later_variables_win(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A=1\nB=1\n")
    (tmp_path / "b").write_text("A=2\n")
    got = environment(["B=3", "HOME", "GONE"], [str(tmp_path / "a"), str(tmp_path / "b")], {"HOME": "/h"})
    assert got == ["A=2", "B=3", "HOME=/h"]
    with pytest.raises(UsageFault, match="can't read the env file"):
        environment([], [str(tmp_path / "none")], {})
    with pytest.raises(UsageFault):
        environment(["=x"], [], {})


def test_networks() -> None:
    assert parse_network("name=a,alias=b") == NetworkFlag("a", aliases=["b"])
    for bad in ("name=a\rb", "name=a,x=" + "y" * 200_000):
        with pytest.raises(UsageFault, match="invalid network"):
            parse_network(bad)


def test_labels() -> None:
    assert labels(["a=1", "b", "c=x=y"]) == {"a": "1", "b": "", "c": "x=y"}
    with pytest.raises(UsageFault):
        labels(["=x"])


def test_restart_policies() -> None:
    assert parse_restart("") == Restart("no")
    assert parse_restart("on-failure:5") == Restart("on-failure", 5)
    assert parse_restart("unless-stopped") == Restart("unless-stopped")
    for bad in ("sometimes", "always:3", "on-failure:x", "on-failure:"):
        with pytest.raises(UsageFault):
            parse_restart(bad)


def test_entrypoints_and_signals() -> None:
    assert entrypoint("") == []
    assert entrypoint("/bin/my app") == ["/bin/my app"]
    assert entrypoint('["sh", "-c"]') == ["sh", "-c"]
    assert parse_signal("SIGRTMIN+1") == "SIGRTMIN+1"
    for bad in ("", "a b", "100", "TERM;reboot"):
        with pytest.raises(UsageFault):
            parse_signal(bad)
    assert shown(["sh", "-c", "echo hi"]) == "sh -c 'echo hi'"


NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        ("1h30m", NOW - timedelta(minutes=90)),
        ("1700000000", datetime.fromtimestamp(1_700_000_000, UTC)),
        ("2026-01-31T10:00:00Z", NOW - timedelta(hours=2)),
        ("2026-01-31T10:00:00.123456789Z", NOW - timedelta(hours=2) + timedelta(microseconds=123456)),
        ("2026-01-31T10:00+02:00", NOW - timedelta(hours=4)),
    ],
)
def test_times(text: str, wanted: datetime) -> None:
    assert parse_time(text, NOW) == wanted


def test_bad_times() -> None:
    for bad in (
        "",
        "yesterday",
        "10x",
        "2026-13-01",
        "-5m",
        "0001-01-01",
        "0001-01-01T00:00:00+02:00",
        "9999-12-31T23:59:59-02:00",
    ):
        with pytest.raises(UsageFault):
            parse_time(bad, NOW)
    assert parse_duration("90") == timedelta(seconds=90)


def test_filters() -> None:
    assert parse_filters(["name=a", "Name=b"], ("name", "id")) == {"name": ["a", "b"], "id": []}
    for bad in ("name", "name=", "what=x"):
        with pytest.raises(UsageFault):
            parse_filters([bad], ("name",))


def test_references_and_platforms_are_checked_early() -> None:
    assert checked_reference("busybox:1") == "busybox:1"
    assert checked_platform("arm64") == ("linux", "arm64", "")
    assert checked_platform("") is None
    both = [("linux", "amd64", ""), ("linux", "arm64", "")]
    assert checked_platforms(["amd64,linux/arm64", "linux/amd64"]) == both
    assert checked_platforms([]) == []
    for bad in ("amd64,", ",", "amd64,a/b/c/d"):
        with pytest.raises(UsageFault, match="platform"):
            checked_platforms([bad])
    with pytest.raises(UsageFault, match="invalid reference"):
        checked_reference("Busy Box")
    with pytest.raises(UsageFault, match="platform"):
        checked_platform("a/b/c/d")
