"""A container in the foreground of one host: streams, signals, terminal, exit code."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack, suppress

from shoalctl import exits
from shoalctl.commands.signals import SignalForwarder
from shoalctl.fleet.attach import Attachment
from shoalctl.fleet.host import HostClient
from shoalctl.render import console, terminal

_DETACH = b"\x10\x11"  # ctrl-p ctrl-q, as docker has it


class Foreground:
    """Follows a container of one host until it exits; `run` returns its exit code.

    Signals of this process go to the container. With `tty` keys and window sizes do too, and ctrl-p ctrl-q detaches.
    """

    def __init__(self, host: HostClient, name: str, *, stdin: bool, tty: bool) -> None:
        self._host = host
        self._name = name
        self._stdin = stdin
        self._tty = tty
        self._attachment = Attachment(host, name, stdin=stdin)
        self._detached = asyncio.Event()

    async def run(self) -> int:
        """The container's exit code; 0 after a detach. Raises the ShoalError that ends the connection."""
        with ExitStack() as stack:
            loop = asyncio.get_running_loop()
            signals = stack.enter_context(SignalForwarder())
            signals.add(self._host, self._name)
            if self._tty:
                self._attachment.resize(*terminal.window())
                stack.callback(terminal.on_resize(loop, lambda: self._attachment.resize(*terminal.window())))
                if self._stdin:
                    stack.enter_context(terminal.raw_mode())
            if self._stdin:
                threading.Thread(target=self._read, args=(loop,), daemon=True).start()
            return await self._follow(signals)

    async def _follow(self, signals: SignalForwarder) -> int:
        printing = asyncio.create_task(self._print())
        leaving = asyncio.create_task(self._detached.wait())
        giving_up = asyncio.create_task(signals.gave_up.wait())
        try:
            await asyncio.wait({printing, leaving, giving_up}, return_when=asyncio.FIRST_COMPLETED)
            if not printing.done():
                return exits.INTERRUPTED if giving_up.done() else exits.OK
            await printing
            code = self._attachment.exit_code
            return exits.FAILED if code is None else code
        finally:
            for task in (printing, leaving, giving_up):
                task.cancel()
            await asyncio.gather(printing, leaving, giving_up, return_exceptions=True)

    async def _print(self) -> None:
        async for record in self._attachment.output():
            console.raw(record.data, error=record.stream == record.STREAM_STDERR)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread that reads standard input. It may be left blocked in its read when the command ends."""
        held = b""
        with suppress(RuntimeError, OSError):  # the loop is closed: nobody wants the input any more
            while data := terminal.read_input():
                data = held + data
                if self._tty and _DETACH in data:
                    loop.call_soon_threadsafe(self._detached.set)
                    return
                held = b""
                if self._tty and data.endswith(_DETACH[:1]):
                    data, held = data[:-1], data[-1:]
                if data:
                    asyncio.run_coroutine_threadsafe(self._attachment.send(data), loop).result()
            asyncio.run_coroutine_threadsafe(self._attachment.end_input(), loop).result()
