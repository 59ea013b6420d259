"""A container in the foreground of one host: streams, signals, terminal, exit code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Container
from contextlib import ExitStack, suppress

from shoalctl import exits
from shoalctl.commands.signals import SignalForwarder
from shoalctl.flags.detach_keys import DEFAULT, KeyWatch, parse_detach_keys
from shoalctl.fleet.attach import Attachment
from shoalctl.fleet.host import HostClient
from shoalctl.render import console, terminal
from shoalctl.render.errors import show_warning


class Foreground:
    """Follows a container of one host until it exits; `run` returns its exit code.

    Signals of this process go to the container, unless `sig_proxy` is off: they detach then. With `tty` keys and window
    sizes go to it too, and `keys` detach. `cursor`: where the output begins, as `Attachment` has it. `shown`: which
    output streams are printed.
    """

    def __init__(
        self,
        host: HostClient,
        name: str,
        *,
        stdin: bool,
        tty: bool,
        keys: bytes = parse_detach_keys(DEFAULT),
        sig_proxy: bool = True,
        cursor: str = "start",
        shown: Container[str] = ("stdout", "stderr"),
    ) -> None:
        self._host = host
        self._name = name
        self._stdin = stdin
        self._tty = tty
        self._keys = keys
        self._sig_proxy = sig_proxy
        self._shown = shown
        self._attachment = Attachment(host, name, stdin=stdin, cursor=cursor, terminal=tty)
        self._attachment.gap = lambda: show_warning("output is missing here: the host threw it away unread")
        self._detached = asyncio.Event()

    async def run(self) -> int:
        """The container's exit code; 0 after a detach. Raises the ShoalError that ends the connection."""
        with ExitStack() as stack:
            loop = asyncio.get_running_loop()
            signals = SignalForwarder()
            if self._sig_proxy:
                stack.enter_context(signals)
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
        async for error, data in self._attachment.pieces():
            if ("stderr" if error else "stdout") in self._shown:
                console.raw(data, error=error)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread that reads standard input. It may be left blocked in its read when the command ends."""
        watch = KeyWatch(self._keys if self._tty else b"")
        with suppress(RuntimeError, OSError):  # the loop is closed: nobody wants the input any more
            while data := terminal.read_input():
                data, detach = watch.feed(data)
                if data:
                    asyncio.run_coroutine_threadsafe(self._attachment.send(data), loop).result()
                if detach:
                    loop.call_soon_threadsafe(self._detached.set)
                    return
            asyncio.run_coroutine_threadsafe(self._attachment.end_input(), loop).result()
