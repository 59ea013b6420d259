"""Making certificates: the CA, and the host and user certificates that it signs.

ECDSA P-256 throughout. A host certificate is good for a server only and a user certificate for a client only (extended
key usage, RFC 5280 section 4.2.1.12), so that neither can play the other's part.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from shoal.errors import FailedPrecondition, InvalidArgument
from shoal.pki.certificate import ORGANIZATION, ROLE_PREFIX, Role, load_certificate
from shoal.pki.keypair import KeyPair

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA_DAYS = 3650
HOST_DAYS = 365
USER_DAYS = 90

_BACKDATE = timedelta(minutes=5)  # for clocks that lag behind the issuer's
_MAX_DAYS = 36500
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_CA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")
_DNS = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


def create_ca(common_name: str, days: int = CA_DAYS) -> KeyPair:
    """Make a self-signed CA that may sign end certificates only (path length 0).

    Raises InvalidArgument (reason INVALID_CERTIFICATE_REQUEST).
    """
    from cryptography import x509

    key = _new_key()
    name = _subject(common_name, _CA_NAME)
    now = datetime.now(UTC)
    builder = (
        _builder(name, name, key, now, now + _period(days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return _sign(builder, key, key)


def issue_host(ca: KeyPair, name: str, sans: Sequence[str] = (), days: int = HOST_DAYS) -> KeyPair:
    """Make the certificate of a daemon: `sans` are the DNS names and IP addresses that clients reach it by.

    `name` becomes the common name and, when it can be one, a DNS name too. The certificate does not outlive the CA.
    Raises InvalidArgument (reason INVALID_CERTIFICATE_REQUEST), FailedPrecondition (reason CA_UNUSABLE).
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    wanted = [*sans] if sans and not _DNS.fullmatch(name) else [name, *sans]
    alternative = x509.SubjectAlternativeName(_general_names(wanted))
    return _issue(ca, _subject(name, _NAME), days, ExtendedKeyUsageOID.SERVER_AUTH, alternative)


def issue_user(ca: KeyPair, name: str, role: Role | str, days: int = USER_DAYS) -> KeyPair:
    """Make the certificate of a person or program that commands hosts; its subject carries the role.

    The certificate does not outlive the CA.
    Raises InvalidArgument (reason INVALID_CERTIFICATE_REQUEST), FailedPrecondition (reason CA_UNUSABLE).
    """
    from cryptography.x509.oid import ExtendedKeyUsageOID

    return _issue(ca, _subject(name, _NAME, Role.parse(role)), days, ExtendedKeyUsageOID.CLIENT_AUTH, None)


def _issue(
    ca: KeyPair,
    subject: x509.Name,
    days: int,
    usage: x509.ObjectIdentifier,
    alternative: x509.SubjectAlternativeName | None,
) -> KeyPair:
    from cryptography import x509

    now = datetime.now(UTC)
    ca_certificate, ca_key = _open_ca(ca, now)
    key = _new_key()
    until = min(now + _period(days), ca_certificate.not_valid_after_utc)
    ca_identifier = ca_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(subject, ca_certificate.subject, key, now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_identifier), critical=False)
    )
    if alternative is not None:
        builder = builder.add_extension(alternative, critical=False)
    return _sign(builder, key, ca_key)


def _open_ca(ca: KeyPair, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate = load_certificate(ca.cert_pem)
    try:
        key = load_pem_private_key(ca.key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise _unusable(f"the CA's private key can't be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise _unusable("the CA's private key does not belong to its certificate")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        raise _unusable("the certificate is not one of a CA that shoal made") from None
    if not constraints.ca:
        raise _unusable("the certificate may not sign others: it is not a CA's")
    if now >= certificate.not_valid_after_utc:
        raise _unusable(f"the CA expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> KeyPair:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    certificate = builder.sign(signer, hashes.SHA256())
    return KeyPair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _subject(name: str, pattern: re.Pattern[str], role: Role | None = None) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    if not pattern.fullmatch(name):
        raise _invalid(f"{name[:80]!r} can't be a certificate's name", "1 to 64 of the characters a-z A-Z 0-9 . _ @ -")
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION)]
    if role is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, ROLE_PREFIX + role))
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(sans: Iterable[str]) -> list[x509.GeneralName]:
    from cryptography import x509

    names: dict[x509.GeneralName, None] = {}  # ordered and without duplicates
    for san in sans:
        if address := _address(san):
            names[x509.IPAddress(address)] = None
        elif _DNS.fullmatch(san):
            names[x509.DNSName(san.lower())] = None
        else:
            raise _invalid(
                f"{san[:80]!r} is neither a DNS name nor an IP address",
                "name the host exactly as clients reach it, without port, scheme, wildcard or zone",
            )
    return list(names)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return None if getattr(address, "scope_id", None) else address


def _period(days: int) -> timedelta:
    if not 1 <= days <= _MAX_DAYS:
        raise _invalid(f"a certificate can't be valid for {days} days", f"choose 1 to {_MAX_DAYS}")
    return timedelta(days=days)


def _invalid(message: str, hint: str) -> InvalidArgument:
    return InvalidArgument(message, reason="INVALID_CERTIFICATE_REQUEST", hint=hint)


def _unusable(message: str) -> FailedPrecondition:
    return FailedPrecondition(message, reason="CA_UNUSABLE", hint="`shoal pki init` makes a new CA")
