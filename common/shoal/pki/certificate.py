"""Reading certificates: who a peer is, and what a certificate says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from shoal.errors import InvalidArgument, Unauthenticated

if TYPE_CHECKING:
    from cryptography import x509

ORGANIZATION = "shoal"
"""The `O` of every subject that shoal makes."""

ROLE_PREFIX = "role:"
"""A user certificate's `OU` is this and the role."""

_MAX_PEM = 64 * 1024


class Role(StrEnum):
    """What a user may do; each role includes the ones below it."""

    ADMIN = "admin"
    OPERATOR = "operator"
    READER = "reader"

    @classmethod
    def parse(cls, text: str) -> Role:
        """Read a role. Raises InvalidArgument (reason INVALID_ROLE)."""
        try:
            return cls(text)
        except ValueError:
            raise InvalidArgument(
                f"unknown role {text[:80]!r}", reason="INVALID_ROLE", hint=f"choose {', '.join(cls)}"
            ) from None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client certificate belongs to. `serial` is lower-case hex; `not_after` is aware, in UTC."""

    name: str
    role: Role
    serial: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Description:
    """What a certificate says, for people. `kind` is ca, host, user or other; times are aware, in UTC."""

    kind: str
    name: str
    role: str
    subject: str
    issuer: str
    serial: str
    sans: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    fingerprint: str
    """SHA-256 of the certificate's DER form, lower-case hex."""

    def lines(self) -> list[str]:
        """One `key: value` line for each thing that is there to say."""
        pairs = (
            ("kind", self.kind),
            ("subject", self.subject),
            ("role", self.role),
            ("names", ", ".join(self.sans)),
            ("issuer", self.issuer),
            ("serial", self.serial),
            ("valid from", f"{self.not_before:%Y-%m-%d %H:%M} UTC"),
            ("valid until", f"{self.not_after:%Y-%m-%d %H:%M} UTC"),
            ("sha256", self.fingerprint),
        )
        return [f"{key}: {value}" for key, value in pairs if value]


def identity_from_pem(pem: bytes) -> Identity:
    """Who the client with this certificate is, and its role. TLS has verified the chain and the dates before.

    Strict, since it decides what a caller may do: exactly one name, exactly one organization `shoal`, exactly one
    organizational unit and that a known role, and the client's extended key usage. Raises Unauthenticated (reason
    INVALID_CERTIFICATE) otherwise.
    """
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    try:
        certificate = load_certificate(pem)
        (name,) = _values(certificate.subject, NameOID.COMMON_NAME)
        (organization,) = _values(certificate.subject, NameOID.ORGANIZATION_NAME)
        (unit,) = _values(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)
        usages = extended_usages(certificate)
    except (ValueError, InvalidArgument) as error:
        raise _refused("the client certificate does not name one user with one role") from error
    if organization != ORGANIZATION or not unit.startswith(ROLE_PREFIX):
        raise _refused("the client certificate carries no role of shoal")
    if not (name.isprintable() and name.strip()):
        raise _refused("the client certificate's name is empty or unprintable")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages or is_ca(certificate):
        raise _refused("the certificate is not one of a user: it is not made for TLS clients")
    try:
        role = Role.parse(unit.removeprefix(ROLE_PREFIX))
    except InvalidArgument as error:
        raise _refused(f"the client certificate carries an {error.message}") from error
    return Identity(name, role, f"{certificate.serial_number:x}", certificate.not_valid_after_utc)


def describe(pem: bytes) -> Description:
    """What the first certificate in `pem` says. Raises InvalidArgument (reason INVALID_CERTIFICATE)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    certificate = load_certificate(pem)
    names = _values(certificate.subject, NameOID.COMMON_NAME)
    units = _values(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)
    roles = [unit.removeprefix(ROLE_PREFIX) for unit in units if unit.startswith(ROLE_PREFIX)]
    return Description(
        kind=_kind(certificate),
        name=names[0] if names else "",
        role=", ".join(roles),
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        serial=f"{certificate.serial_number:x}",
        sans=tuple(subject_names(certificate)),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def load_certificate(pem: bytes) -> x509.Certificate:
    """Parse the first certificate of a PEM text. Raises InvalidArgument (reason INVALID_CERTIFICATE)."""
    from cryptography import x509

    if len(pem) > _MAX_PEM:
        raise _unreadable(f"the certificate has {len(pem)} bytes")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        _ = (certificate.subject, certificate.issuer, certificate.extensions)  # parsed lazily: broken ones fail here
    except (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise _unreadable(f"not a certificate in PEM form: {error}") from error
    return certificate


def extended_usages(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    """The extended key usages; empty when the certificate does not restrict itself."""
    from cryptography import x509

    try:
        return frozenset(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return frozenset()


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether the certificate may sign others."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def subject_names(certificate: x509.Certificate) -> list[str]:
    """The DNS names and IP addresses that the certificate is good for."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _kind(certificate: x509.Certificate) -> str:
    from cryptography.x509.oid import ExtendedKeyUsageOID

    usages = extended_usages(certificate)
    if is_ca(certificate):
        return "ca"
    if usages == {ExtendedKeyUsageOID.SERVER_AUTH}:
        return "host"
    return "user" if usages == {ExtendedKeyUsageOID.CLIENT_AUTH} else "other"


def _values(name: x509.Name, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in name.get_attributes_for_oid(oid)]


def _refused(message: str) -> Unauthenticated:
    return Unauthenticated(
        message, reason="INVALID_CERTIFICATE", hint="`shoal pki issue` makes a user certificate with a role"
    )


def _unreadable(message: str) -> InvalidArgument:
    return InvalidArgument(
        message, reason="INVALID_CERTIFICATE", hint="a PEM file begins with -----BEGIN CERTIFICATE-----"
    )
