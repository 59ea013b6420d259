"""Signals of this process for the containers that it follows."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Protocol

from shoal.errors import ShoalError

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGBREAK")
_PATIENCE = 3


class Signalled(Protocol):
    """Where signals go: a host, or one exec of it."""

    @property
    def name(self) -> str:
        """The host's name."""

    async def kill(self, name: str, signal: str = "") -> None:
        """Send a signal to the container (or what it stands for)."""


class SignalForwarder:
    """While its `with` block lasts, signals go to the containers that were added, instead of ending the command.

    `gave_up` is set when more than three SIGINTs or SIGTERMs have not ended the containers.
    """

    def __init__(self) -> None:
        self.gave_up = asyncio.Event()
        self._targets: dict[str, tuple[Signalled, str]] = {}
        self._pressed = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._undo = ExitStack()

    def add(self, host: Signalled, name: str) -> None:
        """Forward to this container too."""
        self._targets[host.name] = (host, name)

    def __enter__(self) -> SignalForwarder:
        loop = asyncio.get_running_loop()
        for name in _FORWARDED:
            self._undo.callback(_on_signal(loop, name, lambda name=name: self._forward(name)))  # type: ignore[misc]
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()
        for task in self._sending:
            task.cancel()

    def _forward(self, name: str) -> None:
        if name in {"SIGINT", "SIGTERM"}:
            self._pressed += 1
            if self._pressed > _PATIENCE or not self._targets:
                self.gave_up.set()
                return
        for host, container in self._targets.values():
            task = asyncio.create_task(_kill(host, container, "SIGINT" if name == "SIGBREAK" else name))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)


async def _kill(host: Signalled, container: str, name: str) -> None:
    # A container that has just exited can't get the signal: its exit code is on the way.
    with suppress(ShoalError):
        await host.kill(container, name)


def _on_signal(loop: asyncio.AbstractEventLoop, name: str, callback: Callable[[], None]) -> Callable[[], None]:
    """Call back in the loop on this signal, where the system has it; returns what undoes it."""
    number: Any = getattr(signal, name, None)
    if number is None:
        return lambda: None
    old = signal.getsignal(number)
    try:
        loop.add_signal_handler(number, callback)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback))

    def undo() -> None:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(number)
        signal.signal(number, old)

    return undo
