"""Notice of changes in nftables, from the kernel (nfnetlink, linux/netfilter/nfnetlink.h and nf_tables.h)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import AsyncIterator, Iterator

_NETLINK_NETFILTER, _NFNLGRP_NFTABLES = 12, 7
_NFT_SUBSYSTEM = 10
_WATCHED = {(_NFT_SUBSYSTEM << 8) | message for message in (2, 3, 5, 8, 11, 14)}
"""NFT_MSG_DELTABLE, NEWCHAIN, DELCHAIN, DELRULE, DELSET and DELSETELEM: rules of ours may be gone, or a chain may have
come that drops what is forwarded."""
_BUFFER = 1 << 18
SETTLE_S = 0.05
"""Changes come in swarms (a firewall's restart): they are answered once."""


async def changes() -> AsyncIterator[None]:
    """One item for each swarm of changes that may concern other tables, without end. Never raises for lost messages."""
    loop = asyncio.get_running_loop()
    with _notifications() as notifications:
        while True:
            try:
                data = await loop.sock_recv(notifications, _BUFFER)
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # the kernel dropped messages: any may have been of interest
                    raise
                data = None
            if data is not None and not concerns(data):
                continue
            await asyncio.sleep(SETTLE_S)
            with contextlib.suppress(BlockingIOError):
                while True:
                    with contextlib.suppress(_Overrun):
                        _drain(notifications)
            yield


class _Overrun(Exception):
    """Messages were dropped."""


def _drain(notifications: socket.socket) -> None:
    try:
        while notifications.recv(_BUFFER):
            pass
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            raise _Overrun from error
        raise


@contextlib.contextmanager
def _notifications() -> Iterator[socket.socket]:
    notifications = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        notifications.setblocking(False)
        notifications.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
        yield notifications
    finally:
        notifications.close()


def concerns(data: bytes) -> bool:
    """Whether any message of a datagram is of a kind that is watched (struct nlmsghdr: length, type...); pure."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if kind in _WATCHED:
            return True
        if length < 16:
            break
        offset += (length + 3) & ~3
    return False
