"""A real API server on a unix socket or with mutual TLS on loopback, over an engine that the test holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from msgspec.structs import replace

from shoal.pki import KeyPair, Role, create_ca, issue_host, issue_user
from shoald.api.server import ApiServer
from shoald.config import Config, Limits, Tls


@dataclass
class Counts:
    """An `Observer` that remembers."""

    active: int = 0
    finished_calls: list[tuple[str, str]] = field(default_factory=list)

    def started(self, method: str) -> None:
        self.active += 1

    def finished(self, method: str, code: str, seconds: float) -> None:
        self.active -= 1
        self.finished_calls.append((method, code))


@dataclass
class Running:
    """A server that serves."""

    server: ApiServer
    counts: Counts
    config: Config

    @property
    def socket(self) -> str:
        return f"unix:{self.config.socket_path}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.ports[0]}"


@dataclass(frozen=True)
class Fleet:
    """A CA and the files of one host."""

    ca: KeyPair
    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Fleet:
        fleet = cls(create_ca("test fleet"), directory)
        (directory / "ca.pem").write_bytes(fleet.ca.cert_pem)
        fleet.serve_as(issue_host(fleet.ca, "host", ["127.0.0.1", "localhost"]))
        return fleet

    def serve_as(self, pair: KeyPair) -> None:
        pair.save(self.directory / "host.pem", self.directory / "host.key", overwrite=True)

    def user(self, name: str, role: Role) -> KeyPair:
        return issue_user(self.ca, name, role)

    @property
    def tls(self) -> Tls:
        at = self.directory
        return Tls(cert=at / "host.pem", key=at / "host.key", ca=at / "ca.pem")


def credentials(ca_pem: bytes, pair: KeyPair | None) -> grpc.ChannelCredentials:
    if pair is None:
        return grpc.ssl_channel_credentials(ca_pem)
    return grpc.ssl_channel_credentials(ca_pem, pair.key_pem, pair.cert_pem)


@asynccontextmanager
async def serving(
    engine: Any, directory: Path, *, tls: Tls | None = None, limits: Limits | None = None
) -> AsyncIterator[Running]:
    """A server over `engine`; TLS on a free port when `tls` is given, a unix socket always."""
    config = Config(root=directory / "root", run_dir=directory / "run", metrics_listen="", limits=limits or Limits())
    if tls is not None:
        config = replace(config, tls=tls, listen=("127.0.0.1:0",))
    counts = Counts()
    server = ApiServer(config, engine, counts)
    try:
        await server.start()
        yield Running(server, counts, config)
    finally:
        await server.stop()


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo of a failed call."""
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info
