"""Program: one machine on a network, steered by lines of JSON. `network_peer.py NAME`

It listens on TCP and UDP port 80 of every address, tells its name and the caller's address, remembers datagrams, and
connects or sends raw frames when told to.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from typing import Any

NAME = sys.argv[1] if len(sys.argv) > 1 else ""
PORT = 80
seen: list[str] = []


def serve_tcp(server: socket.socket) -> None:
    with server:
        while True:
            connection, (address, _) = server.accept()
            with connection:
                connection.sendall(f"{NAME} {address}".encode())


def serve_udp(server: socket.socket) -> None:
    with server:
        while True:
            data, address = server.recvfrom(2048)
            seen.append(data.decode())
            server.sendto(f"{NAME} {address[0]}".encode(), address)


def connect(host: str, port: int, timeout: float) -> str:
    try:
        with socket.create_connection((host, port), timeout) as connection:
            return connection.recv(100).decode()
    except OSError as error:
        return f"error: {error}"


def send(host: str, port: int, data: str, timeout: float, source_port: int = 0) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.bind(("", source_port))
        client.sendto(data.encode(), (host, port))
        try:
            return client.recv(100).decode()
        except OSError as error:
            return f"error: {error}"


def frame(interface: str, mac: str, source: str, target: str, port: int, data: str) -> str:
    """Send a UDP datagram whatever the routes say."""
    payload = data.encode()
    udp = struct.pack("!HHHH", 4242, port, 8 + len(payload), 0) + payload
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target),
    )  # fmt: skip
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        own = raw.getsockname()[4]
        raw.send(bytes.fromhex(mac.replace(":", "")) + own + b"\x08\x00" + header + udp)
    return "sent"


def checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def main() -> None:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("", PORT))
    threading.Thread(target=serve_udp, args=[datagrams], daemon=True).start()
    threading.Thread(target=serve_tcp, args=[socket.create_server(("", PORT))], daemon=True).start()
    calls: dict[str, Any] = {"connect": connect, "send": send, "frame": frame, "seen": lambda: list(seen)}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        call, arguments = json.loads(line)
        print(json.dumps(calls[call](**arguments)), flush=True)


if __name__ == "__main__":
    main()
