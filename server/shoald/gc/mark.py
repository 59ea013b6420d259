"""Marking: what can be reached (pure)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def mark(roots: Iterable[Node], edges: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """The roots and all that is reached from them; cycles are fine."""
    reached = set(roots)
    pending = list(reached)
    while pending:
        for node in edges(pending.pop()):
            if node not in reached:
                reached.add(node)
                pending.append(node)
    return reached


def children_first(garbage: Iterable[Node], parent: Callable[[Node], Node | None]) -> list[Node]:
    """`garbage` in an order in which each node comes before its parent. `parent` has no cycles."""
    left = list(garbage)
    depth: dict[Node, int] = {}
    for node in left:
        path: list[Node] = []
        at: Node | None = node
        while at is not None and at not in depth:
            path.append(at)
            at = parent(at)
        above = depth[at] if at is not None else -1
        for step in reversed(path):
            above += 1
            depth[step] = above
    return sorted(left, key=lambda node: -depth[node])
