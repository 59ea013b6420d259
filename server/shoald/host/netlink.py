"""The rtnetlink wire format (RFC 3549, linux/rtnetlink.h) and a blocking socket that speaks it.

Encoding and parsing are pure functions; `NetlinkSocket` sends several requests in one system call and collects their
answers. What the messages mean is in `shoald.host.links`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shoal.errors import ShoalError
from shoald.host import syscall
from shoald.host.syscall import failure

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

NLM_F_REQUEST, NLM_F_ACK = 0x01, 0x04
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP = 0x300
_NLM_F_DUMP_INTR, _NLM_F_ACK_TLVS = 0x10, 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3

_SOL_NETLINK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 11, 12
_NLMSGERR_ATTR_MSG = 1
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE = 1 << 18
_TIMEOUT_SECONDS = 10
_DUMP_TRIES = 10


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute (nlattr): length, type, value, padded to 4 bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def u8(kind: int, value: int) -> bytes:
    """An attribute that holds one byte."""
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    """An attribute that holds a 32-bit number in the host's order."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def attributes(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, value) pairs of a run of attributes; a malformed tail ends it."""
    offset = 0
    while offset + 4 <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4 or offset + length > len(payload):
            return
        yield kind & _NLA_TYPE_MASK, payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3


@dataclass(frozen=True, slots=True)
class Request:
    """One message to the kernel; `what` and `tolerated` (errnos that are no error) are for the caller's sake."""

    kind: int
    flags: int
    payload: bytes
    what: str
    tolerated: frozenset[int] = frozenset()

    def encode(self, sequence: int) -> bytes:
        """The message with its header, padded to 4 bytes; an acknowledgement is always asked for."""
        flags = self.flags | NLM_F_REQUEST | NLM_F_ACK
        length = _HEADER.size + len(self.payload)
        padding = b"\0" * (-length % 4)
        return _HEADER.pack(length, self.kind, flags, sequence, 0) + self.payload + padding


@dataclass(frozen=True, slots=True)
class Message:
    """One message from the kernel."""

    kind: int
    flags: int
    sequence: int
    payload: bytes


def parse(data: bytes) -> Iterator[Message]:
    """The messages of one datagram; a malformed tail ends it."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        yield Message(kind, flags, sequence, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def _error_of(message: Message) -> tuple[int, str]:
    """(errno or 0, the kernel's explanation) of an NLMSG_ERROR or NLMSG_DONE message."""
    if len(message.payload) < 4:
        return 0, ""
    code = -struct.unpack_from("=i", message.payload)[0]
    explanation = ""
    if message.flags & _NLM_F_ACK_TLVS and message.kind == _NLMSG_ERROR:
        # The payload: error, the header of the request (the request in full unless NLM_F_CAPPED, 0x100), attributes.
        echoed = _HEADER.size
        if not message.flags & 0x100:
            (echoed,) = struct.unpack_from("=I", message.payload, 4)
        for kind, value in attributes(message.payload[4 + ((echoed + 3) & ~3) :]):
            if kind == _NLMSGERR_ATTR_MSG:
                explanation = value.rstrip(b"\0").decode(errors="replace")
    return code, explanation


class NetlinkSocket:
    """A blocking rtnetlink socket of one network namespace; a context manager; for one thread at a time.

    `netns` is a descriptor of a network namespace (open /proc/PID/ns/net); without it the daemon's own is meant.
    """

    def __init__(self, netns: int | None = None) -> None:
        self._socket = _open() if netns is None else _open_inside(netns)
        self._sequence = 0

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; safe to repeat."""
        self._socket.close()

    def send(self, requests: Sequence[Request]) -> list[list[Message]]:
        """Send all requests in one datagram; the messages that answer each of them.

        The kernel handles all of them in order even when one fails; the first failure that is not tolerated is raised
        (see `shoald.host.syscall.failure`) with the kernel's explanation, after all answers are in.
        """
        if not requests:
            return []
        first = self._sequence + 1
        self._sequence += len(requests)
        datagram = b"".join(request.encode(first + number) for number, request in enumerate(requests))
        answers: list[list[Message]] = [[] for _ in requests]
        failures: dict[int, ShoalError] = {}
        pending = set(range(len(requests)))
        try:
            self._socket.send(datagram)
            while pending:
                for message in parse(self._socket.recv(_RECEIVE)):
                    number = message.sequence - first
                    if number not in pending:
                        continue
                    if message.kind not in (_NLMSG_ERROR, _NLMSG_DONE):
                        answers[number].append(message)
                        continue
                    pending.discard(number)
                    code, explanation = _error_of(message)
                    if code and code not in requests[number].tolerated:
                        failures[number] = failure(requests[number].what, code, detail=explanation)
        except OSError as error:
            raise failure("talk to rtnetlink", error.errno or errno.ETIMEDOUT) from error
        if failures:
            raise failures[min(failures)]
        return answers

    def dump(self, kind: int, payload: bytes, what: str) -> list[Message]:
        """All objects of a kind (RTM_GETLINK...). Asked again when the table changed while the kernel listed it."""
        answer: list[Message] = []
        for _ in range(_DUMP_TRIES):
            (answer,) = self.send([Request(kind, NLM_F_DUMP, payload, what)])
            if not any(message.flags & _NLM_F_DUMP_INTR for message in answer):
                break
        return answer


def _open() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError as error:
        raise failure("open rtnetlink", error.errno or 0) from error
    for option in (_NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
        try:
            opened.setsockopt(_SOL_NETLINK, option, 1)
        except OSError:
            # Kernels before 4.12 and 4.20: no explanations, dumps unfiltered (the caller filters as well).
            continue
    opened.settimeout(_TIMEOUT_SECONDS)
    return opened


def _open_inside(netns: int) -> socket.socket:
    """Open the socket in a thread that enters the namespace and ends: a socket stays in the namespace of its birth.

    The thread is never reused, so no other work can ever run in the wrong namespace.
    """
    opened: list[socket.socket] = []
    failed: list[BaseException] = []

    def enter() -> None:
        try:
            syscall.setns(netns, syscall.CLONE_NEWNET)
            opened.append(_open())
        except OSError as error:
            failed.append(failure("enter network namespace", error.errno or 0))
        except ShoalError as error:
            failed.append(error)

    thread = threading.Thread(target=enter, name="setns", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return opened[0]


def open_netns(pid: int) -> int:
    """A descriptor (close-on-exec) of the network namespace of a process; the caller closes it. NotFound when gone."""
    path = f"/proc/{pid}/ns/net"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise failure("open network namespace", error.errno or 0, path=path) from error
