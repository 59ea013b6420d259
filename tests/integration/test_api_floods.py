"""Floods below gRPC: resets, headers, silence. Memory stays bounded and others are served (CVE-2023-44487)."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from shoal.pki import Role
from shoal.v1 import system_pb2
from shoal.v1.system_pb2_grpc import SystemServiceStub
from tests.integration.test_daemon import Process, daemon
from tests.support.api_server import Fleet, credentials
from tests.support.docker_registry import free_port

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_HEADERS = 4
GROWTH_KIB = 30 * 1024


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header without indexing, as HPACK (RFC 7541, 6.2.2) has it; both texts shorter than 127 bytes."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = b"".join(
    _literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/shoal.v1.SystemService/Events"),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)


def _resident_kib(process: Process) -> int:
    (kib,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.child.pid}/status").read_text())
    return int(kib)


def _send(connection: socket.socket, data: bytes) -> bool:
    """False once the daemon has closed the connection: as good an answer as any."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    with daemon(tmp_path, "--log-level", "warning") as started:
        path = tmp_path / "run/api/shoald.sock"
        for _ in range(600):
            if path.exists():
                break
            assert started.child.poll() is None
            asyncio.run(asyncio.sleep(0.05))
        yield started


def _connect(tmp_path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(tmp_path / "run/api/shoald.sock"))
    connection.settimeout(20)
    connection.sendall(PREFACE + _frame(SETTINGS, 0, 0))
    return connection


def _drain(connection: socket.socket) -> None:
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            pass
    except OSError:
        pass
    connection.settimeout(20)


async def _served(tmp_path: Path) -> None:
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/run/api/shoald.sock") as channel:
        await SystemServiceStub(channel).Ping(system_pb2.SystemServicePingRequest(), timeout=20)


async def test_streams_that_are_opened_and_reset_at_once(tmp_path: Path, process: Process) -> None:
    await _served(tmp_path)
    before = _resident_kib(process)
    for _ in range(5):
        with _connect(tmp_path) as connection:
            for at in range(1, 8001, 2):
                flood = _frame(HEADERS, END_HEADERS, at, HEAD) + _frame(RST_STREAM, 0, at, struct.pack(">I", 8))
                if not _send(connection, flood):
                    break
                if at % 201 == 0:
                    _drain(connection)
        await _served(tmp_path)
    assert _resident_kib(process) - before < GROWTH_KIB


async def _falls_below(process: Process, kib: int) -> bool:
    """Whether resident memory comes under `kib` within 20 s: gRPC frees what a connection held, but not at once."""
    for _ in range(200):
        if _resident_kib(process) < kib:
            return True
        await asyncio.sleep(0.1)
    return False


async def test_headers_without_end(tmp_path: Path, process: Process) -> None:
    """While headers flow, gRPC holds some at times (measured: 60 to 600 MiB of 1.6 GiB); then it lets them go."""
    await _served(tmp_path)
    before = _resident_kib(process)
    piece = _literal(b"x-filler", b"y" * 100) * 100
    for _ in range(4):
        with _connect(tmp_path) as connection:
            alive = _send(connection, _frame(HEADERS, 0, 1, HEAD))
            for _ in range(20_000):  # 220 MiB
                alive = alive and _send(connection, _frame(CONTINUATION, 0, 1, piece))
                _drain(connection)
                if not alive:
                    break
            await _served(tmp_path)
        assert await _falls_below(process, before + 100 * 1024)


async def test_pings_and_settings_in_masses(tmp_path: Path, process: Process) -> None:
    await _served(tmp_path)
    before = _resident_kib(process)
    with _connect(tmp_path) as connection:
        for _ in range(20_000):
            if not _send(connection, _frame(PING, 0, 0, bytes(8)) + _frame(SETTINGS, 0, 0)):
                break  # nobody reads the answers: the daemon must not pile them up
        await _served(tmp_path)
    assert _resident_kib(process) - before < GROWTH_KIB


async def test_more_streams_than_a_connection_may_have(tmp_path: Path, process: Process) -> None:
    with _connect(tmp_path) as connection:
        for at in range(1, 20_001, 2):
            message = _frame(HEADERS, END_HEADERS, at, HEAD) + _frame(DATA, 0, at, bytes(5))
            if not _send(connection, message):
                break
            if at % 501 == 0:
                _drain(connection)
        await _served(tmp_path)


async def test_connections_that_say_nothing_do_not_keep_others_out(tmp_path: Path) -> None:
    fleet, port = Fleet.make(tmp_path), free_port()
    flags = [
        f"--tls-cert={tmp_path / 'host.pem'}",
        f"--tls-key={tmp_path / 'host.key'}",
        f"--tls-ca={tmp_path / 'ca.pem'}",
    ]
    with daemon(tmp_path, *flags, f"--listen=127.0.0.1:{port}") as process, ExitStack() as stack:
        process.wait_for("ready")
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
        trust = credentials(fleet.ca.cert_pem, fleet.user("ada", Role.READER))
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trust) as channel:
            await SystemServiceStub(channel).Ping(system_pb2.SystemServicePingRequest(), timeout=20)
        # They are hung up on after the handshake's time is over (10 s), not after the default of two minutes.
        silent[0].settimeout(30)
        assert await asyncio.to_thread(silent[0].recv, 100) == b""
