"""Bad input: each gives one clear error that names the host and the remedy, the right code, and leaves nothing."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

import shoal.pki.issue
from shoal.pki import Role, create_ca, identity_from_pem, issue_host, issue_user, read_pem
from shoal.v1 import container_pb2, image_pb2
from shoald.host.mounts import mount, unmount_tree
from tests.support.daemon import BIN, Daemon, Fleet, running_fleet, until
from tests.support.docker_registry import DockerRegistry, free_port
from tests.support.images import PushedImage, push_image_sync
from tests.support.layers import File, busybox_layer
from tests.support.rpc import wire


@dataclass(frozen=True)
class Left:
    """What a daemon has on its machine."""

    bundles: frozenset[str]
    mounts: frozenset[str]
    snapshots: frozenset[str]
    ingest: frozenset[str]
    temporary: frozenset[str]
    rows: frozenset[str]


def left(fleet: Fleet) -> Left:
    daemon = fleet.first
    inside = (str(daemon.root), str(daemon.run_dir))
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    with wire(fleet) as rpc:
        containers = list(rpc.containers.List(container_pb2.ContainerServiceListRequest(all=True)))
        images = list(rpc.images.List(image_pb2.ImageServiceListRequest()))
    return Left(
        bundles=_names(daemon.run_dir),
        # Secrets have a tmpfs for as long as the daemon's host runs.
        mounts=frozenset(p for p in points if p.startswith(inside) and p != str(daemon.run_dir / "secrets")),
        snapshots=_names(daemon.root / "snapshots"),
        ingest=_names(daemon.root / "content" / "ingest"),
        # Logs of removed containers stay readable for minutes.
        temporary=frozenset(str(p) for p in (daemon.root / "tmp").glob("*/*") if p.parent.name != "ghosts"),
        rows=frozenset([*(c.container.id for c in containers), *(i.image.id for i in images)]),
    )


def _names(directory: Path) -> frozenset[str]:
    return frozenset(os.listdir(directory)) if directory.exists() else frozenset()


@pytest.fixture(scope="module")
def used_host(host: Fleet, busybox: str) -> Fleet:
    """The host after a first container."""
    host.shoal("pull", "-q", busybox)
    host.shoal("run", "--rm", busybox, "true")
    until(lambda: not left(host).mounts and not any(len(name) == 64 for name in left(host).bundles), what="its end")
    return host


@pytest.fixture
def unchanged(used_host: Fleet) -> Iterator[Fleet]:
    """The host, which must be as it was when the test ends."""
    host = used_host
    before = left(host)
    yield host
    for name in set(host.entries) - {"h1"}:
        host.remove_host(name)
    try:
        until(lambda: left(host) == before, 10)
    except AssertionError:
        assert left(host) == before


def fails(done: subprocess.CompletedProcess[str], *texts: str) -> None:
    """The error is one message on standard error with these texts, and no traceback."""
    assert done.stderr.count("shoal: ") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr, done.stderr


# Reaching a host


@pytest.mark.parametrize("flag", ["-H", "-g"])
def test_unknown_host_or_group(unchanged: Fleet, flag: str) -> None:
    fails(unchanged.shoal("ps", flag, "nosuch", code=2), "'nosuch'", "shoal host list")


def test_dead_host(unchanged: Fleet) -> None:
    address = f"127.0.0.1:{free_port()}"
    unchanged.add_host("dead", address)
    fails(unchanged.shoal("ps", "-H", "dead", code=1), "dead: ", address, "is it running?")
    both = unchanged.shoal("ps", "-H", "h1,dead", code=3)
    assert both.stdout.startswith("HOST")
    fails(both, "dead: ")


def test_unresolvable_host(unchanged: Fleet) -> None:
    unchanged.add_host("lost", "no-such-host.invalid:7443")
    fails(unchanged.shoal("ps", "-H", "lost", code=1), "lost: ", "no-such-host.invalid")


def test_silent_host(unchanged: Fleet) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(1)
        unchanged.add_host("mute", f"127.0.0.1:{mute.getsockname()[1]}")
        fails(unchanged.shoal("ps", "-H", "mute", "--timeout", "1", code=1), "mute: ")


# Certificates


def test_certificate_of_another_ca(unchanged: Fleet, tmp_path: Path) -> None:
    issue_user(create_ca("others"), "mallory", Role.ADMIN).save(tmp_path / "c.pem", tmp_path / "k.pem")
    unchanged.add_host("foreign", unchanged.first.address, cert=str(tmp_path / "c.pem"), key=str(tmp_path / "k.pem"))
    fails(unchanged.shoal("ps", "-H", "foreign", code=1), "foreign: ", "another CA", "shoal pki issue user")


def test_daemon_of_another_ca(unchanged: Fleet, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(create_ca("others").cert_pem)
    unchanged.add_host("foreign", unchanged.first.address, ca=str(tmp_path / "ca.pem"))
    fails(unchanged.shoal("ps", "-H", "foreign", code=1), "foreign: ", "another CA", "--ca FILE")


def test_certificate_for_another_name(unchanged: Fleet) -> None:
    unchanged.add_host("named", unchanged.first.address, server_name="other.example")
    fails(unchanged.shoal("ps", "-H", "named", code=1), "named: ", "'other.example'", "server_name")


def test_expired_user(unchanged: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoal.pki.issue, "_period", lambda days: timedelta(seconds=-60))
    issue_user(unchanged.ca, "late", Role.ADMIN).save(tmp_path / "c.pem", tmp_path / "k.pem")
    unchanged.add_host("late", unchanged.first.address, cert=str(tmp_path / "c.pem"), key=str(tmp_path / "k.pem"))
    fails(unchanged.shoal("ps", "-H", "late", code=1), "late: ", "expired on", "shoal pki issue user")


def test_expired_daemon(unchanged: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoal.pki.issue, "_period", lambda days: timedelta(seconds=-60))
    pair = issue_host(unchanged.ca, "old", ["127.0.0.1"])
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pair.key_pem, pair.cert_pem)]))
    server.start()
    try:
        unchanged.add_host("old", f"127.0.0.1:{port}")
        fails(unchanged.shoal("ps", "-H", "old", code=1), "old: ", "expired on")
    finally:
        server.stop(None).wait()
    # A daemon does not start with it, and says why.
    pair.save(tmp_path / "host.pem", tmp_path / "host-key.pem")
    flags = [f"--tls-cert={tmp_path / 'host.pem'}", f"--tls-key={tmp_path / 'host-key.pem'}"]
    own = [f"--root={tmp_path / 'root'}", f"--run-dir={tmp_path / 'run'}", "--metrics-listen="]
    done = subprocess.run(
        [BIN / "shoald", "serve", "--config", unchanged.first.config_file, *own, *flags],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "expired on" in done.stderr


def test_revoked_user(unchanged: Fleet) -> None:
    certificate, key = unchanged.user("leaver", Role.OPERATOR)
    unchanged.add_host("leaver", unchanged.first.address, cert=str(certificate), key=str(key))
    unchanged.shoal("ps", "-H", "leaver")
    deny = unchanged.directory / "pki" / "deny-list"
    deny.write_text(f"{identity_from_pem(read_pem(certificate)).serial}  # left\n")
    try:
        until(lambda: unchanged.shoal("ps", "-H", "leaver", code=None).returncode == 1, what="the refusal")
        fails(unchanged.shoal("ps", "-H", "leaver", code=1), "leaver: ", "revoked")
    finally:
        deny.write_text("")


def test_role_too_small(unchanged: Fleet, busybox: str) -> None:
    certificate, key = unchanged.user("viewer", Role.READER)
    unchanged.add_host("viewer", unchanged.first.address, cert=str(certificate), key=str(key))
    fails(unchanged.shoal("run", "-H", "viewer", busybox, "true", code=125), "viewer: ", "reader", "operator")


# Images


def test_missing_image(unchanged: Fleet, registry: DockerRegistry) -> None:
    for name in (f"{registry.address}/nosuch:1", f"{registry.address}/busybox:nosuch"):
        fails(unchanged.shoal("pull", name, code=1), "h1: ", name, "check the name")
        with wire(unchanged) as rpc:
            request = image_pb2.ImageServicePullRequest(reference=name)
            failure = rpc.failure(rpc.images.Pull, request)
        assert (failure.code, failure.reason) == ("NOT_FOUND", "IMAGE_NOT_FOUND")
        assert failure.metadata["hint"]


@pytest.mark.parametrize("name", ["UPPER/Case", "busy box", "a:b:c", "-x", "name@sha256:12", "", "a//b", "x" * 300])
def test_bad_reference(unchanged: Fleet, name: str) -> None:
    fails(unchanged.shoal("pull", "--", name, code=2), "reference")
    with wire(unchanged) as rpc:
        failure = rpc.failure(rpc.images.Pull, image_pb2.ImageServicePullRequest(reference=name))
    assert failure.code == "INVALID_ARGUMENT"
    assert failure.reason == ("INVALID_REFERENCE" if name else "INVALID_FIELD")


def test_registry_out_of_reach(unchanged: Fleet) -> None:
    address = f"127.0.0.1:{free_port()}"
    fails(unchanged.shoal("pull", f"{address}/x", code=1), "h1: ", address, "can be reached")
    with wire(unchanged) as rpc:
        failure = rpc.failure(rpc.images.Pull, image_pb2.ImageServicePullRequest(reference=f"{address}/x"))
    assert failure.code == "UNAVAILABLE"


def damaged(registry: DockerRegistry, name: str) -> tuple[PushedImage, Path]:
    """An image of two layers, and the file of the second in the registry's storage."""
    layers = [busybox_layer(), {"payload": File(os.urandom(400_000))}]
    pushed = push_image_sync(registry.address, name, layers=layers)
    return pushed, registry.blob_path(pushed.image.parsed.layers[1].digest)


def test_wrong_digest_from_the_registry(unchanged: Fleet, registry: DockerRegistry) -> None:
    pushed, blob = damaged(registry, "damaged:1")
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    digest = pushed.image.parsed.layers[1].digest
    fails(unchanged.shoal("pull", pushed.reference, code=1), "h1: ", digest, "try again")
    with wire(unchanged) as rpc:
        failure = rpc.failure(rpc.images.Pull, image_pb2.ImageServicePullRequest(reference=pushed.reference))
    assert failure.code == "DATA_LOSS"


def test_truncated_layer(unchanged: Fleet, registry: DockerRegistry) -> None:
    pushed, blob = damaged(registry, "truncated:1")
    os.truncate(blob, 100_000)
    fails(unchanged.shoal("pull", pushed.reference, code=1), "h1: ", pushed.image.parsed.layers[1].digest)
    with wire(unchanged) as rpc:
        failure = rpc.failure(rpc.images.Pull, image_pb2.ImageServicePullRequest(reference=pushed.reference))
    assert failure.code == "DATA_LOSS"


def test_after_a_repair_the_pull_goes_through(unchanged: Fleet, registry: DockerRegistry) -> None:
    pushed, blob = damaged(registry, "repaired:1")
    good = blob.read_bytes()
    os.truncate(blob, 100_000)
    unchanged.shoal("pull", pushed.reference, code=1)
    blob.write_bytes(good)
    unchanged.shoal("pull", pushed.reference)
    unchanged.shoal("rmi", pushed.reference)


# Containers


def test_name_in_use(unchanged: Fleet, busybox: str) -> None:
    owner = unchanged.shoal("run", "-d", "--name", "taken", busybox, "sleep", "1000").stdout.strip()
    try:
        fails(
            unchanged.shoal("run", "-d", "--name", "taken", busybox, "true", code=125),
            "h1: ",
            "'taken'",
            owner[:12],
            "shoal rm taken",
        )
        with wire(unchanged) as rpc:
            spec = container_pb2.ContainerSpec(name="taken", image=busybox)
            failure = rpc.failure(rpc.containers.Run, container_pb2.ContainerServiceRunRequest(spec=spec))
        assert (failure.code, failure.reason) == ("ALREADY_EXISTS", "NAME_IN_USE")
    finally:
        unchanged.remove_containers()


def test_port_in_use_by_a_container(unchanged: Fleet, busybox: str) -> None:
    port = free_port(unchanged.first.publish_address)
    unchanged.shoal("run", "-d", "--name", "owner", "-p", f"{port}:80", busybox, "sleep", "1000")
    try:
        failed = unchanged.shoal("run", "-d", "-p", f"{port}:80", busybox, "true", code=125)
        fails(failed, "h1: ", f":{port}", "owner", "another port")
        with wire(unchanged) as rpc:
            mapping = container_pb2.PortMapping(host_port=port, container_port=80)
            spec = container_pb2.ContainerSpec(image=busybox, ports=[mapping])
            failure = rpc.failure(rpc.containers.Run, container_pb2.ContainerServiceRunRequest(spec=spec))
        assert (failure.code, failure.reason) == ("ALREADY_EXISTS", "PORT_IN_USE")
    finally:
        unchanged.remove_containers()


def test_port_in_use_by_another_program(unchanged: Fleet, busybox: str) -> None:
    with socket.socket() as other:
        other.bind((unchanged.first.publish_address, 0))
        other.listen()
        port = other.getsockname()[1]
        failed = unchanged.shoal("run", "-d", "-p", f"{port}:80", busybox, "true", code=125)
        fails(failed, "h1: ", f":{port}", "another program", "ss -lntup")


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [("no-such-command", 127, "COMMAND_NOT_FOUND"), ("/etc/passwd", 126, "COMMAND_NOT_EXECUTABLE")],
)
def test_command_that_can_not_start(unchanged: Fleet, busybox: str, command: str, code: int, reason: str) -> None:
    fails(unchanged.shoal("run", busybox, command, code=code), "h1: ", command)
    with wire(unchanged) as rpc:
        spec = container_pb2.ContainerSpec(image=busybox, command=[command])
        failure = rpc.failure(rpc.containers.Run, container_pb2.ContainerServiceRunRequest(spec=spec))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", reason)


def test_unknown_container(unchanged: Fleet) -> None:
    for verb in ("stop", "start", "kill", "rm", "logs", "wait", "inspect"):
        fails(unchanged.shoal(verb, "nosuch", code=1), "h1: ", "nosuch")


def test_bind_source_that_is_not_there(unchanged: Fleet, busybox: str) -> None:
    failed = unchanged.shoal("run", "-v", "/no/such/path:/data", busybox, "true", code=125)
    fails(failed, "h1: ", "/no/such/path", "local:PATH")


# Dockerfiles


def build(fleet: Fleet, directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    (directory / "Dockerfile").write_text(text)
    return fleet.shoal("build", "-t", "broken:1", directory, code=1)


def test_dockerfile_with_a_typo(unchanged: Fleet, busybox: str, tmp_path: Path) -> None:
    failed = build(unchanged, tmp_path, f"FROM {busybox}\nRUN true\nCOPPY a b\n")
    fails(failed, "h1: ", "line 3", "COPPY", "did you mean COPY?", "Dockerfile:3", ">>> COPPY a b")


def test_dockerfile_with_a_missing_file(unchanged: Fleet, busybox: str, tmp_path: Path) -> None:
    failed = build(unchanged, tmp_path, f"FROM {busybox}\nCOPY nosuch /x\n")
    fails(failed, "h1: ", "nosuch", "build context", "Dockerfile:2")


def test_dockerfile_whose_step_fails(unchanged: Fleet, busybox: str, tmp_path: Path) -> None:
    failed = build(unchanged, tmp_path, f"FROM {busybox}\nRUN echo before && \\\n    exit 9\n")
    fails(failed, "h1: ", "exit code: 9", ">>> RUN echo before")
    with wire(unchanged) as rpc:
        start = image_pb2.ImageServiceBuildRequest.Start(dockerfile=(tmp_path / "Dockerfile").read_bytes())
        failure = rpc.failure(rpc.images.Build, iter([image_pb2.ImageServiceBuildRequest(start=start)]))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "BUILD_STEP_FAILED")
    assert failure.metadata["exit_code"] == "9"
    assert (failure.metadata["start_line"], failure.metadata["end_line"]) == ("2", "3")


def test_build_without_a_context(unchanged: Fleet, tmp_path: Path) -> None:
    fails(unchanged.shoal("build", tmp_path / "nosuch", code=2), "nosuch")
    fails(unchanged.shoal("build", tmp_path, code=2), "Dockerfile")


# A full disk


@pytest.fixture
def small(registry: DockerRegistry) -> Iterator[Fleet]:
    """A host whose data directory is a file system of 24 MiB."""
    with running_fleet(1) as fleet:
        daemon = fleet.first
        daemon.stop()
        mount("shoal-test", daemon.root, "tmpfs", data="size=24m,mode=0711")
        try:
            daemon.start()
            yield fleet
        finally:
            fleet.remove_containers()
            daemon.kill()
            unmount_tree(daemon.root, detach=True)


def used(daemon: Daemon) -> int:
    of = os.statvfs(daemon.root)
    return (of.f_blocks - of.f_bfree) * of.f_frsize


def test_full_disk(small: Fleet, registry: DockerRegistry, busybox: str, tmp_path: Path) -> None:
    small.shoal("pull", busybox)
    before = used(small.first)
    layers = [busybox_layer(), {"payload": File(os.urandom(30 << 20))}]
    pushed = push_image_sync(registry.address, "huge:1", layers=layers)
    fails(small.shoal("pull", pushed.reference, code=1), "h1: ", "space", "free")
    with wire(small) as rpc:
        failure = rpc.failure(rpc.images.Pull, image_pb2.ImageServicePullRequest(reference=pushed.reference))
    assert failure.code == "RESOURCE_EXHAUSTED"
    assert "huge" not in small.shoal("images").stdout

    (tmp_path / "Dockerfile").write_text(f"FROM {busybox}\nRUN head -c 30000000 /dev/urandom > /payload\n")
    small.shoal("build", tmp_path, code=1)
    until(lambda: used(small.first) < before + (2 << 20), what="the space back")
    small.shoal("run", "--rm", busybox, "true")
