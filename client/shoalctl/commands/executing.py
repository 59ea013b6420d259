"""The course of `shoal exec`: detached, in the foreground of one host, or on several hosts at once."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack, suppress
from typing import Any

from shoal.errors import ShoalError
from shoal.v1 import container_pb2
from shoalctl import exits
from shoalctl.commands.signals import SignalForwarder
from shoalctl.flags.detach_keys import KeyWatch
from shoalctl.flags.fault import UsageFault
from shoalctl.fleet.exec import ExecStream
from shoalctl.fleet.fleet import Fleet
from shoalctl.fleet.host import HostClient, new_request_id
from shoalctl.render import console, terminal
from shoalctl.render.errors import show_error
from shoalctl.render.marks import MarkedLines

_STDERR = container_pb2.LogRecord.STREAM_STDERR
_CODES = {"COMMAND_NOT_FOUND": exits.NOT_FOUND, "COMMAND_NOT_EXECUTABLE": exits.NOT_EXECUTABLE}


class Executing:
    """One `shoal exec`; `order` holds the fields of the request, `keys` what detaches from a terminal."""

    def __init__(self, fleet: Fleet, order: dict[str, Any], keys: bytes) -> None:
        self._fleet = fleet
        self._order = order
        self._keys = KeyWatch(keys)
        self._tty = bool(order["tty"])
        self._stdin = bool(order["stdin_open"])
        self._detached = asyncio.Event()

    async def run(self) -> int:
        """The exit code."""
        if len(self._fleet.names) > 1:
            if self._stdin or (self._tty and not self._order["detach"]):
                raise UsageFault("-i and -t need a single host", hint="choose one with -H")
            return await self._on_several()
        host = self._fleet.host(self._fleet.names[0])
        try:
            if self._order["detach"]:
                await self._detach(host)
                return exits.OK
            return await self._foreground(ExecStream(host, self._request()))
        except ShoalError as error:
            if isinstance(error, UsageFault):
                raise
            show_error(error, host.name)
            return _CODES.get(error.reason, exits.FAILED)

    def _request(self) -> container_pb2.ContainerServiceExecRequest:
        return container_pb2.ContainerServiceExecRequest(request_id=new_request_id(), **self._order)

    async def _detach(self, host: HostClient) -> None:
        await host.exec(self._request())

    # --- one host ---------------------------------------------------------------------------------------------------

    async def _foreground(self, stream: ExecStream) -> int:
        with ExitStack() as stack:
            loop = asyncio.get_running_loop()
            signals = stack.enter_context(SignalForwarder())
            signals.add(stream, "")
            if self._tty:
                stream.resize(*terminal.window())
                stack.callback(terminal.on_resize(loop, lambda: stream.resize(*terminal.window())))
                if self._stdin:
                    stack.enter_context(terminal.raw_mode())
            if self._stdin:
                threading.Thread(target=self._read, args=(stream, loop), daemon=True).start()
            return await self._follow(stream, signals)

    async def _follow(self, stream: ExecStream, signals: SignalForwarder) -> int:
        printing = asyncio.create_task(_print(stream))
        leaving = asyncio.create_task(self._detached.wait())
        giving_up = asyncio.create_task(signals.gave_up.wait())
        try:
            await asyncio.wait({printing, leaving, giving_up}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not printing.done():
                await stream.detach()
                await printing
            if not printing.done():
                return exits.INTERRUPTED
            await printing
            return exits.OK if stream.exit_code is None else stream.exit_code
        finally:
            for task in (printing, leaving, giving_up):
                task.cancel()
            await asyncio.gather(printing, leaving, giving_up, return_exceptions=True)

    def _read(self, stream: ExecStream, loop: asyncio.AbstractEventLoop) -> None:
        """The thread that reads standard input. It may be left blocked in its read when the command ends."""
        with suppress(RuntimeError, OSError):  # the loop is closed: nobody wants the input any more
            while data := terminal.read_input():
                leave = False
                if self._tty:
                    data, leave = self._keys.feed(data)
                if data:
                    asyncio.run_coroutine_threadsafe(stream.send(data), loop).result()
                if leave:
                    loop.call_soon_threadsafe(self._detached.set)
                    return
            asyncio.run_coroutine_threadsafe(stream.end_input(), loop).result()

    # --- several hosts ----------------------------------------------------------------------------------------------

    async def _on_several(self) -> int:
        marks = MarkedLines(self._fleet.names)
        worst = exits.OK

        async def whole(host: HostClient) -> int:
            if self._order["detach"]:
                await self._detach(host)
                return exits.OK
            stream = ExecStream(host, self._request())
            signals.add(stream, "")
            async for piece in stream.output():
                marks.update(host.name, piece.data, error=piece.stream == _STDERR)
            return exits.OK if stream.exit_code is None else stream.exit_code

        with SignalForwarder() as signals:
            async for result in self._fleet.each(whole):
                if result.error is not None:
                    show_error(result.error, result.host)
                    worst = max(worst, _CODES.get(result.error.reason, exits.FAILED))
                elif result.value:
                    console.err(f"{result.host}: exit code {result.value}")
                    worst = max(worst, result.value)
        marks.close()
        return worst


async def _print(stream: ExecStream) -> None:
    async for piece in stream.output():
        console.raw(piece.data, error=piece.stream == _STDERR)
