"""Calls over the wire without shoal's client: what a daemon answers, status, reason and metadata included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from shoal.errors import DOMAIN
from shoal.v1 import container_pb2_grpc, image_pb2_grpc, system_pb2_grpc
from tests.support.daemon import Daemon, Fleet


@dataclass(frozen=True)
class Failure:
    """How a call failed: name of the gRPC status, and the ErrorInfo of its details."""

    code: str
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wire:
    """The services of a daemon as blocking stubs."""

    containers: Any
    images: Any
    system: Any

    def failure(self, call: Any, request: Any) -> Failure:
        """Make a call that must fail; streams are read to their end."""
        try:
            answer = call(request, timeout=60)
            if isinstance(answer, grpc.Call):
                for _ in answer:  # type: ignore[attr-defined]
                    pass
        except grpc.RpcError as error:
            return _failure(error)
        raise AssertionError(f"it went well: {answer}")


@contextmanager
def wire(fleet: Fleet, daemon: Daemon | None = None) -> Iterator[Wire]:
    """A connection as admin."""
    pki = fleet.directory / "pki"
    credentials = grpc.ssl_channel_credentials(
        *((pki / name).read_bytes() for name in ("ca.pem", "admin-key.pem", "admin.pem"))
    )
    with grpc.secure_channel((daemon or fleet.first).address, credentials) as channel:
        yield Wire(
            container_pb2_grpc.ContainerServiceStub(channel),
            image_pb2_grpc.ImageServiceStub(channel),
            system_pb2_grpc.SystemServiceStub(channel),
        )


def _failure(error: Any) -> Failure:
    code, message = error.code().name, error.details()
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                return Failure(code, message, info.reason, dict(info.metadata))
    return Failure(code, message)
