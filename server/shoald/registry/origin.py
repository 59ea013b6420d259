"""Which addresses may be spoken to in plain http, and where a registry may send the daemon. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from yarl import URL

from shoal.errors import Unavailable


def is_loopback(host: str) -> bool:
    """Whether this host name or address is this machine: `localhost` or a loopback address."""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def same_origin(one: URL, other: URL) -> bool:
    """Whether both have the same scheme, host and port: the bounds that no credential leaves (RFC 6454)."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


class PlainHttp:
    """The places that may be spoken to without TLS: loopback, and what the configuration names."""

    def __init__(self, insecure: Iterable[str] = ()) -> None:
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in insecure:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry.lower())

    def configured(self, url: URL) -> bool:
        """Whether the configuration names this host: alone, with its port, or by its network."""
        host = (url.host or "").lower()
        shown = f"[{host}]" if ":" in host else host
        if {shown, f"{shown}:{url.port}"} & self._names:
            return True
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def allowed(self, url: URL) -> bool:
        """Whether plain http may be spoken to this host."""
        return is_loopback(url.host or "") or self.configured(url)

    def check_next(self, registry: URL, target: URL, what: str) -> None:
        """Check an address that the registry at `registry` named: a redirect, an upload location, a token realm.

        Any https address will do. Plain http never follows on https, and only goes where the configuration says, or
        from one loopback address to another: a distant registry can't reach what listens on this machine.
        Raises Unavailable (REGISTRY_REDIRECT).
        """
        if target.scheme == "https" and target.host:
            return
        if target.scheme == "http" and target.host and registry.scheme == "http":
            if self.configured(target) or (registry.host == target.host and self.allowed(registry)):
                return
            if is_loopback(registry.host or "") and is_loopback(target.host):
                return
        raise Unavailable(
            f"registry {host_port(registry)} named an insecure {what}: {shown_url(target)}",
            reason="REGISTRY_REDIRECT",
            hint="the registry's administrator must configure its external address to be https",
            metadata={"registry": host_port(registry)},
        )


def shown_url(url: URL) -> str:
    """An address for messages and logs: without user, password and query, which may hold secrets (signed URLs do)."""
    bare = url.with_user(None) if url.user or url.password else url
    return str(bare.with_query(None).with_fragment(None))[:200]


def host_port(url: URL) -> str:
    """A registry's address for messages: host, and port unless it is the scheme's own."""
    return url.host_port_subcomponent or ""


def next_url(base: URL, location: str) -> URL:
    """Resolve a Location header, byte for byte (signed URLs must not be quoted again), dropping user and fragment.

    Raises Unavailable (REGISTRY_REDIRECT) when it is no address.
    """
    try:
        url = base.join(URL(location, encoded=True))
        return url.with_user(None).with_fragment(None) if url.user or url.password or url.raw_fragment else url
    except ValueError as e:
        raise Unavailable(
            f"registry {host_port(base)} sent a Location that is no address", reason="REGISTRY_REDIRECT"
        ) from e


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
