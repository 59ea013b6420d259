"""How the daemon treats registries: what its operator configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shoald.model.image import RegistryCredentials


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Times in seconds. Registries are named as in references: host, or host:port."""

    insecure_registries: frozenset[str] = frozenset()
    """Hosts, host:port pairs and CIDR networks that plain http may be spoken to, credentials included."""
    ca_files: Mapping[str, Path] = field(default_factory=dict)
    """Registry -> PEM file of certificate authorities that are trusted for it besides the system's."""
    credentials: Mapping[str, RegistryCredentials] = field(default_factory=dict, repr=False)
    """Registry -> what to use when the request brings none."""
    foreign_urls: bool = False
    """Follow the `urls` of foreign layers (https only, without credentials)."""
    connect_timeout: float = 15.0
    stall_timeout: float = 60.0
    """Longest silence on an open connection; transfers have no limit in all."""
    attempts: int = 5
    """Tries in all of a request, and of a blob without progress between them."""
    backoff: float = 0.25
    """Wait before the second try; doubles each time, with jitter."""
    max_backoff: float = 8.0
    max_retry_after: float = 60.0
    """The longest that a registry's Retry-After is obeyed."""
