"""Secrets of clients: in memory until a container takes them, then on a tmpfs that only root can look into.

`<run_dir>/secrets/<container id>/<number of the mount>`. They stay there for later runs of the container, and are gone
with it and with a reboot of the host; they are on no disk (nor in swap, where the kernel can promise that: Linux 6.4).
"""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, ShoalError
from shoald.host.blocking import in_thread
from shoald.host.mounts import MountFlags, make_private, mount, mount_points
from shoald.host.syscall import translated
from shoald.host.trees import remove_tree

MAX_SECRET_BYTES = 512 << 10
HELD_S = 600.0
_MAX_HELD_BYTES = 64 << 20
_DEFAULT_MODE = 0o400
_MAX_MODE = 0o777
_OPTIONS = "size=256m,mode=0700"
_FLAGS = MountFlags.NOSUID | MountFlags.NODEV | MountFlags.NOEXEC


@dataclass(frozen=True, repr=False)
class _Held:
    value: bytes
    mode: int
    timer: asyncio.TimerHandle


class SecretVault:
    """Values by opaque handles, and by container."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, _Held] = {}

    async def prepare(self, known: Iterable[str]) -> None:
        """Mount the tmpfs unless an earlier daemon has; remove what belongs to no container of `known`."""
        await in_thread(self._mount)
        for stray in set(os.listdir(self._directory)) - set(known):
            await in_thread(functools.partial(remove_tree, self._directory / stray))

    def _mount(self) -> None:
        with translated("make directory", self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(point.path == self._directory.resolve() for point in mount_points(self._directory)):
            return
        try:
            mount("tmpfs", self._directory, "tmpfs", _FLAGS, f"{_OPTIONS},noswap")
        except ShoalError:
            mount("tmpfs", self._directory, "tmpfs", _FLAGS, _OPTIONS)
        make_private(self._directory)

    # --- values -----------------------------------------------------------------------------------------------------

    def hold(self, value: bytes, mode: int) -> str:
        """Keep a value for HELD_S; its handle. Raises InvalidArgument, ResourceExhausted (TOO_MANY_SECRETS)."""
        _check(value, mode)
        if sum(len(held.value) for held in self._held.values()) + len(value) > _MAX_HELD_BYTES:
            raise ResourceExhausted(
                "too many secrets wait for their containers", reason="TOO_MANY_SECRETS", hint="try again in ten minutes"
            )
        handle = secrets.token_hex(32)
        timer = asyncio.get_running_loop().call_later(HELD_S, self._held.pop, handle, None)
        self._held[handle] = _Held(value, mode, timer)
        return handle

    def check(self, handle: str) -> None:
        """Raises FailedPrecondition (SECRET_MISSING) for a handle that holds nothing (any more)."""
        if handle not in self._held:
            raise FailedPrecondition(
                "the secret is not here: it was taken already, or its ten minutes are over",
                reason="SECRET_MISSING",
                hint="send it again",
            )

    async def claim(self, handle: str, container_id: str, number: int) -> None:
        """The container takes the value. Raises FailedPrecondition (SECRET_MISSING)."""
        self.check(handle)
        held = self._held.pop(handle)
        held.timer.cancel()
        await self.give(container_id, number, held.value, held.mode)

    async def give(self, container_id: str, number: int, value: bytes, mode: int) -> None:
        """Put a value down for a container. Raises InvalidArgument, ResourceExhausted."""
        _check(value, mode)
        path = self._place(container_id, number)

        def work() -> None:
            with translated("keep secret"):
                path.parent.mkdir(mode=0o700, exist_ok=True)
                path.unlink(missing_ok=True)
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                with open(fd, "wb") as file:
                    file.write(value)
                path.chmod(mode or _DEFAULT_MODE)

        await in_thread(work)

    def deliver(self, container_id: str, number: int, uid: int, gid: int) -> Path:
        """The file for the container's mount, made the property of this owner (ids of the host). Raises
        FailedPrecondition (SECRET_LOST)."""
        path = self._place(container_id, number)
        try:
            with translated("hand over secret"):
                os.chown(path, uid, gid, follow_symlinks=False)
        except ShoalError as error:
            raise FailedPrecondition(
                "the container's secrets are gone: they do not outlive a reboot of the host",
                reason="SECRET_LOST",
                hint="give them again: shoal start --secret ...",
            ) from error
        return path

    async def forget(self, container_id: str) -> None:
        """The container is removed. Idempotent."""
        path = self._directory / container_id
        if path.exists():
            await in_thread(functools.partial(remove_tree, path))

    def close(self) -> None:
        """Forget what is held in memory; what containers have stays."""
        for held in self._held.values():
            held.timer.cancel()
        self._held.clear()

    def _place(self, container_id: str, number: int) -> Path:
        return self._directory / container_id / f"{number:04d}"


def _check(value: bytes, mode: int) -> None:
    if len(value) > MAX_SECRET_BYTES:
        raise InvalidArgument(
            f"the secret has {len(value)} bytes, more than {MAX_SECRET_BYTES}", reason="SECRET_TOO_LARGE"
        )
    if not 0 <= mode <= _MAX_MODE:
        raise InvalidArgument(f"the secret's mode {mode:o} is beyond 777", reason="INVALID_MODE")


__all__ = ["HELD_S", "MAX_SECRET_BYTES", "SecretVault"]
