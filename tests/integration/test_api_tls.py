"""Mutual TLS: whoever is not of the fleet is refused, in both directions; rotation needs no restart."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal.errors import FailedPrecondition, InvalidArgument, NotFound
from shoal.pki import KeyPair, Role, create_ca, issue_host, issue_user
from shoal.v1 import system_pb2 as pb
from shoal.v1.system_pb2_grpc import SystemServiceStub
from shoald.api.server import check_credentials
from shoald.config import Config, Tls
from tests.support.api_server import Fleet, Running, credentials, error_info, serving
from tests.support.fake_engine import FakeEngine

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC)


def _forge(
    ca: KeyPair | None,
    *,
    role: str = "role:admin",
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    begin: dt.datetime = NOW - DAY,
    end: dt.datetime = NOW + DAY,
    san: str = "127.0.0.1",
) -> KeyPair:
    """A certificate as shoal's own tools would never make it; `ca` None: self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [
        (NameOID.ORGANIZATION_NAME, "shoal"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, role),
        (NameOID.COMMON_NAME, "eve"),
    ]
    subject = x509.Name([x509.NameAttribute(kind, value) for kind, value in names])
    issuer = x509.load_pem_x509_certificate(ca.cert_pem).subject if ca else subject
    signer = load_pem_private_key(ca.key_pem, None) if ca else key
    import ipaddress

    name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(san)) if san[0].isdigit() else x509.DNSName(san)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(certificate.public_bytes(Encoding.PEM), private)


async def _info(address: str, trust: grpc.ChannelCredentials) -> pb.SystemServiceInfoResponse:
    async with grpc.aio.secure_channel(address, trust) as channel:
        return await SystemServiceStub(channel).Info(pb.SystemServiceInfoRequest(), timeout=10)


async def _refusal(address: str, trust: grpc.ChannelCredentials) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _info(address, trust)
    return caught.value


async def test_a_user_of_the_fleet_is_known_by_name_and_role(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path)
    async with serving(FakeEngine(), tmp_path, tls=fleet.tls) as running:
        answer = await _info(running.address, credentials(fleet.ca.cert_pem, fleet.user("ada", Role.OPERATOR)))
    assert (answer.caller_name, answer.caller_role) == ("ada", "operator")


STRANGERS: dict[str, Callable[[Fleet], KeyPair | None]] = {
    "no certificate": lambda fleet: None,
    "self-signed": lambda fleet: _forge(None),
    "other CA": lambda fleet: issue_user(create_ca("other"), "eve", Role.ADMIN),
    "other CA of the same name": lambda fleet: issue_user(create_ca("test fleet"), "eve", Role.ADMIN),
    "expired": lambda fleet: _forge(fleet.ca, begin=NOW - 2 * DAY, end=NOW - DAY),
    "not yet valid": lambda fleet: _forge(fleet.ca, begin=NOW + DAY, end=NOW + 2 * DAY),
    "a host's certificate": lambda fleet: issue_host(fleet.ca, "host", ["127.0.0.1"]),
    "wrong key usage": lambda fleet: _forge(fleet.ca, usage=ExtendedKeyUsageOID.SERVER_AUTH),
}
NAMELESS = {
    "unknown role": lambda fleet: _forge(fleet.ca, role="role:god"),
    "no role": lambda fleet: _forge(fleet.ca, role="admin"),
}


@pytest.mark.parametrize("who", STRANGERS)
async def test_a_stranger_does_not_get_past_the_handshake(tmp_path: Path, who: str) -> None:
    fleet, engine = Fleet.make(tmp_path), FakeEngine()
    async with serving(engine, tmp_path, tls=fleet.tls) as running:
        error = await _refusal(running.address, credentials(fleet.ca.cert_pem, STRANGERS[who](fleet)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert running.counts.finished_calls == []
    assert engine.calls == []


@pytest.mark.parametrize("who", NAMELESS)
async def test_a_certificate_without_a_role_is_refused_by_the_gate(tmp_path: Path, who: str) -> None:
    fleet, engine = Fleet.make(tmp_path), FakeEngine()
    async with serving(engine, tmp_path, tls=fleet.tls) as running:
        error = await _refusal(running.address, credentials(fleet.ca.cert_pem, NAMELESS[who](fleet)))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error_info(error).reason == "INVALID_CERTIFICATE"
    assert engine.calls == []


async def test_a_revoked_certificate_is_refused_as_soon_as_the_file_says_so(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path)
    deny = tmp_path / "deny"
    deny.write_text("# nobody yet\n")
    tls = Tls(cert=fleet.tls.cert, key=fleet.tls.key, ca=fleet.tls.ca, deny_list=deny)
    user = fleet.user("ada", Role.ADMIN)
    serial = x509.load_pem_x509_certificate(user.cert_pem).serial_number
    async with serving(FakeEngine(), tmp_path, tls=tls) as running:
        trust = credentials(fleet.ca.cert_pem, user)
        async with grpc.aio.secure_channel(running.address, trust) as channel:
            stub = SystemServiceStub(channel)
            await stub.Info(pb.SystemServiceInfoRequest())
            deny.write_text(f"0x{serial:X}  # lost laptop\n")
            with pytest.raises(grpc.aio.AioRpcError) as caught:  # also on a connection that is open
                await stub.Info(pb.SystemServiceInfoRequest())
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert error_info(caught.value).reason == "CERTIFICATE_REVOKED"
            deny.write_text("this is no serial\n")  # a slip of the editor does not let anybody in
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Info(pb.SystemServiceInfoRequest())
            deny.unlink()
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Info(pb.SystemServiceInfoRequest())


async def test_a_certificate_that_expires_during_a_connection_is_refused(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path)
    user = _forge(fleet.ca, end=dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(seconds=3))
    async with serving(FakeEngine(), tmp_path, tls=fleet.tls) as running:
        async with grpc.aio.secure_channel(running.address, credentials(fleet.ca.cert_pem, user)) as channel:
            stub = SystemServiceStub(channel)
            await stub.Info(pb.SystemServiceInfoRequest())
            await asyncio.sleep(3.1)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Info(pb.SystemServiceInfoRequest())
    assert error_info(caught.value).reason == "CERTIFICATE_EXPIRED"


# The other direction: what a client must refuse. The server is gRPC's own, since ours would not start with these.
IMPOSTORS: dict[str, Callable[[Fleet], KeyPair]] = {
    "self-signed": lambda fleet: _forge(None, usage=ExtendedKeyUsageOID.SERVER_AUTH),
    "other CA": lambda fleet: issue_host(create_ca("other"), "host", ["127.0.0.1"]),
    "expired": lambda fleet: _forge(
        fleet.ca, usage=ExtendedKeyUsageOID.SERVER_AUTH, begin=NOW - 2 * DAY, end=NOW - DAY
    ),
    "not yet valid": lambda fleet: _forge(
        fleet.ca, usage=ExtendedKeyUsageOID.SERVER_AUTH, begin=NOW + DAY, end=NOW + 2 * DAY
    ),
    "another host": lambda fleet: issue_host(fleet.ca, "elsewhere", ["10.1.2.3"]),
    "a user": lambda fleet: fleet.user("eve", Role.ADMIN),
    "a user with the host's name": lambda fleet: _forge(fleet.ca),
}


@asynccontextmanager
async def _impostor(pair: KeyPair) -> AsyncIterator[str]:
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pair.key_pem, pair.cert_pem)]))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.mark.parametrize("who", IMPOSTORS)
async def test_a_client_refuses_a_daemon_that_is_not_the_host(tmp_path: Path, who: str) -> None:
    fleet = Fleet.make(tmp_path)
    async with _impostor(IMPOSTORS[who](fleet)) as address:
        error = await _refusal(address, credentials(fleet.ca.cert_pem, fleet.user("ada", Role.ADMIN)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("who", [name for name in IMPOSTORS if name != "another host"])
def test_the_daemon_does_not_start_with_a_certificate_that_clients_would_refuse(tmp_path: Path, who: str) -> None:
    fleet = Fleet.make(tmp_path)
    fleet.serve_as(IMPOSTORS[who](fleet))
    with pytest.raises(FailedPrecondition) as caught:
        check_credentials(Config(listen=("127.0.0.1:7443",), tls=fleet.tls))
    assert caught.value.reason == "TLS_UNUSABLE"
    assert caught.value.hint


def test_files_that_are_missing_or_open_to_all_are_refused_with_a_remedy(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path)
    config = Config(listen=("127.0.0.1:7443",), tls=fleet.tls)
    (tmp_path / "host.key").chmod(0o644)
    with pytest.raises(FailedPrecondition, match="open to every user") as exposed:
        check_credentials(config)
    assert "chmod 600" in (exposed.value.hint or "")
    (tmp_path / "host.pem").unlink()
    with pytest.raises(NotFound, match=r"host\.pem does not exist"):
        check_credentials(config)


def test_a_deny_list_that_cannot_be_read_stops_the_daemon(tmp_path: Path) -> None:
    deny = tmp_path / "deny"
    for content, message in ((None, "can't read"), ("00\nxyz\n", "line 2")):
        if content is not None:
            deny.write_text(content)
        with pytest.raises(InvalidArgument, match=message):
            check_credentials(Config(tls=Tls(deny_list=deny)))


async def _server_serial(running: Running) -> int:
    import ssl

    host, port = running.address.split(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


async def test_a_renewed_certificate_is_served_to_new_connections_without_a_restart(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path)
    trust = credentials(fleet.ca.cert_pem, fleet.user("ada", Role.ADMIN))
    renewed = issue_host(fleet.ca, "host", ["127.0.0.1"])
    serial = x509.load_pem_x509_certificate(renewed.cert_pem).serial_number
    async with serving(FakeEngine(), tmp_path, tls=fleet.tls) as running:
        before = await _server_serial(running)
        fleet.serve_as(issue_host(create_ca("other"), "host", ["127.0.0.1"]))  # not usable: the old one stays
        assert await _server_serial(running) == before
        fleet.serve_as(renewed)
        assert before != serial
        assert await _server_serial(running) == serial
        await _info(running.address, trust)


async def test_a_new_authority_is_obeyed_without_a_restart(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path)
    old_user = credentials(fleet.ca.cert_pem, fleet.user("ada", Role.ADMIN))
    async with serving(FakeEngine(), tmp_path, tls=fleet.tls) as running:
        await _info(running.address, old_user)
        second = Fleet(create_ca("new fleet"), tmp_path)
        (tmp_path / "ca.pem").write_bytes(second.ca.cert_pem)
        second.serve_as(issue_host(second.ca, "host", ["127.0.0.1"]))
        await _info(running.address, credentials(second.ca.cert_pem, second.user("bo", Role.READER)))
        assert (await _refusal(running.address, old_user)).code() is grpc.StatusCode.UNAVAILABLE


async def test_plain_text_is_not_spoken_on_tcp(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path)
    async with serving(FakeEngine(), tmp_path, tls=fleet.tls) as running:
        async with grpc.aio.insecure_channel(running.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await SystemServiceStub(channel).Ping(pb.SystemServicePingRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
