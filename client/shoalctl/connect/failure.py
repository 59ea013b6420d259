"""gRPC errors -> shoal.errors: the client's half of the translation (AIP-193, google.rpc.Status in the trailer)."""

from __future__ import annotations

from typing import Any

import grpc

from shoal.errors import DOMAIN, DeadlineExceeded, ShoalError, Unavailable, Unimplemented, from_code

_SHUTTING_DOWN = "SHUTTING_DOWN"
"""The daemon's reason for ending calls when it stops; the next one takes them up."""
_DETAILS = "grpc-status-details-bin"
_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_BROKEN = ("RST_STREAM", "Stream removed", "Socket closed", "GOAWAY", "Connection reset", "keepalive")


class LinkLost(Unavailable):
    """The connection failed, not the operation: the work on the host goes on, and a retry may follow it."""

    default_reason = "LINK_LOST"


def translated(error: grpc.aio.AioRpcError, timeout: float | None = None) -> ShoalError:
    """The error that the daemon raised, or what gRPC itself says about the link. `timeout`: the call's, in seconds."""
    info = _error_info(error.trailing_metadata())
    code = error.code()
    message = error.details() or code.name
    if info is not None and info.reason == _SHUTTING_DOWN:
        return LinkLost(message, metadata=dict(info.metadata))
    if info is not None:
        return from_code(code.name, message, reason=info.reason, metadata=dict(info.metadata))
    if code in _LOST or (code.name in {"INTERNAL", "UNKNOWN"} and any(word in message for word in _BROKEN)):
        return LinkLost(f"the connection was lost: {message}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        within = f" within {timeout:g} s" if timeout else ""
        return DeadlineExceeded(f"the host did not answer{within}", hint="it may be overloaded; try again")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Unimplemented(
            "the host's daemon does not know this call", hint="its version is older; update shoald there"
        )
    return from_code(code.name, message)


def _error_info(trailer: Any) -> Any | None:
    for key, value in trailer or ():
        if key == _DETAILS:
            return _unpacked(value)
    return None


def _unpacked(value: bytes) -> Any | None:
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status()
    try:
        status.ParseFromString(value)
    except DecodeError:
        return None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None
