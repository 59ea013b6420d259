"""What the name server should know, from the records."""

from __future__ import annotations

from collections.abc import Sequence

from shoald.metadata.store import Metadata
from shoald.model.container import Container
from shoald.model.network import Membership, Network
from shoald.network.dns import Entry, Zone

SHORT_ID = 12


def zones(md: Metadata, networks: Sequence[Network]) -> list[Zone]:
    """One for each user-defined network, with the containers that have addresses in it."""
    return [_zone(md, network) for network in networks if network.named]


def _zone(md: Metadata, network: Network) -> Zone:
    entries = []
    memberships = md.memberships.members(network.id)
    for owner in md.addresses.owners(network.subnet):
        container, membership = md.containers.get(owner), memberships.get(owner)
        address = md.addresses.get(owner, network.subnet)
        if container is None or membership is None or address is None:
            continue
        address6 = md.addresses6.get(owner, network.subnet6) if network.subnet6 is not None else None
        entries.append(
            Entry(
                owner,
                (str(address),),
                (str(address6),) if address6 is not None else (),
                names_of(container, membership),
                () if network.internal else container.spec.dns,
            )
        )
    return Zone(network.id, network.gateways, network.internal, tuple(entries))


def names_of(container: Container, membership: Membership) -> tuple[str, ...]:
    """By which others find a container: its name, short id, aliases and host name."""
    names = (container.name, container.id[:SHORT_ID], *membership.aliases, container.hostname)
    return tuple(dict.fromkeys(name.lower() for name in names if name))
