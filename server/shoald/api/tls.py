"""Mutual TLS for listeners, with certificates that are read again when their files change."""

from __future__ import annotations

from pathlib import Path

import grpc
import structlog

from shoal.errors import FailedPrecondition, InvalidArgument, ShoalError
from shoal.pki import KeyPair, check_pair
from shoal.pki.keypair import read_pem
from shoald.config import Tls

log = structlog.get_logger("shoald.api")


class Certificates:
    """The daemon's certificate and the authority for its clients. `fetch` is called by gRPC's own threads."""

    def __init__(self, tls: Tls) -> None:
        """Raises FailedPrecondition (TLS_UNUSABLE) when the files can't serve, InvalidArgument without files."""
        if tls.cert is None or tls.key is None or tls.ca is None:
            raise InvalidArgument("a TCP listener needs tls.cert, tls.key and tls.ca", reason="INVALID_CONFIG")
        self._cert, self._key, self._ca = tls.cert, tls.key, tls.ca
        self._seen = self._signature()
        self._pem = self._load()

    def credentials(self) -> grpc.ServerCredentials:
        """For add_secure_port: a client without a certificate from our authority does not get past the handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self.fetch,  # type: ignore[arg-type]  # None is allowed: it keeps what there is
            require_client_authentication=True,
        )

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """New certificates when the files changed and hold good ones, else None: the old ones stay. Never raises."""
        try:
            seen = self._signature()
            if seen == self._seen:
                return None
            self._seen = seen
            self._pem = self._load()
        except (ShoalError, OSError) as error:
            log.error("new certificates can't be used; the old ones stay", error=str(error))
            return None
        log.info("certificates read again", cert=str(self._cert))
        return self._configuration()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        cert, key, ca = self._pem
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)

    def _load(self) -> tuple[bytes, bytes, bytes]:
        pair = KeyPair.load(self._cert, self._key)
        ca = read_pem(self._ca)
        # Clients refuse what is wrong here with no more than "unavailable": say it where the operator looks.
        faults = check_pair(pair.cert_pem, ca, purpose="server", key_pem=pair.key_pem)
        if faults:
            raise FailedPrecondition(
                f"{self._cert} can't serve: {' '.join(faults)}",
                reason="TLS_UNUSABLE",
                hint="`shoal pki issue host` makes a certificate for this host",
            )
        return pair.cert_pem, pair.key_pem, ca

    def _signature(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(_signature(path) for path in (self._cert, self._key, self._ca))


def _signature(path: Path) -> tuple[int, int, int]:
    try:
        info = path.stat()
    except FileNotFoundError:
        read_pem(path)  # raises with the remedy
        raise
    return info.st_mtime_ns, info.st_size, info.st_ino
