"""`shoal exec` over a link that is cut again and again: nothing is lost, nothing comes twice, in either direction."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.support.daemon import Fleet, running_fleet

SIZE = 6 << 20


class CuttingProxy:
    """Passes connections on, and cuts all of them whenever one has carried `every` bytes."""

    def __init__(self, target: str, every: int) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._every = every
        self.cuts = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.address = ""

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stopped.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            to_reader, to_writer = await asyncio.open_connection(self._host, self._port)
            left = [self._every]

            async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while left[0] > 0 and (data := await source.read(32 << 10)):
                    left[0] -= len(data)
                    sink.write(data)
                    await sink.drain()

            tasks = [
                asyncio.ensure_future(pass_on(reader, to_writer)),
                asyncio.ensure_future(pass_on(to_reader, writer)),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if left[0] <= 0:
                    self.cuts += 1
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for each in (writer, to_writer):
                    each.transport.abort()


@pytest.fixture(scope="module")
def box(busybox: str) -> Iterator[Fleet]:
    with running_fleet(1) as fleet:
        fleet.shoal("pull", busybox)
        fleet.shoal("run", "-d", "--name", "c", busybox, "sleep", "100000")
        yield fleet


def test_what_goes_in_and_comes_out_is_whole_over_cut_links(box: Fleet) -> None:
    data = os.urandom(SIZE)
    with CuttingProxy(box.first.address, 2 << 20) as proxy:
        box.add_host("cut", proxy.address, server_name="h1")
        try:
            done = subprocess.run(
                box.command("exec", "-H", "cut", "-i", "c", "cat"),
                input=data,
                capture_output=True,
                env=box.environment(),
                timeout=120,
            )
        finally:
            box.remove_host("cut")
    assert done.returncode == 0, done.stderr[-2000:]
    assert proxy.cuts >= 3
    assert len(done.stdout) == SIZE
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
