"""A network as `network inspect` shows it: Docker's names and shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoalctl.commands.container_rows import stamp
from shoalctl.render.template import FreeMap

if TYPE_CHECKING:
    from shoal.v1 import network_pb2


def network_view(host: str, answer: network_pb2.NetworkServiceInspectResponse) -> dict[str, Any]:
    """The object; `Host` and `Bridge` are shoal's own additions."""
    item = answer.network
    prefixes = {6 if ":" in subnet else 4: subnet.rpartition("/")[2] for subnet in item.subnets}

    def address(text: str, version: int) -> str:
        return f"{text}/{prefixes.get(version, '')}" if text else ""

    return {
        "Host": host,
        "Name": item.name,
        "Id": item.id,
        "Created": stamp(item.created_at) if item.HasField("created_at") else "0001-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": item.driver,
        "EnableIPv6": item.ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [
                {"Subnet": subnet, "Gateway": gateway}
                for subnet, gateway in zip(item.subnets, item.gateways, strict=True)
            ],
        },
        "Internal": item.internal,
        "Attachable": False,
        "Ingress": False,
        "Bridge": item.bridge,
        "Containers": FreeMap(
            (
                member.container_id,
                {
                    "Name": member.container_name,
                    "MacAddress": member.mac_address,
                    "IPv4Address": address(member.ip_address, 4),
                    "IPv6Address": address(member.ip6_address, 6),
                },
            )
            for member in answer.members
        ),
        "Options": FreeMap(sorted(item.options.items())),
        "Labels": FreeMap(sorted(item.labels.items())),
    }
