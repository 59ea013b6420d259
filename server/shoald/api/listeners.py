"""Addresses and sockets: what must be true before gRPC binds, and errors that name the remedy."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from shoald.config_check import split_address

_PRIVATE = 0o077


def check_address(address: str) -> None:
    """Bind and let go, to learn why a listener can't be had; gRPC itself only says that it failed.

    Raises AlreadyExists (PORT_IN_USE), InvalidArgument (BAD_LISTEN_ADDRESS), FailedPrecondition (LISTEN_FAILED).
    """
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InvalidArgument(f"can't listen on {address}: {error}", reason="BAD_LISTEN_ADDRESS") from error
    for family, kind, protocol, _, place in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(place)
                probe.listen(1)
            except OSError as error:
                raise _not_bound(address, error) from error


@contextmanager
def private_socket(path: Path) -> Iterator[None]:
    """Around gRPC's bind of a unix socket: its directory is 0700, a stale socket is gone, the new one is 0600.

    Raises FailedPrecondition (SOCKET_DIR_EXPOSED, SOCKET_UNUSABLE), AlreadyExists (ALREADY_RUNNING).
    """
    _private_directory(path.parent)
    _remove_stale(path)
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
    path.chmod(0o600)


def _private_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FailedPrecondition(f"can't make {directory}: {error.strerror}", reason="SOCKET_UNUSABLE") from error
    info = directory.stat()
    if info.st_uid != os.geteuid():
        raise FailedPrecondition(
            f"{directory} belongs to user {info.st_uid}: whoever owns it could take the socket's place",
            reason="SOCKET_DIR_EXPOSED",
            hint="choose a `socket` in a directory of the daemon's own user",
        )
    if stat.S_IMODE(info.st_mode) & _PRIVATE:
        raise FailedPrecondition(
            f"{directory}, the directory of the socket, is open to others (mode {stat.S_IMODE(info.st_mode):04o})",
            reason="SOCKET_DIR_EXPOSED",
            hint=f"chmod 700 {directory}, or choose a `socket` in a directory of its own",
        )


def _remove_stale(path: Path) -> None:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(info.st_mode):
        raise FailedPrecondition(f"{path} is there and is no socket", reason="SOCKET_UNUSABLE", hint="move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise FailedPrecondition(f"{path} can't be used: {error}", reason="SOCKET_UNUSABLE") from error
    raise AlreadyExists(
        f"another daemon listens on {path}", reason="ALREADY_RUNNING", hint="stop it, or choose another `run_dir`"
    )


def _not_bound(address: str, error: OSError) -> AlreadyExists | InvalidArgument | FailedPrecondition:
    if error.errno == errno.EADDRINUSE:
        return AlreadyExists(
            f"can't listen on {address}: another program has this port",
            reason="PORT_IN_USE",
            hint=f"`ss -ltnp sport = :{address.rpartition(':')[2]}` shows which; stop it or choose another port",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidArgument(
            f"can't listen on {address}: this host has no such address",
            reason="BAD_LISTEN_ADDRESS",
            hint="`ip address` shows those that it has; 0.0.0.0 and [::] stand for all",
        )
    return FailedPrecondition(f"can't listen on {address}: {error.strerror}", reason="LISTEN_FAILED")
