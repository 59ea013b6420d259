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
            connection, (address, *_) = server.accept()
            with connection:
                connection.sendall(f"{NAME} {address.removeprefix('::ffff:')}".encode())


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


def resolve(server: str, host: str, kind: int = 1) -> list[str]:
    """Addresses (kind 1: IPv4, 28: IPv6) that a name server gives for a host; a word for what goes wrong."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in host.split(".")) + b"\0"
    query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + question + struct.pack("!HH", kind, 1)
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((server, 53))
        try:
            client.send(query)
            answer = client.recv(4096)
        except OSError as error:
            return [f"error: {error}"]
    if code := answer[3] & 15:
        return [f"code {code}"]
    found, at = [], 12 + len(question) + 4
    for _ in range(struct.unpack_from("!H", answer, 6)[0]):
        while answer[at] & 0xC0 != 0xC0 and answer[at]:
            at += answer[at] + 1
        at += 2 if answer[at] else 1
        family, _, _, size = struct.unpack_from("!HHIH", answer, at)
        if family == kind:
            version = socket.AF_INET if kind == 1 else socket.AF_INET6
            found.append(socket.inet_ntop(version, answer[at + 10 : at + 10 + size]))
        at += 10 + size
    return sorted(found)


def interfaces() -> dict[str, str]:
    """Name -> gateway of the default route through it, or ""."""
    with open("/proc/net/route") as file:
        lines = [line.split() for line in file][1:]
    ways = {line[0]: socket.inet_ntoa(struct.pack("=I", int(line[2], 16))) for line in lines if line[1] == "00000000"}
    return {name: ways.get(name, "") for _, name in socket.if_nameindex() if name.startswith("eth")}


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
    both = socket.create_server(("", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=serve_tcp, args=[both], daemon=True).start()
    calls: dict[str, Any] = {
        "connect": connect,
        "send": send,
        "frame": frame,
        "seen": lambda: list(seen),
        "resolve": resolve,
        "interfaces": interfaces,
    }
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        call, arguments = json.loads(line)
        print(json.dumps(calls[call](**arguments)), flush=True)


if __name__ == "__main__":
    main()
