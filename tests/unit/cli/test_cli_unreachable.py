"""Hosts that can not be reached: one error that says what is wrong, and the remedy."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from shoal import pki
from tests.support.cli import Shoal
from tests.support.fake_daemon import Certificates, FakeDaemon

pytestmark = pytest.mark.usefixtures("config")


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


@pytest.mark.parametrize("verb", [("cp", "web:/etc", "."), ("export", "-o", "x", "web"), ("volume", "export", "data")])
def test_transfers_name_the_host_that_failed(
    verb: tuple[str, ...], shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = shoal("-H", "dead", *verb)
    assert (code, out) == (1, "")
    assert err.startswith("shoal: dead: ")
