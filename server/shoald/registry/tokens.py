"""Who may have which credentials: challenges, tokens and their cache (distribution's "Token Authentication").

The rules: only the registry itself can challenge, never an address that it redirected to; what it may get is what was
given for it; the realm that it names must be https, or as plain as the registry was allowed to be; a token goes back to
the registry that it was asked for, and nowhere else.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import OrderedDict
from collections.abc import Sequence

import msgspec
from yarl import URL

from shoal.errors import ShoalError, Unauthenticated, Unavailable
from shoald.registry.challenge import Challenge, choose, parse_challenges
from shoald.registry.failures import RETRIED, Answer, Lost, to_error
from shoald.registry.http import Http, discard, read_capped, read_refusal
from shoald.registry.origin import PlainHttp, host_port, is_loopback, shown_url
from shoald.registry.ports import Credentials

MAX_TOKEN_BYTES = 256 * 1024
MAX_CACHED = 512
DEFAULT_LIFE = 60.0
"""Seconds that a token lives when its server does not say, and at least (distribution's token specification)."""
EARLY = 5.0
"""Seconds before its end that a token is no longer used."""

_Key = tuple[str, tuple[str, ...], Credentials | None]


class _Token(msgspec.Struct, frozen=True):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


class Authorizer:
    """Makes the Authorization header for requests to registries, and learns from their challenges."""

    def __init__(self, http: Http, plain: PlainHttp) -> None:
        self._http = http
        self._plain = plain
        self._challenges: OrderedDict[str, Challenge] = OrderedDict()
        self._tokens: OrderedDict[_Key, tuple[str, float]] = OrderedDict()
        self._locks: dict[_Key, tuple[asyncio.Lock, int]] = {}

    async def header(
        self, base: URL, scopes: Sequence[str], credentials: Credentials | None, *, fresh: bool = False
    ) -> str | None:
        """The Authorization header for the registry at `base`; None until it has challenged us, and where it wants a
        login and there is none. `fresh`: the request has been challenged just now.

        Raises Unauthenticated (REGISTRY_AUTH), Unavailable (REGISTRY_AUTH_SERVER, REGISTRY_REDIRECT); Lost.
        """
        challenge = self._challenges.get(str(base))
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            if credentials is None or not credentials.password:
                if not fresh:  # what another repository wanted: this one may be open to all
                    return None
                raise _login_needed(host_port(base))
            return basic(credentials)
        return "Bearer " + await self._token(base, challenge, tuple(sorted(set(scopes))), credentials)

    def challenged(
        self,
        base: URL,
        headers: Sequence[str],
        scopes: Sequence[str],
        credentials: Credentials | None,
        sent: str | None,
    ) -> bool:
        """Take in the WWW-Authenticate headers of a 401 from the registry itself; False if they can't be answered.

        `sent` is the Authorization that was refused: its token is forgotten, but not one that has replaced it since.
        """
        challenge = choose(parse_challenges(headers))
        if challenge is None:
            return False
        self._challenges[str(base)] = challenge
        self._challenges.move_to_end(str(base))
        if len(self._challenges) > MAX_CACHED:
            self._challenges.popitem(last=False)
        key = (str(base), tuple(sorted(set(scopes))), credentials)
        if (cached := self._tokens.get(key)) is not None and sent == f"Bearer {cached[0]}":
            del self._tokens[key]
        return True

    async def _token(
        self, base: URL, challenge: Challenge, scopes: tuple[str, ...], credentials: Credentials | None
    ) -> str:
        key = (str(base), scopes, credentials)
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                cached = self._tokens.get(key)
                if cached is None or cached[1] < time.monotonic():
                    cached = await self._fetch(base, challenge, scopes, credentials)
                    self._tokens[key] = cached
                self._tokens.move_to_end(key)
                if len(self._tokens) > MAX_CACHED:
                    self._tokens.popitem(last=False)
                return cached[0]
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)

    async def _fetch(
        self, base: URL, challenge: Challenge, scopes: tuple[str, ...], credentials: Credentials | None
    ) -> tuple[str, float]:
        registry = host_port(base)
        realm = self._realm(base, challenge, credentials)
        if credentials is not None and credentials.identity_token:
            method, url, headers, body = _oauth_request(realm, challenge, scopes, credentials)
        else:
            method, url, headers, body = _token_request(realm, challenge, scopes, credentials)
        response = await self._http.send(method, url, registry=registry, headers=headers, body=body)
        if response.status != 200:
            if 300 <= response.status < 400:
                await discard(response)
                raise _bad_server(registry, realm, "answers with a redirect, which is not followed")
            raise _refused(await read_refusal(response, secrets_of(credentials)), registry, realm, credentials)
        try:
            token = msgspec.json.decode(await read_capped(response, MAX_TOKEN_BYTES, "registry token"), type=_Token)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
            raise _bad_server(registry, realm, "gave no valid answer") from e
        value = token.token or token.access_token
        if not value or not value.isascii() or not value.isprintable():
            raise _bad_server(registry, realm, "gave no token")
        return value, time.monotonic() + max(token.expires_in or 0.0, DEFAULT_LIFE) - EARLY

    def _realm(self, base: URL, challenge: Challenge, credentials: Credentials | None) -> URL:
        try:
            realm = URL(challenge.realm)
        except ValueError:
            realm = URL()
        if not realm.is_absolute() or realm.user or realm.password:
            raise _bad_server(host_port(base), realm, "is no address")
        self._plain.check_next(base, realm, "token server")
        # What comes over plain http can be forged on the way: a forged realm must not collect credentials elsewhere.
        plain = base.scheme == "http" and not is_loopback(base.host or "")
        if credentials is not None and plain and realm.host != base.host and not self._plain.configured(realm):
            raise _bad_server(host_port(base), realm, "is another host, named over plain http: it gets no credentials")
        return realm


def basic(credentials: Credentials) -> str:
    """The Authorization header of RFC 7617."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def secrets_of(credentials: Credentials | None) -> tuple[str, ...]:
    """The strings that must appear in no message, whoever wrote it."""
    if credentials is None:
        return ()
    found = (credentials.password, credentials.identity_token, basic(credentials).removeprefix("Basic "))
    return tuple(secret for secret in found if secret)


_Request = tuple[str, URL, dict[str, str], bytes | None]


def _token_request(
    realm: URL, challenge: Challenge, scopes: tuple[str, ...], credentials: Credentials | None
) -> _Request:
    query = [*realm.query.items()]
    if challenge.service:
        query.append(("service", challenge.service))
    query += [("scope", scope) for scope in scopes]
    if credentials is None:
        return "GET", realm.with_query(query), {}, None
    query.append(("account", credentials.username))
    return "GET", realm.with_query(query), {"Authorization": basic(credentials)}, None


def _oauth_request(realm: URL, challenge: Challenge, scopes: tuple[str, ...], credentials: Credentials) -> _Request:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": credentials.identity_token,
        "service": challenge.service,
        "client_id": "shoal",
        "scope": " ".join(scopes),
    }
    body = URL.build(query=form).raw_query_string.encode("ascii")
    return "POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, body


def _refused(answer: Answer, registry: str, realm: URL, credentials: Credentials | None) -> ShoalError | Lost:
    if answer.status in (400, 401, 403, 404):
        who = "anonymous access" if credentials is None else "the given credentials"
        said = f": {answer.message}" if answer.message else ""
        return Unauthenticated(
            f"registry {registry} refuses {who}{said}",
            reason="REGISTRY_AUTH",
            hint="the repository may not exist, or need a login: give a user name and a password for this registry",
            metadata={"registry": registry, "realm": shown_url(realm)},
        )
    error = to_error(answer, registry, f"log in at {shown_url(realm)}")
    return Lost(error) if answer.status in RETRIED else error


def _login_needed(registry: str) -> Unauthenticated:
    return Unauthenticated(
        f"registry {registry} needs a login",
        reason="REGISTRY_AUTH",
        hint="give a user name and a password for this registry",
        metadata={"registry": registry},
    )


def _bad_server(registry: str, realm: URL, what: str) -> Unavailable:
    return Unavailable(
        f"token server {shown_url(realm)} of registry {registry} {what}",
        reason="REGISTRY_AUTH_SERVER",
        metadata={"registry": registry},
    )
