"""The client: the `shoal` command and the Fleet library (`from shoalctl import Fleet`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoalctl.fleet.fleet import Fleet
    from shoalctl.fleet.result import HostResult

__all__ = ["Fleet", "HostResult"]

_PLACES = {"Fleet": "shoalctl.fleet.fleet", "HostResult": "shoalctl.fleet.result"}


def __getattr__(name: str) -> Any:
    # Lazy: importing gRPC takes longer than a command that asks no host may take altogether.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
