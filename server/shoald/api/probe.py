"""Does a daemon answer? For those who start one."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 5.0


async def healthy(address: str, *, ca: bytes, cert: bytes, key: bytes) -> bool:
    """Whether the daemon at host:port accepts this certificate and says that it serves."""
    trust = grpc.ssl_channel_credentials(ca, key, cert)
    # A channel of its own each time: a shared one would back off after the first refusal.
    async with grpc.aio.secure_channel(address, trust, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
