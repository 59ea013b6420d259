"""Why TLS refused: gRPC reports a bad certificate as a mere UNAVAILABLE, so the client looks for the reason itself."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from shoal.errors import ShoalError
from shoal.pki.certificate import extended_usages, identity_from_pem, is_ca, load_certificate, subject_names

if TYPE_CHECKING:
    from cryptography import x509

Purpose = Literal["server", "client"]


def check_pair(
    cert_pem: bytes,
    ca_pem: bytes,
    *,
    purpose: Purpose,
    server_name: str | None = None,
    key_pem: bytes | None = None,
    now: datetime | None = None,
) -> list[str]:
    """What is wrong with a certificate in the eyes of a peer that trusts `ca_pem`: a sentence for each fault, or none.

    Looks at the dates, the issuer's signature (any CA of the bundle will do), the CA's own dates and rights, the key
    usage for `purpose`, the name `server_name` that a client dials, a user's role, and the private key if it is given.
    Never raises for a bad certificate: that it can't be read is then the fault.
    """
    moment = now or datetime.now(UTC)
    try:
        certificate = load_certificate(cert_pem)
    except ShoalError as error:
        return [f"The certificate can't be read: {error.message}."]
    faults = _dates(certificate, "The certificate", moment)
    faults += _issuer(certificate, ca_pem, moment)
    faults += _usage(certificate, purpose)
    if purpose == "client" and not faults:
        faults += _role(cert_pem)
    if server_name:
        faults += _name(certificate, server_name)
    if key_pem is not None:
        faults += _key(certificate, key_pem)
    return faults


def _dates(certificate: x509.Certificate, what: str, now: datetime) -> list[str]:
    if now > certificate.not_valid_after_utc:
        return [f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC."]
    if now < certificate.not_valid_before_utc:
        return [
            f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
            f"the clock here says {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
        ]
    return []


def _issuer(certificate: x509.Certificate, ca_pem: bytes, now: datetime) -> list[str]:
    from cryptography import x509

    try:
        authorities = x509.load_pem_x509_certificates(ca_pem)
    except ValueError as error:
        return [f"The CA's certificate can't be read: {error}."]
    for authority in authorities:
        if _signed_by(certificate, authority):
            faults = _dates(authority, "The CA's certificate", now)
            return faults if is_ca(authority) else [*faults, "The issuer's certificate is not one of a CA."]
    issuer = certificate.issuer.rfc4514_string()
    if certificate.issuer == certificate.subject:
        return [f"The certificate is self-signed ({issuer}), not issued by the fleet's CA."]
    trusted = " or ".join(authority.subject.rfc4514_string() for authority in authorities)
    if any(authority.subject == certificate.issuer for authority in authorities):
        return [
            f"The certificate was issued by another CA with the same name ({issuer}): the signature does not match."
        ]
    return [f"The certificate was issued by another CA ({issuer}), not by {trusted}."]


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _usage(certificate: x509.Certificate, purpose: Purpose) -> list[str]:
    from cryptography.x509.oid import ExtendedKeyUsageOID

    if is_ca(certificate):
        return ["The certificate is the one of a CA; hosts and users need their own."]
    wanted, good, bad = (
        (ExtendedKeyUsageOID.SERVER_AUTH, "a host", "a user")
        if purpose == "server"
        else (ExtendedKeyUsageOID.CLIENT_AUTH, "a user", "a host")
    )
    usages = extended_usages(certificate)
    if wanted in usages:
        return []
    if not usages:
        return [f"The certificate does not say that it is made for {good} (no extended key usage)."]
    return [f"The certificate is made for {bad}, not for {good} (wrong extended key usage)."]


def _role(cert_pem: bytes) -> list[str]:
    try:
        identity_from_pem(cert_pem)
    except ShoalError as error:
        return [error.message[0].upper() + error.message[1:] + "."]
    return []


def _name(certificate: x509.Certificate, server_name: str) -> list[str]:
    names = subject_names(certificate)
    wanted = server_name.removeprefix("[").removesuffix("]")
    if any(_matches(wanted, name) for name in names):
        return []
    return [f"The certificate is not for {server_name!r} but for {', '.join(names) or 'no name at all'}."]


def _matches(wanted: str, name: str) -> bool:
    try:
        return ipaddress.ip_address(wanted) == ipaddress.ip_address(name)
    except ValueError:
        pass
    wanted, name = wanted.lower().rstrip("."), name.lower()
    first, dot, rest = wanted.partition(".")
    return wanted == name or bool(first and dot and name == f"*.{rest}" and "." in rest)


def _key(certificate: x509.Certificate, key_pem: bytes) -> list[str]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        return [f"The private key can't be read: {error}."]
    if key.public_key() != certificate.public_key():
        return ["The private key does not belong to the certificate."]
    return []
