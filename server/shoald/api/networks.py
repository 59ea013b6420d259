"""shoal.v1.NetworkService."""

from __future__ import annotations

from shoal.v1 import network_pb2 as pb
from shoal.v1 import network_pb2_grpc
from shoald.api.checks import optional_id, required
from shoald.api.codec_common import labels_of
from shoald.api.codec_network import member, network, network_request
from shoald.api.streams import Context
from shoald.engine.ports import Engine
from shoald.model.container import Membership


class NetworkService(network_pb2_grpc.NetworkServiceServicer):
    """Thin: decode, call the engine, encode."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Create(
        self, request: pb.NetworkServiceCreateRequest, context: Context
    ) -> pb.NetworkServiceCreateResponse:
        required("name", request.name)
        made, warnings = await self._engine.networks.create(optional_id(request.request_id), network_request(request))
        return pb.NetworkServiceCreateResponse(network=network(made), warnings=warnings)

    async def List(self, request: pb.NetworkServiceListRequest, context: Context) -> None:  # type: ignore[override]
        for each in self._engine.networks.list(labels_of(request.labels), request.name):
            await context.write(pb.NetworkServiceListResponse(network=network(each)))

    async def Inspect(
        self, request: pb.NetworkServiceInspectRequest, context: Context
    ) -> pb.NetworkServiceInspectResponse:
        found, members = self._engine.networks.inspect(required("name", request.name))
        return pb.NetworkServiceInspectResponse(network=network(found), members=map(member, members))

    async def Remove(
        self, request: pb.NetworkServiceRemoveRequest, context: Context
    ) -> pb.NetworkServiceRemoveResponse:
        await self._engine.networks.remove(required("name", request.name))
        return pb.NetworkServiceRemoveResponse()

    async def Prune(self, request: pb.NetworkServicePruneRequest, context: Context) -> pb.NetworkServicePruneResponse:
        return pb.NetworkServicePruneResponse(names=await self._engine.networks.prune(labels_of(request.labels)))

    async def Connect(
        self, request: pb.NetworkServiceConnectRequest, context: Context
    ) -> pb.NetworkServiceConnectResponse:
        membership = Membership(
            required("network", request.network),
            request.ip_address,
            request.ip6_address,
            aliases=tuple(request.aliases),
        )
        await self._engine.networks.connect(required("container", request.container), membership)
        return pb.NetworkServiceConnectResponse()

    async def Disconnect(
        self, request: pb.NetworkServiceDisconnectRequest, context: Context
    ) -> pb.NetworkServiceDisconnectResponse:
        await self._engine.networks.disconnect(
            required("container", request.container), required("network", request.network), request.force
        )
        return pb.NetworkServiceDisconnectResponse()
