"""The other verbs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shoal.v1 import system_pb2, volume_pb2
from tests.support.cli import Shoal
from tests.support.fake_daemon import Certificates, FakeDaemon, at, container, record

pytestmark = pytest.mark.usefixtures("config")


def test_pull(shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    h1.breaks = {"Pull": 1}
    code, out, err = shoal("pull", "-g", "both", "--creds", "me:secret", "busybox")
    assert code == 0
    assert out.splitlines() == [f"{host} | busybox: sha256:{'1' * 64}" for host in ("h1", "h2")]
    assert "h1 | 222222222222: Downloading (100B)" in err
    assert "secret" not in out + err
    first, again = h1.requests("Pull")
    assert first.request_id == again.request_id
    assert first.credentials.password == "secret"


def test_stored_logins_go_only_to_their_registry(shoal: Shoal, h1: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    auths = {"https://index.docker.io/v1/": {"auth": "bWU6aHVi"}, "ghcr.io": {"auth": "bWU6Z2g="}}
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": auths}))
    shoal("pull", "busybox")
    shoal("push", "ghcr.io/a/b")
    shoal("pull", "quay.io/a/b")
    hub, other = h1.requests("Pull")
    assert hub.credentials.password == "hub"
    assert h1.requests("Push")[0].credentials.password == "gh"
    assert not other.HasField("credentials")


def test_stop_several_on_several(shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    h1.containers += [container("a", "a"), container("b", "b")]
    h2.containers += [container("a", "a")]
    code, out, err = shoal("stop", "-g", "both", "-t", "3", "a", "b")
    assert code == 3
    assert sorted(out.splitlines()) == ["h1 | a", "h1 | b", "h2 | a"]
    assert "shoal: h2: no container 'b'" in err
    assert h1.requests("Stop")[0].timeout.seconds == 3


def test_rm_force_takes_a_missing_one(shoal: Shoal) -> None:
    assert shoal("rm", "none")[0] == 1
    assert shoal("rm", "-f", "none")[:2] == (0, "")


def test_wait_start_kill_tag_rmi_and_volumes(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    h1.exit_code = 5
    h1.volumes.append(volume_pb2.Volume(name="data", mountpoint="/m", created_at=at()))
    assert shoal("wait", "web")[:2] == (0, "5\n")
    assert shoal("start", "web")[:2] == (0, "web\n")
    assert shoal("kill", "-s", "HUP", "web")[:2] == (0, "web\n")
    assert h1.requests("Kill")[0].signal == "HUP"
    assert shoal("tag", "busybox", "b:2")[0] == 0
    assert shoal("rmi", "b:2")[:2] == (0, f"Untagged: b:2\nDeleted: sha256:{'1' * 64}\n")
    assert shoal("volume", "ls", "-q")[:2] == (0, "data\n")
    assert shoal("volume", "rm", "data")[:2] == (0, "data\n")
    assert shoal("container", "ls", "-q")[1] == shoal("ls", "-q")[1] == "a" * 12 + "\n"


def test_logs(shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    h1.records = [record("out\n"), record("err\n", error=True, seconds=1_700_000_000.5)]
    h1.breaks = {"Logs": 1}
    for host in (h1, h2):
        host.containers.append(container("web"))
    assert shoal("logs", "-t", "web") == (
        0,
        "2023-11-14T22:13:20.000000000Z out\n",
        "2023-11-14T22:13:20.500000000Z err\n",
    )
    h2.records = [record("second\n")]
    code, out, _ = shoal("logs", "-g", "both", "-f", "--tail", "5", "--since", "1700000000", "web")
    assert code == 0
    assert sorted(out.splitlines()) == ["h1 | out", "h2 | second"]
    asked = h2.requests("Logs")[0]
    assert (asked.follow, asked.tail, asked.since.seconds) == (True, 5, 1_700_000_000)


def test_how_many_lines_of_a_log(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    for text in ("-1", "all", "99999999999", "9" * 5000):
        assert shoal("logs", "--tail", text, "web")[0] == 0
        assert not h1.requests("Logs")[-1].HasField("tail")
    for text in ("0", "2147483647"):
        assert shoal("logs", "-n", text, "web")[0] == 0
        assert h1.requests("Logs")[-1].tail == int(text)
    for text in ("x", "-", "", "1.5", "--1"):
        assert shoal("logs", f"--tail={text}", "web")[0] == 2
    assert shoal("logs", "--since", "0001-01-01", "web")[0] == 2


def test_events(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.events = [
        system_pb2.Event(
            cursor=n, time=at(), type="container", action="start", actor_id="abc", attributes={"name": "web"}
        )
        for n in (1, 2)
    ]
    h1.breaks = {"Events": 1}
    line = "2023-11-14T22:13:20.000000000Z container start abc (name=web)\n"
    assert shoal("events", "--until", "1700000001", "-f", "type=container") == (0, line * 2, "")
    rows = [json.loads(text) for text in shoal("events", "--format", "json")[1].splitlines()]
    assert [row["Actor"]["ID"] for row in rows] == ["abc", "abc"]


def test_inspect_templates_and_missing_names(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    assert shoal("inspect", "-f", "{{.State.Status}} {{.Name}}", "web")[:2] == (0, "running /web\n")
    code, out, err = shoal("inspect", "web", "none")
    assert code == 3
    assert json.loads(out)[0]["Id"] == "a" * 64
    assert "no container and no image 'none'" in err
    assert shoal("inspect", "none")[:2] == (1, "[]\n")


def test_version_without_hosts(shoal: Shoal, config: Path) -> None:
    assert shoal("-H", "dead", "version")[1].startswith("Client:\n")
    assert "Host h1:\n  Version:        9.9" in shoal("version")[1]
    config.write_text("")
    code, out, err = shoal("version")
    assert (code, err) == (0, "")
    assert out.startswith("Client:\n")


def test_host_test_says_role_and_days(shoal: Shoal) -> None:
    code, out, err = shoal("host", "test")
    assert code == 3
    assert re.search(r"^h1 .*ms +admin +\d+ days left$", out, re.MULTILINE)
    assert "shoal: dead:" in err


def test_the_inventory_by_command(shoal: Shoal, config: Path, certificates: Certificates, h2: FakeDaemon) -> None:
    config.unlink()
    files = [f"--{kind}" for kind in ("ca", "cert", "key")]
    names = ["ca.pem", "admin.pem", "admin-key.pem"]
    flags = [
        word for flag, name in zip(files, names, strict=True) for word in (flag, f"{certificates.directory}/{name}")
    ]
    assert shoal("host", "add", "new", f"127.0.0.1:{h2.port}", *flags, "-l", "rack=3", "-g", "g1")[0] == 0
    assert shoal("host", "use", "@g1")[0] == 0
    assert (
        shoal("host", "list", "--format", "{{.Name}} {{.Groups}} {{.Labels}} {{.Default}}")[1] == "new g1 rack=3 true\n"
    )
    assert shoal("ps")[0] == shoal("-l", "rack=3", "ps")[0] == shoal("ps", "--host-label", "rack")[0] == 0
    assert shoal("-l", "rack=4", "ps")[0] == 2
    assert shoal("host", "group")[1] == "g1: new\n"
    code, _, err = shoal("host", "group", "--delete", "g2")
    assert code == 2
    assert "'g2'" in err
    assert shoal("host", "group")[1] == "g1: new\n"
    assert shoal("host", "group", "--delete", "g1")[0] == 0
    assert shoal("host", "remove", "new")[0] == 0
    assert shoal("host", "list", "-q")[1] == ""


def test_pki_by_command(shoal: Shoal, tmp_path: Path) -> None:
    place = str(tmp_path / "fleet")
    assert shoal("pki", "init", "--dir", place)[0] == 0
    assert shoal("pki", "init", "--dir", place)[0] == 1
    assert shoal("pki", "issue", "host", "web1", "--san", "10.0.0.1,web1.example", "--dir", place)[0] == 0
    assert shoal("pki", "issue", "user", "me", "--role", "reader", "--dir", place)[0] == 0
    assert shoal("pki", "issue", "user", "me", "--role", "king", "--dir", place)[0] == 1
    authority = (tmp_path / "fleet" / "ca.pem").read_bytes()
    for kind in (["user", "ca", "--role", "admin"], ["host", "ca"], ["user", "ca-key", "--role", "admin"]):
        assert shoal("pki", "issue", *kind, "--dir", place, "--out", f"{place}/../fleet", "--overwrite")[0] == 2
    assert (tmp_path / "fleet" / "ca.pem").read_bytes() == authority
    assert shoal("pki", "issue", "user", "ca", "--role", "admin", "--dir", place, "--out", f"{place}/else")[0] == 0
    out = shoal("pki", "show", f"{place}/web1.pem")[1]
    assert "kind: host" in out
    assert "names: web1, web1.example, 10.0.0.1" in out
    assert "role: reader" in shoal("pki", "show", f"{place}/me.pem")[1]
    assert (tmp_path / "fleet" / "me-key.pem").stat().st_mode & 0o777 == 0o600


def test_completion_words(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers += [container("web"), container("worker", "b")]
    assert shoal("completion", "words", "--", "st")[1].split() == ["start", "stats", "stop"]
    assert shoal("completion", "words", "--", "ps", "-H", "h1,h")[1].split() == ["h1,h1", "h1,h2"]
    assert shoal("completion", "words", "--", "-g", "b")[1].split() == ["both"]
    assert shoal("completion", "words", "--", "images", "--no")[1].split() == ["--no-trunc"]
    assert shoal("completion", "words", "--", "stop", "w")[1].split() == ["web", "worker"]
    assert shoal("completion", "words", "--", "host", "l")[1].split() == ["list", "ls"]
    for shell in ("bash", "zsh", "fish"):
        assert "shoal completion words" in shoal("completion", shell)[1]
