"""From a connection to a caller with a role, and from a role to a yes or no."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from shoal.errors import InvalidArgument, PermissionDenied, Unauthenticated
from shoal.pki import Identity, Role, identity_from_pem
from shoald.api.call import Caller, role_required
from shoald.api.roles import METHODS, Access

UNIX_CALLER = Caller("unix-socket", Role.ADMIN)

_CACHED_IDENTITIES = 1024
_MAX_DENY_LIST_BYTES = 4 << 20

log = structlog.get_logger("shoald.api")


class DenyList:
    """Serial numbers of certificates that are refused, from a file that is read again whenever it changes.

    A line that can't be read stops the daemon from starting; later, when somebody edits the file, it only is an error
    in the log, and whatever was denied before stays denied until the file is right again.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._serials: frozenset[str] = frozenset()
        if path is not None:
            self._seen = self._signature(path)
            self._serials, bad = parse_deny_list(self._read(path))
            if bad:
                raise InvalidArgument(
                    f"{path}: line {bad[0]} is not a serial number in hex",
                    reason="INVALID_CONFIG",
                    metadata={"key": "tls.deny_list"},
                )

    def __contains__(self, serial: str) -> bool:
        if self._path is not None:
            self._refresh(self._path)
        return serial in self._serials

    def _refresh(self, path: Path) -> None:
        try:
            signature = self._signature(path)
            if signature == self._seen:
                return
            self._seen = signature
            serials, bad = parse_deny_list(self._read(path))
        except InvalidArgument as error:
            if self._seen is not None:
                log.error("deny list is gone; its last content stays in force", error=error.message)
                self._seen = None
            return
        if bad:
            log.error("deny list has lines that are no serial numbers", path=str(path), lines=bad[:10])
            serials |= self._serials
        self._serials = serials
        log.info("deny list read", path=str(path), serials=len(serials))

    @staticmethod
    def _signature(path: Path) -> tuple[int, int, int]:
        try:
            info = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        return info.st_mtime_ns, info.st_size, info.st_ino

    @staticmethod
    def _read(path: Path) -> str:
        try:
            with path.open() as file:
                return file.read(_MAX_DENY_LIST_BYTES)
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(path, error) from error


def parse_deny_list(text: str) -> tuple[frozenset[str], list[int]]:
    """Serials in normal form (lower-case hex without leading zeros), and the 1-based lines that hold none."""
    serials, bad = set(), []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        digits = content.lower().replace(":", "").removeprefix("0x")
        if re.fullmatch(r"[0-9a-f]{1,64}", digits):
            serials.add(digits.lstrip("0") or "0")
        else:
            bad.append(number)
    return frozenset(serials), bad


class Authorizer:
    """Names callers and decides by METHODS."""

    def __init__(self, deny_list: DenyList, methods: Mapping[str, Access] = METHODS) -> None:
        self._deny_list = deny_list
        self._methods = methods
        self._identities: dict[bytes, Identity] = {}

    def access(self, method: str) -> Access | None:
        """The table's entry."""
        return self._methods.get(method)

    def identify(self, peer: str, auth_context: Mapping[str, Iterable[bytes]]) -> Caller:
        """Who is at the other end, from what gRPC's transport says (never from what the client claims).

        Raises Unauthenticated: NO_CERTIFICATE, INVALID_CERTIFICATE, CERTIFICATE_EXPIRED, CERTIFICATE_REVOKED.
        """
        certificates = list(auth_context.get("x509_pem_cert", ()))
        if not certificates:
            if peer.startswith("unix:"):
                return UNIX_CALLER
            raise Unauthenticated("no client certificate", reason="NO_CERTIFICATE", hint="`shoal pki issue` makes one")
        identity = self._identity(certificates[0])
        if identity.not_after <= datetime.now(UTC):
            # TLS looked at the dates when the connection began, which may be long ago.
            raise Unauthenticated(
                f"the certificate of {identity.name} expired on {identity.not_after:%Y-%m-%d %H:%M} UTC",
                reason="CERTIFICATE_EXPIRED",
                hint="renew it with `shoal pki issue`",
            )
        if identity.serial in self._deny_list:
            raise Unauthenticated(
                f"the certificate of {identity.name} (serial {identity.serial}) has been revoked",
                reason="CERTIFICATE_REVOKED",
                hint="ask the fleet's administrator for a new one",
            )
        return Caller(identity.name, identity.role, identity.serial)

    def authorize(self, caller: Caller, method: str) -> Access:
        """Raises PermissionDenied (ROLE_REQUIRED, or METHOD_NOT_ALLOWED for a method that the table does not know)."""
        access = self._methods.get(method)
        if access is None:
            raise PermissionDenied(f"{method} may be called by nobody", reason="METHOD_NOT_ALLOWED")
        if caller.role not in access.roles:
            needed = next((role for role in reversed(Role) if role in access.roles), Role.ADMIN)
            raise role_required(method.rpartition("/")[2], caller.role, needed)
        return access

    def _identity(self, pem: bytes) -> Identity:
        found = self._identities.get(pem)
        if found is None:
            found = identity_from_pem(pem)
            if len(self._identities) >= _CACHED_IDENTITIES:
                self._identities.pop(next(iter(self._identities)))
            self._identities[pem] = found
        return found


def auth_context(context: Any) -> Mapping[str, Iterable[bytes]]:
    """The transport's view of the peer; gRPC's own types leave it open."""
    return dict(context.auth_context())


def _unreadable(path: Path, error: Exception) -> InvalidArgument:
    return InvalidArgument(
        f"can't read the deny list {path}: {error}", reason="INVALID_CONFIG", metadata={"key": "tls.deny_list"}
    )
