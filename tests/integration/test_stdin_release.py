"""The end of a container while somebody writes to it disturbs nothing else of the daemon."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from shoal.errors import FailedPrecondition
from shoald.runtime.attach import StdinConnection


async def test_a_descriptor_is_closed_when_the_event_loop_has_forgotten_it() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(20):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        connection = StdinConnection(ours, terminal=False)
        writing = asyncio.create_task(connection.write(bytes(8 << 20)))
        await asyncio.sleep(0.01)
        assert not writing.done()
        number = ours.fileno()
        connection.release()
        with pytest.raises(FailedPrecondition):
            await writing
        assert ours.fileno() == -1
        # Whoever gets the number next can use it.
        reading, written = os.pipe()
        os.dup2(written, number)
        heard = loop.create_future()
        loop.add_writer(number, lambda heard=heard: heard.done() or heard.set_result(None))
        await asyncio.wait_for(heard, 5)
        loop.remove_writer(number)
        for fd in {reading, written, number}:
            os.close(fd)
        theirs.close()


async def test_a_writer_that_is_cancelled_is_cancelled() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    connection = StdinConnection(ours, terminal=False)
    writing = asyncio.create_task(connection.write(bytes(8 << 20)))
    await asyncio.sleep(0.01)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    connection.release()
    assert ours.fileno() == -1
    theirs.close()
