"""Where a registry's API is: https, or plain http where that is allowed and the registry speaks nothing else."""

from __future__ import annotations

import asyncio

from yarl import URL

from shoal.errors import Unavailable
from shoald.registry.failures import Lost
from shoald.registry.http import Http, ca_file_of, discard
from shoald.registry.origin import PlainHttp
from shoald.registry.settings import RegistrySettings


class Endpoints:
    """Finds and remembers the base URL of each registry."""

    def __init__(self, settings: RegistrySettings, http: Http, plain: PlainHttp) -> None:
        self._settings = settings
        self._http = http
        self._plain = plain
        self._known: dict[str, URL] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def base(self, registry: str) -> URL:
        """The base URL of the registry `host[:port]`. Raises Unavailable when an allowed plain one can't be reached."""
        if (known := self._known.get(registry)) is not None:
            return known
        secure = URL(f"https://{registry}/")
        if ca_file_of(self._settings, registry) is not None or not self._plain.allowed(secure):
            return secure
        async with self._locks.setdefault(registry, asyncio.Lock()):
            if registry not in self._known:
                self._known[registry] = await self._probe(registry, secure)
        return self._known[registry]

    def forget(self, registry: str) -> None:
        """Look again next time: the registry could not be reached where it was."""
        self._known.pop(registry, None)

    async def _probe(self, registry: str, secure: URL) -> URL:
        # TLS first, so that a registry that has it is never spoken to without; no credentials are sent here.
        try:
            await self._ping(secure, registry)
            return secure
        except Lost:
            pass
        except Unavailable as e:
            if e.reason != "REGISTRY_TLS" or "certificate" in e.message:
                raise
        plain = URL(f"http://{registry}/")
        try:
            await self._ping(plain, registry)
        except Lost as e:
            raise e.error from e
        return plain

    async def _ping(self, base: URL, registry: str) -> None:
        await discard(await self._http.send("GET", base / "v2/", registry=registry, headers={}))
