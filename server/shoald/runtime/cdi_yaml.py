"""YAML of CDI specifications. The library is loaded when there is some: a daemon without devices never needs it."""

from __future__ import annotations

from typing import Any

YAML_SUFFIXES = (".yaml", ".yml")
_MAX_NODES = 200_000
_OPEN = -1


def load_yaml(data: bytes) -> Any:
    """One document of lists, mappings and scalars. Raises ValueError, also for one that is too large once its aliases
    are followed; RecursionError for one that is too deep."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(data)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _weigh(root, {})
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).replace('in "<byte string>", ', "at ").split())) from None
    finally:
        loader.dispose()


def _weigh(node: Any, known: dict[int, int]) -> int:
    """How many nodes there are at and below one, those behind aliases each time."""
    found = known.get(id(node))
    if found is not None:
        if found == _OPEN:
            raise ValueError("an alias leads back to what it is in")
        return found
    known[id(node)] = _OPEN
    total = 1
    if isinstance(node.value, list):
        for each in node.value:
            for part in each if isinstance(each, tuple) else (each,):
                total += _weigh(part, known)
    if total > _MAX_NODES:
        raise ValueError("its aliases make it too large")
    known[id(node)] = total
    return total
