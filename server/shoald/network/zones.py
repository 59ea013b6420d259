"""What the name server should know, from the records."""

from __future__ import annotations

from collections.abc import Sequence

from shoald.metadata.store import Metadata
from shoald.model.container import Container
from shoald.model.network import Membership, Network
from shoald.network.dns import Entry, Zone
from shoald.network.guests import Guests

SHORT_ID = 12


def zones(md: Metadata, networks: Sequence[Network], guests: Guests) -> list[Zone]:
    """One for each user-defined network, with the containers and guests that have addresses in it. Who is not told of
    gets no answers."""
    return [_zone(md, network, guests) for network in networks if network.named]


def _zone(md: Metadata, network: Network, guests: Guests) -> Zone:
    entries = []
    memberships = md.memberships.members(network.id)
    for owner in md.addresses.owners(network.subnet):
        container, membership = md.containers.get(owner), memberships.get(owner)
        address = md.addresses.get(owner, network.subnet)
        guest = any(each.network == network.id for each in guests.of(owner))
        if address is None or not (guest or (container and membership)):
            continue
        address6 = md.addresses6.get(owner, network.subnet6) if network.subnet6 is not None else None
        entries.append(
            Entry(
                owner,
                (str(address),),
                (str(address6),) if address6 is not None else (),
                names_of(container, membership) if container and membership else (owner[:SHORT_ID],),
                container.spec.dns if container and not network.internal else (),
            )
        )
    return Zone(network.id, network.gateways, network.internal, tuple(entries))


def names_of(container: Container, membership: Membership) -> tuple[str, ...]:
    """By which others find a container: its name, short id, aliases and host name."""
    names = (container.name, container.id[:SHORT_ID], *membership.aliases, container.hostname)
    return tuple(dict.fromkeys(name.lower() for name in names if name))
