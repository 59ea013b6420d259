"""`shoal build --platform A,B` with several builders: their images become one index, on the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from shoalctl.commands.choosing import Builder, Triple, transfer
from shoalctl.fleet.fleet import Fleet
from shoalctl.fleet.indexes import create_index

if TYPE_CHECKING:
    from shoal.v1 import image_pb2


class Made(NamedTuple):
    """What one builder made: an image, or an index with this digest that means it there."""

    image: image_pb2.Image
    index_digest: str = ""

    @property
    def name(self) -> str:
        """What stands for all of it."""
        return self.index_digest or self.image.id


async def combine(
    fleet: Fleet,
    builders: Sequence[Builder],
    made: Mapping[str, Made],
    platforms: Sequence[Triple],
    tags: Sequence[str],
) -> Made:
    """Bring all to the first builder, and make an index there, in the order of the platforms; the tags mean it."""
    first, *others = builders
    for other in others:
        found = made[other.host]
        [result] = await transfer(fleet, other.host, [found.name], found.image.id, [first.host])
        result.get()
    order = {each: at for at, each in enumerate(platforms)}
    sorted_ = sorted(builders, key=lambda builder: order[builder.platforms[0]])
    done = await create_index(fleet.host(first.host), [made[each.host].name for each in sorted_], tags)
    return Made(done.image, done.digest)
