"""Clients that open streams of a container and are cut off, over and over."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc

from shoal.v1 import container_pb2 as pb
from shoal.v1.container_pb2_grpc import ContainerServiceStub
from tests.support.daemon import Fleet

KINDS = ("logs", "attach", "exec")
AT_ONCE = 10
SLEEPS = "sleep 333"
"""What the processes of exec do."""


def _open(stub: Any, kind: str, name: str) -> Any:
    """A call that has no end of its own, with a client that speaks, if it can."""
    if kind == "logs":
        return stub.Logs(pb.ContainerServiceLogsRequest(name=name, follow=True))
    if kind == "attach":
        start = pb.ContainerServiceAttachRequest.Start(name=name, stdin=True, stdout=True, stderr=True)
        return stub.Attach(_requests([pb.ContainerServiceAttachRequest(start=start)]))
    order = pb.ContainerServiceExecRequest(
        request_id=uuid.uuid4().hex, name=name, command=["sh", "-c", "echo on; exec " + SLEEPS], stdin_open=True
    )
    begin = pb.ContainerServiceExecAttachRequest.Start(exec=order)
    return stub.ExecAttach(_requests([pb.ContainerServiceExecAttachRequest(start=begin)]))


async def _requests(messages: list[Any]) -> Any:
    for message in messages:
        yield message
    await asyncio.Event().wait()


async def open_and_cut(fleet: Fleet, kind: str, name: str, count: int) -> None:
    """Open, read two messages, cut: by cancelling the call or by closing the whole connection, in turns."""
    pki = fleet.directory / "pki"
    files = [(pki / file).read_bytes() for file in ("ca.pem", "admin-key.pem", "admin.pem")]
    trust = grpc.ssl_channel_credentials(*files)

    async def one(stub: Any, *, cancel: bool) -> None:
        call = _open(stub, kind, name)
        for _ in range(2):
            assert await asyncio.wait_for(call.read(), 30) is not grpc.aio.EOF
        if cancel:
            call.cancel()

    for number in range(0, count, AT_ONCE):
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(fleet.first.address, trust, options=options) as channel:
            stub: Any = ContainerServiceStub(channel)
            await asyncio.gather(*(one(stub, cancel=bool(number // AT_ONCE % 2)) for _ in range(AT_ONCE)))
