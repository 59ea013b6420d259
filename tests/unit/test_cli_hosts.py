"""The command against hosts of the real API with nothing behind them: output, failures, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal import pki
from shoal.errors import AlreadyExists, FailedPrecondition, NotFound
from shoal.v1 import container_pb2, system_pb2, volume_pb2
from shoalctl.app import run
from tests.support.fake_daemon import Certificates, FakeDaemon, at, container, image, record

GOLDEN = Path(__file__).parent.parent / "golden" / "cli"
EXITED = container_pb2.CONTAINER_STATE_EXITED


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def h1(certificates: Certificates) -> Iterator[FakeDaemon]:
    with FakeDaemon(certificates) as daemon:
        yield daemon


@pytest.fixture
def h2(certificates: Certificates) -> Iterator[FakeDaemon]:
    with FakeDaemon(certificates) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def config(
    h1: FakeDaemon, h2: FakeDaemon, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    path = tmp_path / "config.toml"
    dead = closed_port()
    path.write_text(
        'default = ["h1"]\n'
        + certificates.config("h1", h1.port)
        + certificates.config("h2", h2.port)
        + certificates.config("dead", dead)
        + '[groups]\nboth = ["h1", "h2"]\nhalf = ["h1", "dead"]\n'
    )
    monkeypatch.setenv("SHOAL_CONFIG", str(path))
    monkeypatch.delenv("SHOAL_HOSTS", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("COLUMNS", "120")
    return path


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


Shoal = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shoal(capfd: pytest.CaptureFixture[str]) -> Shoal:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        sys.stdout.flush()
        return code, *capfd.readouterr()

    return call


def golden(name: str, text: str) -> None:
    """Compare with a file of tests/golden/cli; SHOAL_GOLDEN=write makes it."""
    path = GOLDEN / name
    if os.environ.get("SHOAL_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours after the fake objects were made."""
    from datetime import UTC, datetime

    import shoalctl.commands.images
    import shoalctl.commands.ps

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls.fromtimestamp(1_700_007_200, UTC)

    monkeypatch.setattr(shoalctl.commands.ps, "datetime", Clock)
    monkeypatch.setattr(shoalctl.commands.images, "datetime", Clock)


def populate(h1: FakeDaemon, h2: FakeDaemon) -> None:
    port = container_pb2.PortMapping(host_ip="127.0.0.1", host_port=8080, container_port=80)
    h1.containers += [
        container("web", "a", ports=[port], labels={"tier": "web"}, ip_address="10.88.64.2", pid=42),
        container("job", "b", state=EXITED, exit_code=3, finished_at=at(), command=["sh", "-c", "a very long script"]),
    ]
    h2.containers.append(container("db", "d", state=container_pb2.CONTAINER_STATE_CREATED))
    h1.images += [image("docker.io/library/busybox:latest"), image("ghcr.io/a/b:1", "2", tags=[])]


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ps.txt", ["ps"]),
        ("ps-several.txt", ["ps", "-g", "both"]),
        ("ps-no-trunc.txt", ["ps", "--no-trunc"]),
        ("ps.json", ["-g", "both", "ps", "--format", "json"]),
        ("ps-template.txt", ["ps", "--format", "table {{.Host}}\t{{.Names}}\t{{.Status}}"]),
        ("images.txt", ["images"]),
        ("images.json", ["images", "--format", "json", "--no-trunc"]),
        ("inspect-container.json", ["inspect", "web"]),
        ("inspect-image.json", ["inspect", "busybox"]),
    ],
)
def test_golden_output(name: str, arguments: list[str], shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    populate(h1, h2)
    code, out, err = shoal(*arguments)
    assert (code, err) == (0, "")
    golden(name, out)


def test_targets_may_stand_before_and_after_the_verb(shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    populate(h1, h2)
    assert shoal("-H", "h2", "ps", "-q")[1] == shoal("ps", "-q", "-H", "h2")[1] == "d" * 12 + "\n"
    assert shoal("-H", "h1", "ps", "-H", "h2", "-q")[1].count("\n") == 3
    assert shoal("-H", "h1,h2", "ps", "-q")[1].count("\n") == 3


def test_targets_of_the_environment(shoal: Shoal, h2: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_HOSTS", "h2")
    assert shoal("ps")[0] == 0
    assert h2.requests("List")


def test_one_dead_host_is_a_row_and_not_the_end(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    code, out, err = shoal("ps", "-g", "half", "--format", "json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 3
    assert [row["Host"] for row in rows] == ["h1", "dead"]
    assert rows[1]["Reason"] == "HOST_UNREACHABLE"
    assert re.search(r"^shoal: dead: 127\.0\.0\.1:\d+ refuses connections\n  hint: .*shoald", err)


def test_all_hosts_dead(shoal: Shoal) -> None:
    code, out, err = shoal("-H", "dead", "ps")
    assert (code, out) == (1, "")
    assert "refuses connections" in err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-H", "nope", "ps"], "unknown host 'nope'"),
        (["-g", "nope", "ps"], "unknown group"),
        (["run", "-p", "x", "busybox"], "invalid port"),
        (["pull", "Busy//Box"], "invalid reference"),
        (["ps", "-f", "what=x"], "unknown filter"),
        (["ps", "-f", "status=what"], "unknown status"),
        (["--timeout", "0", "ps"], "invalid timeout"),
        (["run", "--rm", "--restart", "always", "busybox"], "contradict"),
        (["run", "-v", "./x:/y", "busybox"], "path of this machine"),
        (["run", "-it", "busybox"], "terminal"),
        (["run", "-i", "-g", "both", "busybox"], "single host"),
        (["build", "nowhere"], "not a directory"),
        (["nope"], "not a shoal command"),
        (["ps", "--format", "{{.Nope}}"], "unknown field"),
    ],
)
def test_usage_errors(arguments: list[str], part: str, shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    code, out, err = shoal(*arguments)
    assert (code, out) == (2, "")
    assert part in err
    assert not h1.requests("Run")


def test_a_hanging_host_ends_in_time(shoal: Shoal, config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = config.read_text().replace("[groups]", "[groups]\n")
        port = silent.getsockname()[1]
        config.write_text(re.sub(r'(\[hosts\.dead\]\naddress = "127\.0\.0\.1:)\d+', rf"\g<1>{port}", text))
        code, _, err = shoal("-H", "dead,h1", "--timeout", "0.5", "ps")
    assert code == 3
    assert "dead: 127.0.0.1" in err
    assert "does not answer within 0.5 s" in err


def foreign(tmp_path: Path, h1: FakeDaemon, config: Path, **changes: str) -> None:
    """Point the host h1 to other files or another name."""
    text = config.read_text()
    for key, value in changes.items():
        text = re.sub(rf'(\[hosts\.h1\][^\[]*?{key} = ")[^"]*', rf"\g<1>{value}", text)
    config.write_text(text)


def test_a_host_of_another_ca(shoal: Shoal, h1: FakeDaemon, config: Path, tmp_path: Path) -> None:
    other = Certificates.make(tmp_path / "other", "other")
    foreign(tmp_path, h1, config, ca=f"{other.directory}/ca.pem")
    code, _, err = shoal("ps")
    assert code == 1
    assert "shoal: h1: the certificate of 127.0.0.1" in err
    assert "issued by another CA" in err
    assert "hint:" in err


def test_our_certificate_of_another_ca(shoal: Shoal, h1: FakeDaemon, config: Path, tmp_path: Path) -> None:
    other = Certificates.make(tmp_path / "other", "other")
    foreign(tmp_path, h1, config, cert=f"{other.directory}/admin.pem", key=f"{other.directory}/admin-key.pem")
    code, _, err = shoal("ps")
    assert code == 1
    assert "refused the client certificate" in err
    assert "another CA" in err
    assert "shoal pki issue user" in err


def test_a_certificate_for_another_name(shoal: Shoal, h1: FakeDaemon, config: Path) -> None:
    config.write_text(config.read_text().replace("[hosts.h1]\n", '[hosts.h1]\nserver_name = "elsewhere"\n'))
    code, _, err = shoal("ps")
    assert code == 1
    assert "not for 'elsewhere'" in err
    assert "server_name" in err


def test_an_expired_certificate(shoal: Shoal, certificates: Certificates, config: Path, tmp_path: Path) -> None:
    expired = Certificates(certificates.directory, certificates.ca, expired_host(certificates.ca))
    with FakeDaemon(expired) as daemon:
        config.write_text('default = ["old"]\n' + expired.config("old", daemon.port))
        code, _, err = shoal("ps")
    assert code == 1
    assert "expired on" in err
    assert "shoal pki issue host" in err


def expired_host(ca: pki.KeyPair) -> pki.KeyPair:
    """A host certificate that was good until yesterday."""
    import ipaddress
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    authority = x509.load_pem_x509_certificate(ca.cert_pem)
    signer = serialization.load_pem_private_key(ca.key_pem, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    yesterday = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(yesterday - timedelta(days=9))
        .not_valid_after(yesterday)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pki.KeyPair(certificate.public_bytes(serialization.Encoding.PEM), private)


def test_a_port_that_is_not_shoald(shoal: Shoal, config: Path) -> None:
    import threading

    def http(server: socket.socket) -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                peer.recv(1024)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=http, args=(server,))
        thread.start()
        port = server.getsockname()[1]
        config.write_text(
            re.sub(r'(\[hosts\.dead\]\naddress = "127\.0\.0\.1:)\d+', rf"\g<1>{port}", config.read_text())
        )
        code, _, err = shoal("-H", "dead", "ps")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert code == 1
    assert "does not speak TLS" in err


def test_missing_certificate_files(shoal: Shoal, config: Path, h1: FakeDaemon, tmp_path: Path) -> None:
    foreign(tmp_path, h1, config, cert="/nonexistent.pem")
    code, _, err = shoal("ps")
    assert code == 1
    assert "/nonexistent.pem does not exist" in err


def test_a_socket_that_is_not_there(shoal: Shoal, config: Path) -> None:
    config.write_text('[hosts.here]\naddress = "unix:///nonexistent/shoald.sock"\n')
    code, _, err = shoal("ps")
    assert code == 1
    assert "there is no socket" in err


# -- run -------------------------------------------------------------------------------------------------------------


def test_run_sends_what_was_asked(
    shoal: Shoal, h1: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "env").write_text("FROM_FILE=1\nA=0\n")
    monkeypatch.setenv("MINE", "own")
    code, out, _ = shoal(
        "run", "-d", "--name", "n", "-e", "A=1", "-e", "MINE", "--env-file", str(tmp_path / "env"),
        "-p", "8080:80", "-p", "[::1]:53:53/udp", "-v", "/srv:/srv:ro", "-v", "data:/data", "--tmpfs", "/tmp:size=1m",
        "-w", "/w", "-u", "1:2", "-l", "k=v", "--read-only", "--network", "bridge", "-h", "hh", "--entrypoint", "",
        "--init", "--restart", "on-failure:3", "--stop-signal", "INT", "--stop-timeout", "5", "--platform", "arm64",
        "-m", "64m", "--cpus", "1.5", "--pids-limit", "10", "busybox", "sh", "-c", "echo -p 1",
    )  # fmt: skip
    assert (code, out) == (0, "c" * 64 + "\n")
    (request,) = h1.requests("Run")
    assert re.fullmatch("[0-9a-f]{32}", request.request_id)
    golden("run-request.txt", str(request.spec))


def test_everything_after_the_image_is_the_command(shoal: Shoal, h1: FakeDaemon) -> None:
    shoal("run", "-d", "busybox", "ls", "--rm", "-H", "x", "--", "-d")
    assert list(h1.requests("Run")[0].spec.command) == ["ls", "--rm", "-H", "x", "--", "-d"]


def test_run_in_the_foreground(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.records = [record("hello\n"), record("oops\n", error=True)]
    h1.exit_code = 7
    assert shoal("run", "busybox") == (7, "hello\n", "oops\n")
    assert h1.requests("Attach")[0].start.cursor == "start"


def test_run_takes_up_a_lost_link_without_gap_or_duplicate(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.records = [record(f"{n}\n") for n in range(5)]
    h1.breaks = {"Attach": 3}
    assert shoal("run", "busybox") == (0, "0\n1\n2\n3\n4\n", "")
    assert len(h1.requests("Run")) == 1
    assert len(h1.requests("Attach")) == 4


def test_run_on_several_hosts_marks_lines(shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    h1.records, h2.records = [record("one\n")], [record("two")]
    h2.exit_code = 4
    code, out, err = shoal("run", "-g", "both", "busybox")
    assert code == 3
    assert sorted(out.splitlines()) == ["h1 | one", "h2 | two"]
    assert "h2: the container exited with code 4" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FailedPrecondition("no", reason="COMMAND_NOT_FOUND"), 127),
        (FailedPrecondition("no", reason="COMMAND_NOT_EXECUTABLE"), 126),
        (AlreadyExists("name in use", reason="NAME_IN_USE"), 125),
    ],
)
def test_run_fails_as_docker_does(error: FailedPrecondition, code: int, shoal: Shoal, h1: FakeDaemon) -> None:
    h1.trouble["Run"] = error
    got, _, err = shoal("run", "busybox")
    assert got == code
    assert f"shoal: h1: {error.message}" in err
    h1.trouble.clear()
    assert shoal("-H", "dead", "run", "busybox")[0] == 125


def test_run_pulls_what_is_missing(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.trouble["Run"] = NotFound("no such image", reason="IMAGE_NOT_FOUND")
    code, _, err = shoal("run", "busybox:1")
    assert code == 125
    assert "222222222222: Complete" in err
    assert h1.requests("Pull")[0].reference == "busybox:1"
    first, second = h1.requests("Run")
    assert first.request_id != second.request_id
    assert first.pull_policy == container_pb2.PULL_POLICY_NEVER


def test_run_never_pulls_when_told_so(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.trouble["Run"] = NotFound("no such image", reason="IMAGE_NOT_FOUND")
    assert shoal("run", "--pull", "never", "busybox")[0] == 125
    assert not h1.requests("Pull")


def test_a_cidfile_is_new(shoal: Shoal, tmp_path: Path) -> None:
    path = tmp_path / "cid"
    assert shoal("run", "-d", "--cidfile", str(path), "busybox")[0] == 0
    assert path.read_text() == "c" * 64
    assert shoal("run", "-d", "--cidfile", str(path), "busybox")[0] == 2


# -- the command as a process: pipes and signals ---------------------------------------------------------------------


def process(config: Path, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "shoalctl.main", *arguments],
        env={**os.environ, "SHOAL_CONFIG": str(config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_standard_input_reaches_the_container(config: Path, h1: FakeDaemon) -> None:
    with process(config, "run", "-i", "busybox", "cat", stdin=subprocess.PIPE) as shoal:
        out, _ = shoal.communicate(b"some\ninput\n", timeout=30)
    assert (shoal.returncode, out) == (0, b"some\ninput\n")
    assert bytes(h1.stdin) == b"some\ninput\n"


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM"), (signal.SIGUSR1, "SIGUSR1")]
)
def test_signals_go_to_the_container(number: signal.Signals, name: str, config: Path, h1: FakeDaemon) -> None:
    h1.records = [record("up\n")]
    h1.exit_code = 143
    h1.hangs_after_output = True
    with process(config, "run", "busybox") as shoal:
        assert shoal.stdout is not None
        assert shoal.stdout.readline() == b"up\n"
        shoal.send_signal(number)
        shoal.communicate(timeout=30)
    assert shoal.returncode == 143
    assert [request.signal for request in h1.requests("Kill")] == [name]


def test_ctrl_c_cancels_a_pull_on_every_host(config: Path, h1: FakeDaemon, h2: FakeDaemon) -> None:
    h1.hangs_after_output = h2.hangs_after_output = True
    with process(config, "pull", "-g", "both", "busybox") as shoal:
        until(lambda: h1.requests("Pull") and h2.requests("Pull"))
        shoal.send_signal(signal.SIGINT)
        _, err = shoal.communicate(timeout=30)
    assert shoal.returncode == 130
    assert b"cancelling on h1, h2" in err
    for host in (h1, h2):
        assert host.requests("Cancel")[0].request_id == host.requests("Pull")[0].request_id


def test_ctrl_c_while_a_container_starts_leaves_none(config: Path, h1: FakeDaemon) -> None:
    h1.slow["Run"] = 1.0
    with process(config, "run", "-d", "--name", "n", "busybox") as shoal:
        until(lambda: h1.requests("Run"))
        shoal.send_signal(signal.SIGINT)
        out, _ = shoal.communicate(timeout=30)
    assert (shoal.returncode, out) == (130, b"")
    assert len({request.request_id for request in h1.requests("Run")}) == 1
    assert [request.force for request in h1.requests("Remove")] == [True]


@pytest.mark.parametrize("arguments", [("logs", "-f", "web"), ("wait", "web")])
def test_ctrl_c_ends_what_only_watches(arguments: tuple[str, ...], config: Path, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    h1.slow = {"Logs": 30.0, "Wait": 30.0}
    with process(config, *arguments) as shoal:
        until(lambda: h1.requests("Logs") or h1.requests("Wait"))
        shoal.send_signal(signal.SIGINT)
        _, err = shoal.communicate(timeout=30)
    assert (shoal.returncode, err) == (130, b"")


def test_a_reader_that_goes_away_is_no_disaster(config: Path, h1: FakeDaemon) -> None:
    h1.records = [record("x" * 1000 + "\n") for _ in range(300)]
    h1.containers.append(container("web"))
    with process(config, "logs", "web") as shoal:
        assert shoal.stdout is not None
        assert shoal.stderr is not None
        shoal.stdout.readline()
        shoal.stdout.close()
        assert shoal.wait(timeout=30) == 1
        assert b"Traceback" not in shoal.stderr.read()


# -- the other verbs -------------------------------------------------------------------------------------------------


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
    assert shoal("host", "remove", "new")[0] == 0
    assert shoal("host", "list", "-q")[1] == ""


def test_pki_by_command(shoal: Shoal, tmp_path: Path) -> None:
    place = str(tmp_path / "fleet")
    assert shoal("pki", "init", "--dir", place)[0] == 0
    assert shoal("pki", "init", "--dir", place)[0] == 1
    assert shoal("pki", "issue", "host", "web1", "--san", "10.0.0.1,web1.example", "--dir", place)[0] == 0
    assert shoal("pki", "issue", "user", "me", "--role", "reader", "--dir", place)[0] == 0
    assert shoal("pki", "issue", "user", "me", "--role", "king", "--dir", place)[0] == 1
    out = shoal("pki", "show", f"{place}/web1.pem")[1]
    assert "kind: host" in out
    assert "names: web1, web1.example, 10.0.0.1" in out
    assert "role: reader" in shoal("pki", "show", f"{place}/me.pem")[1]
    assert (tmp_path / "fleet" / "me-key.pem").stat().st_mode & 0o777 == 0o600


def test_completion_words(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers += [container("web"), container("worker", "b")]
    assert shoal("completion", "words", "--", "st")[1].split() == ["start", "stop"]
    assert shoal("completion", "words", "--", "ps", "-H", "h1,h")[1].split() == ["h1,h1", "h1,h2"]
    assert shoal("completion", "words", "--", "-g", "b")[1].split() == ["both"]
    assert shoal("completion", "words", "--", "images", "--no")[1].split() == ["--no-trunc"]
    assert shoal("completion", "words", "--", "stop", "w")[1].split() == ["web", "worker"]
    assert shoal("completion", "words", "--", "host", "l")[1].split() == ["list", "ls"]
    for shell in ("bash", "zsh", "fish"):
        assert "shoal completion words" in shoal("completion", shell)[1]
