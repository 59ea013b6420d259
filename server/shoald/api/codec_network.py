"""Proto <-> domain for networks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from shoal.v1 import container_pb2
from shoal.v1 import network_pb2 as pb
from shoald.api.checks import invalid
from shoald.api.codec_common import timestamp
from shoald.model.container import Membership
from shoald.model.network import ABSTRACT, Member, Network, NetworkRequest
from shoald.network.ports import Endpoint


def network(value: Network) -> pb.Network:
    """As lists show it. Predefined networks have ids that follow from their names."""
    predefined = not value.named or value.name in ABSTRACT
    return pb.Network(
        id=hashlib.sha256(f"shoal network {value.name}".encode()).hexdigest() if predefined else value.id,
        name=value.name,
        created_at=None if predefined else timestamp(value.created_at),
        driver=value.name if value.name in ABSTRACT else "bridge",
        subnets=value.subnets,
        gateways=value.gateways,
        internal=value.internal,
        ipv6=value.ipv6,
        labels=value.labels,
        options=value.options,
        bridge=value.bridge,
    )


def network_request(message: pb.NetworkServiceCreateRequest) -> NetworkRequest:
    """Raises InvalidArgument (INVALID_FIELD)."""
    if "" in message.labels:
        raise invalid("labels", "a label has no key")
    return NetworkRequest(
        name=message.name,
        subnets=tuple(message.subnets),
        gateways=tuple(message.gateways),
        ip_range=message.ip_range,
        internal=message.internal,
        ipv6=message.ipv6,
        labels=dict(message.labels),
        options=dict(message.options),
    )


def member(value: Member) -> pb.NetworkServiceInspectResponse.Member:
    """A container in a network."""
    return pb.NetworkServiceInspectResponse.Member(
        container_id=value.container.id,
        container_name=value.container.name,
        ip_address=value.ip_address,
        ip6_address=value.ip6_address,
        mac_address=value.mac_address,
    )


def endpoint_states(
    values: Iterable[tuple[Endpoint, Membership]],
) -> list[container_pb2.ContainerServiceInspectResponse.EndpointState]:
    """The networks of a container, for inspect."""
    return [
        container_pb2.ContainerServiceInspectResponse.EndpointState(
            network=endpoint.network,
            ip_address=endpoint.ip_address,
            ip6_address=endpoint.ip6_address,
            mac_address=endpoint.mac_address,
            gateway=endpoint.gateway,
            aliases=membership.aliases,
        )
        for endpoint, membership in values
    ]
