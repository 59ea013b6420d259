"""The gRPC server of the daemon: services, gate, listeners, and a graceful end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import structlog

from shoal.errors import FailedPrecondition
from shoal.v1 import (
    container_pb2,
    container_pb2_grpc,
    file_pb2,
    file_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    network_pb2,
    network_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
    volume_pb2,
    volume_pb2_grpc,
)
from shoald.api.authz import Authorizer, DenyList
from shoald.api.containers import ContainerService
from shoald.api.files import FileService
from shoald.api.gate import Gate, Observer
from shoald.api.images import ImageService
from shoald.api.listeners import check_address, private_socket
from shoald.api.networks import NetworkService
from shoald.api.standard import Health, add_reflection
from shoald.api.system import SystemService
from shoald.api.tls import Certificates
from shoald.api.volumes import VolumeService
from shoald.config import Config, Limits
from shoald.config_check import split_address
from shoald.engine.ports import Engine

SERVICES = tuple(
    descriptor.services_by_name[name].full_name
    for descriptor, name in (
        (image_pb2.DESCRIPTOR, "ImageService"),
        (container_pb2.DESCRIPTOR, "ContainerService"),
        (volume_pb2.DESCRIPTOR, "VolumeService"),
        (file_pb2.DESCRIPTOR, "FileService"),
        (network_pb2.DESCRIPTOR, "NetworkService"),
        (system_pb2.DESCRIPTOR, "SystemService"),
    )
)

_UNARY_GRACE_S = 5.0
"""How long a short call may still take when the daemon stops."""
_LAST_GRACE_S = 2.0

log = structlog.get_logger("shoald.api")


class ApiServer:
    """Start, reload, stop. Containers and operations belong to the engine: nothing of them ends here."""

    def __init__(self, config: Config, engine: Engine, observer: Observer) -> None:
        """Raises InvalidArgument, FailedPrecondition for certificates and deny lists that can't be used."""
        self._config = config
        self._certificates = Certificates(config.tls) if config.listen else None
        authorizer = Authorizer(DenyList(config.tls.deny_list))
        self._gate = Gate(authorizer, observer, config.limits.max_calls)
        self._server = grpc.aio.server(interceptors=[self._gate], options=options(config.limits))
        image_pb2_grpc.add_ImageServiceServicer_to_server(ImageService(engine), self._server)
        container_pb2_grpc.add_ContainerServiceServicer_to_server(ContainerService(engine), self._server)
        file_pb2_grpc.add_FileServiceServicer_to_server(FileService(engine), self._server)
        volume_pb2_grpc.add_VolumeServiceServicer_to_server(VolumeService(engine), self._server)
        network_pb2_grpc.add_NetworkServiceServicer_to_server(NetworkService(engine), self._server)
        system_pb2_grpc.add_SystemServiceServicer_to_server(SystemService(engine), self._server)
        self._health = Health(self._server, SERVICES)
        add_reflection(self._server, SERVICES)
        self._socket: Path | None = None
        self.ports: list[int] = []
        """The TCP ports in use, in the order of `config.listen`."""

    @property
    def active_calls(self) -> int:
        """Calls that are being served."""
        return self._gate.active

    async def start(self) -> None:
        """Bind everything, then serve. Raises AlreadyExists (PORT_IN_USE, ALREADY_RUNNING) and others of listeners."""
        if self._certificates is not None:
            credentials = self._certificates.credentials()
            for address in self._config.listen:
                self.ports.append(self._bind(address, credentials))
        path = self._config.socket_path
        if path is not None:
            with private_socket(path):
                self._server.add_insecure_port(f"unix:{path}")
            self._socket = path
        await self._server.start()
        await self._health.serving()

    async def stop(self) -> None:
        """Take no more calls; give short ones a few seconds; end streams with UNAVAILABLE (reason SHUTTING_DOWN)."""
        await self._health.stopping()
        self._gate.drain(streams_only=True)
        stopping = asyncio.ensure_future(self._server.stop(_UNARY_GRACE_S + _LAST_GRACE_S))
        done, _ = await asyncio.wait([stopping], timeout=_UNARY_GRACE_S)
        if not done:
            self._gate.drain()
        await stopping
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    def _bind(self, address: str, credentials: grpc.ServerCredentials) -> int:
        check_address(address)
        host, port = split_address(address)
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            return self._server.add_secure_port(target, credentials)
        except RuntimeError as error:
            raise FailedPrecondition(f"can't listen on {address}: {error}", reason="LISTEN_FAILED") from error


def options(limits: Limits) -> list[tuple[str, int]]:
    """gRPC's channel arguments: limits against floods, and keepalive that clients with 20 s may use."""
    return [
        ("grpc.max_concurrent_streams", limits.max_streams),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_metadata_size", 8 << 10),
        ("grpc.absolute_max_metadata_size", 16 << 10),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 4),
        # Whoever connects and says nothing is not waited for; the default is two minutes.
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Without this, two daemons share a port and clients reach either.
        ("grpc.so_reuseport", 0),
    ]


def check_credentials(config: Config) -> None:
    """Whether certificates and deny list can be used. Raises FailedPrecondition (TLS_UNUSABLE...), InvalidArgument."""
    DenyList(config.tls.deny_list)
    if config.listen:
        Certificates(config.tls)
