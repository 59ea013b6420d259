"""The proxies of the daemon's environment: HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""

from __future__ import annotations

import urllib.request

from yarl import URL

from shoald.registry.origin import is_loopback


class Proxies:
    """What the environment says when this is made."""

    def __init__(self) -> None:
        self._proxies = urllib.request.getproxies_environment()

    def of(self, url: URL) -> str | None:
        """The proxy to ask for an address; None: to go there directly, as always to loopback."""
        host = url.host or ""
        if not self._proxies or is_loopback(host) or urllib.request.proxy_bypass(host):
            return None
        return self._proxies.get(url.scheme)
