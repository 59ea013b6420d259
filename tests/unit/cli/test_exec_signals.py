"""Signals for a process of exec."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from shoal.v1 import container_pb2
from shoalctl.connect.failure import LinkLost
from shoalctl.fleet.exec import ExecStream
from shoalctl.fleet.host import HostClient


async def test_a_signal_is_sent_once() -> None:
    sent: list[tuple[Any, bool]] = []

    async def unary(_: object, request: Any, *, repeat: bool = True) -> None:
        sent.append((request, repeat))
        raise LinkLost("the link was lost")

    host = cast(HostClient, SimpleNamespace(link=SimpleNamespace(unary=unary)))
    stream = ExecStream(host, container_pb2.ContainerServiceExecRequest(request_id="1" * 32))
    stream.exec_id = "e"
    stream.started.set()
    with pytest.raises(LinkLost):
        await stream.kill(signal="HUP")
    ((request, repeat),) = sent
    assert (request.exec_id, request.signal, repeat) == ("e", "HUP", False)
