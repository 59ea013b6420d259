"""Who is in a network, or needs it, without a row that says so: steps of builds, and builds between their steps.

Only in memory: none of them outlives the daemon.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence

from shoald.model.network import Membership


class Guests:
    """By owner, as containers are by id."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Membership, ...]] = {}
        self._uses: Counter[str] = Counter()

    def admit(self, owner: str, memberships: Sequence[Membership]) -> None:
        """It is in these networks (by id) until it leaves."""
        self._of[owner] = tuple(memberships)

    def leave(self, owner: str) -> None:
        """Idempotent."""
        self._of.pop(owner, None)

    def of(self, owner: str) -> Sequence[Membership]:
        """Its memberships."""
        return self._of.get(owner, ())

    @contextlib.contextmanager
    def use(self, network_id: str) -> Iterator[None]:
        """Keep a network for the time of the block."""
        self._uses[network_id] += 1
        try:
            yield
        finally:
            self._uses[network_id] -= 1

    def needs(self, network_id: str) -> bool:
        """Whether somebody uses it or is in it."""
        inside = any(each.network == network_id for memberships in self._of.values() for each in memberships)
        return inside or self._uses[network_id] > 0
