"""The listener for metrics: answers GET /metrics, and nothing else. Mutates nothing, so it needs no certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from shoald.config_check import split_address

_REQUEST_BYTES = 8 << 10
_PATIENCE_S = 10.0
_CONNECTIONS = 16

log = structlog.get_logger("shoald.metrics")


class MetricsListener:
    """A tiny HTTP/1.1 server: one request a connection."""

    def __init__(self, scrape: Callable[[], Awaitable[bytes]], content_type: str) -> None:
        self._scrape = scrape
        self._content_type = content_type
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, address: str) -> int:
        """Listen; returns the port. Raises OSError when the address can't be had."""
        host, port = split_address(address)
        self._server = await asyncio.start_server(self._accept, host, port, limit=_REQUEST_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the listener and what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if len(self._tasks) <= _CONNECTIONS:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._serve(reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("metrics request dropped", error=repr(error))
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            status, body = "404 Not Found", b"only /metrics is here\n"
        elif method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", b"only GET\n"
        else:
            status, body = await self._metrics()
        kind = self._content_type if status.startswith("200") else "text/plain; charset=utf-8"
        allow = "Allow: GET, HEAD\r\n" if status.startswith("405") else ""
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{allow}"
            "Connection: close\r\n\r\n".encode()
        )
        if method != b"HEAD":
            writer.write(body)
        await writer.drain()

    async def _metrics(self) -> tuple[str, bytes]:
        try:
            return "200 OK", await self._scrape()
        except Exception:
            log.exception("metrics can't be collected")
            return "500 Internal Server Error", b"metrics can't be collected; see the daemon's log\n"
