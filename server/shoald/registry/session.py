"""Requests to one repository: authorised, redirected, tried again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import aiohttp
from yarl import URL

from shoal.errors import ShoalError, Unauthenticated, Unavailable
from shoal.reference import Reference
from shoald.registry.endpoints import Endpoints
from shoald.registry.failures import RETRIED, Lost, to_error
from shoald.registry.http import Http, discard, read_refusal
from shoald.registry.origin import PlainHttp, host_port, next_url, same_origin
from shoald.registry.ports import Credentials
from shoald.registry.settings import RegistrySettings
from shoald.registry.tokens import Authorizer, secrets_of

MAX_REDIRECTS = 5
_FOLLOWED = frozenset({301, 302, 303, 307, 308})
_SAME_METHOD = frozenset({307, 308})

Body = Callable[[], bytes | AsyncIterator[bytes]]
Sleep = Callable[[float], Awaitable[None]]


class Wire:
    """What all sessions of a client share."""

    def __init__(self, settings: RegistrySettings, sleep: Sleep = asyncio.sleep) -> None:
        self.settings = settings
        self.sleep = sleep
        self.plain = PlainHttp(settings.insecure_registries)
        self.http = Http(settings)
        self.endpoints = Endpoints(settings, self.http, self.plain)
        self.authorizer = Authorizer(self.http, self.plain)
        self.reached: set[str] = set()
        """Registries that have answered: a failure to connect to one of these is worth another try."""

    async def pause(self, attempt: int, retry_after: float | None = None) -> None:
        """Wait after failed attempt number `attempt` (0 is the first): exponential, with jitter."""
        settings = self.settings
        if retry_after is not None:
            await self.sleep(min(retry_after, settings.max_retry_after))
        else:
            limit = min(settings.backoff * 2**attempt, settings.max_backoff)
            await self.sleep(limit * random.uniform(0.5, 1.0))


class Session:
    """Speaks to the repository of `ref` with `credentials`, for the actions of `scopes`."""

    def __init__(self, wire: Wire, ref: Reference, credentials: Credentials | None, scopes: Sequence[str]) -> None:
        self._wire = wire
        self.ref = ref
        self.registry = ref.registry_host
        self.credentials = credentials
        self._scopes = scopes

    async def url(self, path: str) -> URL:
        """The address of `path` below the repository, for example `manifests/latest`. Raises as Endpoints.base does."""
        base = await self._wire.endpoints.base(self.registry)
        return URL(f"{base}v2/{self.ref.path}/{path}", encoded=True)

    async def call(
        self,
        method: str,
        target: str | URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        retry: bool = True,
    ) -> aiohttp.ClientResponse:
        """Make a request and give the response with its body unread, whatever its status.

        `target` is a path below the repository, or an address that the registry named. Lost connections and statuses
        that may pass are tried again; then the last status is the caller's, and a lost connection raises its error.
        With retry=False there is one try only, and Lost goes to the caller.
        """
        attempts = self._wire.settings.attempts if retry else 1
        for attempt in range(attempts):
            last = attempt == attempts - 1
            try:
                response = await self._authorised(method, target, headers or {}, body)
            except Lost as e:
                if not retry:
                    raise
                if last or self.registry not in self._wire.reached:
                    self._wire.endpoints.forget(self.registry)
                    raise e.error from e
                await self._wire.pause(attempt)
                continue
            if last or response.status not in RETRIED:
                return response
            answer = await read_refusal(response)
            await self._wire.pause(attempt, answer.retry_after)
        raise AssertionError("no attempts")

    async def fail(self, response: aiohttp.ClientResponse, what: str, missing: ShoalError | None = None) -> ShoalError:
        """Close a response with a status that was not hoped for, and make the error that it means."""
        return to_error(await read_refusal(response, secrets_of(self.credentials)), self.registry, what, missing)

    async def _authorised(
        self, method: str, target: str | URL, headers: Mapping[str, str], body: Body | None
    ) -> aiohttp.ClientResponse:
        """One try: answers one challenge of the registry, and follows redirects."""
        authorizer = self._wire.authorizer
        base = await self._wire.endpoints.base(self.registry)
        url = target if isinstance(target, URL) else await self.url(target)
        challenged, hops = False, 0
        while True:
            ours = same_origin(url, base)
            sent = dict(headers)
            if ours:
                found = await authorizer.header(base, self._scopes, self.credentials, fresh=challenged)
                sent |= {"Authorization": found} if found else {}
            response = await self._wire.http.send(
                method, url, registry=self.registry, headers=sent, body=None if body is None else body()
            )
            if ours:
                self._wire.reached.add(self.registry)
            if response.status == 401 and ours and not challenged:
                challenged = True
                asked = response.headers.getall("WWW-Authenticate", [])
                refused = sent.get("Authorization")
                if not authorizer.challenged(base, asked, self._scopes, self.credentials, refused):
                    return response
                await discard(response)
                continue
            if not _is_followed(method, response):
                return _checked(response, ours, self.registry)
            hops += 1
            if hops > MAX_REDIRECTS:
                await discard(response)
                raise _astray(self.registry, "redirects without end")
            url = self.check(next_url(url, response.headers["Location"]), base, "redirect")
            await discard(response)

    def check(self, url: URL, base: URL, what: str) -> URL:
        """Check an address that the registry sent us to, and return it. Raises Unavailable (REGISTRY_REDIRECT)."""
        self._wire.plain.check_next(base, url, what)
        return url

    async def location(self, response: aiohttp.ClientResponse) -> URL:
        """The checked address of a response's Location header."""
        if "Location" not in response.headers:
            raise _astray(self.registry, "gave no Location for an upload")
        base = await self._wire.endpoints.base(self.registry)
        return self.check(next_url(response.url, response.headers["Location"]), base, "upload location")


def _is_followed(method: str, response: aiohttp.ClientResponse) -> bool:
    allowed = _FOLLOWED if method in ("GET", "HEAD") else _SAME_METHOD
    return response.status in allowed and "Location" in response.headers


def _checked(response: aiohttp.ClientResponse, ours: bool, registry: str) -> aiohttp.ClientResponse:
    if response.status == 401 and not ours:
        host = host_port(response.url)
        response.close()
        raise Unauthenticated(
            f"registry {registry} redirected to {host}, which asks for credentials that it must not have",
            reason="REGISTRY_AUTH",
            metadata={"registry": registry, "host": host},
        )
    return response


def _astray(registry: str, what: str) -> Unavailable:
    return Unavailable(f"registry {registry} {what}", reason="REGISTRY_REDIRECT", metadata={"registry": registry})
