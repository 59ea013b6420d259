"""Rows 11 and 12: who may call what on a real daemon, over mutual TLS; and that nothing answers without it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

import shoal.v1.container_pb2 as container_pb
import shoal.v1.file_pb2
import shoal.v1.image_pb2
import shoal.v1.network_pb2
import shoal.v1.system_pb2
import shoal.v1.volume_pb2
from shoal.pki import KeyPair, Role, create_ca, issue_host, issue_user
from tests.e2e.security.lab import Lab
from tests.support.daemon import BIN, Daemon

SERVICES = [
    service.full_name
    for module in (
        *(container_pb, shoal.v1.file_pb2, shoal.v1.image_pb2),
        *(shoal.v1.network_pb2, shoal.v1.system_pb2, shoal.v1.volume_pb2),
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS = [f"/{name}/{method.name}" for name in SERVICES for method in Default().FindServiceByName(name).methods]
READ_ONLY = {
    *(f"/shoal.v1.ContainerService/{name}" for name in ("Inspect", "List", "Logs", "Wait", "Stats", "Changes")),
    *(f"/shoal.v1.NetworkService/{name}" for name in ("Inspect", "List")),
    *(f"/shoal.v1.VolumeService/{name}" for name in ("Inspect", "List")),
    *(f"/shoal.v1.ImageService/{name}" for name in ("Inspect", "InspectIndex", "List")),
    *(f"/shoal.v1.SystemService/{name}" for name in ("Events", "Info", "Ping", "Version")),
}
"""What a reader may call. Written down here once more: the daemon's own table is what is tested."""

UNKNOWN = b"\xfa\x3e\x03xyz"
"""Field 1007, which no message has."""


def _request(method: str) -> Message:
    service, name = method.removeprefix("/").split("/")
    kind: Any = GetMessageClass(Default().FindServiceByName(service).methods_by_name[name].input_type)
    return kind()  # type: ignore[no-any-return]


def _fill(message: Message, depth: int = 0) -> Message:
    """Every string a name, every message set: as much as fits."""
    for field in message.DESCRIPTOR.fields:
        if (field.message_type is not None and field.message_type.GetOptions().map_entry) or depth > 3:
            continue
        if field.type == field.TYPE_MESSAGE:
            if field.is_repeated:
                _fill(getattr(message, field.name).add(), depth + 1)
            else:
                getattr(message, field.name).SetInParent()
                _fill(getattr(message, field.name), depth + 1)
        elif field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, "nothing-here")
    return message


def _bodies(method: str) -> Iterator[bytes]:
    yield b""
    yield UNKNOWN
    yield _fill(_request(method)).SerializeToString()
    yield b"\xff\xff\xff"
    yield _request(method).SerializeToString() + UNKNOWN * 1000


def _channel(daemon: Daemon, ca: KeyPair, pair: KeyPair | None, **options: Any) -> grpc.Channel:
    trust = (
        grpc.ssl_channel_credentials(ca.cert_pem, pair.key_pem, pair.cert_pem)
        if pair
        else grpc.ssl_channel_credentials(ca.cert_pem)
    )
    return grpc.secure_channel(daemon.address, trust, **options)


def _call(channel: grpc.Channel, method: str, body: bytes, **options: Any) -> tuple[grpc.StatusCode, str]:
    """Code and reason; OK for a stream that begins to answer."""
    # Raw bytes on both sides, and the same frames for every kind of method.
    send: Any = channel.stream_stream(method)
    call = send(iter([body]), timeout=1.5, **options)
    try:
        for _ in call:
            call.cancel()
            return grpc.StatusCode.OK, ""
    except grpc.RpcError as error:
        failed: Any = error
        details = dict(failed.trailing_metadata() or ()).get("grpc-status-details-bin")
        reason = ""
        if details:
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(details).details:
                if detail.Unpack(info):
                    reason = info.reason
        return failed.code(), reason
    return grpc.StatusCode.OK, ""


def _state(lab: Lab) -> list[str]:
    lists = (("ps", "-aq", "--no-trunc"), ("images", "-q", "--no-trunc"), ("volume", "ls", "-q"), ("network", "ls"))
    return [lab.fleet.shoal(*command).stdout for command in lists]


@pytest.mark.parametrize("method", METHODS)
def test_a_reader_reads_and_no_more(host: Lab, method: str) -> None:
    fleet = host.fleet
    with _channel(fleet.first, fleet.ca, issue_user(fleet.ca, "reader", Role.READER)) as channel:
        for body in _bodies(method):
            for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
                code, reason = _call(channel, method, body, compression=compression)
                if method in READ_ONLY:
                    assert code not in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
                elif code is not grpc.StatusCode.PERMISSION_DENIED:
                    # A message that can't be read never reaches the question who may.
                    assert body == b"\xff\xff\xff"
                    assert code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
                else:
                    assert reason == "ROLE_REQUIRED"


@pytest.mark.parametrize("who", ["role-less", "host", "denied", "stranger", "nobody"])
def test_nobody_else_calls_anything(host: Lab, who: str) -> None:
    """Health and reflection included."""
    fleet = host.fleet
    pair: KeyPair | None = None
    if who == "role-less":
        pair = _role_less(fleet.ca)
    elif who == "host":
        pair = issue_host(fleet.ca, "another", ["127.0.0.1"])
    elif who == "denied":
        pair = issue_user(fleet.ca, "denied", Role.ADMIN)
        _deny(host, pair)
    elif who == "stranger":
        pair = issue_user(create_ca("test fleet"), "admin", Role.ADMIN)
    before = _state(host)
    standard = ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
    with _channel(fleet.first, fleet.ca, pair) as channel:
        for method in [*METHODS, *standard, "/shoal.v1.ContainerService/Nothing", "/nothing"]:
            code, _ = _call(channel, method, b"")
            refused = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE}
            if not method.endswith("othing"):
                assert code in refused, (method, code)
            else:
                assert code is not grpc.StatusCode.OK
    assert _state(host) == before


def _role_less(ca: KeyPair) -> KeyPair:
    """A certificate of the fleet's CA that names no role."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    authority = x509.load_pem_x509_certificate(ca.cert_pem)
    signer: Any = serialization.load_pem_private_key(ca.key_pem, None)
    key = ec.generate_private_key(ec.SECP256R1())
    names = [(NameOID.ORGANIZATION_NAME, "shoal"), (NameOID.COMMON_NAME, "role:admin")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(kind, value) for kind, value in names]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair(certificate.public_bytes(pem), private)


def _deny(lab: Lab, pair: KeyPair) -> None:
    from cryptography import x509

    serial = x509.load_pem_x509_certificate(pair.cert_pem).serial_number
    with (lab.fleet.directory / "pki" / "deny-list").open("a") as file:
        file.write(f"{serial:x}\n")


def test_an_operator_gets_no_container_of_the_hosts_ids(host: Lab, busybox: str) -> None:
    """Neither by field order, nor compressed, nor beside unknown fields."""
    fleet = host.fleet
    innocent = container_pb.ContainerSpec(image=busybox, command=["true"]).SerializeToString()
    guilty = container_pb.ContainerSpec(userns="host").SerializeToString()
    run = container_pb.ContainerServiceRunRequest.DESCRIPTOR.fields_by_name["spec"].number
    tag = bytes([run << 3 | 2])
    plain = tag + bytes([len(innocent)]) + innocent
    extra = tag + bytes([len(guilty)]) + guilty
    with _channel(fleet.first, fleet.ca, issue_user(fleet.ca, "operator", Role.OPERATOR)) as channel:
        for body in (plain + extra, extra + plain, UNKNOWN + plain + extra + UNKNOWN, extra + extra + plain):
            for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate):
                code, reason = _call(channel, "/shoal.v1.ContainerService/Run", body, compression=compression)
                assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
    assert fleet.shoal("ps", "-aq").stdout == ""


@pytest.mark.parametrize(
    "options", [("--privileged",), ("-v", "/var/tmp:/host"), ("--userns", "host"), ("--cap-add", "SYS_ADMIN")]
)
def test_an_operator_enters_no_container_of_an_admins(
    host: Lab, options: tuple[str, ...], tmp_path: Path, busybox: str
) -> None:
    """Row 17: what only an admin may ask for is not to be had by way of a container that has it (exec, cp, attach)."""
    fleet = host.fleet
    certificate, key = fleet.user("op", Role.OPERATOR)
    fleet.add_host("op", fleet.first.address, cert=str(certificate), key=str(key))
    (tmp_path / "file").write_text("x")
    ways: dict[str, tuple[str, ...]] = {
        "exec": ("exec", "-H", "op", "NAME", "true"),
        "exec -d": ("exec", "-d", "-H", "op", "NAME", "true"),
        "cp in": ("cp", "-H", "op", str(tmp_path / "file"), "NAME:/tmp/file"),
        "cp out": ("cp", "-H", "op", "NAME:/etc/passwd", str(tmp_path / "out")),
        "attach": ("attach", "-H", "op", "NAME"),
    }
    try:
        fleet.shoal("run", "-d", "-i", "--name", "admins", "-H", "h1", *options, busybox, "sleep", "600")
        fleet.shoal("run", "-d", "-i", "--name", "own", "-H", "op", busybox, "sleep", "600")
        for way, words in ways.items():
            refused = fleet.shoal(*(word.replace("NAME", "admins") for word in words), code=None, stdin="")
            assert "needs the role admin" in refused.stderr, way
            if way != "attach":  # which has no end here
                fleet.shoal(*(word.replace("NAME", "own") for word in words))
        assert not (tmp_path / "out").exists() or "root" in (tmp_path / "out").read_text()
        fleet.shoal("exec", "-H", "h1", "admins", "true")
        fleet.shoal("stop", "-t", "0", "-H", "op", "admins")
    finally:
        fleet.remove_host("op")
        fleet.remove_containers()


def test_a_message_beyond_the_limit_is_refused_also_when_it_is_small_on_the_wire(host: Lab) -> None:
    fleet = host.fleet
    bomb = container_pb.ContainerServiceStopRequest(name="a" * (64 << 20)).SerializeToString()
    before = _memory(fleet.first.pid)
    with _channel(
        fleet.first,
        fleet.ca,
        issue_user(fleet.ca, "admin2", Role.ADMIN),
        options=[("grpc.max_send_message_length", -1)],
    ) as channel:
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            for _ in range(4):
                code, _reason = _call(channel, "/shoal.v1.ContainerService/Stop", bomb, compression=compression)
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert _call(channel, "/shoal.v1.SystemService/Ping", b"")[0] is grpc.StatusCode.OK
    assert _memory(fleet.first.pid) - before < 64 << 20


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_plain_text_is_not_spoken(host: Lab) -> None:
    name, port = host.fleet.first.address.split(":")
    with grpc.insecure_channel(host.fleet.first.address) as channel:
        assert _call(channel, "/shoal.v1.SystemService/Ping", b"")[0] is grpc.StatusCode.UNAVAILABLE
    for hello in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)):
        with socket.create_connection((name, int(port)), timeout=5) as raw:
            raw.sendall(hello)
            answer = raw.recv(4096)
            # Nothing, or an alert of TLS; never a frame of HTTP/2.
            assert answer[:1] in (b"", b"\x15"), answer


@pytest.mark.parametrize("address", ["0.0.0.0:0", "127.0.0.1:0", "[::]:0"])
def test_no_daemon_without_tls_on_tcp(tmp_path: Path, address: str) -> None:
    config = tmp_path / "shoald.toml"
    config.write_text(
        f'root = "{tmp_path}/root"\nrun_dir = "/run/shoal-notls"\nlisten = ["{address}"]\nmetrics_listen = ""\n'
    )
    done = subprocess.run([BIN / "shoald", "serve", "--config", config], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "TLS" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("/run/shoal-notls").exists()


def test_metrics_change_nothing(host: Lab) -> None:
    before = _state(host)
    name, port = host.fleet.first.metrics_address.split(":")
    answers = {}
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
        for path in (
            "/metrics",
            "/",
            "/../metrics",
            "/shoal.v1.SystemService/Ping",
            "/metrics/../-/reload",
            "//metrics",
        ):
            connection = http.client.HTTPConnection(name, int(port), timeout=5)
            connection.request(method, path, b"x=1" if method in ("POST", "PUT") else None)
            answer = connection.getresponse()
            text = answer.read()
            answers[method, path] = answer.status
            assert _no_secrets(text)
            connection.close()
    assert {key for key, status in answers.items() if status == 200} == {("GET", "/metrics"), ("HEAD", "/metrics")}
    assert set(answers.values()) <= {200, 400, 404, 405}
    for garbage in (b"\0" * 64 + b"\r\n\r\n", b"GET " + b"a" * 100_000, b"GET /metrics"):
        with socket.create_connection((name, int(port)), timeout=5) as raw:
            raw.sendall(garbage)
    assert _state(host) == before


def _no_secrets(text: bytes) -> bool:
    """Metrics tell no secrets: no certificate, no key."""
    return b"PRIVATE KEY" not in text and b"BEGIN CERTIFICATE" not in text


def _audited(log: str, who: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in log.splitlines() if who in line and '"audit"' in line]


def test_the_audit_log_has_every_refusal(host: Lab) -> None:
    fleet = host.fleet
    with _channel(fleet.first, fleet.ca, issue_user(fleet.ca, "mallory", Role.READER)) as channel:
        _call(
            channel,
            "/shoal.v1.ContainerService/Kill",
            container_pb.ContainerServiceKillRequest(name="x").SerializeToString(),
        )
    deadline = time.monotonic() + 10
    while not (lines := _audited(fleet.first.log(), "mallory")) and time.monotonic() < deadline:
        time.sleep(0.05)  # the caller has its answer before the line is written
    assert [(line["method"], line["code"], line["role"]) for line in lines] == [
        ("/shoal.v1.ContainerService/Kill", "PERMISSION_DENIED", "reader")
    ]
