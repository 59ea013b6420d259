"""The fleet's certificates: what they hold, who may use them for what, and how a refusal is explained.

Handshakes are real (OpenSSL in memory): a certificate's rules are worth what a peer enforces.
"""

from __future__ import annotations

import re
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ShoalError, Unauthenticated
from shoal.pki import KeyPair, Role, check_pair, create_ca, describe, identity_from_pem, issue_host, issue_user
from shoal.pki import issue as issuing

CA = create_ca("Fleet CA")
OTHER_CA = create_ca("Fleet CA")
STRANGER_CA = create_ca("Stranger")
HOST = issue_host(CA, "web1", ["10.0.0.1", "::1", "Web1.Example.com"])
USER = issue_user(CA, "alice", Role.OPERATOR)


def custom(
    subject: list[tuple[x509.ObjectIdentifier, str]],
    usages: list[x509.ObjectIdentifier],
    *,
    signer: KeyPair = CA,
    start: timedelta = timedelta(minutes=-5),
    end: timedelta = timedelta(days=1),
    ca: bool = False,
) -> KeyPair:
    """A certificate that shoal itself would not make, signed with a CA's key."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(signer.cert_pem)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in subject]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("web1")]), critical=False)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    certificate = builder.sign(private_key(signer), hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(certificate.public_bytes(Encoding.PEM), pem)


def private_key(pair: KeyPair) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pair.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def handshake(
    tmp_path: Path, host: KeyPair, user: KeyPair | None, name: str, ca: KeyPair = CA, host_ca: KeyPair = CA
) -> None:
    """A mutual TLS 1.3 handshake, client trusting `ca` and server trusting `host_ca`. Raises ssl.SSLError."""

    def context(protocol: int, pair: KeyPair | None, trusted: KeyPair, stem: str) -> ssl.SSLContext:
        made = ssl.SSLContext(protocol)
        made.verify_mode = ssl.CERT_REQUIRED
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.load_verify_locations(cadata=trusted.cert_pem.decode())
        if pair is not None:
            pair.save(tmp_path / f"{stem}.pem", tmp_path / f"{stem}-key.pem", overwrite=True)
            made.load_cert_chain(tmp_path / f"{stem}.pem", tmp_path / f"{stem}-key.pem")
        return made

    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context(ssl.PROTOCOL_TLS_CLIENT, user, ca, "user").wrap_bio(to_client, to_server, server_hostname=name)
    server = context(ssl.PROTOCOL_TLS_SERVER, host, host_ca, "host").wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
        if not waiting:
            return
    raise AssertionError("the handshake does not end")


def test_ca_is_a_ca_for_leaves_only() -> None:
    certificate = x509.load_pem_x509_certificate(CA.cert_pem)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert describe(CA.cert_pem).kind == "ca"


@pytest.mark.parametrize(
    ("pair", "usage"), [(HOST, ExtendedKeyUsageOID.SERVER_AUTH), (USER, ExtendedKeyUsageOID.CLIENT_AUTH)]
)
def test_leaves(pair: KeyPair, usage: x509.ObjectIdentifier) -> None:
    certificate = x509.load_pem_x509_certificate(pair.cert_pem)
    authority = x509.load_pem_x509_certificate(CA.cert_pem)
    extensions = certificate.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert (
        extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        == authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    )
    certificate.verify_directly_issued_by(authority)
    age = datetime.now(UTC) - certificate.not_valid_before_utc
    assert age >= timedelta(minutes=5)
    assert certificate.not_valid_after_utc <= authority.not_valid_after_utc


def test_serials_differ() -> None:
    assert describe(issue_user(CA, "alice", "reader").cert_pem).serial != describe(USER.cert_pem).serial


def test_a_leaf_does_not_outlive_its_ca() -> None:
    ca = create_ca("Short", days=2)
    assert describe(issue_host(ca, "web1", days=300).cert_pem).not_after == describe(ca.cert_pem).not_after


def test_identity() -> None:
    identity = identity_from_pem(USER.cert_pem)
    said = describe(USER.cert_pem)
    assert (identity.name, identity.role) == ("alice", Role.OPERATOR)
    assert (identity.serial, identity.not_after) == (said.serial, said.not_after)


N, O, U = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME  # noqa: E741
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@pytest.mark.parametrize(
    ("subject", "usages", "ca"),
    [
        ([(N, "eve"), (O, "shoal")], [CLIENT], False),
        ([(N, "eve"), (O, "shoal"), (U, "role:root")], [CLIENT], False),
        ([(N, "eve"), (O, "shoal"), (U, "role:ADMIN")], [CLIENT], False),
        ([(N, "eve"), (O, "shoal"), (U, "role:")], [CLIENT], False),
        ([(N, "eve"), (O, "shoal"), (U, "admin")], [CLIENT], False),
        ([(N, "eve"), (O, "shoal"), (U, "role:reader"), (U, "role:admin")], [CLIENT], False),
        ([(N, "eve"), (N, "alice"), (O, "shoal"), (U, "role:admin")], [CLIENT], False),
        ([(N, "eve"), (U, "role:admin")], [CLIENT], False),
        ([(N, "eve"), (O, "other"), (U, "role:admin")], [CLIENT], False),
        ([(O, "shoal"), (U, "role:admin")], [CLIENT], False),
        ([(N, "eve\n[audit] alice"), (O, "shoal"), (U, "role:admin")], [CLIENT], False),
        ([(N, "eve"), (O, "shoal"), (U, "role:admin")], [SERVER], False),
        ([(N, "eve"), (O, "shoal"), (U, "role:admin")], [], False),
        ([(N, "eve"), (O, "shoal"), (U, "role:admin")], [CLIENT], True),
    ],
)
def test_ambiguous_identities_are_nobody(
    subject: list[tuple[x509.ObjectIdentifier, str]], usages: list[x509.ObjectIdentifier], ca: bool
) -> None:
    with pytest.raises(Unauthenticated) as caught:
        identity_from_pem(custom(subject, usages, ca=ca).cert_pem)
    assert caught.value.reason == "INVALID_CERTIFICATE"


@pytest.mark.parametrize(
    "pem", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"x" * 10**6]
)
def test_broken_certificates_are_nobody(pem: bytes) -> None:
    with pytest.raises(Unauthenticated):
        identity_from_pem(pem)
    with pytest.raises(InvalidArgument):
        describe(pem)
    assert len(check_pair(pem, CA.cert_pem, purpose="client")) == 1


def test_hosts_and_the_ca_are_nobody() -> None:
    for pair in (HOST, CA):
        with pytest.raises(Unauthenticated):
            identity_from_pem(pair.cert_pem)


@pytest.mark.parametrize("name", ["", "a" * 65, "-x", "a b", "a\nb", "a/CN=admin", "ä", "a,OU=role:admin", "a\x00"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(InvalidArgument):
        issue_user(CA, name, "reader")
    with pytest.raises(InvalidArgument):
        issue_host(CA, name, ["10.0.0.1"])


@pytest.mark.parametrize(
    "san", ["*.example.com", "https://web1", "web1:7443", "fe80::1%eth0", "a_b", "", "1.2.3.4/8", "a..b"]
)
def test_sans_are_checked(san: str) -> None:
    with pytest.raises(InvalidArgument, match="neither a DNS name nor an IP"):
        issue_host(CA, "web1", [san])


def test_sans() -> None:
    assert describe(HOST.cert_pem).sans == ("web1", "web1.example.com", "10.0.0.1", "::1")
    assert describe(issue_host(CA, "db_1", ["[::1]", "localhost", "localhost"]).cert_pem).sans == ("localhost", "::1")


def test_bad_requests() -> None:
    for days in (0, -1, 40_000):
        with pytest.raises(InvalidArgument, match="valid for"):
            create_ca("Fleet", days)
    with pytest.raises(InvalidArgument, match="unknown role 'root'"):
        issue_user(CA, "alice", "root")


@pytest.mark.parametrize(
    "ca",
    [KeyPair(CA.cert_pem, OTHER_CA.key_pem), KeyPair(CA.cert_pem, b"junk"), USER, HOST],
    ids=["another key", "no key", "user", "host"],
)
def test_only_a_ca_signs(ca: KeyPair) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        issue_user(ca, "alice", "admin")
    assert caught.value.reason == "CA_UNUSABLE"


def test_an_expired_ca_does_not_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=5000)

    monkeypatch.setattr(issuing, "datetime", Later)
    with pytest.raises(FailedPrecondition, match="the CA expired on"):
        issue_user(CA, "alice", "admin")


@pytest.mark.parametrize("name", ["web1", "web1.example.com", "10.0.0.1", "::1"])
def test_handshake(tmp_path: Path, name: str) -> None:
    handshake(tmp_path, HOST, USER, name)


def expired(usage: x509.ObjectIdentifier) -> KeyPair:
    return custom(
        [(N, "x"), (O, "shoal"), (U, "role:admin")], [usage], start=timedelta(days=-9), end=timedelta(days=-1)
    )


def future(usage: x509.ObjectIdentifier) -> KeyPair:
    return custom([(N, "x"), (O, "shoal"), (U, "role:admin")], [usage], start=timedelta(days=1), end=timedelta(days=2))


SELF_SIGNED = create_ca("web1")
INTERMEDIATE = custom([(N, "web1")], [], ca=True)


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        (expired(SERVER), "expired on"),
        (future(SERVER), "not valid before"),
        (issue_host(OTHER_CA, "web1"), "another CA with the same name"),
        (issue_host(STRANGER_CA, "web1"), r"another CA \(CN=Stranger,O=shoal\), not by CN=Fleet CA,O=shoal"),
        (SELF_SIGNED, "self-signed"),
        (custom([(N, "web1")], [CLIENT]), "made for a user, not for a host"),
        (issue_host(CA, "web2"), "not for 'web1' but for web2"),
    ],
    ids=["expired", "future", "same name", "other CA", "self-signed", "usage", "name"],
)
def test_bad_hosts_are_refused_and_explained(tmp_path: Path, host: KeyPair, sentence: str) -> None:
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, host, USER, "web1")
    faults = check_pair(host.cert_pem, CA.cert_pem, purpose="server", server_name="web1", key_pem=host.key_pem)
    assert re.search(sentence, " ".join(faults)), faults


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        (expired(CLIENT), "expired on"),
        (future(CLIENT), "not valid before"),
        (issue_user(OTHER_CA, "alice", "admin"), "another CA with the same name"),
        (issue_user(STRANGER_CA, "alice", "admin"), "another CA"),
        (SELF_SIGNED, "self-signed"),
        (HOST, "made for a host, not for a user"),
        (issue_host(INTERMEDIATE, "web1"), "another CA"),
    ],
    ids=["expired", "future", "same name", "other CA", "self-signed", "usage", "below a leaf"],
)
def test_bad_users_are_refused_and_explained(tmp_path: Path, user: KeyPair, sentence: str) -> None:
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, HOST, user, "web1")
    faults = check_pair(user.cert_pem, CA.cert_pem, purpose="client")
    assert any(sentence in fault for fault in faults), faults


def test_no_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, HOST, None, "web1")


def test_the_ca_signs_no_other_ca(tmp_path: Path) -> None:
    below = custom([(N, "alice"), (O, "shoal"), (U, "role:admin")], [CLIENT], signer=INTERMEDIATE)
    chain = KeyPair(below.cert_pem + INTERMEDIATE.cert_pem, below.key_pem)
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, HOST, chain, "web1")


def test_check_pair_finds_nothing_in_good_ones() -> None:
    assert check_pair(HOST.cert_pem, CA.cert_pem, purpose="server", server_name="[::1]", key_pem=HOST.key_pem) == []
    bundle = STRANGER_CA.cert_pem + OTHER_CA.cert_pem + CA.cert_pem
    assert check_pair(USER.cert_pem, bundle, purpose="client", key_pem=USER.key_pem) == []


def test_check_pair_on_the_rest() -> None:
    later = datetime.now(UTC) + timedelta(days=5000)
    assert [fault[:20] for fault in check_pair(USER.cert_pem, CA.cert_pem, purpose="client", now=later)] == [
        "The certificate expi",
        "The CA's certificate",
    ]
    (fault,) = check_pair(USER.cert_pem, CA.cert_pem, purpose="client", key_pem=HOST.key_pem)
    assert fault == "The private key does not belong to the certificate."
    (fault,) = check_pair(USER.cert_pem, CA.cert_pem, purpose="client", key_pem=b"junk")
    assert "private key can't be read" in fault
    (fault,) = check_pair(USER.cert_pem, b"junk", purpose="client")
    assert "CA's certificate can't be read" in fault
    (fault,) = check_pair(custom([(N, "bob"), (O, "shoal")], [CLIENT]).cert_pem, CA.cert_pem, purpose="client")
    assert "role" in fault
    assert "CA" in " ".join(check_pair(CA.cert_pem, CA.cert_pem, purpose="server"))


def test_save_and_load(tmp_path: Path) -> None:
    cert, key = tmp_path / "pki" / "me.pem", tmp_path / "pki" / "me-key.pem"
    USER.save(cert, key)
    assert KeyPair.load(cert, key) == USER
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) & 0o077 == 0
    assert sorted(path.name for path in key.parent.iterdir()) == ["me-key.pem", "me.pem"]
    assert b"PRIVATE" not in repr(USER).encode()


@pytest.mark.parametrize("taken", ["me.pem", "me-key.pem"])
def test_never_overwrites_silently(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExists) as caught:
        USER.save(tmp_path / "me.pem", tmp_path / "me-key.pem")
    assert taken in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    USER.save(tmp_path / "me.pem", tmp_path / "me-key.pem", overwrite=True)
    assert not (tmp_path / taken).is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate's name is taken between the check and the write."""
    (tmp_path / "me.pem").write_text("mine")
    monkeypatch.setattr("os.path.lexists", lambda path: False)
    with pytest.raises(AlreadyExists):
        USER.save(tmp_path / "me.pem", tmp_path / "me-key.pem")
    assert [path.name for path in tmp_path.iterdir()] == ["me.pem"]
    assert (tmp_path / "me.pem").read_text() == "mine"


def test_load_refuses(tmp_path: Path) -> None:
    cert, key = tmp_path / "me.pem", tmp_path / "me-key.pem"
    with pytest.raises(NotFound, match="does not exist"):
        KeyPair.load(cert, key)
    USER.save(cert, key)
    key.chmod(0o644)
    with pytest.raises(FailedPrecondition) as caught:
        KeyPair.load(cert, key)
    assert caught.value.reason == "KEY_EXPOSED"
    assert caught.value.hint == f"chmod 600 {key}"
    with pytest.raises(ShoalError) as unreadable:
        KeyPair.load(tmp_path, key)
    assert unreadable.value.reason == "FILE_UNREADABLE"


def test_importing_costs_no_cryptography() -> None:
    program = "import sys, shoal.pki, shoal.pki.check, shoal.pki.issue; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_description_for_people() -> None:
    lines = describe(USER.cert_pem).lines()
    assert "kind: user" in lines
    assert "role: operator" in lines
    assert any(line.startswith("valid until: ") and line.endswith(" UTC") for line in lines)
    assert "names: web1, web1.example.com, 10.0.0.1, ::1" in describe(HOST.cert_pem).lines()
