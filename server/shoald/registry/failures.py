"""From what a registry answers, or fails to, to errors that say what happened and what to do."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import ssl
from collections.abc import Iterable, Mapping

import aiohttp
import msgspec

from shoal.errors import (
    DataLoss,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ShoalError,
    Unauthenticated,
    Unavailable,
)

MAX_ERROR_BYTES = 64 * 1024
"""How much of an error's body is read."""
_MAX_MESSAGE = 300
_HEADER = re.compile(r"\b(basic|bearer)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
RETRIED = frozenset({408, 429, 500, 502, 503, 504})


class Lost(Exception):
    """A connection that failed in a way that another try may cure; `error` is what to raise when none does."""

    def __init__(self, error: ShoalError) -> None:
        super().__init__(error.message)
        self.error = error


class _Entry(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct, frozen=True):
    errors: list[_Entry] | None = None
    details: str = ""
    """What token servers say instead."""


class Answer(msgspec.Struct, frozen=True):
    """An answer that was not the hoped-for one: status, the registry's error code if it gave one, and its message."""

    status: int
    code: str = ""
    message: str = ""
    retry_after: float | None = None
    """Seconds."""


def read_answer(status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str] = ()) -> Answer:
    """Understand an error response (distribution-spec, "Error Codes"); `secrets` are blotted out of its message."""
    code = message = ""
    try:
        parsed = msgspec.json.decode(body, type=_Errors)
        if parsed.errors:
            code, message = parsed.errors[0].code, parsed.errors[0].message
        else:
            message = parsed.details
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    for secret in secrets:
        message = message.replace(secret, "***")
    message = _HEADER.sub(r"\1 ***", message)
    message = "".join(c if c.isprintable() else " " for c in message[:_MAX_MESSAGE]).strip()
    return Answer(status, code[:64].upper(), message, _retry_after(headers.get("Retry-After", "")))


def _retry_after(text: str) -> float | None:
    """Seconds; a date (which registries do not send) counts as nothing said."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def to_error(answer: Answer, registry: str, what: str, missing: ShoalError | None = None) -> ShoalError:
    """The error that an answer means. `what` names the object and action; `missing` is raised for a 404."""
    said = f": {answer.message}" if answer.message else ""
    place = {"registry": registry, "status": str(answer.status)}
    match answer.status, answer.code:
        case (401, _) | (_, "UNAUTHORIZED"):
            return Unauthenticated(
                f"{what}: registry {registry} wants other credentials{said}",
                reason="REGISTRY_AUTH",
                hint="the repository may not exist, or need a login: give a user name and a password for this registry",
                metadata=place,
            )
        case (403, _) | (_, "DENIED"):
            return PermissionDenied(
                f"{what}: registry {registry} denied access{said}",
                reason="REGISTRY_DENIED",
                hint="check that the repository exists and that this user may use it",
                metadata=place,
            )
        case (429, _) | (_, "TOOMANYREQUESTS"):
            return ResourceExhausted(
                f"{what}: registry {registry} says that there are too many requests{said}",
                reason="REGISTRY_RATE_LIMIT",
                hint="wait, or log in: limits are often higher for known users",
                metadata=place,
            )
        case (_, "DIGEST_INVALID"):
            return DataLoss(f"{what}: registry {registry} found another digest{said}", reason="DIGEST_MISMATCH")
        case (_, "SIZE_INVALID"):
            return DataLoss(f"{what}: registry {registry} found another size{said}", reason="SIZE_MISMATCH")
        case (404, _) | (_, "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "BLOB_UNKNOWN"):
            return missing or NotFound(f"{what}: not found on {registry}{said}", reason="NOT_FOUND", metadata=place)
        case (status, _) if status >= 500 or status in RETRIED:
            return Unavailable(
                f"{what}: registry {registry} failed with status {status}{said}",
                reason="REGISTRY_ERROR",
                hint="the registry has a problem; try again later",
                metadata=place,
            )
    return FailedPrecondition(
        f"{what}: registry {registry} refused with status {answer.status} {answer.code}".rstrip() + said,
        reason="REGISTRY_REFUSED",
        metadata=place,
    )


def from_exception(e: Exception, registry: str, host: str) -> ShoalError | Lost:
    """What a failed exchange with `host`, on behalf of `registry` (often the same), means: Lost if it may pass."""
    place = {"registry": registry, "host": host}
    if isinstance(e, aiohttp.ClientConnectorDNSError) or isinstance(e.__cause__, socket.gaierror):
        error = Unavailable(
            f"registry host {host} is unknown: its name does not resolve",
            reason="REGISTRY_UNREACHABLE",
            hint="check the spelling of the image's registry, and this host's DNS",
            metadata=place,
        )
        cause = e.__cause__ or getattr(e, "os_error", None)
        return Lost(error) if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN else error
    if isinstance(e, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return tls_error(e, host, place)
    if isinstance(e, TimeoutError | asyncio.TimeoutError):
        return Lost(_unreachable(f"registry host {host} did not answer in time", place))
    if isinstance(e, aiohttp.ClientConnectorError):
        return Lost(_unreachable(f"can't connect to registry host {host}: {e.os_error.strerror or e.os_error}", place))
    if isinstance(e, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | ConnectionError):
        return Lost(_unreachable(f"lost the connection to registry host {host}", place))
    return Unavailable(
        f"registry host {host} speaks bad HTTP: {type(e).__name__}", reason="REGISTRY_ERROR", metadata=place
    )


def tls_error(
    e: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError, host: str, place: dict[str, str]
) -> Unavailable:
    """A failed TLS handshake, told apart: a certificate that we don't trust, or no TLS at all."""
    cause = e.certificate_error if isinstance(e, aiohttp.ClientConnectorCertificateError) else e.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        text = f"certificate of registry host {host} is not valid: {cause.verify_message}"
        hint = "add the registry's CA file to the daemon's configuration, or renew the certificate"
    elif isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        text = f"registry host {host} answers https with something else, probably plain http"
        hint = "add it to insecure_registries in the daemon's configuration if plain http is what you want"
    else:
        text = f"TLS with registry host {host} failed: {getattr(cause, 'reason', None) or cause}"
        hint = "check the registry's certificate and TLS versions"
    return Unavailable(text, reason="REGISTRY_TLS", hint=hint, metadata=place)


def _unreachable(text: str, place: dict[str, str]) -> Unavailable:
    return Unavailable(
        text, reason="REGISTRY_UNREACHABLE", hint="check that the registry runs and can be reached", metadata=place
    )
