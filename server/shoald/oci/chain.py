"""Chain ids: the identity of a stack of layers (image-spec `config.md`, "Layer ChainID")."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def chain_id(parent: str | None, diff_id: str) -> str:
    """The chain id of `diff_id` applied on the stack `parent` (None: on nothing)."""
    if parent is None:
        return diff_id
    return "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The chain id of every prefix of `diff_ids`, the lowest first: ChainID(L0), ChainID(L0|L1), ..."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return chain
