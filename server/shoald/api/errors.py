"""From exceptions to google.rpc.Status with details (AIP-193): what the wire carries when a call fails."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Mapping

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from shoal.errors import DOMAIN, Internal, ResourceExhausted, ShoalError

DETAILS_KEY = "grpc-status-details-bin"

# Peers take 8 KiB of metadata by default: message (twice, once percent-encoded), details and our own keys must fit.
_MESSAGE_CHARACTERS = 1000
_VALUE_CHARACTERS = 500
_DETAILS_BYTES = 4000

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def code_of(error: ShoalError) -> grpc.StatusCode:
    """The gRPC status code of an error."""
    return grpc.StatusCode[error.code]


def translate(error: Exception) -> ShoalError:
    """The error to send for any exception.

    What nobody foresaw becomes Internal with an id to find it in the log: its text stays there, it may hold anything.
    """
    if isinstance(error, ShoalError):
        return error
    if isinstance(error, OSError) and error.errno in _FULL:
        return ResourceExhausted(
            f"no space left on the host ({error.filename or 'disk full'})",
            reason="DISK_FULL",
            hint="free some space, for example with `shoal rmi`",
        )
    error_id = secrets.token_hex(6)
    return Internal(
        f"internal error {error_id}",
        hint=f"the daemon's log has the details: look for {error_id}",
        metadata={"error_id": error_id},
    )


def to_status(error: ShoalError) -> Status:
    """The status message of an error, cut to what fits into a trailer."""
    status = Status(code=code_of(error).value[0], message=cut(error.message, _MESSAGE_CHARACTERS))
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_fitting(error.metadata))
    packed = Any()
    packed.Pack(info)
    status.details.append(packed)
    return status


def cut(text: str, limit: int) -> str:
    """At most `limit` characters of a text, without what protobuf can't carry."""
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def _fitting(metadata: Mapping[str, str]) -> dict[str, str]:
    room, fitting = _DETAILS_BYTES, {}
    # A hint or a line number is short and worth more than a long command: the short ones first.
    for key, value in sorted(metadata.items(), key=lambda item: len(item[1])):
        shown = cut(value, _VALUE_CHARACTERS)
        room -= len(key.encode()) + len(shown.encode())
        if room < 0:
            break
        fitting[key] = shown
    return fitting
